"""How a stage asks a language model about its rows: once per row, anew while the answer is unusable, then never again.

Read `ask_rows` first. Where answers come from (an endpoint, batch files, a folder of stored ones) is behind
`AnswerSource`. This module knows nothing of what is asked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from diffembed.data.reasonaug import language, parsing
from diffembed.data.reasonaug.config import GenerationConfig
from diffembed.data.reasonaug.prompts import Messages, Prompts
from diffembed.data.reasonaug.rows import Dropped, StageResult
from diffembed.errors import InputError
from diffembed.provenance import hash_config

In = TypeVar("In", bound="HasId")
Out = TypeVar("Out")

KEY_DIGITS = 32
CUT_SHORT = "answer cut short"


class HasId(Protocol):
    """A row that can be asked about."""

    @property
    def id(self) -> str:
        """Unique within its stage."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question; the same question about the same row has the same key in every run."""

    stage: str
    row_id: str
    attempt: int
    """0 for the first time."""
    model: str
    messages: Messages
    max_tokens: int
    temperature: float | None = None

    @property
    def key(self) -> str:
        """Address of its answer. The row is part of it, so two rounds with one wording get two answers."""
        return hash_config({name: getattr(self, name) for name in self.__slots__})[:KEY_DIGITS]

    def body(self, token_limit_field: str = "max_tokens") -> dict[str, Any]:
        """Body of the chat-completions call."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self.messages,
            token_limit_field: self.max_tokens,
        }
        return body if self.temperature is None else body | {"temperature": self.temperature}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model said."""

    text: str
    """Without thinking, stripped."""
    is_whole: bool
    """The model stopped by itself."""
    refusal: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """No answer came, or one that is none."""

    reason: str
    detail: str = ""
    is_answered: bool = False
    """The endpoint did answer, with something unusable: asking again is a new attempt."""


