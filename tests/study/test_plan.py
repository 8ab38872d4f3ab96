"""Plans that would compare nothing are refused before anything is loaded; the shipped ones hold."""

import json
import shutil
from pathlib import Path

import pytest

from diffembed.errors import ConfigError, DiffEmbedError, UnknownNameError
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
    assert not is_in_domain("theoremqa_q2q", sets) and not is_in_domain("needle-512", ("nq_qed",))


def test_an_arm_that_differs_in_more_than_it_says_is_refused(make_plan):
    with pytest.raises(ConfigError, match=r"arms.bi differs from its control ar-cpt in pooling \(last against mean\)"):
        make_plan(arms={"bi": {**BI, "pooling": "last", "control": "ar-cpt", "differs_in": ["attention", "objective"]}})
    with pytest.raises(ConfigError, match=r"num_steps \(9 against 4\)"):
        make_plan(arms={"bi": {**BI, "num_steps": 9, "control": "diffusion", "differs_in": ["objective"]}})
    with pytest.raises(ConfigError, match="differs from diffusion in pooling, but there they are alike"):
        make_plan(arms={"bi": {**BI, "control": "diffusion", "differs_in": ["objective", "pooling"]}})


def test_unknown_arms_factors_suites_and_tasks_name_the_nearest(make_plan, tmp_path):
    with pytest.raises(UnknownNameError, match=r"primary\.controls: no arm 'bee'; choose one of ar-cpt, bi, diffusion"):
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


SHIPPED = {"models": {"small": "bi"}, "licences": {}, "notice": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ".."}, r"name is '\.\.'; it must be the name of a folder"),
        ({"name": "."}, r"name is '\.'; it must be the name of a folder"),
        ({"name": "a/b"}, "name is 'a/b'; it must be the name of a folder"),
        ({"arms": {"..": BI}}, r"arms: an arm is named '\.\.'; it must be the name of a folder"),
        ({"arms": {"": BI}}, "arms: an arm is named ''; it must be the name of a folder"),
        ({"arms": {"bi@2": BI}}, "arms: an arm is named 'bi@2'; it must be the name of a folder: .* without @"),
        ({"arms": {"bm25": BI}}, "arms: bm25 is a baseline of the study; name it otherwise"),
        ({"arms": {"adapted-diffusion": BI}}, "arms: adapted-diffusion would be taken for another node"),
        ({"arms": {"rate-1": BI}}, "arms: rate-1 would be taken for another node"),
        ({"arms": {"new": {**BI, "num_steps": 0}}}, r"arms\.new: num_steps is 0; it must be positive, or left out"),
        ({"arms": {"new": {**BI, "backbone": "tiny-gema3"}}}, r"arms\.new\.backbone: no model .*mean 'tiny-gemma3'"),
        ({"backbone": "tiny-gema3"}, r"config: backbone: no model 'tiny-gema3' \(did you mean 'tiny-gemma3'"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"adaptation": {"save_every_steps": 0}}, "adaptation: save_every_steps is 0; it must be positive"),
        ({"evaluation": {"max_tokens": 0}}, "evaluation: max_tokens is 0; it must be positive"),
        ({"evaluation": {"max_tokens": -5}}, "evaluation: max_tokens is -5; it must be positive"),
        ({"evaluation": {"counted_by": "tiny-gema3"}}, "evaluation: counted_by: no model .*'tiny-gemma3'.*, or words"),
        ({"evaluation": {"counted_by": "./net"}}, r"evaluation: counted_by: no folder \./net; name one that is there"),
        ({"evaluation": {"counted_by": "a/b/c"}}, "evaluation: counted_by: no folder a/b/c"),
        ({"evaluation": {"baselines": ["bm25", "bm25"]}}, r"evaluation\.baselines: bm25 is named twice"),
        ({"evaluation": {"baselines": ["bm2"]}}, r"evaluation\.baselines: no model 'bm2'"),
        # Of two mistakes, the one that the other follows from.
        (
            {
                "evaluation": {"baselines": ["bm25", "bm25"]},
                "shipped": SHIPPED | {"further": [{"num_steps": 1}], "suites": {"data/pairs": []}, "baselines": ["b"]},
            },
            r"config: evaluation\.baselines: bm25 is named twice",
        ),
        ({"direction": {"arms": ["bi"], "suites": {"data/pairs": []}, "num_ranges": 0}}, "direction: num_ranges is 0;"),
        ({"direction": {"arms": ["bi"], "suites": {"data/pairs": []}, "num_ranges": -1}}, "direction: num_ranges is -"),
        ({"direction": {"arms": [], "suites": {"data/pairs": []}}}, "direction needs arms and suites"),
        ({"direction": {"arms": ["bi"], "suites": {}}}, "direction needs arms and suites"),
        ({"primary": {"skills": {"general": []}}}, r"primary: skills\.general is empty; name its tasks"),
        ({"primary": {"skills": {"general": ["pairs", "pairs"]}}}, r"primary: skills\.general names pairs twice"),
        ({"primary": {"controls": ["ar-cpt", "bi", "bi"]}}, "primary: controls names bi twice; name it once"),
        ({"learning_rates": {"values": [1e-3, 1e-2], "probes": {}, "suites": {}}}, "learning_rates: suites is empty"),
    ],
)
def test_what_cannot_work_is_refused_before_any_compute(make_plan, changes, message):
    with pytest.raises(DiffEmbedError, match=message):
        make_plan(**changes)


