"""From a short name to an object: registration, specifications, near misses, and entries of a user's own package."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdvae_patch import scales
from vdvae_patch.errors import InvalidValueError, UnknownNameError, VdvaePatchError, did_you_mean
from vdvae_patch.registry import Registry, format_number, parse_nested_spec, parse_spec, split_top_level


class Circle:
    def __init__(self, radius: float, height: float = 2.0) -> None:
        if radius <= 0:
            raise InvalidValueError(f"shape circle: radius must be positive, not {radius:g}")
        self.radius, self.height = radius, height


class Point:
    pass


@pytest.fixture
def shapes() -> Registry[object]:
    registry: Registry[object] = Registry("shape", "vdvae_patch_tests.shapes")
    registry.register("circle", "disc", "ROUND")(Circle)
    registry.register("Point")(Point)
    return registry


def test_names_are_listed_once_in_order_without_aliases(shapes: Registry[object]) -> None:
    assert shapes.names() == list(shapes) == ["circle", "point"]


@pytest.mark.parametrize("name", ["circle", "disc", "round", "Circle", "DISC"])
def test_names_and_aliases_lead_to_the_class_whatever_their_case(shapes: Registry[object], name: str) -> None:
    assert shapes.canonical(name) == "circle"
    assert shapes.get_class(name) is Circle


def test_a_registered_class_is_unchanged(shapes: Registry[object]) -> None:
    assert shapes.register("dot")(Point) is Point
    assert shapes.get_class("dot") is Point


@pytest.mark.parametrize("taken", ["circle", "disc", "Point", "POINT"])
def test_a_name_is_registered_only_once(shapes: Registry[object], taken: str) -> None:
    with pytest.raises(InvalidValueError, match=f"shape '{taken.lower()}' is registered twice"):
        shapes.register("new", taken)(Point)
    with pytest.raises(UnknownNameError):
        shapes.canonical("new")


def test_arguments_are_given_by_position_or_by_keyword(shapes: Registry[object]) -> None:
    for spec in (
        "circle(3, 4)",
        "circle(3, height=4)",
        "disc(radius=3,height=4)",
        " Circle ( height = 4 , radius = 3 )",
    ):
        circle = shapes.get(spec)
        assert isinstance(circle, Circle)
        assert (circle.radius, circle.height) == (3.0, 4.0)
    assert isinstance(shapes.get("point"), Point)


def test_an_argument_by_position_that_is_given_beside_the_text_is_one_too_many(shapes: Registry[object]) -> None:
    for spec, given, said in (
        (
            "circle(3)",
            {"radius": 2},
            r"an argument by position is too many, for radius is given beside the text; its form is circle",
        ),
        ("circle(3, 4)", {"height": 2}, "2 arguments are too many"),
    ):
        with pytest.raises(InvalidValueError, match=said):
            shapes.get(spec, **given)
    assert shapes.get("circle(3)", height=2)


def test_usage_shows_arguments_and_defaults(shapes: Registry[object]) -> None:
    assert shapes.usage("disc") == "circle(radius, height=2)"
    assert shapes.usage("point") == "point"


def test_an_unknown_name_is_a_key_error_that_names_the_nearest_and_all(shapes: Registry[object]) -> None:
    with pytest.raises(KeyError) as caught:
        shapes.get("circel(3)")
    assert isinstance(caught.value, VdvaePatchError)
    message = "unknown shape 'circel'; did you mean 'circle'? (known: circle, disc, point, round)"
    assert str(caught.value) == message


def test_a_name_far_from_all_gets_the_list_alone(shapes: Registry[object]) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown shape 'xyzzy' \(known: circle, disc, point, round\)"):
        shapes.get("xyzzy")
    assert did_you_mean("anything", []) == ""
    assert did_you_mean("VAEE", ["VAE", "make"]).startswith("; did you mean 'VAE'")


def test_an_argument_that_the_class_refuses_is_its_own_error(shapes: Registry[object]) -> None:
    with pytest.raises(InvalidValueError, match="radius must be positive, not -1"):
        shapes.get("circle(-1)")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("circle", r"missing a required argument: 'radius'; its form is circle\(radius, height=2\)"),
        ("circle(1, 2, 3)", "too many positional arguments; its form is circle"),
        ("circle(1, radius=2)", "multiple values for argument 'radius'"),
        ("circle(1, width=2)", "unexpected keyword argument 'width'"),
        ("point(1)", "too many positional arguments; its form is point"),
    ],
)
def test_arguments_that_do_not_fit_are_answered_with_the_form(
    shapes: Registry[object], spec: str, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        shapes.get(spec)


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("name", ("name", [], {})),
        ("name()", ("name", [], {})),
        ("name( )", ("name", [], {})),
        ("a-b.c_1( 1e-3,k=-2 )", ("a-b.c_1", [0.001], {"k": -2.0})),
        ("name(.5, 1., x=1e300)", ("name", [0.5, 1.0], {"x": 1e300})),
        ("name(+1E+2, -0.5e-1)", ("name", [100.0, -0.05], {})),
    ],
)
def test_a_specification_is_parsed_into_numbers(spec: str, parsed: tuple[str, list[float], dict[str, float]]) -> None:
    assert parse_spec(spec, "thing") == parsed


@pytest.mark.parametrize(
    "spec",
    [
        "name(omega=__import__('os'))",
        "name(__import__('os').system('true'))",
        "name(omega=open)",
        "name(1 if True else 2)",
        "name(2**3)",
        "name([1])",
        "name(x=)",
        "name(=1)",
        "name(1==1)",
        "name(x=1, x=1)",
        "name(x=1, 2)",
        "name(1,)",
        "name(,1)",
        "name(1,,2)",
        "name(,)",
        "name(1 2)",
        "name(1;2)",
        "name((1))",
        "name((1, 2))",
        "name()()",
        "()",
        "(1)",
        "name(1_0)",
        "name(0x10)",
        "name(1e)",
        "name(.)",
        "name(--1)",
        "name(1,5e-3,)",
        "name(\u0661)",  # a decimal digit to float(), but not ours
        "name(x\uff1d1)",
        "n\u00e4me(1)",
        "name(nan)",
        "name(x=inf)",
        "name(-Infinity)",
        "name(1e999)",
        "name(x=-1e999)",
        "name(1",
        "name)1(",
        "name(1)(2)",
        "name(1) more",
        "two words",
        "1name",
        "name;other",
        "name\nother",
        "",
    ],
)
def test_anything_else_is_refused_in_one_line_and_never_evaluated(spec: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_spec(spec, "thing")
    assert str(caught.value).startswith(f"thing {spec!r}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1.0, 256.0, 0.5, 1 / 3, 1e-300, 1234567.0, 0.1 + 0.2, 2.0**-149])
def test_a_formatted_number_is_read_back_exactly(value: float) -> None:
    assert float(format_number(value)) == value


def test_short_numbers_are_formatted_shortly() -> None:
    assert [format_number(v) for v in (256.0, 0.5, 1e-4)] == ["256", "0.5", "0.0001"]


def test_lists_of_specifications_split_outside_parentheses_only() -> None:
    assert split_top_level("bounded(1,2),exp", ",") == ["bounded(1,2)", "exp"]
    assert split_top_level("upbounded(1/2)/constant", "/") == ["upbounded(1/2)", "constant"]
    assert split_top_level("exp", ",") == ["exp"]
    assert split_top_level("a,", ",") == ["a", ""]


@pytest.fixture
def installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package as an installer leaves it: a module, and the metadata that declares its entry points."""
    (tmp_path / "vdvae_patch_test_plugin.py").write_text(
        "from vdvae_patch.scales import Exp\n\n\nclass Doubled(Exp):\n    name = 'doubled'\n"
    )
    metadata = tmp_path / "vdvae_patch_test_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vdvae-patch-test-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[vdvae_patch.scales]\nDoubled = vdvae_patch_test_plugin:Doubled\nexp = vdvae_patch_test_plugin:Doubled\n"
        "[vdvae_patch_tests.shapes]\nsquare = missing_vdvae_patch_test_module:Square\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(scales.SCALES, "_classes", dict(scales.SCALES._classes))
    monkeypatch.setattr(scales.SCALES, "_entry_points_loaded", False)
    return tmp_path


