"""The page of `report` in a browser: headless Chromium, driven by playwright, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_samples import compared, guarded

from vdvae_patch.report.write import write
from vdvae_patch.skips import records

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser test of reports")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no Chromium: no browser test of reports; apt-get install chromium, or name it in CHROMIUM",
    ),
]

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(compared(tmp_path_factory.mktemp("compared")))


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarded") / "guard"
    guarded(folder)
    return write(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Opened:
    """A page, with everything that it said and asked for."""

    def __init__(self, browser: Any, path: Path, size: dict[str, int], scheme: str = "light") -> None:
        self.context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)

    def see_all(self) -> None:
        """Scroll by everything, since charts are drawn when they are first seen."""
        for chart in self.page.query_selector_all(".chart:not([hidden])"):
            chart.scroll_into_view_if_needed()
            self.page.wait_for_function("e => e.classList.contains('js-plotly-plot')", arg=chart, timeout=30_000)

    def chart(self, name: str) -> Any:
        chart = self.page.locator(f'[data-chart="{name}"]')
        chart.scroll_into_view_if_needed()
        self.page.wait_for_function(
            'name => document.querySelector(`[data-chart="${name}"] .main-svg`)', arg=name, timeout=30_000
        )
        return chart


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    pages: list[Opened] = []

    def open_page(path: Path, size: dict[str, int] = WIDE, scheme: str = "light") -> Opened:
        pages.append(Opened(browser, path, size, scheme))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()


@pytest.mark.medium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("what", ["comparison", "guard"])
def test_the_page_opens_without_an_error_or_a_request_and_fits(
    opened: Any, request: pytest.FixtureRequest, what: str, size: dict[str, int], scheme: str
) -> None:
    path = request.getfixturevalue(what)
    shown = opened(path, size, scheme)
    shown.see_all()
    assert shown.said == []
    assert [url for url in shown.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    ground = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) > 3 * 128
    assert light == (scheme == "light")


def test_the_table_sorts_by_the_column_that_is_chosen_and_seeds_stay_with_their_variant(
    opened: Any, comparison: Path
) -> None:
    page = opened(comparison).page
    table = page.locator("table.main")
    heads = table.locator("thead button").all_inner_texts()
    column = next(i for i, head in enumerate(heads) if "nats/dim" in head)

    def means() -> list[float]:
        return [
            float(row.split("±")[0]) for row in table.locator(f"tr.mean td:nth-child({column + 1})").all_inner_texts()
        ]

    button = table.locator("thead button").nth(column)
    button.click()
    assert means() == sorted(means())
    first = table.locator("tbody").first.get_attribute("data-key")
    button.click()
    assert means() == sorted(means(), reverse=True)
    assert len(set(means())) == 2
    assert table.locator("tbody").last.get_attribute("data-key") == first
    assert table.locator("tbody").last.locator("tr.one").count() == 2
    assert table.locator("th[aria-sort=descending]").count() == 1


def test_a_number_leads_to_its_run(opened: Any, comparison: Path) -> None:
    page = opened(comparison).page
    page.locator("tr.one td a").nth(3).click()
    run = page.locator("details.run:target")
    assert run.get_attribute("open") is not None
    assert "to do it again" in run.inner_text().lower()


def test_a_skips_tooltip_shows_its_cause_and_choosing_it_its_replay(opened: Any, comparison: Path) -> None:
    shown = opened(comparison)
    page, chart = shown.page, shown.chart("nelbo")
    # the mark of a skip that is recorded: where it stands on the screen
    at = chart.evaluate(
        """element => {
          const trace = element.data.findIndex((t) => t.mode === "markers");
          const i = element.data[trace].text.findIndex((t) => t.includes("recorded: replay"));
          const { xaxis, yaxis } = element._fullLayout, box = element.getBoundingClientRect();
          return [box.left + xaxis._offset + xaxis.d2p(element.data[trace].x[i]),
                  box.top + yaxis._offset + yaxis.d2p(element.data[trace].y[i])];
        }"""
    )
    page.mouse.move(at[0] - 3, at[1])
    page.mouse.move(*at)
    tip = chart.locator(".hoverlayer .hovertext").first
    tip.wait_for(timeout=10_000)
    for part in ("cause: high gradient", "stands out, of posteriors and priors: ", "replay --skip"):
        assert part in tip.text_content()
    page.mouse.click(*at)
    panel = page.locator("[data-panel]")
    assert "high gradient" in panel.inner_text()
    assert "python -m vdvae_patch replay" in panel.inner_text()
    panel.locator("a").click()
    assert page.locator("details.skip:target").get_attribute("open") is not None


@pytest.mark.parametrize(("name", "key", "digits"), [("nelbo", "elbo", 5), ("norm", "grad_norm", 4)])
def test_a_tooltip_has_the_number_of_the_log_whatever_the_line_is_smoothed_to(
    opened: Any, comparison: Path, name: str, key: str, digits: int
) -> None:
    chart = opened(comparison).chart(name)
    traces = chart.evaluate("e => e.data.map((t) => ({run: t.name, text: t.text}))")
    told = next(trace["text"] for trace in traces if trace["run"] == "vanilla seed 0")
    shown = dict(text.split("<br>")[0].split(": ") for text in told if text)
    (run,) = (path for path in comparison.parent.glob("vanilla*0") if path.is_dir())
    applied = {f"step {row['step']}": row[key] for row in records.read(run / "metrics.jsonl") if not row["skipped"]}
    assert shown.keys() == applied.keys()
    for step, value in applied.items():
        assert float(shown[step]) == pytest.approx(value, rel=10.0 ** (1 - digits))


def test_the_slider_goes_through_the_steps(opened: Any, comparison: Path) -> None:
    page = opened(comparison).page
    slider, output = page.locator("[data-slider]"), page.locator("[data-step]")
    images = page.locator("[data-gallery] figure:first-child img")
    assert output.inner_text() == "12"
    late = images.first.get_attribute("src")
    assert page.locator("[data-gallery] figure").count() == 2
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert output.inner_text() == "6"
    assert images.first.get_attribute("src") != late


def test_curves_change_their_axis_and_hide_a_variant(opened: Any, comparison: Path) -> None:
    shown = opened(comparison)
    chart = shown.chart("nelbo")
    title = "element => element._fullLayout.xaxis.title.text"
    colors = "element => [...new Set(element.data.map((t) => t.line?.color ?? t.marker.color))]"
    assert chart.evaluate(title) == "training step"
    assert chart.evaluate(colors)[:2] == ["#1f5fa8", "#d62728"]
    for axis, name in (("hours", "hours"), ("step", "training step")):
        shown.page.locator(f'[data-axis="{axis}"]').click()
        assert chart.evaluate(title) == name
    shown.page.locator("[data-legend] button").first.click()
    assert chart.evaluate(colors) == ["#d62728"]


def test_a_line_ends_where_many_updates_in_a_row_were_skipped(opened: Any, comparison: Path, tmp_path: Path) -> None:
    """A stroke from the last update before to the first one behind would look like a training."""
    run = tmp_path / "long"
    shutil.copytree(next(comparison.parent.glob("vanilla*0")), run)
    row = next(records.read(run / "metrics.jsonl")) | {"skipped": False, "cause": None}
    skipped = {20, *range(100, 160), *range(161, 190)}
    identity = records.read_log(run / "metrics.jsonl").runs[0]
    (run / "metrics.jsonl").unlink()
    log = records.JsonLines(run / "metrics.jsonl", run=identity)
    for step in range(300):
        changed = {"skipped": True, "cause": "nan_rate", "elbo": "nan"} if step in skipped else {}
        log.write(row | {"step": step, "epoch": step // 5} | changed)
    log.close()
    chart = opened(write(run)).chart("rate")
    (line,) = chart.evaluate(
        "e => e.data.map((t) => ({x: [...t.x], y: [...t.y], mode: t.mode, sizes: t.marker?.size}))"
    )
    ends = [at for at, value in zip(line["x"], line["y"], strict=True) if value is None]
    assert ends == [160, 190]  # one skip alone leaves the line whole
    assert line["mode"] == "lines+markers"
    assert [at for at, size in zip(line["x"], line["sizes"], strict=True) if size] == [160]  # applied alone: a dot


def test_the_heads_are_drawn_in_the_models_order(opened: Any, comparison: Path) -> None:
    page = opened(comparison).page
    first = page.locator(".chart.map").first
    first.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.chart.map .main-svg')", timeout=30_000)
    rows = first.evaluate("element => element.layout.yaxis.ticktext")
    assert rows == ["0.enc", "0.prior", "1.enc", "1.prior", "2.enc", "2.prior"]
    top, bottom = first.evaluate("element => [element._fullLayout.yaxis.d2p(0), element._fullLayout.yaxis.d2p(5)]")
    assert top < bottom
    for quantity in ("least log σ", "KL"):
        page.get_by_role("button", name=quantity, exact=True).click()
        page.wait_for_function("() => document.querySelector('.chart.map .main-svg')", timeout=30_000)
