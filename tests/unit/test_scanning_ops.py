"""The table of operations is one, says of each operation one thing, and names operations that PyTorch has."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

from vdvae_patch.scanning.arithmetic import chain, ops

SCANNING = Path(ops.__file__).parents[1]
NAMES = [name for row in ops.TABLE for name in row.names]


@pytest.mark.parametrize("name", [*NAMES, *ops.SAME])
def test_every_name_is_an_operation_of_torch(name: str) -> None:
    assert hasattr(torch.ops.aten, name)


def test_every_operation_stands_in_one_row() -> None:
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []


def test_a_second_name_stands_for_one_that_the_table_has() -> None:
    assert set(ops.SAME.values()) <= set(NAMES)
    assert not ops.SAME.keys() & set(NAMES)
    assert ops.base_name("multiply_") == "mul"
    assert ops.base_name("__and__") == "__and__"


def test_every_property_is_had_and_asked_for() -> None:
    source = Path(ops.__file__).read_text()
    for name in get_args(ops.Property):
        assert ops._HAVING[name], name
        assert f'_HAVING["{name}"]' in source
    used = "".join(path.read_text() for path in SCANNING.rglob("*.py"))
    sets = [line.split(" = ")[0] for line in source.splitlines() if " = _HAVING[" in line]
    assert [name for name in sets if f"ops.{name}" not in used] == []


def test_an_operation_with_a_formula_is_elementwise() -> None:
    assert [name for name in chain._RULES if ops.kind_of(name) != "elementwise"] == []


@pytest.mark.parametrize("path", sorted(SCANNING.rglob("*.py")), ids=lambda path: str(path.relative_to(SCANNING)))
def test_no_other_file_holds_a_set_of_operations(path: Path) -> None:
    known = {*NAMES, *ops.SAME}
    if path.name != "ops.py":
        found = {names for names in literal_collections(path) if len(names) > 1 and names <= known}
        assert found == set()


def literal_collections(path: Path) -> Iterator[frozenset[str]]:
    """The strings of every literal set, list and tuple of strings, and the words of every string that is split."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Set | ast.List | ast.Tuple):
            values = [item.value for item in node.elts if isinstance(item, ast.Constant)]
            if len(values) == len(node.elts) and all(isinstance(value, str) for value in values):
                yield frozenset(map(str, values))
        elif isinstance(node, ast.Attribute) and node.attr == "split" and isinstance(node.value, ast.Constant):
            yield frozenset(str(node.value.value).split())
