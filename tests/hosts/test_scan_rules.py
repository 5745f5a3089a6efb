"""Each rule of the scan is needed by a model, and leaves one alone that looks like it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import scan_rules
import torch
from zoo import Case, TrueHead, built

from vdvae_patch.heads import Head
from vdvae_patch.scanning import ScanResult, rules
from vdvae_patch.scanning.rules.stages import Stage

RULES = {name: stage for stage in rules.STAGES for name in stage.rules}
FOLDERS = {"rule": Path(rules.__file__).parent, "case": Path(scan_rules.__file__).parent}


def case_of(rule: str, kind: str) -> Case:
    case: Case = getattr(importlib.import_module(f"scan_rules.{rule}"), kind)
    return case


@contextmanager
def without(rule: str) -> Iterator[None]:
    """The scan as it is while one rule is taken out of its stage."""
    stage = RULES[rule]
    taken = stage.rules.pop(rule)
    try:
        yield
    finally:
        stage.rules[rule] = taken


def shown(heads: ScanResult) -> list[str]:
    return sorted(f"{head} {head.convention} at {head.sites}" for head in heads)


def are_right(heads: ScanResult, true: tuple[TrueHead, ...]) -> bool:
    """Whether heads are the true ones, with their roles and what they compute."""
    return len(heads) == len(true) and any(all(map(is_right, order, true)) for order in permutations(heads))


def is_right(head: Head, true: TrueHead) -> bool:
    v = torch.linspace(0.2, 3, 23, dtype=torch.float64)
    step = getattr(true, "step", 1)
    same = (head.path, head.start, head.stop, head.step, head.role) == (
        true.path, true.start, true.stop, step, true.role
    )  # fmt: skip
    return same and (true.sigma is None or torch.allclose(head.convention.sigma(v), true.sigma(v), rtol=1e-6))


def test_each_rule_has_a_file_and_a_case_of_its_name() -> None:
    modules = {kind: {path.stem for path in folder.glob("*.py")} for kind, folder in FOLDERS.items()}
    assert set(RULES) == modules["rule"] - {"__init__", "stages"}
    assert set(RULES) == modules["case"] - {"__init__"}
    assert sum(len(stage.rules) for stage in rules.STAGES) == len(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_shows_some_lines_of_a_host(rule: str) -> None:
    doc = importlib.import_module(f"vdvae_patch.scanning.rules.{rule}").__doc__
    assert doc is not None
    assert any(line.startswith("    ") for line in doc.splitlines())


@pytest.mark.parametrize("stage", rules.STAGES)
def test_a_rule_comes_after_rules_of_its_own_stage_that_exist(stage: Stage[Any]) -> None:
    order = [rule.__name__ for rule in stage]
    for name, rule in stage.rules.items():
        assert set(rule.after) <= set(stage.rules)
        assert all(order.index(other) < order.index(name) for other in rule.after)


@pytest.mark.medium
@pytest.mark.parametrize("rule", RULES)
def test_the_heads_of_a_model_are_right_because_of_the_rule_that_it_needs(rule: str) -> None:
    case = case_of(rule, "NEEDS")
    _, heads = built(case)
    assert are_right(heads, case.heads), f"{heads}\n{heads.why_not()}"
    with without(rule):
        _, other = built(case)
    assert not are_right(other, case.heads), f"{other}\n{other.why_not()}"


@pytest.mark.medium
@pytest.mark.parametrize("rule", RULES)
def test_a_look_alike_has_the_right_heads_with_and_without_the_rule(rule: str) -> None:
    case = case_of(rule, "LOOK_ALIKE")
    _, heads = built(case)
    assert are_right(heads, case.heads), f"{heads}\n{heads.why_not()}"
    with without(rule):
        _, other = built(case)
    assert shown(other) == shown(heads)
