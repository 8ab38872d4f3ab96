"""The published request and answer files of the original pipeline, as concepts and answers.

Read `read_published` first. The folder holds OpenAI batch files: `instance_definition_{input,output}`,
`problem_solution_{input,output}_<round>` and `solution_check_output`, plain or compressed. The question checks, with
the pairs they replaced, and the written negatives were not published. This module knows nothing of our own prompts.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.data.files import read_rows
from diffembed.data.reasonaug import definitions, rounds, solution_check
from diffembed.data.reasonaug.asking import Answer, Failure, Request, read_body
from diffembed.data.reasonaug.batch import read_batch_answers
from diffembed.data.reasonaug.concepts import ConceptList, Domain, make_concept_list
from diffembed.errors import InputError
from diffembed.provenance import hash_file

DOMAINS = {
    "algorithm": ("coding", "coding"),
    "data structure": ("coding", "coding"),
    "math theorem": ("math", "math"),
    "physics theorem": ("physics", "applied"),
    "finance formula": ("finance", "applied"),
}
"""Domain of the published set -> question type, knob profile."""
ASKED = re.compile(
    r"^Your task is to provide a definition for the ([^:]+): (.+?)"
    r"(?: with the implementation code\.|\. Write the equation in LaTex format\.)$"
)
WINDOW = range(-7, 13)
"""Prompt tokens of a check less the tokens of the pair it is about, around the domain's most frequent value: inside,
the check was about the pair that was published. The spread is that of names and tags; outside it, programs share no
name with the published solution (measured on the 521 rows with code: 474 agree)."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the folder holds."""

    concepts: ConceptList
    source: "PublishedSource"
    num_rounds: int
    hashes: Mapping[str, str]
    """File name -> sha256."""


class PublishedSource:
    """The published answers, found by stage and row."""

    def __init__(self, bodies: Mapping[tuple[str, str], Any], lost_pairs: frozenset[str]) -> None:
        self.lost_pairs = lost_pairs
        self._bodies = bodies
        self._stages = frozenset(stage for stage, _ in bodies)

    def has_stage(self, stage: str) -> bool:
        """Whether any answer of the stage was published."""
        return stage in self._stages

    def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """The published answers; a second attempt was never published."""
        return [
            read_body(self._bodies[request.stage, request.row_id])
            if request.attempt == 0 and (request.stage, request.row_id) in self._bodies
            else Failure(reason="no stored answer")
            for request in requests
        ]


def is_published_folder(folder: Path | str) -> bool:
    """Whether a folder looks like the published files."""
    return _find(Path(folder), "instance_definition_input") is not None


def read_published(folder: Path | str) -> Published:
    """The concepts and answers of a folder.

    Raises InputError when a file is missing or rounds do not fit the concepts.
    """
    folder = Path(folder)
    files = {name: _need(folder, name) for name in ("instance_definition_input", "instance_definition_output")}
    num_rounds = 0
    while _find(folder, f"problem_solution_output_{num_rounds + 1}") is not None:
        num_rounds += 1
        for side in ("input", "output"):
            files[f"{side}_{num_rounds}"] = _need(folder, f"problem_solution_{side}_{num_rounds}")
    files["check"] = _need(folder, "solution_check_output")
    requests = list(read_rows(files["instance_definition_input"]))
    named = [_asked(where, row) for where, row in requests]
    domains = {
        name: Domain(name=name, question_type=kind, profile=profile) for name, (kind, profile) in DOMAINS.items()
    }
    listed = make_concept_list(domains, [(domain, name, "") for domain, name in named])
    if len(listed.concepts) != len(named):
        raise InputError(f"{files['instance_definition_input']} asks for a concept twice; rows could not be told apart")
    ids = {f"request-{number}": concept.id for number, concept in enumerate(listed.concepts, start=1)}
    bodies: dict[tuple[str, str], Any] = {}
    for key, body in read_batch_answers(files["instance_definition_output"]):
        bodies[definitions.STAGE, _row(ids, key, files["instance_definition_output"])] = body
    for number in range(1, num_rounds + 1):
        _check_round(files[f"input_{number}"], [name for _, name in named])
        for key, body in read_batch_answers(files[f"output_{number}"]):
            bodies[rounds.STAGE, f"{_row(ids, key, files[f'output_{number}'])}-{number}"] = body
    numbered = {
        str(place * num_rounds + number): f"{concept.id}-{number}"
        for place, concept in enumerate(listed.concepts)
        for number in range(1, num_rounds + 1)
    }
    for key, body in read_batch_answers(files["check"]):
        bodies[solution_check.STAGE, _row(numbered, key, files["check"])] = body
    return Published(
        concepts=listed,
        source=PublishedSource(bodies, find_lost(bodies, {each.id: each.domain for each in listed.concepts})),
        num_rounds=num_rounds,
        hashes={path.name: hash_file(path) for path in files.values()},
    )


