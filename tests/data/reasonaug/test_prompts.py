"""The packaged templates, and what a run's own ones must be like."""

from pathlib import Path

import pytest

from diffembed.data.reasonaug.prompts import PLACEHOLDERS, Prompts
from diffembed.data.reasonaug.rows import Kind, Task
from diffembed.errors import ConfigError, InputError, UnknownNameError

VALUES = dict.fromkeys(set().union(*PLACEHOLDERS.values()), "")


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.load()


@pytest.mark.parametrize("name", PLACEHOLDERS)
@pytest.mark.parametrize("kind", Kind)
def test_every_template_renders_for_every_kind_and_uses_the_concept(prompts: Prompts, name: str, kind: Kind) -> None:
    values = {key: f"<{key}>" for key in PLACEHOLDERS[name]}
    turns = prompts.messages(name, kind, **values)
    assert turns[-1]["role"] == "user"
    text = "\n".join(turn["content"] for turn in turns)
    needed = "<rules>" if name == "problem" else "<concept>"
    assert needed in text
    assert "<language>" in text or name == "solution_check"


def test_a_concept_with_a_dollar_sign_is_only_text(prompts: Prompts) -> None:
    turns = prompts.messages("definition", Kind.NUMERIC, domain="rule", concept="$concept $5 ${x}", language="English")
    assert "$concept $5 ${x}" in turns[-1]["content"]
    assert r"$\frac{|a x_0" in turns[-1]["content"]


@pytest.mark.parametrize(
    ("task", "instruction"),
    [
        (Task.P2I, "Given a math problem, retrieve the relevant math theorem that help solve the given problem."),
        (Task.I2PS, "Given a math theorem, retrieve the relevant math problems that apply the given math theorem."),
        (
            Task.P2PS,
            "Given a math problem, retrieve the relevant problems that can be solved by the similar math theorem.",
        ),
        (
            Task.PS2PS,
            "Given a problem with a solution, retrieve the relevant math problems that can be solved by the similar "
            "math theorem.",
        ),
    ],
)
def test_the_instructions_are_those_of_the_published_rows(prompts: Prompts, task: Task, instruction: str) -> None:
    assert prompts.instruction(task, question_type="math", domain="math theorem") == instruction


def test_own_templates_replace_packaged_ones_and_change_their_version_alone(prompts: Prompts, tmp_path: Path) -> None:
    (tmp_path / "problem.yaml").write_text("version: 3\nuser: {default: 'Ask about $concept: $rules'}\n")
    own = Prompts.load(tmp_path)
    assert own.versions["problem"].startswith("3:")
    assert {name for name in own.versions if own.versions[name] != prompts.versions[name]} == {"problem"}
    assert own.messages("problem", Kind.OPEN, **VALUES | {"concept": "rain"}) == [
        {"role": "user", "content": "Ask about rain:"}
    ]


@pytest.mark.parametrize(
    ("name", "text", "kind", "sentence"),
    [
        ("problem", "user: {default: 'Ask $conept'}", UnknownNameError, "did you mean 'concept'"),
        ("problem", "user: {default: 'costs 5 $ each'}", ConfigError, "write .. for a dollar sign"),
        ("problem", "user: [", InputError, "problem.yaml is not valid YAML"),
        ("problem", "text: x", InputError, "needs the keys user"),
        ("poblem", "user: {default: x}", UnknownNameError, "did you mean 'problem'"),
        ("knobs", "profiles: {open: {kind: oral}}\nsentences: {}", ConfigError, "knob profile 'open' cannot be used"),
        ("knobs", "profiles: {open: {kind: open, rules: [loud]}}\nsentences: {}", UnknownNameError, "'loud'"),
    ],
)
def test_a_damaged_template_is_one_sentence(
    tmp_path: Path, name: str, text: str, kind: type[Exception], sentence: str
) -> None:
    (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(kind, match=sentence):
        Prompts.load(tmp_path)


def test_an_empty_folder_holds_no_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no prompt template"):
        Prompts.load(tmp_path)
    with pytest.raises(UnknownNameError, match="choose one of applied, coding, math, open"):
        Prompts.load().profile("maths_")
