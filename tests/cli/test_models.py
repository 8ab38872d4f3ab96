"""`diffembed models` lists what can be loaded."""

from collections.abc import Callable

from diffembed.backbones.registry import MODELS

Run = Callable[..., "tuple[int, str, str]"]


def test_every_name_is_listed_with_its_licence(run: Run) -> None:
    rows = run("models", "--json").rows  # type: ignore[attr-defined]
    assert [row["name"] for row in rows] == list(MODELS)
    assert {row["name"]: row["licence"] for row in rows}["gemma-3-270m"] == "Gemma terms of use"
    assert {row["weights"] for row in rows if row["name"].startswith("tiny")} == {"built in"}


def test_the_table_fits_a_terminal(run: Run) -> None:
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert all(name in out for name in MODELS)
