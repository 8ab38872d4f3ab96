"""Answers by OpenAI batch files: requests are written, somebody submits them, answers are read in a later run.

Read `BatchSource.answer` first. The files are those of OpenAI's batch API, which vLLM's `run-batch` reads too.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diffembed.data.files import read_rows
from diffembed.data.reasonaug.asking import Answer, Failure, Request
from diffembed.data.reasonaug.budget import Budget
from diffembed.data.reasonaug.config import EndpointConfig
from diffembed.data.reasonaug.store import AnswerStore
from diffembed.provenance import atomic_file

URL = "/v1/chat/completions"


class BatchPending(Exception):  # noqa: N818 - a state of the run, not an error
    """Request files are on disk and their answers are not yet."""

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(f"answers are awaited for {', '.join(str(path) for path in files)}")
        self.files = tuple(files)


class BatchSource:
    """Writes what is not stored into `<number>-<stage>.input.jsonl` and reads `<number>-<stage>.output.jsonl`."""

    def __init__(self, config: EndpointConfig, folder: Path, store: AnswerStore, budget: Budget) -> None:
        self.config = config
        self.folder = folder
        self.store = store
        self.budget = budget

    lost_pairs: frozenset[str] = frozenset()

    def has_stage(self, stage: str) -> bool:
        """True: anything can be asked."""
        return True

    def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """One outcome per request, from the store and the output files.

        Raises BatchPending, after writing the request files, while any request file has no output file. A request
        that its output file does not answer counts as one failed attempt.
        """
        failures: dict[str, Failure] = {}
        waiting: list[Path] = []
        todo = {request.key: request for request in requests if request.key not in self.store}
        for path in sorted(self.folder.glob("*.input.jsonl")) if todo else []:
            asked = {key: todo.pop(key) for key in _asked_keys(path) if key in todo}
            outputs = sorted(self.folder.glob(answers_path(path).name + "*"))
            if asked and outputs:
                failures |= self._read(outputs[0], asked)
            elif asked:
                waiting.append(path)
        waiting += self._write(list(todo.values()))
        if waiting:
            raise BatchPending(waiting)
        return [
            self.store.find(request.key) if request.key in self.store else failures[request.key] for request in requests
        ]

    def _read(self, path: Path, asked: dict[str, Request]) -> dict[str, Failure]:
        """Stores the answers of an output file; the failures of what it does not answer."""
        reasons = dict.fromkeys(asked, "missing from the batch answers")
        for _, row in read_rows(path):
            key, response, reason = read_batch_row(row)
            if key not in asked or asked[key].key in self.store:
                continue
            if reason is None:
                self.store.add(asked[key], response)
            else:
                reasons[key] = reason
        return {
            key: Failure(reason=reason, is_answered=True) for key, reason in reasons.items() if key not in self.store
        }

    def _write(self, requests: Sequence[Request]) -> list[Path]:
        """Request files of at most `batch_rows` rows; none when there is nothing to ask."""
        self.budget.require(requests)
        files = []
        for start in range(0, len(requests), self.config.batch_rows):
            chunk = requests[start : start + self.config.batch_rows]
            number = 1 + sum(1 for _ in self.folder.glob("*.input.jsonl"))
            path = self.folder / f"{number:03d}-{chunk[0].stage}.input.jsonl"
            with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(self._line(request) for request in chunk)
            files.append(path)
        return files

    def _line(self, request: Request) -> str:
        body = request.body(self.config.token_limit_field)
        row = {"custom_id": request.key, "method": "POST", "url": URL, "body": body}
        return json.dumps(row, ensure_ascii=False) + "\n"


def answers_path(requests: Path) -> Path:
    """Where the answers to a request file are looked for; they may be compressed (.zst, .gz)."""
    return requests.with_name(requests.name.replace(".input.", ".output."))


def read_batch_row(row: Any) -> tuple[str, Any, str | None]:
    """(custom id, body, None) of a row of an output file, or (custom id, None, reason) when it holds no answer."""
    if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
        return "", None, "malformed JSON"
    response = row.get("response")
    if row.get("error") or not isinstance(response, dict):
        return row["custom_id"], None, "batch error"
    if response.get("status_code") != 200:
        return row["custom_id"], None, f"HTTP {response.get('status_code')}"
    return row["custom_id"], response.get("body"), None


def read_batch_answers(path: Path) -> Iterator[tuple[str, Any]]:
    """(custom id, body) of the rows of an output file that hold an answer."""
    for _, row in read_rows(path):
        key, body, reason = read_batch_row(row)
        if reason is None:
            yield key, body


def _asked_keys(path: Path) -> list[str]:
    return [row["custom_id"] for _, row in read_rows(path) if isinstance(row, dict) and "custom_id" in row]
