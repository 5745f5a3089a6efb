"""Every number of README.md and of docs/ that has a result file is a number of that file, or is computed from it here.

A block of text (a paragraph, an item of a list, a table) that links to results may state no number that these do not
have, rounded as it is stated. What a text adds up or subtracts is in `DERIVED`, with the computation. Tables are
compared cell by cell with the result that they repeat.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_NUMBER = re.compile(r"(?<![\w./-])[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w/])")
_ANY_NUMBER = re.compile(r"[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_LINK = re.compile(r"\]\(([^)]*results/[^)#]+)")


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def _remedies(name: str) -> dict[str, dict[str, Any]]:
    table = next(t for t in _read(name)["tables"] if t["name"] == "remedies")
    return {row[0]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}


def _lost(name: str, variant: str) -> list[tuple[int, int]]:
    """High gradients and NaN of each run of a variant, by seed."""
    runs = [run for run in _read(f"{name}/comparison.json")["runs"] if run["variant"] == variant]
    return [(run["high_gradient_count"], run["nan_count"]) for run in sorted(runs, key=lambda run: run["seed"])]


def _nan(name: str, variant: str) -> int:
    return sum(nan for _, nan in _lost(name, variant))


def _worst(name: str, variant: str) -> list[tuple[int, int]]:
    """The runs of a variant, the one that lost the most updates first."""
    return sorted(_lost(name, variant), key=sum, reverse=True)


def _of_notes(name: str, pattern: str) -> int:
    """The sum of all numbers that a pattern finds in the notes of a report."""
    return sum(int(number) for note in _read(name)["notes"] for number in re.findall(pattern, note))


def _last_finite(form: str) -> int:
    """The last p of a form of table 1 in float32."""
    rows = _read("table1.json")["tables"][0]["rows"]
    return next(int(row[2]) for row in rows if row[:2] == ["float32", form])


def _ratios() -> list[float]:
    """Step times of patched variants over vanilla's, of a VDVAE at the `demo` and at the `small` preset."""
    rows = [row for preset in ("demo", "small") for row in _read(f"bench/{preset}.json")["rows"]]
    return [row["time_ratio"] for row in rows if row["name"] not in ("vanilla", "plain step")]


def _updates(name: str) -> int:
    """Updates that the ten seeds of a stress test did together."""
    seeds, steps = re.search(r"batches of 8, (\d+) steps.*?(\d+) seeds at each", _read(name)["introduction"]).groups()  # type: ignore[union-attr]
    return int(seeds) * int(steps)


def _of_looks(row: str, names: tuple[str, ...], part: int) -> int:
    """The sum over looks of the `part`-th number of a row of docs/results/scan-public.md."""
    text, found = (RESULTS / "scan-public.md").read_text(), dict[str, int]()
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        lines = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in table.splitlines()]
        for cells in lines[2:]:
            if cells[0] == row:
                for look, cell in zip(lines[0][1:], cells[1:], strict=False):
                    # a look's own table is the first; those of the scan after its faults were mended follow
                    found.setdefault(look, int(re.findall(r"\d+", cell)[part]))
    return sum(found[name] for name in names)


_ORDINARY = (
    "fourth look",
    "fifth look",
    "sixth look",
    "seventh look",
    "eighth look",
    "ninth look",
    "tenth look",
    "eleventh look",
)
_MODELS, _PRECISION, _RECALL = (
    "models (with heads, without)",
    "precision, path and channels",
    "recall, path and channels",
)

_STRESS = "stress-ten-seeds.json"