def find_lost(bodies: Mapping[tuple[str, str], Any], domains: Mapping[str, str]) -> frozenset[str]:
    """Ids of pairs whose solution check was, by its token count, about another pair: the replacement.

    A check's prompt is a fixed text around the pair, so its length less the pair's is nearly the same number in all
    rows of a domain whose pair was not replaced. An estimate: a replacement of the same length goes unnoticed.
    domains: concept id -> domain.
    """
    excess: dict[str, int] = {}
    for (stage, row_id), body in bodies.items():
        if stage == solution_check.STAGE and (rounds.STAGE, row_id) in bodies:
            check, pair = read_body(body), read_body(bodies[rounds.STAGE, row_id])
            if (
                isinstance(check, Answer)
                and isinstance(pair, Answer)
                and check.prompt_tokens
                and pair.completion_tokens
            ):
                excess[row_id] = check.prompt_tokens - pair.completion_tokens
    counts: dict[str, Counter[int]] = {}
    for row_id, tokens in excess.items():
        counts.setdefault(domains[row_id.rpartition("-")[0]], Counter())[tokens] += 1
    usual = {domain: max(count, key=lambda tokens: (count[tokens], -tokens)) for domain, count in counts.items()}
    return frozenset(
        row_id for row_id, tokens in excess.items() if tokens - usual[domains[row_id.rpartition("-")[0]]] not in WINDOW
    )


def _asked(where: str, row: Any) -> tuple[str, str]:
    """Domain and concept of a definition request."""
    try:
        text = row["body"]["messages"][-1]["content"]
        match = ASKED.match(text.splitlines()[0])
    except (KeyError, IndexError, TypeError, AttributeError):
        match = None
    if match is None or match.group(1) not in DOMAINS:
        raise InputError(f"{where} is no definition request of the published pipeline")
    return match.group(1), match.group(2)


def _check_round(path: Path, names: Sequence[str]) -> None:
    """Refuses a round whose requests do not follow the concepts, or answers would be given to the wrong ones."""
    rows = [row for _, row in read_rows(path)]
    for number, (row, name) in enumerate(zip(rows, names, strict=False), start=1):
        if row["custom_id"] != f"request-{number}" or name not in row["body"]["messages"][-1]["content"]:
            raise InputError(f"{path}:{number} does not ask about {name!r}, the concept of that number")
    if len(rows) != len(names):
        raise InputError(f"{path} has {len(rows)} requests for {len(names)} concepts")


def _row(ids: Mapping[str, str], key: str, path: Path) -> str:
    if key not in ids:
        raise InputError(f"{path} answers {key!r}, which nobody asked")
    return ids[key]


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in sorted(folder.glob(f"{name}.jsonl*")) if path.is_file()), None)


def _need(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise InputError(f"{folder} has no {name}.jsonl (or .jsonl.zst); it is no published ReasonAug folder")
    return path
