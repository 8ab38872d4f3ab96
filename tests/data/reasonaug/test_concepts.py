"""Concept lists that anyone can write, and what is wrong with some of them."""

from pathlib import Path

import pytest

from diffembed.data.reasonaug.concepts import concept_id, leave_out, load_concepts
from diffembed.errors import EmptyInputError, InputError, UnknownNameError

LIST = """
domains:
  - name: house rule
    question_type: company
    profile: open
    themes: [an office, a workshop]
    concepts:
      - Four-Eyes Principle
      - {name: Red Tag, definition: "A machine with a red tag is not switched on."}
      - four-eyes  principle
      - 5
  - name: legal doctrine
    question_type: law
    profile: open
    concepts: [Estoppel, RED TAG, ""]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "concepts.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_is_read_in_order_and_duplicates_are_dropped_with_a_reason(tmp_path: Path) -> None:
    listed = load_concepts(write(tmp_path, LIST))
    assert [concept.name for concept in listed.concepts] == ["Four-Eyes Principle", "Red Tag", "5", "Estoppel"]
    assert listed.concepts[1].definition == "A machine with a red tag is not switched on."
    assert listed.domains["house rule"].themes == ("an office", "a workshop")
    assert [(each.reason, each.detail) for each in listed.dropped] == [
        ("duplicate name", "four-eyes  principle (house rule)"),
        ("duplicate name", "RED TAG (house rule)"),
        ("empty name", "legal doctrine"),
    ]


def test_ids_do_not_depend_on_the_rest_of_the_list_and_work_in_any_script() -> None:
    assert concept_id("law", "Estoppel").startswith("estoppel-")
    assert concept_id("law", "Estoppel") == concept_id("Law", "estoppel")
    assert concept_id("law", "Estoppel") != concept_id("tax law", "Estoppel")
    assert concept_id("law", "禁反言").startswith("concept-")
    assert concept_id("law", "禁反言") != concept_id("law", "默示")


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("- a\n- b\n", InputError, "has no list `domains`"),
        ("domains: [", InputError, "is not valid YAML"),
        ("domains:\n  - {name: a, question_type: b, profile: open}", InputError, "has no list `concepts`"),
        ("domains:\n  - {name: a, profile: open, concepts: [x]}", InputError, "needs a text for `question_type`"),
        (
            "domains:\n  - {name: a, question_type: b, profile: open, theme: [c], concepts: [x]}",
            UnknownNameError,
            "no domain key 'theme' .did you mean 'themes'",
        ),
        (
            "domains:\n  - {name: a, question_type: b, profile: open, concepts: [{nam: x}]}",
            InputError,
            "a concept is a name, or a mapping of `name` and `definition`",
        ),
        ("domains:\n  - {name: a, question_type: b, profile: open, concepts: []}", EmptyInputError, "names no concept"),
        (
            "domains:\n  - {name: a, question_type: b, profile: open, concepts: [x]}\n"
            "  - {name: a, question_type: b, profile: open, concepts: [y]}",
            InputError,
            "the domain 'a' occurs twice",
        ),
    ],
)
def test_a_damaged_list_is_one_sentence(tmp_path: Path, text: str, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        load_concepts(write(tmp_path, text))


def test_held_out_concepts_leave_before_anything_is_made_of_them(tmp_path: Path) -> None:
    listed = load_concepts(write(tmp_path, LIST))
    result = leave_out(listed.concepts, {"red  tag", "Nothing"})
    assert [concept.name for concept in result.rows] == ["Four-Eyes Principle", "5", "Estoppel"]
    assert [(each.reason, each.detail) for each in result.dropped] == [("held out", "Red Tag")]
