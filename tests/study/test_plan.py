"""Plans that would compare nothing are refused before anything is loaded; the shipped ones hold."""

import json
from pathlib import Path

import pytest

from diffembed.errors import ConfigError, UnknownNameError
from diffembed.provenance import choices
from diffembed.study.findings import is_in_domain
from diffembed.study.graph import ancestors, config_key, make_graph
from diffembed.study.plan import load_plan

RECIPES = Path(__file__).parents[2] / "recipes" / "study"
BI = {"attention": "bidirectional"}


@pytest.mark.parametrize("name", ["gemma-3-270m", "gemma-3-270m-small", "paper-7b"])
def test_the_shipped_plans_hold_and_have_twelve_primary_tests(name):
    plan = load_plan(RECIPES / f"{name}.yaml")
    assert plan.name == name
    assert len(plan.primary.controls) * len(plan.primary.skills) == 12
    graph = make_graph(plan, {"causal": 1e-4, "bidirectional": 1e-4})
    trained = [node for node in graph.values() if node.kind == "train" and node.arm in plan.arms]
    assert len(trained) == sum(len(arm.seeds) for arm in plan.arms.values())
    # All arms share everything but the factors: with those taken out, one config is left per seed.
    for seed in {node.seed for node in trained}:
        sections = ("data", "loss", "batch", "run", "lora", "optimiser")
        shared = {repr([getattr(n.config, name) for name in sections]) for n in trained if n.seed == seed}
        assert len(shared) == 1


def test_the_gemma_plan_has_the_arms_of_the_issue():
    plan = load_plan(RECIPES / "gemma-3-270m.yaml")
    table = {name: (arm.attention, arm.objective, arm.pooling, len(arm.seeds)) for name, arm in plan.arms.items()}
    assert table["diffusion"] == ("bidirectional", "diffusion", "mean", 3)
    assert table["mntp"] == ("bidirectional", "mntp", "mean", 3)
    assert table["ar-cpt"] == ("causal", "causal", "mean", 3)
    assert table["cpt-bi"] == ("bidirectional", "causal", "mean", 1)
    assert table["bi"] == ("bidirectional", "none", "mean", 1)
    assert table["ar-mean"] == ("causal", "none", "mean", 1) and table["ar-last"] == ("causal", "none", "last", 1)
    assert plan.adaptation.num_steps * plan.adaptation.step_tokens == pytest.approx(3e6, rel=0.02)
    graph = make_graph(plan)
    assert ancestors(graph, "evaluate-cpt-bi-s0")[0] == "adapt-causal"
    # The learning rates are not chosen yet: every arm waits for the scores of its own attention.
    assert all("rate-causal" in name for name in graph["train-ar-cpt-s1"].waits_for)
    chosen = make_graph(plan, {"causal": 2e-4})
    assert chosen["train-ar-cpt-s1"].config.optimiser.learning_rate == 2e-4
    assert config_key(graph, "train-ar-cpt-s1") != config_key(chosen, "train-ar-cpt-s1")
    # Fields at their default do not count: a result outlives the options that are added after it.
    computed = json.dumps(choices(graph["train-bi-s0"].config))
    assert "buried_in" not in computed and "set_aside_values" in computed
    assert config_key(graph, "train-bi-s0") == config_key(chosen, "train-bi-s0")


def test_rows_hidden_in_prose_make_hidden_sentences_in_domain():
    sets = load_plan(RECIPES / "gemma-3-270m-small.yaml").shipped_row_sets
    assert "nq_qed_buried" in sets and is_in_domain("needle-512", sets) and is_in_domain("reasonaug_eval_p2i", sets)
    assert not is_in_domain("stsb_test", sets) and not is_in_domain("needle-512", ("nq_qed",))


def test_an_arm_that_differs_in_more_than_it_says_is_refused(make_plan):
    with pytest.raises(ConfigError, match=r"arms.bi differs from its control ar-cpt in pooling \(last against mean\)"):
        make_plan(arms={"bi": {**BI, "pooling": "last", "control": "ar-cpt", "differs_in": ["attention", "objective"]}})
    with pytest.raises(ConfigError, match=r"num_steps \(9 against 4\)"):
        make_plan(arms={"bi": {**BI, "num_steps": 9, "control": "diffusion", "differs_in": ["objective"]}})
    with pytest.raises(ConfigError, match="differs from diffusion in pooling, but there they are alike"):
        make_plan(arms={"bi": {**BI, "control": "diffusion", "differs_in": ["objective", "pooling"]}})


def test_unknown_arms_factors_suites_and_tasks_name_the_nearest(make_plan, tmp_path):
    with pytest.raises(UnknownNameError, match=r"primary.controls: no arm 'bee' \(did you mean 'bi'\?\)|no arm 'bee'"):
        make_plan(primary={"controls": ["bee"]})
    with pytest.raises(UnknownNameError, match=r"arms.bi.control: no arm 'difusion' \(did you mean 'diffusion'\?\)"):
        make_plan(arms={"bi": {**BI, "control": "difusion", "differs_in": ["objective"]}})
    with pytest.raises(UnknownNameError, match=r"no factor 'atention' \(did you mean 'attention'\?\)"):
        make_plan(arms={"bi": {**BI, "control": "diffusion", "differs_in": ["atention"]}})
    text = (RECIPES / "gemma-3-270m-small.yaml").read_text(encoding="utf-8")
    for old, new, said in (
        (
            "    screen:\n      - rea",
            "    scren:\n      - rea",
            r"evaluation.suites: no suite 'scren' \(did you mean 'screen'",
        ),
        (
            "- theoremqa_q2q\n",
            "- theoremqa_q2\n",
            r"no task in suite 'screen' 'theoremqa_q2' \(did you mean 'theoremqa_q2q'",
        ),
        ("general: [stsb_test]", "general: [scifact]", "primary.skills.general: no task 'scifact'"),
        ("general: [stsb_test]", "general: [stsb_test, theoremqa_q2q]", "give it a skill of its own"),
        ("    screen:\n      - rea", "    full: []\n    screen:\n      - rea", "full and screen both have a task"),
        ("differs_in: [pooling]", "difers_in: [pooling]", r"no field 'difers_in' \(did you mean 'differs_in'"),
    ):
        assert old in text
        path = tmp_path / "plan.yaml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises((ConfigError, UnknownNameError), match=said):
            load_plan(path)


def test_choices_are_not_made_on_test_suites(tmp_path):
    text = (RECIPES / "gemma-3-270m.yaml").read_text(encoding="utf-8")
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace("dev-reasoning: []", "reasoning: []"), encoding="utf-8")
    with pytest.raises(ConfigError, match="reasoning is a test suite; a development suite is needed here"):
        load_plan(path)


def test_settings_without_effect_are_refused(make_plan):
    with pytest.raises(ConfigError, match="adaptation belongs to arms with an objective"):
        make_plan(adaptation=None)
    with pytest.raises(ConfigError, match="must be a multiple of save_every_steps"):
        make_plan(curve={"arm": "diffusion", "at_steps": [99]})
