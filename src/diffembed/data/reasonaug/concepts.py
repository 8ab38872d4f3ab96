"""Stage 0: the concepts to make problems for, from a YAML list anyone can write.

Read `load_concepts` first. A field needs nothing but this list: its domains, the words that name them, and concepts.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.data.formats import text_key
from diffembed.data.reasonaug.config import read_yaml
from diffembed.data.reasonaug.rows import Concept, Dropped, StageResult
from diffembed.errors import EmptyInputError, InputError, UnknownNameError
from diffembed.provenance import hash_text

STAGE = "concepts"
DOMAIN_KEYS = ("name", "question_type", "profile", "difficulty", "themes", "concepts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """A kind of concept and the problems that go with it."""

    name: str
    """Singular, as it reads in an instruction: 'retrieve the relevant <name>'."""
    question_type: str
    """Adjective of its problems: 'a <question_type> problem'."""
    profile: str
    """Which random knobs apply: a name in the knobs template (coding, math, applied, open)."""
    difficulty: tuple[str, ...] = ()
    """Exams and contests that problems are compared with; none = no such sentence."""
    themes: tuple[str, ...] = ()
    """Settings a problem may be placed in; none = those of the profile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptList:
    """The domains by name, and the concepts in list order."""

    domains: Mapping[str, Domain]
    concepts: tuple[Concept, ...]
    dropped: tuple[Dropped, ...] = ()


def concept_id(domain: str, name: str) -> str:
    """Readable, and unique by the hash at its end: `two-pointers-3f0c1d2e`."""
    words = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:40]
    return f"{words or 'concept'}-{hash_text(f'{text_key(domain)}/{text_key(name)}')[:8]}"


def load_concepts(path: Path | str) -> ConceptList:
    """The list of a YAML file; a name that occurs twice, in whatever domain or case, is dropped the second time.

    Raises InputError when the file has another shape, EmptyInputError when it names no concept.
    """
    path = Path(path)
    values = read_yaml(path)
    if not isinstance(values, Mapping) or not isinstance(values.get("domains"), list):
        raise InputError(f"{path} has no list `domains`; see recipes/reasonaug for an example")
    domains: dict[str, Domain] = {}
    named: list[tuple[str, str, str]] = []
    for number, entry in enumerate(values["domains"], start=1):
        where = f"{path.name}, domain {number}"
        domain = _domain(entry, where)
        if domain.name in domains:
            raise InputError(f"{where}: the domain {domain.name!r} occurs twice; merge the two")
        domains[domain.name] = domain
        items = entry.get("concepts")
        if not isinstance(items, list):
            raise InputError(f"{where} has no list `concepts`")
        named.extend((domain.name, *_named(item, where)) for item in items)
    return make_concept_list(domains, named)


def make_concept_list(domains: Mapping[str, Domain], named: Sequence[tuple[str, str, str]]) -> ConceptList:
    """The list of (domain, name, definition or '') entries, without repeated names."""
    concepts: list[Concept] = []
    dropped: list[Dropped] = []
    seen: dict[str, str] = {}
    for domain, name, definition in named:
        key = text_key(name)
        row_id = concept_id(domain, name)
        if not key:
            dropped.append(Dropped(stage=STAGE, id=row_id, reason="empty name", detail=domain))
        elif key in seen:
            dropped.append(Dropped(stage=STAGE, id=row_id, reason="duplicate name", detail=f"{name} ({seen[key]})"))
        else:
            seen[key] = domain
            concepts.append(Concept(id=row_id, name=name.strip(), domain=domain, definition=definition.strip()))
    if not concepts:
        raise EmptyInputError("the concept list names no concept")
    return ConceptList(domains=domains, concepts=tuple(concepts), dropped=tuple(dropped))


def leave_out(concepts: Sequence[Concept], names: Collection[str]) -> StageResult[Concept]:
    """The concepts that are not held out; without them nothing later can name or quote one. Case does not matter."""
    keys = {text_key(name) for name in names}
    held = [concept for concept in concepts if text_key(concept.name) in keys]
    return StageResult(
        rows=tuple(concept for concept in concepts if text_key(concept.name) not in keys),
        dropped=tuple(Dropped(stage=STAGE, id=each.id, reason="held out", detail=each.name) for each in held),
    )


def _domain(entry: Any, where: str) -> Domain:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is no mapping")
    for key in entry:
        if key not in DOMAIN_KEYS:
            raise UnknownNameError.of("domain key", str(key), DOMAIN_KEYS)
    texts = {}
    for key in ("name", "question_type", "profile"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise InputError(f"{where} needs a text for `{key}`")
        texts[key] = entry[key].strip()
    lists: dict[str, tuple[str, ...]] = {}
    for key in ("difficulty", "themes"):
        items = entry.get(key) or []
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise InputError(f"{where}: `{key}` must be a list of texts")
        lists[key] = tuple(items)
    return Domain(**texts, difficulty=lists["difficulty"], themes=lists["themes"])


def _named(item: Any, where: str) -> tuple[str, str]:
    """Name and given definition of an entry; a number or a date that YAML read as such is taken as its text."""
    if isinstance(item, Mapping) and isinstance(item.get("name"), str) and set(item) <= {"name", "definition"}:
        return item["name"], str(item.get("definition") or "")
    if isinstance(item, Mapping | list) or item is None:
        raise InputError(f"{where}: a concept is a name, or a mapping of `name` and `definition`; received {item!r}")
    return str(item), ""
