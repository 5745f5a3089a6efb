"""What is compared, told from a command line; and what is refused before anything begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare_samples import FLAGS, make_plan, write_run

from vdvae_patch.cli.arguments import parse_train
from vdvae_patch.compare.options import CompareOptions, separate
from vdvae_patch.compare.plan import plan
from vdvae_patch.compare.run import hold
from vdvae_patch.errors import InvalidValueError, RunError, UnknownNameError
from vdvae_patch.train.folder import open_folder


def test_commas_inside_parentheses_belong_to_the_scale() -> None:
    options = CompareOptions(variants="vanilla, upbounded/bounded(alpha=0.1,omega=1)")
    assert options.variant_list() == ["vanilla", "upbounded/bounded(alpha=0.1,omega=1)"]


@pytest.mark.parametrize("text", ["", "vanilla,", "vanilla,,explin"])
def test_an_empty_variant_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="empty name"):
        CompareOptions(variants=text).variant_list()


@pytest.mark.parametrize(
    ("text", "said"),
    [("0,-1", "'-1' is no seed"), ("0,x", "'x'"), ("\u0661", "is no seed"), ("", "''"), ("1,2,1", "twice")],
)
def test_seeds_that_are_none_or_named_twice_are_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        CompareOptions(seeds=text).seed_list()


@pytest.mark.parametrize(("value", "said"), [({"jobs": 0}, "--jobs"), ({"threads": -1}, "--threads")])
def test_counts_that_make_no_sense_are_refused(value: dict[str, int], said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        CompareOptions(**value)  # type: ignore[arg-type]


def test_flags_of_the_comparison_and_of_training_are_told_apart_in_both_spellings() -> None:
    argv = ["--lr", "0.1", "--seeds=0,1", "--variants", "vanilla", "--compile", "--out", "there"]
    mine, others = separate(argv, ["--variants", "--seeds", "--out"])
    assert mine == ["--seeds=0,1", "--variants", "vanilla", "--out", "there"]
    assert others == ["--lr", "0.1", "--compile"]


def test_a_switch_takes_no_value_from_the_flag_behind_it() -> None:
    argv = ["--processor", "--rounds", "6", "--device", "cpu"]
    mine, others = separate(argv, ["--processor", "--rounds"], ["--processor"])
    assert (mine, others) == (["--processor", "--rounds", "6"], ["--device", "cpu"])


def test_every_variant_meets_every_seed_in_a_folder_of_its_own(tmp_path: Path) -> None:
    comparison = make_plan(tmp_path, "vanilla,explin/cst1,upbounded(omega=2)/bounded(0.1,omega=1)", "3,5")
    assert [run.label for run in comparison.runs] == [
        f"{variant} seed {seed}"
        for seed in (3, 5)
        for variant in ("vanilla", "explin/constant", "upbounded(omega=2)/bounded(alpha=0.1, omega=1)")
    ]
    folders = [run.folder for run in comparison.runs]
    assert len(set(folders)) == 6
    assert all(folder.parent == tmp_path for folder in folders)


def test_two_variants_that_would_share_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({run.folder for run in make_plan(tmp_path, "softplus(1e6),softplus(1e-6)", "0").runs}) == 2
    monkeypatch.setattr("vdvae_patch.compare.plan.slug", lambda variant: "the-same")
    with pytest.raises(InvalidValueError, match=r"vanilla and explin would both be written to .*the-same-seed0"):
        make_plan(tmp_path, "vanilla,explin", "0")


def test_runs_differ_in_variant_seed_and_folder_alone(tmp_path: Path) -> None:
    tables = [run.config.to_toml() for run in make_plan(tmp_path).runs]
    different = {key for table in tables for key in table if table[key] != tables[0][key]}
    assert different == {"variant", "seed", "out"}


def test_a_run_is_told_what_the_comparison_was_told(tmp_path: Path) -> None:
    run = make_plan(tmp_path, "vanilla", "0", "--lr", "0.5").runs[0]
    words = run.command(resume=True)
    assert words[1:4] == ["-m", "vdvae_patch", "train"]
    assert words[-1] == "--resume"
    assert "--resume" not in run.command(resume=False)
    assert parse_train(run.command(resume=False)[4:]) == run.config


def test_each_run_is_told_its_own_seed_variant_and_folder(tmp_path: Path) -> None:
    for run in make_plan(tmp_path, "vanilla,explin", "3,5").runs:
        for resume in (False, True):
            told = parse_train([word for word in run.command(resume=resume)[4:] if word != "--resume"])
            assert (told.seed, told.variant, told.folder) == (run.config.seed, run.config.variant, run.folder)


def test_what_stands_at_another_seam_goes_to_every_variant(tmp_path: Path) -> None:
    comparison = make_plan(tmp_path, "vanilla,explin+optimal", "0", "--top-prior", "vamp(100)")
    assert comparison.variants == ("vanilla+vamp(components=100)", "explin+optimal+vamp(components=100)")


def test_two_names_of_one_variant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="explin/constant twice"):
        make_plan(tmp_path, "explin/cst1,explin/constant")


def test_an_unknown_variant_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'upbounded'"):
        make_plan(tmp_path, "vanilla,upbound")


def test_threads_are_the_cores_shared_out_and_at_least_one(tmp_path: Path) -> None:
    base = parse_train(FLAGS)
    assert plan(CompareOptions(jobs=10_000, out=tmp_path), FLAGS, base).threads == 1
    assert plan(CompareOptions(jobs=10_000, threads=3, out=tmp_path), FLAGS, base).threads == 3


def test_another_comparison_in_the_folder_is_refused_even_for_new_seeds(tmp_path: Path) -> None:
    write_run(make_plan(tmp_path).runs[0])
    with pytest.raises(RunError, match=r"other settings \(vanilla-seed0: lr: 0.0002, now 0.5\).*another --out"):
        make_plan(tmp_path, "vanilla", "7", "--lr", "0.5")


def test_settings_without_influence_on_the_numbers_may_change(tmp_path: Path) -> None:
    write_run(make_plan(tmp_path).runs[0])
    again = make_plan(tmp_path, "explin", "0", "--checkpoint-every", "2", "--max-consecutive-skips", "9")
    assert again.variants == ("explin",)


@pytest.mark.parametrize(("inside", "said"), [("", "holds a run"), ("more/deep", "is inside that of a run")])
def test_a_comparison_in_a_runs_own_folder_is_refused(tmp_path: Path, inside: str, said: str) -> None:
    run = make_plan(tmp_path, "vanilla", "0").runs[0]
    write_run(run)
    before = sorted(run.folder.iterdir())
    with pytest.raises(RunError, match=f"{said}.*a comparison needs a folder of its own; choose another --out"):
        make_plan(run.folder / inside)
    assert sorted(run.folder.iterdir()) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_in_a_comparisons_own_folder_is_refused_and_leaves_nothing_there(tmp_path: Path, resume: bool) -> None:
    with hold(tmp_path):
        pass
    before = sorted(tmp_path.iterdir())
    config = parse_train([*FLAGS, "--out", str(tmp_path)])
    with pytest.raises(RunError, match="holds a comparison, and a run needs a folder of its own; choose another"):
        open_folder(config, resume=resume)
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_inside_a_runs_folder_is_refused(tmp_path: Path) -> None:
    run = make_plan(tmp_path, "vanilla", "0").runs[0]
    write_run(run)
    config = parse_train([*FLAGS, "--out", str(run.folder / "second")])
    with pytest.raises(RunError, match=r"second is inside that of a run \(.*/vanilla-seed0\); choose another --out"):
        open_folder(config, resume=False)
    assert not (run.folder / "second").exists()


def test_a_run_of_a_comparison_may_be_done_by_its_own_command(tmp_path: Path) -> None:
    run = make_plan(tmp_path, "vanilla", "0").runs[0]
    with hold(tmp_path):
        write_run(run)
    make_plan(tmp_path, "vanilla", "0")  # the folder is still that of a comparison
