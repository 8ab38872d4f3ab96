"""From a scored task to the records of a comparison: what a system did, and what the task is.

Read `outcome_of`. Shared by suites and the demonstration, so that one table means the same in both.
"""

from diffembed.evaluation.reports.comparison import TaskFacts, TaskOutcome
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.systems.reading import Reading
from diffembed.evaluation.tasks import AnyTask, InstructionTask, LabelTask, Task, hash_task


def outcome_of(result: TaskResult, length: int | None) -> TaskOutcome:
    """One system on one task. length: tokens per document, where all have the same number."""
    is_mean = result.kind in ("retrieval", "instruction", "classification")
    readings = [reading for reading in (result.documents, result.queries) if reading is not None]
    return TaskOutcome(
        task=result.task,
        group=result.family or result.task,
        length=length,
        measure=result.main,
        interval=result.scores[result.main],
        values=dict(result.per_query[result.main]) if is_mean else {},
        # A lexical system reads every document to its end.
        truncated_fraction=result.truncated_fraction if readings else 0.0,
        num_tokens=sum(_encoded_tokens(reading) for reading in readings),
        seconds=sum(reading.seconds for reading in readings),
    )


def _encoded_tokens(reading: Reading) -> int:
    """Tokens that went through the network; what was kept from before took no time and must not raise the speed."""
    return reading.num_encoded_tokens or 0


def facts_of(task: AnyTask, *, is_in_domain: bool = False) -> TaskFacts:
    """What a reader must know of a task."""
    plain = task.og if isinstance(task, InstructionTask) else task
    if isinstance(plain, Task):
        sizes, length, group = (len(plain.corpus), len(plain.queries)), plain.length, plain.family or task.name
    else:
        num_texts = len(plain.texts) if isinstance(plain, LabelTask) else len(plain.left)
        sizes, length, group = (0, num_texts), None, task.name
    return TaskFacts(
        name=task.name,
        group=group,
        num_documents=sizes[0],
        num_queries=sizes[1],
        length=length,
        hash=hash_task(task),
        is_in_domain=is_in_domain,
    )
