"""The command line: one module per verb, imported when its verb is typed.

Read `main`: what a command raises becomes one sentence on stderr and an exit code, here and nowhere else.
Commands hold no logic: they parse, call one public function and print.
"""

import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from cyclopts import App, CycloptsError, Parameter

from diffembed import __version__
from diffembed.errors import ConfigError, DiffEmbedError

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 1, 2, 130, 141, 143

PACKAGE_FOLDER = str(Path(__file__).parents[1])

COMMANDS = {
    "encode": ("diffembed.cli.encode:encode", "Encode the texts of a file into a parquet file of vectors."),
    "search": ("diffembed.cli.search:search", "Search files by meaning: text, source, html, pdf, rows."),
    "compare": ("diffembed.cli.compare:compare", "Compare encoders on real text that every Python carries."),
    "serve": (
        "diffembed.cli.serve:serve",
        "Serve an OpenAI-compatible embeddings API and a search page.",
    ),
    "train": ("diffembed.cli.train:train", "Fine-tune a language model into an embedder."),
    "adapt": ("diffembed.cli.adapt:adapt", "Adapt a language model into a masked-diffusion model."),
    "evaluate": ("diffembed.cli.evaluate:evaluate", "Score a model on suites of tasks."),
    "direction": (
        "diffembed.cli.direction:direction",
        "Evaluate one model with its attention, causal and anti-causal.",
    ),
    "precision": ("diffembed.cli.precision:precision", "Measure what fewer bytes per vector cost."),
    "leakage": ("diffembed.cli.leakage:leakage", "Check whether training rows hold what a suite tests."),
    "reproduce": ("diffembed.cli.reproduce:reproduce", "Run one row of the paper's tables and subtract."),
    "mine": ("diffembed.cli.mine:mine", "Mine hard negatives for training rows."),
    "convert": ("diffembed.cli.convert:convert", "Convert a published diffusion model to a native one."),
    "export": ("diffembed.cli.export:export", "Write a model as a plain sentence-transformers folder."),
    "fill": ("diffembed.cli.fill:fill", "Restore the masked tokens of a text with a diffusion model."),
    "plan": ("diffembed.cli.plan:plan", "Plan the memory of a model before loading it."),
    "doctor": ("diffembed.cli.doctor:doctor", "Examine this machine and a model on it."),
    "models": ("diffembed.cli.models:models", "List the models that can be named."),
}
"""Verb -> import string of its function, first line of its docstring (a test compares them)."""

NOUNS = {
    "index": ("diffembed.cli.index:app", "Keep the vectors of a corpus on disk and search them."),
    "study": ("diffembed.cli.study:app", "Compare ways of making an embedder, from a plan to a report."),
    "reasonaug": ("diffembed.cli.reasonaug:app", "Make training rows for reasoning with any language model."),
}
"""Noun -> import string of the app that holds its verbs, its help."""

app = App(
    name="diffembed",
    help="Text embeddings from diffusion language models, and the honest comparison with autoregressive ones.",
    help_epilogue="Every command takes --json for machines and --debug for the traceback of a failure.",
    help_format="markdown",
    version=__version__,
    default_parameter=Parameter(negative=()),
    exit_on_error=False,
    print_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _verb, (_function, _help) in (COMMANDS | NOUNS).items():
    app.command(_function, name=_verb, help=_help, sort_key=list(COMMANDS | NOUNS).index(_verb))


def main(tokens: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 failed, 2 wrong usage."""
    signal.signal(signal.SIGTERM, _stop)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    tokens, is_debug = _take_debug(sys.argv[1:] if tokens is None else tokens)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.showwarning = _show_warning
    try:
        _show_whole_help_of(tokens)
        code = app(tokens)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has what it wanted; Python must not complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        if is_debug:
            raise
        return _fail(*_sentence(error, tokens))
    return code if isinstance(code, int) else 0


def _show_whole_help_of(tokens: Sequence[str]) -> None:
    """The line given above is for the list of commands; the page of a command shows its docstring and example."""
    if tokens and tokens[0] in COMMANDS:
        command = app[tokens[0]]
        command.help = command.default_command.__doc__ or ""


def _stop(*_: object) -> None:
    """Ends as an exception would, so that half-written files are removed."""
    sys.exit(EXIT_TERMINATED)


def _take_debug(tokens: Sequence[str]) -> tuple[list[str], bool]:
    options = list(tokens[: tokens.index("--")] if "--" in tokens else tokens)
    rest = list(tokens[len(options) :])
    return [token for token in options if token != "--debug"] + rest, "--debug" in options


def _sentence(error: Exception, tokens: Sequence[str]) -> tuple[str, int]:
    if isinstance(error, CycloptsError):
        verb = f" {tokens[0]}" if tokens and tokens[0] in COMMANDS | NOUNS else ""
        return f"{' '.join(str(error).split()).rstrip('.')}; see: diffembed{verb} --help", EXIT_USAGE
    if isinstance(error, ConfigError):
        return str(error), EXIT_USAGE
    if isinstance(error, DiffEmbedError):
        return str(error), EXIT_FAILURE
    if isinstance(error, MemoryError):
        return "the machine has no memory left for this; use a smaller model or fewer texts", EXIT_FAILURE
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}", EXIT_FAILURE
    first = (str(error).splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {first} (run again with --debug for the traceback)", EXIT_FAILURE


def _fail(sentence: str, code: int) -> int:
    print(f"diffembed: {sentence}", file=sys.stderr)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings as a plain line; those of other libraries are for developers and stay away."""
    if filename.startswith(PACKAGE_FOLDER):
        print(f"diffembed: {message}", file=file or sys.stderr)
