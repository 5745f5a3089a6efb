"""The typed reader: a value is of its field's type, or a line says file, field and what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import torch

from vdvae_patch.errors import RunError, UnknownNameError, VdvaePatchError, visible
from vdvae_patch.tables import fenced, literal, markdown
from vdvae_patch.validation import DEEPEST, Between, checked, parse_json, record, require, require_shallow, shown


@dataclass(frozen=True)
class Small:
    """A record."""

    count: Annotated[int, Between(1, 10)]
    names: tuple[str, ...] = ()
    kind: Literal["a", "b"] | None = None


@pytest.mark.parametrize(
    ("hint", "value", "read"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (float | None, None, None),
        (int | Literal["auto"], "auto", "auto"),
        (float | Literal["auto"], 3, 3.0),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, ...], [1, 2], (1, 2)),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (Small, {"count": 2, "names": ["x"]}, Small(2, ("x",))),
        (Any, object, object),
    ],
)
def test_a_value_of_its_type_is_read(hint: Any, value: Any, read: Any) -> None:
    found = checked(value, hint, "f", RunError)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (int, True, "f: must be an integer, not True"),
        (int, 1.0, "f: must be an integer, not 1.0"),
        (float, "1", "f: must be a number, not '1'"),
        (float, 10**400, "f: must be a number, not an integer of 1,329 bits"),
        (bool, 1, "f: must be true or false, not 1"),
        (str | None, 5, "f: must be a text, not 5"),
        (list[int], {"a": 1}, "f: must be a list, not a dictionary of 1"),
        (list[int], [1, "x"], "f[1]: must be an integer, not 'x'"),
        (dict[str, int], [1], "f: must be a dictionary, not a list of 1"),
        (dict[str, int], {1: 1}, "a key of f: must be a text, not 1"),
        (dict[str, dict[str, int]], {"a": {"b": None}}, "f.a.b: must be an integer, not None"),
        (tuple[int, str], [1], "f: must be a list of 2, not a list of 1"),
        (Literal["a", "b"], "c", "f: must be one of 'a', 'b', not 'c'"),
        (Annotated[int, Between(1, 10**6)], 10**9, "f: must be from 1 to 1,000,000, not 1000000000"),
        (Annotated[float, Between(0)], float("nan"), "f: must be at least 0, not nan"),
        (torch.Tensor, [1], "f: must be a tensor, not a list of 1"),
        (list[int], torch.ones(2, 3), "f: must be a list, not a tensor of shape [2, 3]"),
        (Small, {}, "f: the field 'count' is missing"),
        (Small, {"count": 0}, "f.count: must be from 1 to 10, not 0"),
        (Small, {"count": 1, "name": []}, "f: unknown field 'name'; did you mean 'names'? (known: count, kind, names)"),
        (Small, {"count": 1, "kind": "c"}, "f.kind: must be one of 'a', 'b', not 'c'"),
        (str, b"x" * 1000, f"f: must be a text, not {b'x' * 40!r}... (1,000 long)"),
    ],
)
def test_another_value_is_refused_with_field_and_what_was_expected(hint: Any, value: Any, said: str) -> None:
    with pytest.raises(RunError) as error:
        checked(value, hint, "f", RunError)
    assert str(error.value) == said


def test_a_field_that_takes_nothing_may_be_absent_and_others_stay() -> None:
    assert require({"a": 1, "later": [1]}, {"a": int, "b": str | None}, "f", RunError) == {"a": 1, "later": [1]}
    with pytest.raises(RunError, match="f: the field 'b' is missing"):
        require({"a": 1}, {"b": str}, "f", RunError)
    assert record(Small, {"count": 3}, "f", RunError) == Small(3)


def test_deep_data_are_refused_without_a_call_a_level() -> None:
    def deep(levels: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(levels):
            value = [value]
        return value

    require_shallow(deep(DEEPEST), "f", RunError)
    for levels in (DEEPEST + 1, 100_000):
        with pytest.raises(RunError, match="f: is nested deeper than 64 levels"):
            require_shallow(deep(levels), "f", RunError)
    for text in ("[" * 80 + "]" * 80, "[" * 10**5 + "]" * 10**5, '{"a":' * 80 + "1" + "}" * 80):
        with pytest.raises(RunError, match=r"^f.*(deeper|recursion)"):
            parse_json(text, "f", RunError)


def test_what_is_shown_of_a_value_is_short() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    for item in (value, "x" * 10**6, 10**5000, {"a": value}, torch.ones(3), object()):
        assert len(shown(item)) < 100


def test_messages_show_what_would_steer_a_terminal() -> None:
    evil = "a\x1b[2J\x07\x9b31m\u202eb\ud800\x00"
    for error in (RunError(f"host {evil}"), UnknownNameError("host", evil, ["a"]), VdvaePatchError(evil)):
        text = str(error)
        assert not any(c in text for c in "\x1b\x07\x9b\u202e\ud800\x00"), text
        assert "x1b[2J" in text
        text.encode()
    assert visible("σ is 5 µm\n\tünïcode ✓ 漢字") == "σ is 5 µm\n\tünïcode ✓ 漢字"
    assert len(str(RunError("x" * 10**6))) < 10_000


def test_markdown_shows_a_text_of_a_file_as_it_is() -> None:
    evil = "x](javascript:alert(1)) | <script>\n# Heading `code` **b** \x1b[2J"
    text = literal(evil)
    assert "\n" not in text
    assert "\x1b" not in text
    for character in "[]<>|`*":
        assert text.replace(f"\\{character}", "").count(character) == 0
    assert literal("explin/constant") == "explin/constant"
    assert literal("bounded(0.1, 1)") == "bounded(0.1, 1)"
    table = markdown(["a", "b"], [[text, "1"]])
    assert len(table.splitlines()) == 3
    block = fenced("a\n```\n# b\n````\n")
    assert block.startswith("`````\n")
    assert block.endswith("\n`````")
