"""Every answer that was ever paid for, on disk before it is used.

Read `AnswerStore` first. One JSON line per answer, appended and flushed to the disk, so a killed run loses at most
the answers that were still on their way. This module knows nothing of where answers come from.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffembed.data.reasonaug.asking import Answer, Failure, Request, read_body, used_tokens
from diffembed.errors import InputError, ResourceError


class AnswerStore:
    """Answers by key, in an append-only file."""

    def __init__(self, path: Path | str) -> None:
        """Opens the file or starts one; a last line that was cut by a kill is removed.

        Raises InputError when any other line is damaged.
        """
        self.path = Path(path)
        self.prompt_tokens = 0
        """Prompt tokens of all stored answers."""
        self.completion_tokens = 0
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        if self.path.exists():
            self._index()

    def _index(self) -> None:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    key = record["key"]
                except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{self.path}:{number} is damaged; remove the line to have it asked again"
                    ) from error
                self._places[key] = (self._end, len(line))
                self._count(record)
                self._end += len(line)
        if self._end < self.path.stat().st_size:
            os.truncate(self.path, self._end)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def find(self, key: str) -> Answer | Failure:
        """The stored outcome of a key that is in the store."""
        place, length = self._places[key]
        with self.path.open("rb") as file:
            file.seek(place)
            return _outcome(json.loads(file.read(length)))

    def add(self, request: Request, response: Any) -> Answer | Failure:
        """Stores the body that came back, whatever it is, and returns what it says.

        Raises ResourceError when it cannot be written: an answer that is not on disk is not used.
        """
        record = {
            "key": request.key,
            "stage": request.stage,
            "row_id": request.row_id,
            "attempt": request.attempt,
            "request": request.body(),
            "response": response,
        }
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._end)
            raise ResourceError(
                f"{self.path} cannot be written ({error.strerror}); what it held before is kept"
            ) from error
        self._places[request.key] = (self._end, len(line))
        self._end += len(line)
        self._count(record)
        return _outcome(record)

    def _count(self, record: dict[str, Any]) -> None:
        prompt, completion = usage_of(record)
        self.prompt_tokens += prompt
        self.completion_tokens += completion


class StoredSource:
    """Answers from a store and from nowhere else: a run repeated without a network."""

    def __init__(self, store: AnswerStore) -> None:
        self.store = store

    def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """What is stored; Failure for what is not."""
        return [
            self.store.find(request.key) if request.key in self.store else Failure(reason="no stored answer")
            for request in requests
        ]

    lost_pairs: frozenset[str] = frozenset()

    def has_stage(self, stage: str) -> bool:
        """True: a run's store holds whatever the run asked."""
        return True


def usage_of(record: dict[str, Any]) -> tuple[int, int]:
    """Prompt and completion tokens of a record; where the endpoint did not say, a token per four characters."""
    response = record["response"]
    usage = response.get("usage") if isinstance(response, dict) else None
    prompt, completion = used_tokens(usage if isinstance(usage, dict) else {})
    if prompt + completion:
        return prompt, completion
    return estimate_tokens(json.dumps(record["request"]["messages"])), estimate_tokens(json.dumps(response))


def estimate_tokens(text: str) -> int:
    """Rough token count of a text, a token per four characters, rounded up."""
    return -(-len(text) // 4)


def _outcome(record: dict[str, Any]) -> Answer | Failure:
    """A body that is no JSON object is stored as the text it was."""
    response = record["response"]
    if isinstance(response, str):
        return Failure(reason="malformed JSON", detail=response[:200], is_answered=True)
    return read_body(response)
