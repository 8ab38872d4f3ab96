"""mteb's own tasks over hand-made data, offline: scores must be those that our evaluation gives."""

import dataclasses

import numpy as np
import pytest

from diffembed.errors import CheckpointError, ConfigError, DiffEmbedError, InputError, UnknownNameError
from diffembed.evaluation.hub import running as hub
from diffembed.evaluation.hub.adapter import BRIGHT_V1, MtebModel
from diffembed.evaluation.hub.running import evaluate_hub, find_mteb_tasks, result_name, run_task
from diffembed.evaluation.results import load_result, save_result
from diffembed.evaluation.run import EvaluateConfig
from diffembed.evaluation.scoring import score_task
from diffembed.evaluation.suite_runs import run_suites
from diffembed.evaluation.suites.folders import read_folder, read_instruction_task
from diffembed.evaluation.suites.named import SUITES, Suite
from diffembed.evaluation.systems.reading import read_with
from diffembed.evaluation.systems.searching import DenseSystem, HybridSystem, LexicalSystem

pytest.importorskip("mteb")

CONFIG = EvaluateConfig()
NFCORPUS = "Given a question, retrieve relevant documents that best answer the question"


def retrieval_task(task, name="NFCorpus", top_ranked=None, **metadata):
    """An mteb retrieval task of the data of one of ours."""
    import mteb
    from datasets import Dataset

    made = mteb.get_task(name)
    made.metadata = made.metadata.model_copy(update={"eval_splits": ["test"], **metadata})
    side = getattr(task, "og", task)
    rows = [{"id": query.id, "text": query.text} for query in side.queries]
    made.dataset = {
        "default": {
            "test": {
                "corpus": Dataset.from_list([{"id": d.id, "title": d.title, "text": d.text} for d in side.corpus]),
                "queries": Dataset.from_list(rows),
                "relevant_docs": {query: dict(judged) for query, judged in side.qrels.items()},
                "top_ranked": top_ranked,
            }
        }
    }
    made.data_loaded = True
    return made


@pytest.fixture
def plain(beir_folder):
    """The task of `beir_folder` with what mteb's format cannot say taken out."""
    (task,) = read_folder(beir_folder)
    queries = [dataclasses.replace(query, excluded_ids=frozenset(), instruction=None) for query in task.queries]
    return dataclasses.replace(task, queries=queries, instruction=NFCORPUS)


def test_retrieval_equals_ours_and_keeps_every_query(plain, words, tmp_path):
    system = DenseSystem(read_with(words))
    (result,) = run_task(retrieval_task(plain), system, label="words", out=tmp_path, config=CONFIG)
    ours = score_task(DenseSystem(read_with(words)), plain)["words"]
    assert result.per_query["nDCG@10"] == ours.per_query["nDCG@10"]
    assert result.scores["nDCG@10"].value == ours.scores["nDCG@10"].value
    assert result.hits["test"] == ours.hits["test"]
    assert (result.task, result.documents.num_texts, result.queries.num_truncated) == ("NFCorpus", 4, 0)
    assert ("query", NFCORPUS) in {(kind, instruction) for kind, instruction, _ in words.read}
    assert list((tmp_path / "mteb").rglob("NFCorpus.json"))


@pytest.mark.parametrize("make", [LexicalSystem, lambda: HybridSystem(DenseSystem(read_with(FAKE)))])
def test_lexical_and_fused_systems_search_too(plain, words, tmp_path, make):
    global FAKE
    FAKE = words
    system = make()
    (result,) = run_task(retrieval_task(plain), system, label=system.labels[0], out=tmp_path, config=CONFIG)
    assert result.value == score_task(make(), plain)[system.labels[0]].value == 1.0


def test_candidates_are_ranked_whole_and_exclusions_leave_before_the_cut(plain, words):
    system = DenseSystem(read_with(words))
    model = MtebModel(system, exclusions=lambda task, subset: {"1": frozenset({"cats"})})
    task = retrieval_task(plain)
    data = task.dataset["default"]["test"]
    where = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "encode_kwargs": {}}
    model.index(data["corpus"], **where)
    run = model.search(data["queries"], top_k=1, **where)
    assert {query: len(hits) for query, hits in run.items()} == {"1": 1, "2": 1, "3": 1} and "cats" not in run["1"]
    everything = model.search(data["queries"], top_k=9, top_ranked={key: ["lisp", "cats"] for key in "123"}, **where)
    assert set(everything["2"]) == {"lisp", "cats"} and set(everything["1"]) == {"lisp"}
    with pytest.raises(InputError, match="before it indexed"):
        MtebModel(system).search(data["queries"], top_k=1, **where)


