"""`vdvae-patch report` over what real runs, a real comparison and a real guard have written."""

from __future__ import annotations

import base64
import fcntl
import gzip
import json
import re
import shutil
import statistics
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import compared, guarded, page_of
from runs import tiny

from vdvae_patch.cli import main
from vdvae_patch.report.page import MOST_BYTES
from vdvae_patch.report.write import watch, write
from vdvae_patch.skips import records, whole
from vdvae_patch.train.config import RunFile
from vdvae_patch.train.loop import train

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared(tmp_path_factory.mktemp("compared"))


class Page(HTMLParser):
    """What a browser would make of it: tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._raw = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(name)) is not None]


def data_of(text: str) -> dict[str, Any]:
    packed = re.search(r'<script type="text/plain" id="data">([^<]+)</script>', text)
    assert packed is not None
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    return found


def numbers(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["b"]), f"<{packed['t']}")


def test_the_page_of_a_comparison_has_its_table_and_every_number_leads_to_its_run(comparison: Path) -> None:
    text = page_of(comparison)
    page = Page(text)
    for part in ("vanilla", "upbounded", "seed 0", "seed 1", "±", "NaN", "high gradients", "What was run"):
        assert part in page.text
    ids = page.values("id")
    targets = [href[1:] for href in page.values("href") if href.startswith("#")]
    assert len(ids) == len(set(ids))
    assert len(targets) > 4 * 6
    assert set(targets) <= set(ids)
    for href in page.values("href"):
        assert href.startswith("#") or (comparison / href).resolve().exists()
    summaries = [json.loads(path.read_text()) for path in comparison.glob("vanilla*/summary.json")]
    nats = [summary["test_nelbo_nats_per_dim"] for summary in summaries]
    assert f"{statistics.mean(nats):.3f} ± {statistics.stdev(nats):.3f}" in page.text
    assert all(f"{value:.3f}" in page.text for value in nats)


def test_every_skipped_update_is_in_the_page_with_cause_and_head(comparison: Path) -> None:
    (section,) = data_of(page_of(comparison)).values()
    skips = 0
    for run in section["runs"]:
        (folder,) = comparison.glob(run["folder"])
        logged = [row for row in records.read(folder / "metrics.jsonl") if row["skipped"]]
        marks = run["marks"]
        assert numbers(marks["first"]).tolist() == [row["step"] for row in logged]
        assert [marks["causes"][code] for code in numbers(marks["cause"])] == [row["cause"] for row in logged]
        assert np.cumsum(numbers(run["all"]["step"])).tolist() == [row["step"] for row in logged]
        heads = [marks["heads"][code] for code in numbers(marks["head"])]
        assert all("dec_blocks" in head for head in heads)
        recorded = numbers(marks["recorded"])
        for number in recorded[recorded > 0]:
            assert f"--skip {number}" in run["replays"][str(number)]
        skips += len(logged)
    assert skips > 4


def test_what_a_page_leaves_out_of_its_lists_is_said(comparison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdvae_patch.report.page._LISTED", 1)
    monkeypatch.setattr("vdvae_patch.report.skipped.PER_HEAD", 2)
    text = Page(page_of(comparison)).text
    recorded = len(list(comparison.glob("*/recordings/skip-*")))
    runs = len({path.parent for path in comparison.glob("*/recordings/skip-*")})
    assert recorded > runs
    assert f"{recorded} of them are recorded and can be done again, of which {runs} are listed, the first" in text
    rows = records.read(next(comparison.glob("vanilla*/skips.jsonl")))
    assert f"the first 2 of {len(next(iter(rows))['heads'])} heads" in text
    assert "head that stands out, of posteriors and priors" in text


def test_the_page_holds_all_that_it_needs_and_asks_no_host(comparison: Path) -> None:
    text = page_of(comparison)
    page = Page(text)
    assert not [tag for tag, attrs in page.tags if tag in ("link", "iframe", "object", "embed", "base", "form")]
    assert not [attrs for tag, attrs in page.tags if tag == "script" and "src" in attrs]
    assert not [value for name in ("src", "href", "action") for value in page.values(name) if "//" in value]
    images = re.search(r'id="images">(.*?)</script>', text, re.DOTALL)
    assert images is not None
    assert len(json.loads(images[1])) == 4 * 2
    assert len(text) - len(images[1]) <= MOST_BYTES


def test_a_single_run_has_a_page_with_what_is_needed_to_repeat_it(comparison: Path, tmp_path: Path) -> None:
    run = next(comparison.glob("vanilla*0"))
    page = Page(page_of(run, tmp_path / "one.html"))
    told = json.loads((run / "summary.json").read_text())["run"]
    for part in (told["command"], told["commit"], told["torch"], told["machine"], "warmup_iters", "finished"):
        assert " ".join(str(part).split()) in page.text
    assert "Runs differ" not in page.text


def test_runs_with_other_settings_are_told_apart_and_the_differences_are_listed(tmp_path: Path) -> None:
    for name, lr in (("slow", 1e-4), ("fast", 1e-2)):
        train(tiny(tmp_path / name, steps=3, lr=lr))
    page = Page(page_of(tmp_path))
    assert "vanilla · lr=0.0001" in page.text
    assert "vanilla · lr=0.01" in page.text
    assert re.search(r"setting .*lr 0\.01 0\.0001", page.text)


def test_a_run_that_goes_on_was_cut_off_or_lacks_files_says_so(comparison: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(comparison, out)
    runs = sorted(path for path in out.iterdir() if path.is_dir())
    for run in runs[:3]:
        (run / "summary.json").unlink()
    (runs[0] / "log.txt").write_text("Traceback: \x1b[31mno space left on <device>\n")
    with (runs[1] / "run.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (runs[2] / "config.toml").unlink()
        (runs[3] / "heads.jsonl").write_bytes(b'{"step": 0, "heads": [\n\x00\xff\n')
        page = Page(page_of(out))
    assert "was cut off after 12 of 12 steps and is left out of the means" in page.text
    assert "no space left on <device>" in page.text
    assert "\x1b" not in page.text
    assert "goes on: 12 of 12 steps so far" in page.text
    assert "config.toml does not exist" in page.text
    assert "heads.jsonl line 1 is damaged" in page.text
    assert "train --resume --out" in page.text


def test_a_run_that_no_longer_learns_is_marked(comparison: Path, tmp_path: Path) -> None:
    run = tmp_path / "stuck"
    shutil.copytree(next(comparison.glob("vanilla*0")), run)
    (run / "summary.json").unlink()
    lines = [{**row, "skipped": True, "cause": "nan_rate"} for row in records.read(run / "metrics.jsonl")]
    texts = (json.dumps(records.encode(line)) for line in lines)
    file = RunFile.read(run / "config.toml")
    numbered = (records.checked_line(text, n, records.short(file.run)) for n, text in enumerate(texts, 1))
    (run / "metrics.jsonl").write_text("".join(numbered))
    config = (run / "config.toml").read_text().partition("\n")[2]
    changed = re.sub(r"max_consecutive_skips = \d+", "max_consecutive_skips = 5", config)
    (run / "config.toml").write_text(whole.with_comment(changed))
    page = Page(page_of(run))
    assert "stopped at step 12 of 12: updates were skipped so often in a row that it no longer learns" in page.text
    assert "stopped" in page.text


def test_text_of_files_is_never_markup(comparison: Path, tmp_path: Path) -> None:
    run = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(next(comparison.glob("vanilla*0")), run)
    evil = '<script>alert("x")</script>'
    config = (run / "config.toml").read_text()
    config = config.replace('host = "vdvae"', f"host = '{evil}'").replace(
        'variant = "vanilla"', f"variant = '{evil}</script>'"
    )
    config = re.sub(r"\ncommand = .*", f"\ncommand = '{evil}'", config)
    config = config.replace("[run]", '[run]\nresumed = ["\\u001B[2J</style><b onclick=alert(1)>"]')
    (run / "config.toml").write_text(config)
    skips = list(records.read(run / "skips.jsonl"))
    for skip in skips:
        skip["cause"] = evil
        skip["heads"][0] |= {"path": f"{evil}\ud800\u202e", "log_sigma_min": "nan"}
    (run / "skips.jsonl").write_text("".join(json.dumps(records.encode(skip)) + "\n" for skip in skips))
    text = page_of(run)
    page = Page(text)
    assert evil in page.text
    assert not {"\x1b", "\u202e", "\ud800"} & set(text)
    assert "\\u202e" in page.text
    assert [tag for tag, _ in page.tags].count("script") == 4
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert not [attrs for tag, attrs in page.tags if tag == "img" and attrs.get("src") == "x"]


def test_a_guards_folder_has_a_page(tmp_path: Path) -> None:
    guarded(tmp_path / "guard")
    page = Page(page_of(tmp_path / "guard"))
    skips = list(records.read(tmp_path / "guard" / "skips.jsonl"))
    assert f"step {skips[0]['step']}" in page.text
    assert skips[0]["head"] in page.text
    assert "head to blame" in page.text
    assert "replay" in page.text
    assert "model VAE" in page.text


def test_a_guard_that_skipped_nothing_has_a_page_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "skips.jsonl").touch()
    assert "has skipped no update so far" in Page(page_of(tmp_path / "guard")).text


def test_a_reproduction_has_a_page_and_one_that_goes_on_says_so(tmp_path: Path) -> None:
    done, begun = tmp_path / "stress", tmp_path / "begun"
    for folder in (done, begun):
        folder.mkdir()
        (folder / "settings.json").write_text('{"steps": 7}')
    for suffix in ("json", "png"):
        shutil.copy(ROOT / "docs" / "results" / f"stress-quick.{suffix}", done)
    (begun / "part-one.json").write_text('{"seconds": 1.0}')
    text = page_of(tmp_path)
    page = Page(text)
    report = json.loads((done / "stress-quick.json").read_text())
    for part in (report["title"], report["tables"][0]["caption"], report["origin"]["commit"]):
        assert part in page.text
    assert "not finished; the same command goes on" in page.text
    assert "part-one" in page.text
    assert "data:image/webp;base64," in text


def test_the_page_is_written_again_when_something_changed_and_not_before(comparison: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(next(comparison.glob("vanilla*0")), run)
    told: list[Path] = []
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            with (run / "metrics.jsonl").open("a") as log:
                log.write(json.dumps({"step": 12, "skipped": False}) + "\n")

    watch(run, None, told=told.append, sleep=sleep, rounds=4)
    assert len(told) == 2
    assert "loads itself again" in told[-1].read_text()


def test_the_command_writes_where_it_is_told_and_refuses_what_is_nothing(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "page.html"
    with pytest.raises(SystemExit) as stop:
        main(["report", str(comparison), "--out", str(out)])
    assert stop.value.code == 0
    assert f"report: {out}" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / "empty")])
    assert stop.value.code == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_million_records_make_a_page_within_ten_seconds(comparison: Path, tmp_path: Path) -> None:
    run = tmp_path / "long"
    shutil.copytree(next(comparison.glob("vanilla*0")), run)
    row = next(records.read(run / "metrics.jsonl")) | {"skipped": False, "cause": None}
    skipped = set(np.random.default_rng(0).choice(1_000_000, 500, replace=False).tolist())
    identity = records.read_log(run / "metrics.jsonl").runs[0]
    (run / "metrics.jsonl").unlink()
    log = records.JsonLines(run / "metrics.jsonl", run=identity)
    for step in range(1_000_000):
        changed = {"skipped": True, "cause": "nan_rate", "elbo": "nan"} if step in skipped else {}
        log.write(row | {"step": step, "epoch": step // 5} | changed)
    log.close()
    write(next(comparison.glob("vanilla*0")), tmp_path / "first.html")  # torch and plotly.js are read once a process
    started = time.process_time()  # of this process: the machine may be shared
    text = write(run, tmp_path / "page.html").read_text()
    assert time.process_time() - started < 10
    assert len(text) < MOST_BYTES
    (section,) = data_of(text).values()
    assert numbers(section["runs"][0]["marks"]["first"]).tolist() == sorted(skipped)
