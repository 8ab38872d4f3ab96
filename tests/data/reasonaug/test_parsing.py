"""Tags, code, verdicts and cuts in answers as models really write them."""

import pytest

from diffembed.data.reasonaug import parsing


@pytest.mark.parametrize(
    "text",
    [
        "**Problem**\nHow many?\n**Solution**\nTwo.",
        "**Problem:**  \nHow many?\n\n**Solution:**  \nTwo.",
        "**Problem**: How many?\n**Solution**: Two.",
        "## Problem\nHow many?\n## Solution\nTwo.",
        "### **Problem**\nHow many?\n### **Solution**\nTwo.",
        "Here you are.\nProblem: How many?\nSolution: Two.",
        "__problem__\nHow many?\n__SOLUTION__\nTwo.",
    ],
)
def test_tags_are_found_however_they_are_decorated(text: str) -> None:
    assert parsing.sections(text, ("Problem", "Solution")) == {"Problem": "How many?", "Solution": "Two."}


def test_a_tag_inside_a_line_is_text() -> None:
    text = "**Problem**\nThe **Solution** of salt is stirred.\n**Solution**\nIt is 3.\n**Solution**\nIt is 4."
    parts = parsing.sections(text, ("Problem", "Solution"))
    assert parts == {"Problem": "The **Solution** of salt is stirred.", "Solution": "It is 3."}


def test_plain_words_are_no_tags_where_tags_are_marked() -> None:
    text = "**Problem**\nSolution: the word for salt in water.\n**Solution**\nBrine."
    assert parsing.sections(text, ("Problem", "Solution"))["Solution"] == "Brine."


def test_no_tag_gives_nothing() -> None:
    assert parsing.sections("I would rather talk about bread.", ("Problem",)) == {}
    assert parsing.sections("", ("Problem",)) == {}


def test_code_blocks_keep_tag_and_indentation() -> None:
    text = "Yes.\n```Python\ndef f():\n    return 1\n```\nand\n```\nx\n```"
    blocks = parsing.code_blocks(text)
    assert [(block.tag, block.code) for block in blocks] == [("python", "def f():\n    return 1"), ("", "x")]
    assert text[blocks[0].start :].startswith("```Python")


def test_a_block_that_never_closes_is_none() -> None:
    assert parsing.code_blocks("```python\ndef f():") == []
    assert parsing.is_cut("```python\ndef f():")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("YES", True),
        ("**Yes.** It is.", True),
        ("no", False),
        ("**NO** \n\nThe solution", False),
        ("**Response:** NO", False),
        ("Answer: yes", True),
        ("The provided solution is correct.", None),
        ("Nobody knows", None),
        ("Yesterday", None),
        ("", None),
    ],
)
def test_verdicts(text: str, said: bool | None) -> None:
    assert parsing.verdict(text) is said


@pytest.mark.parametrize(
    ("text", "is_refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m sorry", True),
        ("As an AI language model, I do not", True),
        ("I cannot write this.", True),
        ("I canter on my horse", False),
        ("**Problem**\nI'm sorry, said the baker.", False),
    ],
)
def test_refusals(text: str, is_refusal: bool) -> None:
    assert parsing.is_refusal(text) is is_refusal


def test_thinking_is_left_out_even_when_it_never_ends() -> None:
    assert parsing.without_thinking("<think>NO?</think>\nYES") == "YES"
    assert parsing.without_thinking("<think>well, perhaps") == ""


def test_a_latex_environment_that_never_ends_is_a_cut() -> None:
    assert parsing.is_cut(r"Thus \begin{align} x &= 1")
    assert not parsing.is_cut(r"Thus \begin{align} x &= 1 \end{align}")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("A tree.\n\n**Implementation Code**\n```python\nclass Tree:\n    def", "A tree."),
        ("It is exact.\n\nIt also says that the", "It is exact."),
        ("It is exact.", "It is exact."),
        ("It says that the", ""),
    ],
)
def test_only_the_whole_part_of_a_cut_text_is_used(text: str, whole: str) -> None:
    assert parsing.whole_part(text) == whole