class AnswerSource(Protocol):
    """Where answers come from."""

    @property
    def lost_pairs(self) -> frozenset[str]:
        """Ids of pairs that were replaced by others which a stored set lacks; empty for any other source."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """One outcome per request, in order. Raises ResourceError when it must stop; what it has is stored."""
        ...

    def has_stage(self, stage: str) -> bool:
        """Whether this stage can be asked at all; a stored set may lack whole stages."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry(Generic[Out]):
    """An answer that cannot be used: ask again; `salvage` is what to make do with when no better one comes."""

    reason: str
    detail: str = ""
    salvage: Out | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """A usable answer that says the row is no good; never asked again."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """What every asking stage is given."""

    source: AnswerSource
    prompts: Prompts
    settings: GenerationConfig
    language: str = "en"
    notes: dict[str, int] = field(default_factory=dict)
    """Counts of what happened on the way: asked again, salvaged, ..."""

    def note(self, event: str, count: int = 1) -> None:
        """Adds to a count."""
        self.notes[event] = self.notes.get(event, 0) + count

    @property
    def language_name(self) -> str:
        """English name of the language to write in."""
        return language.language_name(self.language)


def ask_rows(
    stage: str,
    rows: Sequence[In],
    ask: Asker,
    *,
    make_messages: Callable[[In], Messages],
    read: Callable[[In, Answer], "Out | Retry[Out] | Reject"],
    max_tokens: int,
) -> StageResult[Out]:
    """The rows that `read` made of the answers, in input order, and those that were lost or rejected.

    A row whose answer is cut short is asked again with twice the tokens, at most four times `max_tokens`.
    Raises InputError when more than `max_fault_fraction` of the rows were lost to unusable answers.
    """
    done: dict[str, Out] = {}
    dropped: dict[str, Dropped] = {}
    faults: dict[str, Retry[Out]] = {}
    limits: dict[str, int] = {}
    num_lost = 0
    pending = list(rows)
    for attempt in range(ask.settings.max_attempts):
        requests = [
            Request(
                stage=stage,
                row_id=row.id,
                attempt=attempt,
                model=ask.settings.model,
                messages=make_messages(row),
                max_tokens=limits.get(row.id, max_tokens),
                temperature=ask.settings.temperature,
            )
            for row in pending
        ]
        unfinished = []
        for row, request, outcome in zip(pending, requests, ask.source.answer(requests), strict=True):
            if isinstance(outcome, Failure):
                fault: Retry[Out] = Retry(reason=outcome.reason, detail=outcome.detail)
                if outcome.is_answered:
                    faults.setdefault(row.id, fault)
                    unfinished.append(row)
                elif row.id in faults:
                    # An earlier attempt was answered, and says more about the row than this silence.
                    num_lost += _settle(stage, row.id, faults[row.id], ask, done, dropped)
                else:
                    num_lost += _settle(stage, row.id, fault, ask, done, dropped, is_answered=False)
                continue
            reading = read(row, outcome)
            if isinstance(reading, Reject):
                dropped[row.id] = Dropped(stage=stage, id=row.id, reason=reading.reason, detail=reading.detail)
            elif isinstance(reading, Retry):
                if reading.reason == CUT_SHORT:
                    limits[row.id] = min(2 * request.max_tokens, 4 * max_tokens)
                if reading.salvage is not None or row.id not in faults or faults[row.id].salvage is None:
                    faults[row.id] = reading
                unfinished.append(row)
            else:
                done[row.id] = reading
        pending = unfinished
        if not pending:
            break
        if attempt + 1 < ask.settings.max_attempts:
            ask.note(f"{stage}: asked again", len(pending))
    for row in pending:
        num_lost += _settle(stage, row.id, faults[row.id], ask, done, dropped)
    if num_lost > ask.settings.max_fault_fraction * len(rows):
        raise InputError(_too_many(stage, num_lost, len(rows), dropped, ask.settings.max_fault_fraction))
    return StageResult(
        rows=tuple(done[row.id] for row in rows if row.id in done),
        dropped=tuple(dropped[row.id] for row in rows if row.id in dropped),
    )


def common_fault(answer: Answer, ask: Asker, *, is_prose: bool = True) -> Retry[Any] | None:
    """The fault any answer may have: refusal, emptiness, a cut, the wrong language; None when it has none of them."""
    if answer.refusal or parsing.is_refusal(answer.text):
        return Retry(reason="refusal", detail=(answer.refusal or answer.text)[:200])
    if not answer.text:
        return Retry(reason="empty answer" if answer.is_whole else CUT_SHORT)
    if not answer.is_whole or parsing.is_cut(answer.text):
        return Retry(reason=CUT_SHORT, detail=answer.text[-80:])
    if is_prose and not language.is_in_language(answer.text, ask.language):
        return Retry(reason="wrong language", detail=answer.text[:80])
    return None


def read_body(body: Any) -> Answer | Failure:
    """The answer in the body of a chat completion; Failure when the body is none."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        refusal = message.get("refusal") or ""
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Failure(reason="malformed answer", detail=str(body)[:200], is_answered=True)
    if not isinstance(text, str):
        return Failure(reason="malformed answer", detail=str(text)[:200], is_answered=True)
    usage = body.get("usage")
    prompt_tokens, completion_tokens = used_tokens(usage if isinstance(usage, Mapping) else {})
    return Answer(
        text=parsing.without_thinking(text),
        is_whole=finish not in ("length", "content_filter"),
        refusal=str(refusal) or ("content filter" if finish == "content_filter" else ""),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )


def used_tokens(usage: Mapping[str, Any]) -> tuple[int, int]:
    """Prompt and completion tokens of a usage record; 0 where it lacks them."""
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
    return prompt, completion


def _settle(
    stage: str,
    row_id: str,
    fault: Retry[Out],
    ask: Asker,
    done: dict[str, Out],
    dropped: dict[str, Dropped],
    *,
    is_answered: bool = True,
) -> int:
    """Ends a row that got no usable answer: 1 if it is lost, 0 if something could be salvaged."""
    if fault.salvage is not None:
        done[row_id] = fault.salvage
        ask.note(f"{stage}: salvaged ({fault.reason})")
        return 0
    dropped[row_id] = Dropped(stage=stage, id=row_id, reason=fault.reason, detail=fault.detail, is_answered=is_answered)
    return 1


def _too_many(stage: str, num_lost: int, num_rows: int, dropped: Mapping[str, Dropped], limit: float) -> str:
    reasons: dict[str, int] = {}
    for each in dropped.values():
        reasons[each.reason] = reasons.get(each.reason, 0) + 1
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
    return (
        f"{stage}: {num_lost} of {num_rows} rows got no usable answer ({listed}), more than "
        f"generation.max_fault_fraction={limit:g}; look at the answers in answers.jsonl and raise the limit, or take "
        "another model or other prompts in a new folder"
    )