def test_instruction_task_has_the_p_mrr_of_mteb(instruction_folder, words, tmp_path, monkeypatch):
    import mteb
    from datasets import Dataset

    ours = read_instruction_task(instruction_folder)
    made = mteb.get_task("Core17InstructionRetrieval")
    queries, relevant, top_ranked = [], {}, {}
    for mark, side in (("-og", ours.og), ("-changed", ours.changed)):
        for query in side.queries:
            key = f"{query.id}{mark}"
            queries.append({"id": key, "text": query.text, "instruction": query.instruction})
            relevant[key], top_ranked[key] = dict(side.qrels[query.id]), list(side.candidates[query.id])
    corpus = [{"id": d.id, "title": d.title, "text": d.text} for d in ours.og.corpus]
    made.dataset = {
        "default": {
            "test": {
                "corpus": Dataset.from_list(corpus),
                "queries": Dataset.from_list(queries),
                "relevant_docs": relevant,
                "top_ranked": top_ranked,
            }
        }
    }
    made.data_loaded = True
    changed = [{"query-id": "pets", "corpus-ids": ["cats"]}, {"query-id": "code", "corpus-ids": ["rust"]}]
    monkeypatch.setattr(
        "mteb.tasks.instruction_reranking.eng.core17_instruction_retrieval.load_dataset", lambda *a, **k: changed
    )
    (result,) = run_task(made, DenseSystem(read_with(words)), label="words", out=tmp_path, config=CONFIG)
    instruction = "Retrieve text based on user query"
    sides = {side: dataclasses.replace(getattr(ours, side), instruction=instruction) for side in ("og", "changed")}
    expected = score_task(DenseSystem(read_with(words)), dataclasses.replace(ours, **sides))["words"]
    assert result.per_query["p-MRR"] == expected.per_query["p-MRR"] and len(result.per_query["p-MRR"]) == 2
    assert result.scores["og nDCG@5"].value == expected.scores["og nDCG@5"].value


def test_similarity_task_reads_both_sides_with_the_instruction(sts_folder, words, tmp_path):
    import mteb
    from datasets import Dataset

    (ours,) = read_folder(sts_folder)
    made = mteb.get_task("STSBenchmark")
    rows = zip(ours.left, ours.right, ours.gold, strict=True)
    made.dataset = {"test": Dataset.from_list([{"sentence1": a, "sentence2": b, "score": s} for a, b, s in rows])}
    made.data_loaded = True
    (result,) = run_task(made, DenseSystem(read_with(words)), label="words", out=tmp_path, config=CONFIG)
    same = dataclasses.replace(ours, instruction="Retrieve semantically similar text")
    assert result.value == pytest.approx(score_task(DenseSystem(read_with(words)), same)["words"].value, abs=1e-5)
    assert {(kind, instruction) for kind, instruction, _ in words.read} == {("query", same.instruction)}
    assert result.queries.num_texts == 8 and np.isnan(result.scores[result.main].low)
    with pytest.raises(ConfigError, match="bm25 has no vectors, which STSBenchmark needs"):
        run_task(made, LexicalSystem(), label="bm25", out=tmp_path / "other", config=CONFIG)


class Group:
    """Stands for `recipes.SystemGroup`: counts how often the weights are loaded."""

    labels = ("words",)

    def __init__(self, encoder, *, is_pinned=True):
        self.encoder, self.num_opened, self.is_pinned = encoder, 0, is_pinned

    def open(self, **settings):
        self.num_opened += 1
        return DenseSystem(read_with(self.encoder))


