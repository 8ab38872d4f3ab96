import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from diffembed.errors import ConfigError, UnknownNameError
from diffembed.training.settings import describe, field_docs, make_config, read_config, resolve_path, write_yaml


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A section."""

    rate: float = 0.5
    """Share of something, in (0, 1]."""
    kind: Literal["first", "second"] = "first"
    """Which one."""

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ConfigError(f"rate is {self.rate}; it must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A config."""

    name: str
    """Name, required."""
    count: int | None = None
    """How many;
    None means all."""
    names: tuple[str, ...] = ()
    """Several names."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Anything."""
    inner: Inner = Inner()
    """The section."""
    maybe: Inner | None = None
    """A section that may be absent."""
    parts: tuple[Inner, ...] = ()
    """Several sections."""
    is_fast: bool = False
    """Whether it is fast."""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_round_trip_carries_every_docstring(tmp_path):
    config = Outer(name="a", count=3, names=("x", "y"), maybe=Inner(rate=0.25), parts=(Inner(kind="second"),))
    text = write_yaml(config)
    assert "# How many; None means all.\ncount: 3\n" in text
    assert "  # Share of something, in (0, 1].\n  rate: 0.25\n" in text
    assert read_config(Outer, write(tmp_path, text)) == config


def test_scientific_notation_without_a_point_is_a_number(tmp_path):
    assert read_config(Outer, write(tmp_path, "name: a\ninner: {rate: 1e-4}")).inner.rate == 1e-4


def test_overrides_reach_into_sections(tmp_path):
    path = write(tmp_path, "name: a\ninner: {kind: second}")
    config = read_config(Outer, path, ["inner.rate=0.1", "names=[p, q]", "maybe.kind=second", "count=null"])
    assert config == Outer(name="a", inner=Inner(rate=0.1, kind="second"), names=("p", "q"), maybe=Inner(kind="second"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nme: a", r"run.yaml: no field 'nme' \(did you mean 'name'\?\)"),
        ("name: a\ninner: {rat: 1}", r"run.yaml: inner: no field 'rat' \(did you mean 'rate'\?\)"),
        ("name: a\ninner: {kind: secnd}", "did you mean 'second'"),
    ],
)
def test_unknown_names_suggest_the_nearest(tmp_path, text, message):
    with pytest.raises(UnknownNameError, match=message):
        read_config(Outer, write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count: 1", "field 'name' is missing; Name, required"),
        ("name: a\ncount: 1.5", "count must be whole number, received 1.5"),
        ("name: a\ncount: true", "count must be whole number, received True"),
        ("name: 3", "name must be text, received 3"),
        ("name: a\nis_fast: 1", "is_fast must be true or false, received 1"),
        ("name: a\ninner: {rate: fast}", "inner: rate must be number, received 'fast'"),
        ("name: a\ninner: 3", "inner is a section with fields, received 3"),
        ("name: a\nnames: 3", "names must be a list, received 3"),
        ("name: a\noptions: 3", "options must hold names and values"),
        ("name: a\nparts: [{rate: 2}]", r"parts\[0\]: rate is 2.0; it must lie in"),
        ("- a", "must hold fields and values, not a list"),
        ("name: [", "run.yaml is no YAML: while parsing"),
        ("name: 2026-13-45", "run.yaml is no YAML: month must be"),
        ("name: a\ncount: 1\nname: b", "run.yaml: line 3 names 'name' again, which stands in line 1 of the same sec"),
        ("name: a\noptions:\n  deep: {x: 1, y: 2, x: 3}", "line 3 names 'x' again, which stands in line 3"),
        # Of a config, all keys are text.
        ("name: a\noptions: {1: a, '1': b}", "names '1' again"),
    ],
)
def test_wrong_values_are_named_with_their_place(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config(Outer, write(tmp_path, text))


def test_a_mapping_may_say_anew_what_it_takes_over(tmp_path):
    # `last` takes over a mapping that has taken over: what is filled in must not count as said twice.
    text = """
    name: a
    options:
      deep: {inner: &second {<<: &first {x: 1, y: 2}, x: 3}}
      same: *first
      last: {<<: [*second, *first], y: 4}
    """
    options = read_config(Outer, write(tmp_path, textwrap.dedent(text))).options
    assert options["deep"] == {"inner": {"x": 3, "y": 2}} and options["same"] == {"x": 1, "y": 2}
    assert options == yaml.safe_load(textwrap.dedent(text))["options"] and options["last"]["y"] == 4


def test_an_unknown_name_that_a_section_finds_says_where_it_stands(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Choosy(Inner):
        def __post_init__(self) -> None:
            raise UnknownNameError.of("colour", "rde", ("red", "blue"))

    with pytest.raises(UnknownNameError, match=r"^plan\.yaml: no colour 'rde' \(did you mean 'red'\?\)"):
        make_config(Choosy, {}, "plan.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("count", "sets nothing"),
        ("name.x=1", "is a field, not a section"),
        ("iner.rate=1", "did you mean 'inner'"),
        ("names=[}", r"^override 'names=\[}' is no YAML: while parsing"),
        ("options={x: 1, x: 2}", "^override 'options={x: 1, x: 2}': line 1 names 'x' again"),
    ],
)
def test_wrong_overrides_are_refused(tmp_path, override, message):
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        read_config(Outer, write(tmp_path, "name: a"), [override])


def test_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"no config file .*none.yaml"):
        read_config(Outer, tmp_path / "none.yaml")


def test_describe_opens_sections_and_says_types_and_defaults():
    rows = {name: (kind, default, doc) for name, kind, default, doc in describe(Outer)}
    assert rows["name"] == ("text", "required", "Name, required.")
    assert rows["count"] == ("whole number or none", "None", "How many; None means all.")
    assert rows["inner.kind"] == ("first | second", "first", "Which one.")
    assert rows["maybe.rate"][0] == "number"


def test_field_without_docstring_is_our_own_mistake():
    @dataclass(frozen=True, kw_only=True)
    class Bare:
        x: int = 0

    with pytest.raises(AssertionError, match="no docstring for x"):
        field_docs(Bare)


def test_paths_fill_in_variables_or_name_the_missing_one(monkeypatch):
    monkeypatch.setenv("DIFFEMBED_SOME", "/data")
    monkeypatch.delenv("DIFFEMBED_NONE", raising=False)
    assert resolve_path("${DIFFEMBED_SOME}/train") == Path("/data/train")
    with pytest.raises(ConfigError, match="DIFFEMBED_NONE, which is not set"):
        resolve_path("${DIFFEMBED_NONE}/train")


def test_make_config_needs_no_file():
    assert make_config(Outer, {"name": "a"}) == Outer(name="a")
