"""The figures: what is averaged, where the axes end, and which colour is whose."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from compare_samples import make_plan, write_run

from vdvae_patch.compare.curves import draw_curves, horizontal, smooth, vertical_limits
from vdvae_patch.compare.palette import VANILLA, looks
from vdvae_patch.compare.results import Curves, collect


def curves(nelbo: list[float], skipped: list[bool] | None = None, per_epoch: int = 1) -> Curves:
    steps = np.arange(len(nelbo))
    return Curves(steps, steps // per_epoch, np.array(nelbo), np.array(skipped or [False] * len(nelbo)))


def test_a_point_of_the_curve_is_the_mean_of_its_steps() -> None:
    line = smooth(curves([6.0, 4.0, 5.0, 3.0]), bins=2)
    assert line.y == pytest.approx([5.0, 4.0])
    assert line.x == pytest.approx([0.5, 2.5])


def test_a_point_stands_at_its_own_steps_also_at_the_end_and_behind_a_gap_of_the_log() -> None:
    assert smooth(curves([6.0, 4.0, 5.0]), bins=2).x == pytest.approx([0.5, 2.0])
    steps = np.array([0, 1, 10, 12])
    assert smooth(Curves(steps, steps, np.ones(4), np.zeros(4, bool)), bins=2).x == pytest.approx([0.5, 11.0])


def test_skipped_updates_and_infinities_do_not_enter_it_and_leave_a_gap_where_there_is_nothing_else() -> None:
    line = smooth(curves([6.0, 1e18, np.nan, np.inf, 5.0], [False, True, True, False, False]), bins=3)
    assert line.y == pytest.approx([6.0, np.nan, 5.0], nan_ok=True)


def test_the_axis_ends_a_little_above_the_beginning_of_training() -> None:
    limits = vertical_limits([np.array([6.0, 4.0, 1e9]), np.array([6.2, np.nan, 4.0])])
    assert limits is not None
    assert 3.5 < limits[0] < 4.0
    assert 6.2 < limits[1] < 8.0


def test_without_a_blow_up_nothing_is_cut() -> None:
    limits = vertical_limits([np.array([6.0, 4.0]), np.array([6.3, 4.0])])
    assert limits is not None
    assert limits[1] > 6.3


def test_a_run_that_never_had_a_finite_loss_has_no_limits() -> None:
    assert vertical_limits([np.array([np.nan, np.nan])]) is None


def test_the_axis_counts_epochs_if_there_are_two_of_several_steps_and_steps_otherwise(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla,explin", "0")
    write_run(made.runs[0], per_epoch=2)
    assert horizontal(collect(made.runs)).unit == "epoch"
    write_run(made.runs[1], per_epoch=1)
    assert horizontal(collect(made.runs[1:])).unit == "training step"


def test_vanilla_is_blue_and_every_other_variant_has_a_look_of_its_own() -> None:
    variants = ["vanilla", *(f"upbounded(omega={n})" for n in range(1, 15))]
    chosen = looks(variants)
    assert chosen["vanilla"].color == VANILLA
    assert len({(look.color, str(look.dashes)) for look in chosen.values()}) == len(variants)
    assert all(look.color != VANILLA for variant, look in chosen.items() if variant != "vanilla")


def test_both_formats_show_runs_that_broke_that_stopped_and_that_never_had_a_loss(
    tmp_path: Path,
) -> None:
    made = make_plan(tmp_path, "vanilla,upbounded,explin", "0", "--max-consecutive-skips", "3")
    write_run(made.runs[0], [None, None, "nan_rate", "nan_rate", "nan_rate"], nelbo=None)
    write_run(made.runs[1], ["nan_rate"] * 6)
    write_run(made.runs[2], [None, "high_gradient", None], elbo=[6.0, 1e18, 5.0])
    paths = [tmp_path / "curves.png", tmp_path / "curves.svg"]
    draw_curves(collect(made.runs), made.variants, paths)
    picture = iio.imread(paths[0])
    blue = tuple(bytes.fromhex(VANILLA[1:]))
    assert (np.abs(picture[..., :3].astype(int) - blue).max(-1) < 8).any()
    drawing = paths[1].read_text()
    for text in ("vanilla: 3 skipped", "upbounded: 6 skipped", "explin: 1 skipped", "bits per dimension"):
        assert text in drawing


def test_a_variant_whose_whole_curve_lies_above_what_is_shown_is_named(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla,upbounded,explin", "0")
    for run, beginning in zip(made.runs, (6.0, 90.0, 6.1), strict=True):
        write_run(run, [None] * 3, elbo=[beginning, beginning - 0.5, beginning - 1])
    paths = [tmp_path / "curves.svg", tmp_path / "curves.png"]
    draw_curves(collect(made.runs), made.variants, paths)
    drawing = paths[0].read_text()
    assert "(cut off; highest 90)" in drawing
    assert "wholly above: upbounded" in drawing


def test_a_legend_of_long_names_is_not_cut_off_at_the_edges(tmp_path: Path) -> None:
    """A count of skips whose last digits are gone is another count."""
    long = "explin/constant+optimal+geco(kappa=0.06)"
    made = make_plan(tmp_path, f"vanilla,upbounded+optimal,{long},explin/bounded(0.01,1)+per_pixel+vamp(4)", "0")
    for run in made.runs:
        write_run(run)
    draw_curves(collect(made.runs), made.variants, [tmp_path / "curves.png"])
    picture = iio.imread(tmp_path / "curves.png")[..., :3]
    assert (picture[:, [0, -1]] == 255).all()


def test_the_drawing_is_the_same_from_one_day_to_the_next(tmp_path: Path) -> None:
    made = make_plan(tmp_path, "vanilla", "0")
    write_run(made.runs[0])
    results = collect(made.runs)
    for name in ("a.svg", "b.svg"):
        draw_curves(results, made.variants, [tmp_path / name])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