def test_what_can_work_is_not(make_plan):
    Path("net").mkdir()
    for counted_by in ("words", "tiny", "gemma-3-270m", "net", "./net", "owner/name", "owner/name@main"):
        assert make_plan(evaluation={"counted_by": counted_by}).evaluation.counted_by == counted_by
    plan = make_plan(evaluation={"max_tokens": 1}, arms={"new": {**BI, "num_steps": 1}})
    assert plan.factors("new")["num_steps"] == 1 and plan.factors("bi")["num_steps"] == 4


@pytest.mark.parametrize("folder", ["net", "./net", "nets/net", "./none", "/none/net", "${DIFFEMBED_NET}"])
def test_models_for_users_are_not_built_on_a_folder(make_plan, tmp_path, monkeypatch, folder):
    Path("net").mkdir()
    # Looks like a hub id.
    Path("nets/net").mkdir(parents=True)
    monkeypatch.setenv("DIFFEMBED_NET", str(tmp_path / "net"))
    arms = {"own": {**BI, "backbone": folder}}
    make_plan(arms=arms, shipped=SHIPPED)
    with pytest.raises(ConfigError, match=r"shipped\.models: small is built on the folder .*, which users do not have"):
        make_plan(arms=arms, shipped={**SHIPPED, "models": {"small": "own"}})


def load(values):
    Path("plan.yaml").write_text(json.dumps(values), encoding="utf-8")
    return load_plan("plan.yaml")


def test_a_network_has_no_more_ranges_than_layers(values, monkeypatch):
    def ranges(num_ranges, **changes):
        direction = {"arms": ["ar-cpt"], "suites": {"data/finding": []}, "num_ranges": num_ranges}
        return load(values | {"direction": direction} | changes).direction.num_ranges

    assert ranges(2) == 2 and ranges(18, backbone="gemma-3-270m") == 18
    with pytest.raises(
        ConfigError, match=r"plan\.yaml: direction\.num_ranges is 3; tiny-gemma3, .* of ar-cpt, has 2 lay"
    ):
        ranges(3)
    with pytest.raises(ConfigError, match=r"direction\.num_ranges is 19; gemma-3-270m, .*, has 18 layers"):
        ranges(19, backbone="gemma-3-270m")
    # The hub is not asked, and one range fits every network.
    monkeypatch.setattr("diffembed.study.plan.native_config", lambda name: pytest.fail(f"asked for {name}"))
    assert ranges(99, backbone="owner/name") == 99 and ranges(1) == 1