# What a page says, `{}` for its number, and the number as it is computed from results.
DERIVED: list[tuple[str, str, Callable[[], float]]] = [
    ("README.md", "On {} models, written after", lambda: _of_looks(_MODELS, _ORDINARY, 0)),
    ("README.md", "`scan` found {} of", lambda: _of_looks(_RECALL, _ORDINARY, 0)),
    ("README.md", "found 687 of {} heads,", lambda: _of_looks(_RECALL, _ORDINARY, 1)),
    (
        "README.md",
        "named {} places that are no heads",
        lambda: _of_looks(_PRECISION, _ORDINARY, 1) - _of_looks(_PRECISION, _ORDINARY, 0),
    ),
    ("README.md", "Of the {} models with heads", lambda: _of_looks(_MODELS, _ORDINARY, 1)),
    ("README.md", "models with heads {} were patched", lambda: _of_looks("patched, and σ verified", _ORDINARY, 0)),
    (
        "README.md",
        "of which {} in 87 networks",
        lambda: _of_looks(_MODELS, _ORDINARY, 2) - _of_looks("no false alarm, without a head", _ORDINARY, 0),
    ),
    ("README.md", "of which 1 in {} networks without any", lambda: _of_looks(_MODELS, _ORDINARY, 2)),
    ("README.md", "On the newest {} of them", lambda: _of_looks(_MODELS, _ORDINARY[-1:], 0)),
    ("README.md", "of them it found {} of", lambda: _of_looks(_RECALL, _ORDINARY[-1:], 0)),
    ("README.md", "it found 101 of {}, named", lambda: _of_looks(_RECALL, _ORDINARY[-1:], 1)),
    (
        "README.md",
        "named {} too many",
        lambda: _of_looks(_PRECISION, _ORDINARY[-1:], 1) - _of_looks(_PRECISION, _ORDINARY[-1:], 0),
    ),
    ("README.md", "and patched {} of", lambda: _of_looks("patched, and σ verified", _ORDINARY[-1:], 0)),
    ("README.md", "and patched 61 of {} models", lambda: _of_looks("patched, and σ verified", _ORDINARY[-1:], 1)),
    (
        "README.md",
        "vanilla loses {} updates, the patched",
        lambda: sum(map(sum, _lost("demo", "vanilla"))),
    ),
    ("README.md", "the patched runs {} and 0", lambda: sum(map(sum, _lost("demo", "upbounded")))),
    ("README.md", "the patched runs 6 and {}]", lambda: sum(map(sum, _lost("demo", "explin/constant")))),
    ("README.md", "costs little: {} to 1.01 of vanilla", lambda: round(min(_ratios()), 2)),
    ("README.md", "costs little: 0.99 to {} of vanilla", lambda: round(max(_ratios()), 2)),
    ("docs/compare.md", "Vanilla lost {} updates to NaN, in two of three runs", lambda: _nan("demo", "vanilla")),
    ("docs/compare.md", "`upbounded` lost {} in one run", lambda: sum(_worst("demo", "upbounded")[0])),
    ("docs/compare.md", "Vanilla lost {} updates to NaN in one of its", lambda: _nan("cifar10-stress", "vanilla")),
    ("docs/compare.md", "`upbounded` lost {} in one (", lambda: sum(_worst("cifar10-stress", "upbounded")[0])),
    ("docs/compare.md", "in one ({} NaN,", lambda: _worst("cifar10-stress", "upbounded")[0][1]),
    ("docs/compare.md", "NaN, {} high gradients) and", lambda: _worst("cifar10-stress", "upbounded")[0][0]),
    ("docs/compare.md", "high gradients) and {} in another", lambda: _worst("cifar10-stress", "upbounded")[1][0]),
    (
        "docs/choosing.md",
        "lost {} of 1,000 updates and ended",
        lambda: _remedies(_STRESS)["explin/constant"]["0.05: high gradients"],
    ),
    ("docs/choosing.md", "lost 278 of {} updates and ended", lambda: _updates(_STRESS)),
    ("docs/choosing.md", "fewest bad steps, {} of", lambda: _remedies(_STRESS)[_BOUNDED]["0.05: high gradients"]),
    ("docs/choosing.md", "bad steps, 13 of {}, at", lambda: _updates(_STRESS)),
    ("docs/choosing.md", "NaN steps of {} where", lambda: _updates(_STRESS)),
    (
        "docs/choosing.md",
        "had {} high gradients instead of 39",
        lambda: _remedies(_STRESS)[_AT_5]["0.05: high gradients"],
    ),
    (
        "docs/choosing.md",
        "high gradients instead of {} and ended",
        lambda: _remedies(_STRESS)[_NAN_ALONE]["0.05: high gradients"],
    ),
    (
        "docs/choosing.md",
        "vanilla clipped at 1 had {} NaN at 5e-2",
        lambda: _remedies(_STRESS)["vanilla, clipped at 1"]["0.05: NaN steps"],
    ),
    (
        "docs/choosing.md",
        "NaN at 5e-2, and {} at 2e-2",
        lambda: _remedies(_STRESS)["vanilla, clipped at 1"]["0.02: NaN steps"],
    ),
    (
        "docs/choosing.md",
        "distortion alone had {}, so",
        lambda: _remedies(_STRESS)["distortion alone"]["0.05: high gradients"],
    ),
    (
        "docs/choosing.md",
        "without a bad step, {} NaN, and",
        lambda: _remedies("stress-16.json")["vanilla"]["0.02: NaN steps"],
    ),
    (
        "docs/choosing.md",
        "it has {} NaN in the six runs",
        lambda: _of_notes("table4.json", r"vanilla\S* skipped .*?: (\d+) for NaN"),
    ),
    ("docs/choosing.md", "failed in 0 of {} runs in which NaiveExp", lambda: _table_2_runs("ExpLin")),
    ("docs/choosing.md", "in which NaiveExp failed in {} and", lambda: _table_2_failed("NaiveExp")),
    ("docs/choosing.md", "and Exp in {} ([table 2", lambda: _table_2_failed("Exp")),
    ("docs/index.md", "whole numbers p below −{}, and in", lambda: -_last_finite("log ratio")),
    ("docs/index.md", "`kl_divergence` uses, below −{}.", lambda: -_last_finite("PyTorch")),
    (
        "docs/results.md",
        "[{} kills, resumed]",
        lambda: sum(run["kills"] for run in _read("kill-and-resume.json")["results"]),
    ),
    (
        "docs/clusters.md",
        "a model of about 5,000 parameters, {} steps",
        lambda: _read("kill-and-resume.json")["results"][0]["steps"],
    ),
    ("docs/decoders-and-objectives.md", "Measured on {} models", lambda: 53 + 21),
]
_BOUNDED, _AT_5 = "bounded/constant, means in 5, clipped at 1", "explin/constant, clipped at 5"
_NAN_ALONE = "explin/constant, only NaN skipped"

