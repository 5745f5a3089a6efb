"""The scan on models of public code: of installed packages, and of checkouts where `VDVAE_PATCH_PUBLIC` names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from public import NotHereError, PublicCase, all_cases
from public.judge import judge

KNOWN: dict[str, str] = {}
"""What is still wrong with a model, by its name; docs/results/scan-public.md says more of each."""


def cases() -> Iterator[Any]:
    for file, case in all_cases():
        marks = [pytest.mark.genuine]
        if case.name in KNOWN:
            marks.append(pytest.mark.xfail(strict=True, reason=KNOWN[case.name]))
        yield pytest.param(case, id=f"{file}-{case.name}", marks=marks)


@pytest.mark.parametrize("case", cases())
def test_public_code_has_exactly_its_heads_and_keeps_training_when_it_is_patched(case: PublicCase) -> None:
    try:
        case.made()
    except (NotHereError, ModuleNotFoundError) as reason:
        pytest.skip(str(reason))
    verdict = judge(case)
    assert verdict.exact, (verdict.missed, verdict.false, verdict.errors)
    assert verdict.conventions == len(case.heads), verdict.errors
    assert verdict.patched == verdict.trained == bool(case.heads), verdict.errors