@pytest.mark.parametrize("suites", [{"data/finding": []}, {"data/finding": [], "screen": ["stsb_test"]}])
def test_tasks_of_folders_are_known_by_the_names_of_their_files(values, suites):
    shutil.copytree("data/pairs", "data/tables")
    Path("data/tables/pairs.tsv").rename("data/tables/likeness.tsv.zst")
    Path("data/finding/notes.tsv").touch()
    Path("data/labels").mkdir()
    for split in ("train", "test"):
        Path("data/labels", f"{split}.tsv").write_text("label\ttext\na\tb\n", encoding="utf-8")

    def skill(task, **more):
        primary = {**values["primary"], "skills": {"some": [task]}}
        return load(values | {"primary": primary, "evaluation": {**values["evaluation"], "suites": suites | more}})

    folders = {"data/tables": [], "data/labels": [], "data/pairs/pairs.tsv": []}
    for task in ("finding", "likeness", "labels-classification", "pairs.tsv"):
        assert skill(task, **folders).primary.skills == {"some": (task,)}
    with pytest.raises(ConfigError, match="labels-clustering has one value for all its texts"):
        skill("labels-clustering", **folders)
    assert skill("banking77-classification", general=["banking77"]).primary.skills == {
        "some": ("banking77-classification",)
    }
    with pytest.raises(UnknownNameError, match="no task 'banking77'"):
        skill("banking77", general=["banking77"])
    together = {**values["primary"], "skills": {"some": ["finding", "likeness"]}}
    with pytest.raises(ConfigError, match="likeness is a rank correlation over pairs"):
        load(values | {"primary": together, "evaluation": {**values["evaluation"], "suites": suites | folders}})
    for task in ("findin", "tables", "pairs", "labels", "test"):
        with pytest.raises(UnknownNameError, match=rf"plan\.yaml: primary\.skills\.some: no task '{task}'"):
            skill(task, **folders)
    with pytest.raises(UnknownNameError, match=r"evaluation\.suites: no task in suite 'data/tables' 'likeness'"):
        skill("likeness", **{"data/tables": ["likeness"]})
    shutil.copytree("data/tables", "other/likely")
    with pytest.raises(ConfigError, match="data/tables and other/likely both have a task likeness"):
        skill("likeness", **{"data/tables": [], "other/likely": []})


@pytest.fixture
def choose(values, tmp_path, monkeypatch):
    """A function that loads the plan with learning rates chosen on a suite."""
    monkeypatch.setenv("DIFFEMBED_DATA", str(tmp_path / "data"))
    values["fine_tuning"]["optimiser"] = {"warmup_steps": 1}

    def choose(suite, tasks=(), **sections):
        probes = {"causal": "ar-cpt", "bidirectional": "bi"}
        rates = {"values": [1e-3, 1e-2], "probes": probes, "suites": {suite: list(tasks)}}
        return load(values | {"learning_rates": rates} | sections)

    return choose


@pytest.mark.parametrize(
    "suite",
    [
        "data/finding",
        "${DIFFEMBED_DATA}/finding",
        "data/../data/finding",
        "./linked",
        "data/pairs",
        "data/pairs/pairs.tsv",
    ],
)
def test_a_tested_folder_does_not_decide_the_learning_rate_by_another_name(choose, suite):
    Path("linked").symlink_to("data/finding")
    message = (
        r"plan\.yaml: learning_rates\.suites: .* decides the learning rate and is tested on, for evaluation\.suites"
    )
    with pytest.raises(ConfigError, match=message):
        choose(suite)
    shutil.copytree("data/finding", "data/dev")
    assert choose("data/dev").learning_rates.suites == {"data/dev": ()}


def test_no_test_of_a_study_decides_the_learning_rate(choose, values):
    shutil.copytree("data/finding", "data/other")
    direction = {"arms": ["bi"], "suites": {"data/other": []}}
    with pytest.raises(
        ConfigError, match=r"is tested on, for direction\.suites \(data/other\) reads /.*/data/other too"
    ):
        choose("data/other", direction=direction)
    shipped = SHIPPED | {"further": [{"num_steps": 1}], "suites": {"data/other": []}}
    with pytest.raises(ConfigError, match=r"is tested on, for shipped\.suites \(data/other\) reads"):
        choose("data/other", shipped=shipped)
    # A named suite reads tables of the data folder, compressed or not.
    tests = {**values["evaluation"], "suites": {"screen": ["stsb_test"], "data/finding": [], "data/pairs": []}}
    Path("data/eval/sts").mkdir(parents=True)
    Path("data/eval/sts/stsb_dev.tsv.zst").touch()
    assert choose("data/eval/sts", evaluation=tests)
    assert choose("dev-general", ["stsb_dev"], evaluation=tests)
    Path("data/kept.tsv.zst").touch()
    Path("data/eval/sts/stsb_test.tsv.zst").symlink_to("../../kept.tsv.zst")
    for suite in ("data/eval/sts", "data/eval/sts/stsb_test.tsv.zst", "data/kept.tsv.zst"):
        with pytest.raises(
            ConfigError, match=r"is tested on, for evaluation\.suites \(screen\) reads .*kept\.tsv\.zst"
        ):
            choose(suite, evaluation=tests)
    assert choose("data/eval/sts/stsb_dev.tsv.zst", evaluation=tests)
    others = {**tests, "suites": {"screen": ["theoremqa_q2q"], "data/finding": [], "data/pairs": []}}
    assert choose("data/eval/sts", evaluation=others)
