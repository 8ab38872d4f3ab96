"""Development tasks made of training rows that training leaves out: whole concepts, whole topics, drawn by seed.

Read `read_concept_task`. Training draws the same values with the same seed (`data.set_aside`), so that no row here is
ever trained on. This module knows nothing of suites.
"""

from collections.abc import Mapping
from pathlib import Path

from diffembed.data.formats import Triplet
from diffembed.data.set_aside import RetrievalSet, make_retrieval_set, set_aside
from diffembed.data.source_config import SourceConfig
from diffembed.data.sources import load_sources
from diffembed.errors import InputError, UnknownNameError
from diffembed.evaluation.suites.folders import INSTRUCTION_MEASURES, RETRIEVAL_MEASURES
from diffembed.evaluation.tasks import InstructionTask, Task
from diffembed.records import Document, Query

SEED = 0
NUM_CONCEPTS = 30
"""Of ReasonAug's 180 training concepts."""
NUM_TOPICS = 15
"""Of the 97 topics of the Debian-package rows."""
SOUND_CHECKS = ("yes", "not used")
"""`solution_check` of the ReasonAug rows that are kept."""
REASONING_TASKS = ("p2i", "p2ps")


def read_concept_task(folder: Path, *, name: str) -> Task:
    """Problems of set-aside concepts, to their definitions (name ends in `p2i`) or to problems of the same (`p2ps`)."""
    kind = name.rpartition("-")[2]
    if kind not in REASONING_TASKS:
        raise UnknownNameError.of("concept task", name, [f"concepts-{other}" for other in REASONING_TASKS])
    rows = _read_rows(folder, {"solution_check": SOUND_CHECKS})
    development = set_aside(rows, num_values=NUM_CONCEPTS, seed=SEED, label="concept").development
    chosen = [row for row in development if row.labels.get("task") == kind]
    made: RetrievalSet = make_retrieval_set(chosen, relevant_label="concept")
    return Task(name=name, corpus=made.documents, queries=made.queries, qrels=made.qrels, measures=RETRIEVAL_MEASURES)


def read_topic_task(folder: Path, *, name: str) -> InstructionTask:
    """Set-aside topics of Debian packages in FollowIR's form.

    The original narrative is the row's instruction without its constraint, under which every package of the topic is
    relevant; the changed one is the instruction itself, which the row's negatives violate.
    """
    rows = _read_rows(folder, {})
    development = set_aside(rows, num_values=NUM_TOPICS, seed=SEED, label="topic_tag").development
    ids: dict[str, str] = {}
    of_topic: dict[str, set[str]] = {}
    for row in development:
        for text in (row.positive, *row.negatives):
            of_topic.setdefault(row.labels["topic_tag"], set()).add(ids.setdefault(text, f"d{len(ids)}"))
    narrowed: dict[tuple[str, str], tuple[str, set[str]]] = {}
    for row in development:
        if row.instruction is None or ", but only" not in row.instruction:
            raise InputError(f"row {row.id} of {folder.name} has no instruction with a constraint (', but only ...')")
        positives = narrowed.setdefault((row.query, row.instruction), (row.labels["topic_tag"], set()))[1]
        positives.add(ids[row.positive])
    queries: dict[str, list[Query]] = {"og": [], "changed": []}
    qrels: dict[str, dict[str, dict[str, int]]] = {"og": {}, "changed": {}}
    for number, ((text, narrative), (topic, positives)) in enumerate(narrowed.items()):
        key = f"t{number:03}"
        queries["og"].append(Query(id=key, text=text, instruction=f"{narrative.partition(', but only')[0]}."))
        queries["changed"].append(Query(id=key, text=text, instruction=narrative))
        qrels["og"][key] = dict.fromkeys(sorted(of_topic[topic]), 1)
        qrels["changed"][key] = {document: int(document in positives) for document in sorted(of_topic[topic])}
    corpus = [Document(id=key, text=text) for text, key in ids.items()]
    og, changed = (
        Task(
            name=f"{name}-{side}",
            corpus=corpus,
            queries=queries[side],
            qrels=qrels[side],
            measures=INSTRUCTION_MEASURES,
        )
        for side in ("og", "changed")
    )
    return InstructionTask(name=name, og=og, changed=changed, narrative_slot="instruction")


def _read_rows(folder: Path, keep: Mapping[str, tuple[str, ...]]) -> list[Triplet]:
    config = SourceConfig(kind="folder", path=str(folder.parent), sets=(folder.name,), keep=keep)
    return [row for source in load_sources([config], seed=SEED).values() for row in source.triplets]