# Numbers beside a result that are not of it, each with what it is.
SETTINGS = {
    "docs/choosing.md": {
        "left about 55 NaN steps": "between the 53 of GECO and the 56 of the optimal σ",
    },
    "docs/clusters.md": {"a model of about 5,000 parameters": "counted, and not recorded"},
}


def _table_2(column: str) -> dict[str, Any]:
    table = next(t for t in _read("table2-quick.json")["tables"] if t["name"] == "causes")
    return {row[0]: dict(zip(table["header"], row, strict=True)) for row in table["rows"]}


def _table_2_runs(posterior: str) -> int:
    return int(_table_2("runs")[posterior]["runs"])


def _table_2_failed(posterior: str) -> int:
    row = _table_2("causes")[posterior]
    return sum(int(row[cause]) for cause in ("nan_rate", "nan_distortion", "nan_weights", "NELBO too high"))


# --- the pages


def _blocks(text: str) -> list[str]:
    """Paragraphs, items of lists and tables, code left out."""
    found = []
    for part in re.split(r"\n\s*\n", re.sub(r"```.*?```", "", text, flags=re.S)):
        found += re.split(r"\n(?=\s*[-*] )", part) if part.lstrip().startswith(("- ", "* ")) else [part]
    return [block for block in found if block.strip()]


def _sources(page: Path, block: str) -> set[Path]:
    """The result files that a block links to, and those that were written with them."""
    files: set[Path] = set()
    for link in _LINK.findall(block):
        file = (page.parent / link).resolve()
        whole = file.name in ("report.md", "README.md") or file.suffix in (".png", ".svg")
        beside = file.parent.glob("*" if whole and file.parent != RESULTS else f"{file.stem}*")
        files |= {path for path in beside if path.suffix in (".md", ".json", ".csv", ".txt")}
    return files


