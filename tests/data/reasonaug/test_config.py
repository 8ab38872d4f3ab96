"""Settings from YAML: typed, nested, relative to their file, without contradictions."""

from pathlib import Path

import pytest

from diffembed.data.reasonaug.config import AssemblyConfig, ReasonAugConfig, load_config
from diffembed.errors import ConfigError, InputError, UnknownNameError


def load(folder: Path, text: str) -> ReasonAugConfig:
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    return load_config(folder / "run.yaml")


def test_values_reach_their_fields_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "concepts: lists/law.yaml\nseed: 7\nbudget: {max_cost: 2, prompt_price: 0.15, completion_price: 0.6}\n"
        "leakage: {against: [a.jsonl, b.jsonl]}\nexclude_concepts: null\n",
    )
    assert config.concepts == tmp_path / "lists/law.yaml"
    assert config.seed == 7
    assert config.budget.max_cost == 2.0
    assert config.leakage.against == (tmp_path / "a.jsonl", tmp_path / "b.jsonl")


def test_the_defaults_are_the_papers() -> None:
    config = ReasonAugConfig()
    assert (config.generation.rounds, config.generation.definition_max_tokens) == (8, 1000)
    assert config.assembly == AssemblyConfig(
        p2i_rows=2, p2i_name_fraction=0.5, max_problem_pairs=20, ps2ps_fraction=0.25, ps2ps_solution_fraction=0.6
    )
    assert config.negatives.skip_top == 2


@pytest.mark.parametrize(
    ("text", "kind", "sentence"),
    [
        ("sed: 1", UnknownNameError, "no setting 'sed' .did you mean 'seed'"),
        ("generation: {round: 2}", UnknownNameError, "did you mean 'generation.rounds'"),
        ("generation: {rounds: eight}", ConfigError, "generation.rounds is 'eight'; expected int"),
        ("generation: {rounds: true}", ConfigError, "generation.rounds is True; expected int"),
        ("generation: {rounds: 0}", ConfigError, "rounds is 0; it must be at least 1"),
        ("generation: 8", ConfigError, "generation must hold settings of its own"),
        ("seed: 1.5", ConfigError, "seed is 1.5; expected int"),
        ("answers: lively", UnknownNameError, "did you mean 'live'"),
        ("budget: {max_cost: 2}", ConfigError, "max_cost needs budget.prompt_price"),
        ("budget: {prompt_price: 2}", ConfigError, "go together"),
        ("budget: {max_tokens: -1}", ConfigError, "must not be negative"),
        ("assembly: {ps2ps_fraction: 1.2}", ConfigError, "must be in .0, 1."),
        ("leakage: {max_ratio: 0}", ConfigError, "drops every row"),
        ("endpoint: {token_limit_field: tokens}", UnknownNameError, "max_completion_tokens"),
        ("endpoint: {timeout_s: 0}", ConfigError, "must be above 0"),
        ("- a", InputError, "holds no mapping of settings"),
        ("a: [", InputError, "is not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, text: str, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        load(tmp_path, text)


def test_what_may_change_between_sessions_is_no_part_of_the_identity(tmp_path: Path) -> None:
    first = load(tmp_path, "concepts: a.yaml\nendpoint: {concurrency: 2}\nbudget: {max_tokens: 5}")
    second = load(tmp_path, "concepts: a.yaml\nendpoint: {concurrency: 9}\nanswers: batch")
    assert first.identity() == second.identity()
    assert first.identity() != load(tmp_path, "concepts: a.yaml\nseed: 1").identity()
