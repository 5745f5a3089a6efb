"""Every cell of docs/composability.md is what happens; see `table` for what a cell says."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from vdvae_patch.patches.vdvae import HOST

import vdvae_patch
from vdvae_patch.attach.attachment import Attachment, ExpressionAttachment, MethodAttachment, OutputAttachment
from vdvae_patch.patching import patch_record

from .case import Case
from .models import COLUMNS
from .page import COMMAND, PAGE, computed, load_rows, recorded, versions, written
from .table import NOT_APPLICABLE, ROWS, Row

load_rows()
RECORDED = recorded()


def _cells() -> Iterator[object]:
    for row in ROWS.values():
        for column in row.columns:
            marks = [pytest.mark.slow] if row.slow else []
            if column in row.open:
                marks.append(pytest.mark.xfail(reason=row.open[column], strict=True))
            yield pytest.param(row, column, id=f"{row.name}-{column}", marks=marks)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


@pytest.mark.medium
@pytest.mark.parametrize(("row", "column"), list(_cells()))
def test_the_page_says_what_happens(row: Row, column: str) -> None:
    if row.missing:
        pytest.skip(f"not installed: {', '.join(row.missing)}")
    now = computed(row, column)
    known = RECORDED.get(row.name, {}).get(column)
    assert now == known, f"{PAGE.name} has {known!r} for {row.name!r}, {column}; if that shall change: {COMMAND}"


def test_the_page_has_these_rows_and_nothing_else() -> None:
    text = PAGE.read_text(encoding="utf-8")
    if versions() not in text:
        pytest.skip(f"{PAGE.name} is of other versions than {versions()}")
    assert text == written(RECORDED), f"write the page again: {COMMAND}"
    for row in ROWS.values():
        assert [c for c in COLUMNS if RECORDED[row.name][c] == NOT_APPLICABLE] == [
            c for c in COLUMNS if c not in row.columns
        ]


@pytest.mark.parametrize(
    ("column", "kind"),
    [("output", OutputAttachment), ("expression", ExpressionAttachment), ("named host", MethodAttachment)],
)
def test_a_column_is_one_kind_of_patch(column: str, kind: type[Attachment]) -> None:
    case = Case(column)
    case.patch()
    record = patch_record(case.model)
    assert {type(attachment) for attachment in record.attachments} == {kind}
    assert {h.head.role for h in record.heads} == {"posterior", "prior"}
    assert (case.column.part, case.column.method) in {(a.path, a.method) for a in record.attachments}
    assert case.emitter is not None


def test_the_heads_of_the_named_host_are_those_of_its_entry() -> None:
    case = Case("named host")
    assert list(case.column.heads()) == HOST.heads(case.model)
    assert not vdvae_patch.is_patched(case.model)