@pytest.mark.usefixtures("installed_package")
def test_a_scale_of_a_users_package_is_found_by_name_and_listed() -> None:
    doubled = scales.get("doubled")
    assert type(doubled).__module__ == "vdvae_patch_test_plugin"
    assert scales.get(str(doubled)) == doubled
    assert "doubled" in scales.SCALES.names()


@pytest.mark.usefixtures("installed_package")
def test_a_users_package_cannot_replace_an_entry_of_ours() -> None:
    assert "doubled" in scales.SCALES.names()
    assert type(scales.get("exp")) is scales.Exp


@pytest.mark.usefixtures("installed_package")
def test_a_users_package_is_loaded_only_for_a_name_that_is_not_ours() -> None:
    assert scales.get("explin") == scales.ExpLin()
    assert not scales.SCALES._entry_points_loaded


@pytest.mark.usefixtures("installed_package")
def test_a_users_package_that_cannot_be_imported_is_named_every_time(shapes: Registry[object]) -> None:
    for _ in range(2):
        with pytest.raises(
            InvalidValueError, match="shape 'square' cannot be loaded from 'missing_vdvae_patch_test_mod"
        ):
            shapes.get("square")
    assert shapes.get_class("circle") is Circle


class Framed:
    def __init__(
        self, shape: str = "circle", width: float = 1.0, *, depth: float | None = None, place: object = None
    ) -> None:
        self.shape, self.width, self.depth, self.place = shape, width, depth, place


def test_a_nested_argument_is_given_as_text_and_what_no_text_holds_beside_it() -> None:
    frames: Registry[Framed] = Registry("frame", "vdvae_patch_tests.frames", nested=True)
    frames.register("framed")(Framed)
    found = frames.get("framed(shape=circle(3, height=4), width=2)", place="wall", unknown="nothing")
    assert (found.shape, found.width, found.place) == ("circle(3, height=4)", 2.0, "wall")
    assert frames.get("framed(point)").shape == "point"
    assert frames.usage("framed") == "framed(shape=circle, width=1, depth=...)"  # a number that may be left out
    with pytest.raises(InvalidValueError, match=r"its form is framed\(shape=circle, width=1, depth=...\)"):
        frames.get("framed(shap=circle)")


@pytest.mark.parametrize(
    "spec", ["a(b(1)", "a(b))", "a(b)(c)", "a(1,,b)", "a(b=1, 2)", "a(b=c, b=d)", "a(b=1 2)", "a(1_0)"]
)
def test_nested_specifications_that_are_none_are_refused(spec: str) -> None:
    with pytest.raises(InvalidValueError, match="thing 'a"):
        parse_nested_spec(spec, "thing")


def test_a_nested_specification_is_read() -> None:
    assert parse_nested_spec("a", "thing") == ("a", [], {})
    assert parse_nested_spec("a( -2.5 , b( c(1),2 ) , d = e )", "thing") == ("a", [-2.5, "b( c(1),2 )"], {"d": "e"})