def _value(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def _numbers_of(files: set[Path]) -> set[float]:
    found = {abs(_value(text)) for file in files for text in _ANY_NUMBER.findall(file.read_text())}
    return {value for value in found if math.isfinite(value)}  # a commit such as 764ca10e4506 has 10e4506 in it


def _is_of(text: str, known: set[float]) -> bool:
    """Whether a number is one of those known, rounded to the digits that it is stated with."""
    value = abs(_value(text))
    if "e" in text:
        return any(abs(number - value) <= 0.05 * value for number in known)
    digits = len(text.partition(".")[2])
    return any(round(number, digits) == value for number in known)


def _claims() -> list[tuple[Path, str]]:
    return [(page, block) for page in PAGES for block in _blocks(page.read_text()) if _LINK.search(block)]


def _prose(block: str) -> str:
    """Without links' targets and code, on one line."""
    return " ".join(re.sub(r"`[^`]*`", "`", re.sub(r"\]\([^)]*\)", "]", block)).split())


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _excused(page: Path) -> list[str]:
    """Passages whose numbers are accounted for otherwise, as `_prose` has them."""
    derived = [text for name, text, _ in DERIVED if name == _name(page)]
    return [_prose(text) for text in (*derived, *SETTINGS.get(_name(page), {}))]


def _not_of_a_result(page: Path, block: str) -> list[str]:
    known, prose = _numbers_of(_sources(page, block)), _prose(block)
    taken: set[int] = set()
    for passage in _excused(page):
        pattern = re.escape(passage).replace(r"\{\}", r"([\d,.]+)").replace("`", "`?")
        for match in re.finditer(pattern, prose):
            start, end = match.span(1) if match.groups() else match.span()
            taken |= set(range(start - 1, end))  # with its sign
    return [
        prose[max(0, match.start() - 30) : match.end() + 20]
        for match in _NUMBER.finditer(prose)
        if match.start() not in taken and not _is_of(match[0], known)
    ]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_passage_that_links_to_results_states_no_other_number(page: Path) -> None:
    stray = [text for its, block in _claims() if its == page for text in _not_of_a_result(page, block)]
    assert not stray, f"{_name(page)} states what its result files do not have: {stray}"


def test_many_passages_and_numbers_are_looked_at() -> None:
    claims = _claims()
    assert len(claims) > 20
    assert sum(len(_NUMBER.findall(_prose(block))) for _, block in claims) > 110
    assert all(_sources(page, block) for page, block in claims), [b for p, b in claims if not _sources(p, b)]


@pytest.mark.parametrize(("page", "text", "computed"), DERIVED, ids=[text for _, text, _ in DERIVED])
def test_a_number_that_is_computed_from_results_is_right(page: str, text: str, computed: Callable[[], float]) -> None:
    prose = " ".join(re.sub(r"\]\([^)]*\)", "]", (ROOT / page).read_text()).split())
    passage = re.escape(text).replace(r"\{\}", r"([\d,.]*\d)")
    found = re.findall(passage, prose)
    assert found, f"{page} no longer says {text!r}: take it off the list, or mend it"
    assert [_value(number) for number in found] == [computed()] * len(found)


def test_every_passage_that_is_excused_is_there() -> None:
    for name, passages in SETTINGS.items():
        prose = " ".join((ROOT / name).read_text().split())
        assert all(passage in prose for passage in passages)


def test_a_changed_number_is_noticed() -> None:
    page = ROOT / "docs" / "choosing.md"
    block = next(block for its, block in _claims() if its == page and "stress-ten-seeds.md" in block)
    for number in ("720", "6.8", "0.006"):
        assert number in block
        changed = block.replace(number, number[:-1] + str((int(number[-1]) + 3) % 10), 1)
        assert _not_of_a_result(page, changed) != _not_of_a_result(page, block), number


# --- tables that repeat a result


def _table(text: str, header: str) -> list[list[str]]:
    lines = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("heading", "folder"),
    [("## The demo", "demo"), ("## CIFAR-10", "cifar10-stress")],
)
def test_the_tables_of_comparisons_are_those_of_their_reports(heading: str, folder: str) -> None:
    page = (ROOT / "docs" / "compare.md").read_text()
    ours = _table(page[page.index(heading) :], "| posterior / prior |")
    theirs = _table((RESULTS / folder / "report.md").read_text(), "| posterior / prior |")
    assert ours == theirs
    rows = {row["variant"]: row for row in _read(f"{folder}/comparison.json")["rows"]}
    for variant, gradients, nan, nats, bits, seeds in ours:
        row = rows[variant]
        for cell, key in [
            (gradients, "high_gradient"),
            (nan, "nan"),
            (nats, "test_nelbo_nats_per_dim"),
            (bits, "test_nelbo_bits_per_dim"),
        ]:
            for stated, exact in zip(cell.split(" ± "), (row[key]["mean"], row[key]["std"]), strict=True):
                assert _is_of(stated, {exact}), (variant, key, stated, exact)
        assert int(seeds) == row["nan"]["count"]


def test_what_the_demo_is_said_to_show_is_so() -> None:
    rows = {row["variant"]: row["test_nelbo_nats_per_dim"] for row in _read("demo/comparison.json")["rows"]}
    best, spread = rows["vanilla"]["mean"], rows["vanilla"]["std"]
    assert best == min(row["mean"] for row in rows.values())
    assert spread == max(row["std"] for row in rows.values())
    assert all(abs(row["mean"] - best) <= spread for row in rows.values())
    page = " ".join((ROOT / "docs" / "compare.md").read_text().split())
    assert "the lowest mean NELBO and the widest spread; the two others lie within one of its standard" in page


