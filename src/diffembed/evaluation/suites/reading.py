"""The tasks of a named suite, read from a data folder or made from its text.

Read `read_tasks`. `named.py` says which tasks there are, `folders.py` how files become tasks, `haystack.py` how
sentences are hidden.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diffembed.data.burying import TokenSpans, word_spans
from diffembed.errors import ConfigError, InputError, UnknownNameError
from diffembed.evaluation.suites.folders import read_folder, read_pairs
from diffembed.evaluation.suites.haystack import (
    make_birthday_task,
    make_needle_task,
    make_paraphrase_task,
    make_passkey_task,
)
from diffembed.evaluation.suites.instructions import Prompts, find_instruction, kind_of
from diffembed.evaluation.suites.named import COUNTED_BY, Suite, TaskSpec
from diffembed.evaluation.suites.set_asides import read_concept_task, read_topic_task
from diffembed.evaluation.tasks import AnyTask, InstructionTask, Task

DATA_VARIABLE = "DIFFEMBED_DATA"
HAY_FILE = "text/novels_valid.txt.zst"
"""Text that sentences are hidden in; no training reads it."""
_MAKERS: Mapping[str, Callable[..., Task]] = {
    "passkey": make_passkey_task,
    "needle": make_needle_task,
    "paraphrase": make_paraphrase_task,
    "birthday": make_birthday_task,
}


def read_tasks(
    suite: Suite,
    *,
    data: Path | str | None = None,
    prompts: Prompts = "paper",
    counted_by: str = COUNTED_BY,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[AnyTask]:
    """The tasks of an offline suite, one after the other, with their instructions.

    counted_by: model whose tokenizer counts the tokens of generated documents, or `words`.
    names: only these tasks. Raises UnknownNameError for a name the suite does not have.
    """
    if suite.mteb_tasks:
        raise ConfigError(f"suite {suite.name!r} is run through mteb, not from a data folder")
    unknown = next((name for name in names if name not in {spec.name for spec in suite.tasks}), None)
    if unknown is not None:
        raise UnknownNameError.of(f"task in suite {suite.name!r}", unknown, [spec.name for spec in suite.tasks])
    hay: tuple[str, TokenSpans] | None = None
    for spec in suite.tasks:
        if names and spec.name not in names:
            continue
        if spec.is_hidden:
            if hay is None:
                hay = _read_hay(data), load_token_spans(counted_by)
            yield _with_instruction(_hide(spec, data, hay[0], hay[1], seed), prompts)
            continue
        for task in _read(spec, data):
            yield _with_instruction(task, prompts)


def data_folder(given: Path | str | None) -> Path:
    """The folder of `--data`, else of the environment variable. Raises ConfigError when there is neither."""
    chosen = given or os.environ.get(DATA_VARIABLE)
    if not chosen:
        raise ConfigError(f"this suite reads a data folder; name it with --data DIR or set {DATA_VARIABLE}")
    folder = Path(chosen)
    if not folder.is_dir():
        raise InputError(f"the data folder {folder} does not exist")
    return folder


def _read(spec: TaskSpec, data: Path | str | None) -> list[AnyTask]:
    place = find_place(spec, data)
    if spec.source == "concepts":
        return [read_concept_task(place, name=spec.name)]
    if spec.source == "topics":
        return [read_topic_task(place, name=spec.name)]
    return read_folder(place, name=spec.name, narrative_slot="instruction")


def find_place(spec: TaskSpec, data: Path | str | None = None) -> Path:
    """Where a task is read from; a table may be compressed."""
    place = Path(spec.place) if Path(spec.place).is_absolute() else data_folder(data) / spec.place
    if place.suffix == ".tsv" and not place.exists():
        place = next((other for end in (".zst", ".gz", ".bz2") if (other := Path(f"{place}{end}")).exists()), place)
    return place


def _hide(spec: TaskSpec, data: Path | str | None, hay: str, token_spans: TokenSpans, seed: int) -> Task:
    make = _MAKERS[spec.source]
    if spec.source == "paraphrase":
        make = partial(make, pairs=read_pairs(find_place(spec, data)))
    return make(
        spec.length,
        hay=hay,
        token_spans=token_spans,
        num_documents=spec.num_documents,
        num_queries=spec.num_queries,
        seed=seed,
    )


def _read_hay(data: Path | str | None) -> str:
    """The held-out novels of the data folder; the standard library's text where no folder is given."""
    from diffembed.data.files import read_lines
    from diffembed.evaluation.suites.stdlib import haystack_text

    if data is None and not os.environ.get(DATA_VARIABLE):
        return haystack_text()
    return b"".join(read_lines(data_folder(data) / HAY_FILE)).decode("utf-8")


def load_token_spans(counted_by: str) -> TokenSpans:
    """(start, end) of each token by the tokenizer of a model, or of each word for `words`."""
    if counted_by == "words":
        return word_spans
    from transformers import AutoTokenizer

    from diffembed.backbones.loading import locate
    from diffembed.backbones.registry import find_model
    from diffembed.backbones.tiny import build_tokenizer

    spec = find_model(counted_by)
    tokenizer: Any
    if spec is not None and spec.source == "tiny":
        tokenizer = build_tokenizer()
    else:
        tokenizer = AutoTokenizer.from_pretrained(locate(counted_by, spec))
    backend = tokenizer.backend_tokenizer
    return lambda text: backend.encode(text, add_special_tokens=False).offsets


def _with_instruction(task: AnyTask, prompts: Prompts) -> AnyTask:
    instruction = find_instruction(task.name, kind_of(task), prompts=prompts)
    if isinstance(task, InstructionTask):
        sides = {side: dataclasses.replace(getattr(task, side), instruction=instruction) for side in ("og", "changed")}
        return dataclasses.replace(task, **sides)
    return dataclasses.replace(task, instruction=instruction)
