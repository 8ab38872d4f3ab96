"""The report follows from stored results alone, byte for byte, and from each of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from diffembed.errors import CheckpointError, ConfigError
from diffembed.evaluation.results import load_result, save_result
from diffembed.evaluation.statistics.measures import spearman
from diffembed.evaluation.statistics.significance import Comparison, Interval, holm
from diffembed.study import findings as findings_module
from diffembed.study.claims import judge
from diffembed.study.findings import Findings, SkillTest, find
from diffembed.study.graph import config_key, make_graph
from diffembed.study.page import Paragraph, render_html, render_markdown
from diffembed.study.report import write_study
from diffembed.study.store import Store


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(findings_module, "NUM_REDRAWS", 100)


@pytest.fixture
def copied(whole, data, tmp_path):
    """(plan, store) of the finished study, to be changed."""
    plan, store = whole
    shutil.copytree(store.results, tmp_path / "results" / "tiny", symlinks=True)
    return plan, Store("tiny", tmp_path)


def write(plan, store, tmp_path, monkeypatch, name="a"):
    for room in ("training.contrast.train", "training.adapt.adapt", "embedding.embedder.Embedder.load"):
        monkeypatch.setattr(f"diffembed.{room}", lambda *_, **__: pytest.fail("the report computed something"))
    write_study(plan, store, page=tmp_path / f"{name}.md", html=tmp_path / f"{name}.html", command="report")
    return (tmp_path / f"{name}.md").read_bytes(), (tmp_path / f"{name}.html").read_bytes()


def test_equal_results_give_equal_bytes_and_one_changed_score_changes_them(copied, tmp_path, monkeypatch):
    plan, store = copied
    first = write(plan, store, tmp_path, monkeypatch)
    assert write(plan, store, tmp_path, monkeypatch, "b") == first
    text = first[0].decode()
    assert text.splitlines()[2].startswith("This study is small and controlled: one network (tiny-gemma3)")
    assert "## Where it was computed" in text and ": 9 nodes" in text
    assert "not 580 billion tokens" in text and "**Not finished" not in text and "(one seed)" in text
    folder = store.results / "evaluate-diffusion-s0" / "finding" / "finding"
    result = load_result(folder)
    values = dict(result.per_query["nDCG@10"])
    values["q3"] = 1.0 - values["q3"]
    save_result(folder, replace(result, per_query={**result.per_query, "nDCG@10": values}))
    assert write(plan, store, tmp_path, monkeypatch, "c")[0] != first[0]


def test_any_stored_value_that_changes_changes_the_page(copied, tmp_path, monkeypatch):
    plan, store = copied
    first = write(plan, store, tmp_path, monkeypatch)[0]
    folder = store.results / "evaluate-bm25" / "finding" / "finding"
    result = load_result(folder)
    values = {**result.per_query["R@100"], "q3": result.per_query["R@100"]["q3"] - 1e-9}
    save_result(folder, replace(result, per_query={**result.per_query, "R@100": values}))
    assert write(plan, store, tmp_path, monkeypatch, "b")[0] != first


def test_every_number_of_a_task_follows_from_its_queries(copied, tmp_path, monkeypatch):
    plan, store = copied
    folder = store.results / "evaluate-bi-s0" / "finding" / "finding"
    result = load_result(folder)
    values = dict.fromkeys(result.per_query[result.main], 0.125)
    save_result(folder, replace(result, per_query={**result.per_query, result.main: values}))
    text = write(plan, store, tmp_path, monkeypatch)[0].decode()
    (row,) = (line for line in text.splitlines() if line.startswith("| finding | nDCG"))
    assert "| 12.5 |" in row


def test_scores_on_another_version_of_a_task_are_not_compared(copied):
    plan, store = copied
    folder = store.results / "evaluate-bi-s0" / "finding" / "finding"
    save_result(folder, replace(load_result(folder), task_hash="of other documents"))
    assert find(plan, store).untested == (("reasoning", "bi"),)


@pytest.fixture
def two_seeds(copied, make_plan):
    """(plan, store) with the arm `bi` under a second seed, whose results are those of the first."""
    _, store = copied
    for kind in ("train", "evaluate"):
        shutil.copytree(store.results / f"{kind}-bi-s0", store.results / f"{kind}-bi-s1", symlinks=True)
    plan = make_plan(arms={"bi": {"attention": "bidirectional", "seeds": [0, 1]}})
    graph = make_graph(plan)
    keys = {name: config_key(graph, name) for name in ("train-bi-s1", "evaluate-bi-s1")}
    for name, key in keys.items():
        change(store.results / name / "node.json", config_key=key)
    return plan, store


def test_every_seed_is_shown_where_there_are_several(two_seeds, whole, tmp_path, monkeypatch):
    plan, store = two_seeds
    folder = store.results / "evaluate-bi-s1" / "finding" / "finding"
    result = load_result(folder)
    ones = dict.fromkeys(result.per_query[result.main], 1.0)
    save_result(folder, replace(result, per_query={**result.per_query, result.main: ones}))
    text = write(plan, store, tmp_path, monkeypatch)[0].decode()
    rows = text.split("## Every seed")[1].split("##")[0]
    assert rows.count("| bi |") == 2 and "| bi | 1 | 100.0 (100.0 to 100.0) |" in rows and "| diffusion" not in rows
    assert "## Every seed" not in write(*whole, tmp_path, monkeypatch, "one")[0].decode()


def test_seeds_that_were_scored_on_other_versions_of_a_task_have_no_mean(two_seeds):
    plan, store = two_seeds
    assert "reasoning" in find(plan, store).scores["bi"] and len(find(plan, store).systems["bi"]) == 2
    folder = store.results / "evaluate-bi-s1" / "finding" / "finding"
    result = load_result(folder)
    values = {f"other {key}": value for key, value in result.per_query[result.main].items()}
    save_result(folder, replace(result, task_hash="of other queries", per_query={result.main: values}))
    assert "reasoning" not in find(plan, store).scores["bi"] and "general" in find(plan, store).scores["bi"]


def test_an_option_of_the_family_that_is_new_is_no_change(copied, tmp_path, monkeypatch):
    plan, store = copied
    kept = json.loads((store.results / "family.json").read_text(encoding="utf-8"))
    del kept["margin"]
    (store.results / "family.json").write_text(json.dumps(kept), encoding="utf-8")
    assert "was changed after" not in write(plan, store, tmp_path, monkeypatch)[0].decode()


def test_a_curve_begins_at_the_arm_that_lacks_nothing_but_the_adaptation(copied, make_plan, tmp_path, monkeypatch):
    _, store = copied

    def first_row(plan):
        text = write(plan, store, tmp_path, monkeypatch)[0].decode()
        return text.partition("## Score against tokens of adaptation")[2].partition("| ---: |\n")[2].splitlines()[0]

    curve = make_plan(curve={"arm": "diffusion", "at_steps": [2]})
    scores = find(curve, store).scores["bi"]
    assert first_row(curve).startswith(f"| 0 | {100 * scores['reasoning'].value:.1f} (")
    # `bi` is open where `ar-cpt` is causal: it is no beginning of that.
    assert first_row(make_plan(curve={"arm": "ar-cpt", "at_steps": [2]})) == "| 512 | - | - |"
    shutil.rmtree(store.results / "evaluate-bi-s0")
    assert first_row(curve) == "| 0 | - | - |"


def test_a_star_is_a_star_on_both_pages():
    blocks = [Paragraph("\\* in-domain, `a*b`")]
    assert "\\* in-domain" in render_markdown(blocks) and "<p>* in-domain" in render_html(blocks, title="t")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_what_sets_results_apart_is_said(copied, make_plan, tmp_path, monkeypatch):
    plan, store = copied
    text = write(plan, store, tmp_path, monkeypatch)[0].decode()
    assert "Different code" not in text and "Not all read" not in text and "was changed after" not in text
    assert "| diffusion - ar-cpt (one seed) | attention, objective |" in text
    assert "| diffusion - bi (one seed) | objective |" in text and "| diffusion - bm25 (one seed) | - |" in text
    assert "Measured on finding." in text and "check of an earlier plan" not in text
    change(store.results / "evaluate-bm25" / "node.json", code_key="older")
    record = store.record("train-bi-s0")
    change(store.results / "train-bi-s0" / "node.json", read={**record["read"], "base weights": "others"})
    change(store.results / "contamination.json", plan_key="of another plan")
    other = make_plan(primary={"margin": 0.1}, notes=["Chosen afterwards."])
    text = write(other, store, tmp_path, monkeypatch)[0].decode()
    assert "Different code made the evaluate nodes: " in text and "-bi-s0; evaluate-bm25\n" in text
    assert "Not all read the same base weights of tiny-gemma3: " in text and "; train-bi-s0" in text
    assert "**The primary family was changed after the first result:** margin (family.json)." in text
    assert "check of an earlier plan" in text and "**Note:** Chosen afterwards." in text


def test_tasks_without_a_common_mean_are_refused(copied, make_plan):
    _, store = copied
    plan = make_plan(primary={"skills": {"reasoning": ["finding", "pairs"]}})
    with pytest.raises(ConfigError, match="pairs has no value for each query"):
        find(plan, store)


def test_the_numbers_are_those_of_the_stored_values(copied):
    plan, store = copied
    found = find(plan, store)
    values = {arm: store.results_of(f"evaluate-{arm}-s0") for arm in ("diffusion", "bi", "ar-cpt")}
    mean = {arm: np.mean(list(by["finding"].per_query["nDCG@10"].values())) for arm, by in values.items()}
    pairs = {
        arm: spearman(*(list(by["pairs"].per_query[key].values()) for key in ("gold", "cosine")))
        for arm, by in values.items()
    }
    tests = {(test.skill, test.b): test for test in found.primary}
    assert len(tests) == 4 and not found.untested
    for control in ("ar-cpt", "bi"):
        assert tests["reasoning", control].comparison.difference.value == pytest.approx(
            mean["diffusion"] - mean[control]
        )
        assert tests["general", control].comparison.difference.value == pytest.approx(
            pairs["diffusion"] - pairs[control]
        )
    p_values = {f"{skill}{b}": test.comparison.p_value for (skill, b), test in tests.items()}
    assert {f"{s}{b}": t.p_holm for (s, b), t in tests.items()} == holm(p_values)


def test_missing_nodes_are_listed_and_count_as_undecided(copied, tmp_path, monkeypatch):
    plan, store = copied
    before = find(plan, store)
    shutil.rmtree(store.results / "evaluate-bi-s0")
    text = write(plan, store, tmp_path, monkeypatch)[0].decode()
    assert "**Not finished:** 1 of 9 nodes" in text and "`evaluate-bi-s0`" in text
    assert "against bi there is no result yet" in text and "| diffusion - bi | objective | no result |" in text
    after = find(plan, store)
    assert set(after.untested) == {("reasoning", "bi"), ("general", "bi")}
    # The correction stays that of the whole family: a missing test cannot make another one significant.
    raw = {(t.skill, t.b): t.comparison.p_value for t in before.primary}
    want = holm({f"{skill} {b}": 1.0 if b == "bi" else p for (skill, b), p in raw.items()})
    assert {f"{t.skill} {t.b}": t.p_holm for t in after.primary} == {k: p for k, p in want.items() if "ar-cpt" in k}
    alone = holm({f"{skill} {b}": p for (skill, b), p in raw.items() if b != "bi"})
    assert any(alone[f"{t.skill} {t.b}"] < t.p_holm for t in after.primary)


def test_an_arm_outside_the_family_is_compared_once_and_not_corrected(whole):
    plan, store = whole
    found = find(replace(plan, primary=replace(plan.primary, controls=("ar-cpt",))), store)
    pairs = [(test.skill, test.a, test.b) for test in found.exploratory]
    assert pairs.count(("reasoning", "diffusion", "bi")) == 1 and ("reasoning", "bi", "diffusion") not in pairs
    assert all(test.p_holm is None for test in found.exploratory)


def test_a_skill_of_several_kinds_is_taken_apart(copied, make_plan, tmp_path, monkeypatch):
    _, store = copied
    for arm in ("diffusion", "bi", "ar-cpt"):
        folder = store.results / f"evaluate-{arm}-s0" / "finding"
        result = load_result(folder / "finding")
        for length in (256, 512):
            save_result(folder / f"needle-{length}", replace(result, task=f"needle-{length}"))
    plan = make_plan(primary={"skills": {"long": ["finding", "needle-256", "needle-512"], "general": ["pairs"]}})
    found = find(plan, store)
    assert {test.skill: test.tasks for test in found.by_kind} == {
        "long: finding": ("finding",),
        "long: needle": ("needle-256", "needle-512"),
    }
    pairs = [(test.a, test.b) for test in found.by_kind if test.skill == "long: needle"]
    assert pairs == [("diffusion", "ar-cpt"), ("diffusion", "bi")]
    assert all(test.p_holm is None for test in found.by_kind)
    assert "\n## Skills taken apart\n" in write(plan, store, tmp_path, monkeypatch)[0].decode()


def test_what_attention_alone_changes_is_compared_though_no_arm_declares_it(copied, make_plan):
    _, store = copied
    for kind in ("train", "evaluate"):
        shutil.copytree(store.results / f"{kind}-bi-s0", store.results / f"{kind}-ar-mean-s0", symlinks=True)
    plan = make_plan(arms={"ar-mean": {"attention": "causal", "control": "ar-cpt", "differs_in": ["objective"]}})
    graph = make_graph(plan)
    for name in ("train-ar-mean-s0", "evaluate-ar-mean-s0"):
        change(store.results / name / "node.json", config_key=config_key(graph, name))
    pairs = [(test.a, test.b) for test in find(plan, store).exploratory if test.skill == "reasoning"]
    assert pairs[:2] == [("ar-mean", "ar-cpt"), ("bi", "ar-mean")] and pairs.count(("bi", "ar-mean")) == 1


def test_a_damaged_result_names_the_node_to_remove(copied):
    plan, store = copied
    (damaged,) = (store.results / "evaluate-bi-s0").glob("*/finding/queries.parquet")
    damaged.write_bytes(b"no parquet")
    with pytest.raises(
        CheckpointError, match=r"in a result of evaluate-bi-s0; remove \S+/evaluate-bi-s0 to have it run"
    ):
        find(plan, store)


def test_results_of_another_plan_are_not_reported(copied, make_plan):
    _, store = copied
    other = make_plan(arms={"bi": {"attention": "bidirectional", "pooling": "last"}})
    assert {"train-bi-s0", "evaluate-bi-s0"} == set(find(other, store).missing)


def made(skill, b, low, high, p_holm):
    interval = Interval(value=(low + high) / 2, low=low, high=high)
    comparison = Comparison(difference=interval, p_value=p_holm, num_queries=9, num_better=5, num_worse=4)
    return SkillTest(
        skill=skill, tasks=("finding",), a="diffusion", b=b, comparison=comparison, p_holm=p_holm, num_seeds=(3, 3)
    )


def verdicts(plan, *tests, untested=()):
    found = Findings(plan=plan, graph={}, records={}, missing=(), systems={}, scores={}, primary=tests,
                     untested=untested, exploratory=(), by_kind=(), directions={})  # fmt: skip
    return {verdict.skill: verdict for verdict in judge(found)}


def test_verdicts_follow_from_intervals_and_corrected_p_values(make_plan):
    plan = make_plan()
    both = verdicts(plan, made("reasoning", "bi", 0.01, 0.03, 0.01), made("reasoning", "ar-cpt", 0.02, 0.06, 0.001))
    assert both["reasoning"].verdict == "holds here" and both["general"].verdict == "is not tested yet"
    part = verdicts(plan, made("reasoning", "bi", 0.01, 0.03, 0.2), made("reasoning", "ar-cpt", 0.02, 0.06, 0.001))
    assert part["reasoning"].verdict.startswith("holds in part")
    assert "allows anything from 1.0 points ahead to 3.0 points ahead" in part["reasoning"].reasons[0]
    against = verdicts(plan, made("reasoning", "bi", -0.05, -0.02, 0.001), made("reasoning", "ar-cpt", -0.1, 0.1, 0.9))
    assert against["reasoning"].verdict.startswith("does not hold here")
    # Parity asks how far behind it may be, not whether a test is significant.
    parity = verdicts(plan, made("general", "bi", -0.015, 0.01, 0.9), made("general", "ar-cpt", -0.01, 0.01, 0.9))
    assert parity["general"].verdict == "holds here"
    wide = verdicts(plan, made("general", "bi", -0.15, 0.1, 0.9), made("general", "ar-cpt", -0.1, 0.1, 0.9))
    assert wide["general"].verdict.startswith("is not shown here")
    loss = verdicts(plan, made("general", "bi", -0.05, -0.01, 0.01), made("general", "ar-cpt", 0.01, 0.02, 0.01))
    assert loss["general"].verdict == "holds in part: the other comparisons are behind, by how much is undecided"
    assert "which is a loss; whether by more than 2.0 points is undecided" in loss["general"].reasons[0]
    far = verdicts(plan, made("general", "bi", -0.05, -0.03, 0.01))
    assert far["general"].verdict.startswith("does not hold here")


@pytest.mark.parametrize(("num_seeds", "said"), [((1, 3), "one seed"), ((3, 5), "3 seeds, too few"), ((5, 5), "")])
def test_few_seeds_are_said(make_plan, num_seeds, said):
    test = replace(made("reasoning", "bi", 0.01, 0.03, 0.01), num_seeds=num_seeds)
    (reason, *_) = verdicts(make_plan(), test)["reasoning"].reasons
    assert (f"supports it; {said}" in reason) if said else reason.endswith("supports it")


def test_redrawn_seeds_widen_the_interval_of_a_correlation(copied):
    _, store = copied
    one = store.results_of("evaluate-bi-s0")
    other = store.results_of("evaluate-ar-cpt-s0")
    cosines = one["pairs"].per_query["cosine"]
    # A second seed that is worse by far: its values belong to other pairs.
    turned = dict(zip(cosines, sorted(cosines.values(), key=lambda value: -value), strict=True))
    noisy = replace(one["pairs"], per_query={**one["pairs"].per_query, "cosine": turned})
    alone = findings_module.compare_skill([one], [other], ["pairs"], pair_seeds=False, level=0.95, seed=0)
    many = findings_module.compare_skill(
        [one, {"pairs": noisy}], [other], ["pairs"], pair_seeds=False, level=0.95, seed=0
    )
    assert many.difference.high - many.difference.low > alone.difference.high - alone.difference.low


def test_seeds_of_a_correlation_that_belong_together_are_redrawn_together(copied):
    _, store = copied
    one = store.results_of("evaluate-bi-s0")
    cosines = one["pairs"].per_query["cosine"]
    turned = dict(zip(cosines, sorted(cosines.values(), key=lambda value: -value), strict=True))
    both = [one, {"pairs": replace(one["pairs"], per_query={**one["pairs"].per_query, "cosine": turned})}]
    paired, free = (
        findings_module.compare_skill(both, both, ["pairs"], pair_seeds=is_paired, level=0.95, seed=0)
        for is_paired in (True, False)
    )
    assert paired.difference.high == paired.difference.low == 0 and free.difference.high > 0.1


def test_three_seeds_are_no_better_than_one_of_the_same_recipe(copied):
    """Their mean ranks are, because averaging removes the noise of each: a test of those always found a difference."""
    _, store = copied
    one = store.results_of("evaluate-bi-s0")["pairs"]
    rng = np.random.default_rng(0)
    gold = rng.normal(size=300)

    def seed(shared):
        columns = {"gold": gold, "cosine": 0.6 * gold + shared + 0.4 * rng.normal(size=300)}
        per_query = {key: {str(n): float(value) for n, value in enumerate(c)} for key, c in columns.items()}
        return {"pairs": replace(one, per_query=per_query)}

    p_values = []
    for _ in range(6):
        shared = 0.6 * rng.normal(size=300)
        three = [seed(shared) for _ in range(3)]
        found = findings_module.compare_skill(three, [seed(shared)], ["pairs"], pair_seeds=False, level=0.95, seed=0)
        p_values.append(found.p_value)
    assert np.median(p_values) > 0.1


def test_a_model_that_was_trained_again_needs_its_scores_again(copied):
    plan, store = copied
    path = store.results / "train-bi-s0" / "node.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "key": "trained again"}), encoding="utf-8")
    assert set(find(plan, store).missing) == {"evaluate-bi-s0"}


def test_weights_made_anew_need_their_scores_again_though_the_choices_are_the_same(copied):
    """On another processor the same training gives other weights."""
    plan, store = copied
    change(store.results / "train-bi-s0" / "node.json", made={"model": "other weights"})
    assert set(find(plan, store).missing) == {"evaluate-bi-s0"}
    assert store.states(make_graph(plan))["evaluate-bi-s0"].about == "train-bi-s0 was run again"


def test_records_hold_no_path_of_this_machine(whole):
    _, store = whole
    for path in store.results.rglob("*.json"):
        assert str(store.results.parents[1]) not in path.read_text(encoding="utf-8"), path
        json.loads(path.read_text(encoding="utf-8"))
