"""What a user sees of the command line whatever the command: help, exit codes, one sentence for a failure."""

import importlib
import inspect
import io
import signal
import sys
from collections.abc import Callable

import pytest

from diffembed.cli import COMMANDS, NOUNS, app, main
from diffembed.errors import CheckpointError, ConfigError

Run = Callable[..., "tuple[int, str, str]"]


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_listed_help_is_the_first_line_of_the_docstring(verb: str) -> None:
    path, summary = COMMANDS[verb]
    module, _, function = path.partition(":")
    doc = inspect.getdoc(getattr(importlib.import_module(module), function))
    assert doc is not None
    assert doc.splitlines()[0] == summary


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_json_and_an_example(run: Run, verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "--json" in out
    assert f"diffembed {verb}" in out.partition("For example:")[2]
    assert max(map(len, out.splitlines())) <= 80


def test_the_list_of_commands_fits_a_terminal_and_names_debug(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(summary in out for _, summary in COMMANDS.values())
    assert "--debug" in out
    assert run()[1] == out


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["serch"], 'Unknown command "serch". Did you mean "search"?'),
        (["search"], "requires an argument"),
        (["models", "--jsn"], "Unknown option: --jsn. Did you mean --json?; see: diffembed models --help"),
        (["search", "--modle", "tiny", "x", "y"], "Unknown option: --modle"),
        (["search", "x", "y", "--dtype", "int4"], "int4"),
        (["encode", "x.txt", "--out", "x.csv"], "parquet"),
        (["search", "x", "y", "--top-k", "many"], 'unable to convert "many" into int'),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(run: Run, tokens: list[str], sentence: str) -> None:
    code, out, err = run(*tokens)
    assert (code, out) == (2, "")
    assert err.startswith("diffembed: ")
    assert err.count("\n") == 1
    assert sentence in err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ConfigError("two settings disagree"), 2, "two settings disagree"),
        (CheckpointError("weights are damaged"), 1, "weights are damaged"),
        (PermissionError(13, "Permission denied", "/out/v.parquet"), 1, "/out/v.parquet: Permission denied"),
        (MemoryError(), 1, "no memory left"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ZeroDivisionError("division by\nzero"),
            1,
            "unexpected ZeroDivisionError: division by (run again with --debug",
        ),
    ],
)
def test_a_failure_is_one_sentence_and_its_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, sentence: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("diffembed.doctor.list_models", fail)
    failed, out, err = run("models")
    assert (failed, out) == (code, "")
    assert err.count("\n") == 1
    assert sentence in err
    if not isinstance(error, KeyboardInterrupt):
        with pytest.raises(type(error)):
            main(["models", "--debug"])


def test_an_unknown_model_is_a_failure_that_suggests_the_nearest(run: Run) -> None:
    code, out, err = run("doctor", "gema-3-270m")
    assert (code, out) == (1, "")
    assert "no model 'gema-3-270m' (did you mean 'gemma-3-270m'?); choose one of" in err


def test_debug_after_two_hyphens_is_a_word(run: Run) -> None:
    assert "Unknown option: --debug" in run("models", "--", "--debug")[2]


def test_text_that_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", ascii_out)
    assert main(["models"]) == 0
    assert b"all-minilm-l6-v2" in ascii_out.buffer.getvalue()  # type: ignore[attr-defined]


def test_being_terminated_ends_as_an_exception_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a handler SIGTERM ends the process at once, and a half-written file stays."""
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)

    monkeypatch.setattr("diffembed.doctor.list_models", work)
    with pytest.raises(SystemExit) as ended:
        run("models")
    assert ended.value.code == 143
    assert cleaned


def test_commands_are_not_imported_before_they_are_used() -> None:
    assert {spec.import_path for spec in app._commands.values() if hasattr(spec, "import_path")} == {
        path for path, _ in (COMMANDS | NOUNS).values()
    }