def test_the_table_of_costs_is_the_bench_of_the_small_preset() -> None:
    stated = _table((ROOT / "docs" / "what-it-costs.md").read_text(), "| variant |")
    measured = _read("bench/small.json")["rows"]
    rows = {row["name"]: row for row in reversed(measured)}  # the first vanilla, which stands there twice
    for variant, step, ratio, memory in stated:
        row = rows[variant]
        assert _is_of(step, {1000 * row["seconds"]})
        interval = [row["time_ratio"], row["low"], row["high"]]
        for text, exact in zip(re.findall(r"[\d.]+\d", ratio), interval, strict=False):
            assert _is_of(text, {exact})
        assert _is_of(memory, {row["memory_ratio"]})
    assert len(stated) == 6


def test_the_table_of_what_was_counted_is_of_the_counts() -> None:
    stated = _table((ROOT / "docs" / "what-it-costs.md").read_text(), "| counted |")
    rows = {row["name"]: row for row in _read("bench/counts-cifar10.json")["rows"]}

    def model(name: str, what: str) -> int:
        parts = rows[name]["parts"]
        return int(parts["forward"][what]) + int(parts["backward"][what])

    for variant, forward, backward, calls, launches, launched, saved, kept in stated:
        row = rows[variant]
        assert [int(text.replace(",", "")) for text in (forward, backward, launches)] == [
            row["parts"]["forward"]["calls"], row["parts"]["backward"]["calls"], model(variant, "launches"),
        ]  # fmt: skip
        assert _is_of(calls, {model(variant, "calls") / model("vanilla", "calls")})
        assert _is_of(launched, {model(variant, "launches") / model("vanilla", "launches")})
        assert _is_of(saved.replace(",", ""), {row["bytes_saved"] / 1e6})
        assert _is_of(kept, {row["bytes_saved"] / rows["vanilla"]["bytes_saved"]})
        assert model(variant, "calls") <= model("vanilla", "calls")
    assert len(stated) == len(rows) == 6


def test_what_is_said_of_costs_is_of_the_bench() -> None:
    section, on_a_gpu = (ROOT / "docs" / "what-it-costs.md").read_text().split("\n## On a GPU\n")
    assert on_a_gpu.strip().startswith("Nothing of this page was measured on a GPU.")  # it has settings and goals
    known = _numbers_of(set((RESULTS / "bench").glob("*.md")))
    known |= {float(f"{value:.0f}") for value in known} | {round(value / 1000) for value in known}  # seconds
    counted = section[section.index("| counted |") :].split("\n\n")[0]  # which has a test of its own
    prose = _prose(section.replace(counted, "").replace("95 %", "").replace("93 to 96 %", ""))
    assert [text for text in _NUMBER.findall(prose) if not _is_of(text, known) and text not in ("16",)] == []


def test_the_confidence_of_published_intervals_is_that_of_the_values_between_which_they_lay() -> None:
    """They were taken by the normal approximation: between the values at n / 2 ± 0.98 √n."""
    found = []
    for path in (RESULTS / "bench").glob("*.md"):
        rounds = re.search(r"; (\d+) interleaved rounds", path.read_text())
        if rounds is not None and (n := int(rounds[1])) > 12:  # of fewer the page states no interval
            first = math.floor(n / 2 - 0.98 * math.sqrt(n))
            found.append(100 * sum(math.comb(n, below) for below in range(first + 1, n - first)) / 2**n)
    assert 93 <= min(found) < 94
    assert 95.5 <= max(found) < 96.5


def test_explin_constant_had_no_nan_in_any_result() -> None:
    page = _prose((ROOT / "docs" / "choosing.md").read_text())
    assert "It lost no update in [the demo and on CIFAR-10], had no NaN in any of our runs" in page
    assert {sum(run) for name in ("demo", "cifar10-stress") for run in _lost(name, "explin/constant")} == {0}
    looked = 0
    for name in ("stress-quick.json", "stress-ten-seeds.json", "stress-16.json", "stress-clipping-8.json",
                 "stress-clipping-16.json"):  # fmt: skip
        for remedy, row in _remedies(name).items():
            if remedy.startswith("explin/constant"):
                looked += 1
                assert all(value == 0 for column, value in row.items() if column.endswith("NaN steps")), (name, remedy)
    assert looked > 8
    table = _read("table4.json")["tables"][0]
    assert next(row for row in table["rows"] if row[0] == "explin/constant")[3] == "0.0 ± 0.0"


def test_every_result_comes_from_a_commit_without_changes() -> None:
    found = [
        (path.relative_to(RESULTS).as_posix(), commit)
        for path in sorted(RESULTS.rglob("*.json"))
        for commit in re.findall(r'"commit": "([^"]*)"', path.read_text())
    ]
    assert len(found) > 40
    assert not [(name, commit) for name, commit in found if "+" in commit]
