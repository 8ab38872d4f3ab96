"""The suites that a plan names: what they are called, where they lie, and which of them a study can use.

Read `check_suite`. A suite is one of `SUITES`, or a folder of tasks; no task is read here.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from diffembed.data.files import row_file_stem
from diffembed.errors import ConfigError, UnknownNameError, require
from diffembed.evaluation.suites.named import SUITES, find_suite
from diffembed.evaluation.suites.reading import DATA_VARIABLE, find_place
from diffembed.training.settings import resolve_path


def check_suite(name: str, tasks: Sequence[str], purpose: str) -> None:
    """Raises UnknownNameError for an unknown suite or task, ConfigError for a suite that is of no use in a study."""
    if name not in SUITES and ("/" not in name and "$" not in name):
        raise UnknownNameError.of("suite", name, tuple(SUITES))
    suite = find_suite(suite_name(name))
    require(not suite.mteb_tasks, f"suite {name} is run through mteb, which keeps no per-query values; name another")
    # Choices on test data would make the report worthless; development data in it would be no test.
    require(
        suite.purpose == purpose or name not in SUITES,
        f"{name} is a {suite.purpose} suite; a {purpose} suite is needed here",
    )
    known = tuple(spec.name for spec in suite.tasks)
    for task in tasks:
        if task not in known:
            raise UnknownNameError.of(f"task in suite {name!r}", task, known)


def suite_name(suite: str) -> str:
    """What `find_suite` takes: a name, or a folder with its variables filled in."""
    return suite if suite in SUITES else str(resolve_path(suite))


Kind = Literal["queries", "pairs", "clusters"]
"""What a score is a mean of: values of queries or texts; nothing, as a rank correlation over pairs; draws."""


def result_kinds(suite: str, tasks: Sequence[str]) -> dict[str, Kind]:
    """Names that results will have. Of a folder they follow from the names of its files, as in `read_folder`."""
    if suite in SUITES:
        specs = [spec for spec in SUITES[suite].tasks if not tasks or spec.name in tasks]
        return {
            name: _kind(name, is_table=spec.place.endswith(".tsv") and not spec.is_hidden)
            for spec in specs
            for name in spec.result_names
        }
    place = Path(suite_name(suite))
    files = {row_file_stem(file) for file in place.iterdir()} if place.is_dir() else set()
    tables = sorted(file.removesuffix(".tsv") for file in files if file.endswith(".tsv"))
    if not tables or files & {"qrels", "queries"}:
        return {place.name: _kind(place.name, is_table=row_file_stem(place).endswith(".tsv"))}
    if {"train", "test"} <= set(tables):
        return {f"{place.name}-classification": "queries", f"{place.name}-clustering": "clusters"}
    return dict.fromkeys(tables, "pairs")


def _kind(name: str, *, is_table: bool) -> Kind:
    return "pairs" if is_table else "clusters" if name.endswith("-clustering") else "queries"


def refuse_namesakes(place: str, suites: Mapping[str, tuple[str, ...]]) -> None:
    """Results are found by the name of their task: raises ConfigError where two suites both have it."""
    first: dict[str, str] = {}
    for suite, tasks in suites.items():
        for task in result_kinds(suite, tasks):
            if first.setdefault(task, suite) != suite:
                raise ConfigError(f"{place}: {first[task]} and {suite} both have a task {task}; name it in one of them")


def places_of(suite: str, tasks: Sequence[str]) -> set[Path]:
    """The folders and tables that tasks are read from, links followed; tables of a folder are named besides it."""
    found = set()
    for spec in find_suite(suite_name(suite)).tasks:
        if spec.place and (not tasks or spec.name in tasks):
            # Without a data folder the named suites are compared all the same.
            whole = Path(os.environ.get(DATA_VARIABLE, ""), spec.place).absolute()
            place = find_place(replace(spec, place=str(whole))).resolve()
            found.add(place)
            if place.is_dir():
                found |= {file.resolve() for file in place.iterdir() if row_file_stem(file).endswith(".tsv")}
    return found