def test_a_finished_task_is_not_run_again_and_a_missing_one_is_named(plain, words, tmp_path, monkeypatch):
    suite = Suite(name="mine", purpose="test", about="", mteb_tasks=("NFCorpus", "SciFact"))
    here, gone = retrieval_task(plain), find_mteb_tasks(suite)[1]
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    offline = []

    def load_data():
        offline.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("no route")

    monkeypatch.setattr(gone, "load_data", load_data)
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    group = Group(words)
    first = evaluate_hub(suite, group, out=tmp_path, config=CONFIG, tasks=[here, gone])
    assert [result.task for result in first.results] == ["NFCorpus"]
    assert first.missing == [
        "SciFact needs the data set mteb/scifact at d56462d0e63a, which could not be fetched (ConnectionError)"
    ]
    assert offline == [True] and not datasets.config.HF_HUB_OFFLINE
    again = evaluate_hub(suite, group, out=tmp_path, config=CONFIG, tasks=[retrieval_task(plain)])
    assert group.num_opened == 1 and again.results == first.results
    assert load_result(tmp_path / "mine" / "words" / "NFCorpus") == first.results[0]
    other = retrieval_task(plain, dataset={"path": "mteb/nfcorpus", "revision": "another"})
    with pytest.raises(CheckpointError, match="NFCorpus that is kept is of other data"):
        evaluate_hub(suite, group, out=tmp_path, config=CONFIG, tasks=[other])
    stored = tmp_path / "mine" / "words" / "NFCorpus"
    save_result(stored, dataclasses.replace(first.results[0], identity="of other weights"))
    with pytest.raises(CheckpointError, match="is of another model under this name"):
        evaluate_hub(suite, Group(words, is_pinned=False), out=tmp_path, config=CONFIG, tasks=[retrieval_task(plain)])


def test_other_settings_have_a_place_of_their_own_in_the_cache(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "find_mteb_tasks", lambda suite: [retrieval_task(plain)])
    cuts = []
    for max_tokens in (64, 34, 64):
        runs = run_suites(["tiny"], ["mteb:NFCorpus"], config=EvaluateConfig(max_tokens=max_tokens, dtype="float32"))
        cuts.append(next(row.truncated_fraction for row in runs.rows))
    assert cuts[0] == cuts[2] < cuts[1]


def test_a_main_score_that_only_mteb_computes_is_kept_without_an_interval(plain, words, tmp_path):
    task = retrieval_task(plain, main_score="ndcg_at_20")
    (result,) = run_task(task, DenseSystem(read_with(words)), label="words", out=tmp_path, config=CONFIG)
    assert result.main == "ndcg_at_20" and 0 < result.value <= 1 and np.isnan(result.scores[result.main].low)
    assert not np.isnan(result.scores["nDCG@10"].low)


def test_a_hub_that_takes_no_connection_is_not_asked_again(monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise OSError("no route")

    monkeypatch.setattr(hub.socket, "create_connection", connect)
    assert not hub.hub_answers()
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443/hub")
    assert not hub.hub_answers()
    assert asked == [("huggingface.co", 443), ("mirror.example", 443)]


def test_a_score_that_mteb_does_not_share_stops_the_run(plain, words, tmp_path, monkeypatch):
    evaluate_run = hub.evaluate_run

    def wrong(qrels, run, measures):
        return {name: dict.fromkeys(values, 0.3) for name, values in evaluate_run(qrels, run, measures).items()}

    monkeypatch.setattr(hub, "evaluate_run", wrong)
    suite = Suite(name="mine", purpose="test", about="", mteb_tasks=("NFCorpus",))
    with pytest.raises(DiffEmbedError, match=r"mteb gives nDCG@10 0\.\d+, the same run gives 0\.30000"):
        evaluate_hub(suite, Group(words), out=tmp_path, config=CONFIG, tasks=[retrieval_task(plain)])


def test_suites_name_tasks_that_mteb_has():
    for name in ("longembed", "bright", "bright-v1.1", "bright-long", "followir", "mteb-15"):
        tasks = find_mteb_tasks(SUITES[name])
        assert len(tasks) == len(SUITES[name].mteb_tasks)
    (bright,) = find_mteb_tasks(SUITES["bright"])
    assert bright.metadata.name == BRIGHT_V1 and sorted(bright.hf_subsets) == sorted(SUITES["bright"].mteb_subsets)
    with pytest.raises(UnknownNameError, match="mteb has no task 'NoSuchTask'"):
        find_mteb_tasks(Suite(name="x", purpose="test", about="", mteb_tasks=("NoSuchTask",)))


def test_bright_v1_sends_the_paper_s_instructions_and_names_its_subsets(words):
    (bright,) = find_mteb_tasks(SUITES["bright"])
    model = MtebModel(DenseSystem(read_with(words)))
    assert model.instruction(bright.metadata, "aops").startswith("Given a problem, rretrieve the relevant")
    mteb_wording = MtebModel(DenseSystem(read_with(words)), prompts="mteb")
    assert (
        mteb_wording.instruction(bright.metadata, "aops")
        == "Represent this Math problem for searching relevant examples"
    )
    assert result_name("BrightRetrieval", "standard", "aops", 1) == "BrightRetrieval-aops"
    assert result_name("LEMBNeedleRetrieval", "test_256", "default", 8) == "LEMBNeedleRetrieval-256"
