"""One retrieval task: a corpus, queries, judgements and the measures it is scored by.

Read `Task` first. Suites, the generated haystacks and the standard-library tasks all build this record, and everything
that runs or scores a task takes it. This module knows nothing of encoders, files or benchmarks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffembed.errors import EmptyInputError, InputError
from diffembed.records import Document, Qrels, Query


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Raises InputError at construction for duplicate ids and for judgements that name unknown ids."""

    name: str
    """Unique among the tasks of one comparison, for example `passkey-256`."""
    corpus: Sequence[Document]
    queries: Sequence[Query]
    qrels: Qrels
    """Judgements of some or all queries; a query without any is searched but not scored."""
    measures: tuple[str, ...] = ("nDCG@10",)
    """`ir-measures` names; the first is the main one."""
    family: str = ""
    """Tasks of one family are averaged with equal weight into one score; empty means the task stands alone."""
    length: int | None = None
    """Tokens of each document where all have the same number, `None` otherwise."""
    instruction: str | None = None
    """Sent with queries that have none of their own; `None` takes the encoder's default, `''` takes none."""
    candidates: Mapping[str, Sequence[str]] | None = None
    """Query id -> the only documents to rank; `None` ranks the whole corpus."""

    def __post_init__(self) -> None:
        if not self.corpus:
            raise EmptyInputError(f"task {self.name!r} has no documents")
        document_ids = _unique([document.id for document in self.corpus], f"document id in task {self.name!r}")
        query_ids = _unique([query.id for query in self.queries], f"query id in task {self.name!r}")
        for query, judged in self.qrels.items():
            if query not in query_ids:
                raise InputError(
                    f"the qrels of task {self.name!r} name query {query!r}, which is not among its queries"
                )
            unknown = next((document for document in judged if document not in document_ids), None)
            if unknown is not None:
                raise InputError(
                    f"the qrels of task {self.name!r} name document {unknown!r}, which is not in its corpus"
                )

    @property
    def group(self) -> str:
        """The family, or the task's own name where it stands alone."""
        return self.family or self.name


def _unique(ids: Sequence[str], what: str) -> set[str]:
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            raise InputError(f"{what} {key!r} occurs twice")
        seen.add(key)
    return seen
