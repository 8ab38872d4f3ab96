"""Systems side by side: names, draws, isolation, failures, going on where it stopped."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest

from diffembed.data.burying import word_spans
from diffembed.errors import (
    CheckpointError,
    ConfigError,
    DiffEmbedError,
    InputError,
    ResourceError,
    UnknownNameError,
)
from diffembed.evaluation.demo import draws, planning
from diffembed.evaluation.demo.compare import _has_time, compare
from diffembed.evaluation.demo.contenders import make_contenders
from diffembed.evaluation.demo.isolation import RemoteSession
from diffembed.evaluation.demo.sessions import Session, peak_process_bytes
from diffembed.evaluation.reports.comparison import TaskOutcome
from diffembed.evaluation.statistics.measures import evaluate_run
from diffembed.evaluation.statistics.significance import Interval
from diffembed.evaluation.systems.names import POOLINGS, SystemSpec, group_systems, parse_system
from diffembed.evaluation.systems.recipes import group_names
from diffembed.evaluation.tasks import Task, hash_task
from diffembed.records import Document, Query

LETTERS = "abcdefgh"


def make_task(name, family="", length=None, num_documents=8):
    """Documents of one word each; a query asks for its own word."""
    words = [f"{name}{letter * 3}" for letter in LETTERS[:num_documents]]
    return Task(
        name=name,
        family=family,
        length=length,
        corpus=[Document(id=word, text=f"{word} and other words") for word in words],
        queries=[Query(id=f"q{word}", text=word) for word in words],
        qrels={f"q{word}": {word: 1} for word in words},
        measures=("Acc@1",),
    )


TASKS = [make_task("x"), make_task("shorta", "short", 128), make_task("shortb", "short", 256)]


class BlindEncoder:
    """Every text gets the same vector, so the first document in trec order is always first."""

    name, dim, max_tokens = "blind", 4, 100

    def encode_queries(self, texts, instruction=None):
        return np.ones((len(texts), 4), np.float32)

    encode_documents = encode_queries

    def similarity(self, queries, documents):
        return queries @ documents.T


class FailingEncoder(BlindEncoder):
    name = "failing"

    def encode_documents(self, texts):
        raise InputError("these texts cannot be read")


# Names


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("gemma-3-270m", SystemSpec(model="gemma-3-270m")),
        ("gemma-3-270m:causal", SystemSpec(model="gemma-3-270m", attention="causal")),
        ("gemma-3-270m:last", SystemSpec(model="gemma-3-270m", pooling="last")),
        ("tiny:causal:last", SystemSpec(model="tiny", attention="causal", pooling="last")),
        ("tiny:last:causal", SystemSpec(model="tiny", attention="causal", pooling="last")),
        ("owner/name:bidirectional:mean", SystemSpec(model="owner/name", attention="bidirectional", pooling="mean")),
        ("bm25", SystemSpec(model="bm25")),
    ],
)
def test_a_name_is_read(text, spec):
    assert parse_system(text) == spec


def test_the_label_is_the_name_in_one_order():
    assert parse_system("tiny:last:causal").label == "tiny:causal:last"


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("gema-3-270m", UnknownNameError, "did you mean 'gemma-3-270m'"),
        ("bm25:last", ConfigError, "bm25 has neither attention nor pooling; write 'bm25'"),
        ("all-minilm-l6-v2:causal", ConfigError, "all-minilm-l6-v2 is an encoder and cannot be made causal"),
        ("tiny:sideways", ConfigError, "'tiny:sideways' is not a system; write NAME, then one of :causal"),
        ("tiny:causal:causal", ConfigError, "'tiny:causal:causal' is not a system"),
    ],
)
def test_a_wrong_name_is_refused(text, error, sentence):
    with pytest.raises(error, match=sentence):
        parse_system(text)


def test_a_folder_may_have_a_colon(tmp_path):
    folder = tmp_path / "odd:name"
    folder.mkdir()
    assert parse_system(f"{folder}:last") == SystemSpec(model=str(folder), pooling="last")


def test_the_words_for_pooling_are_those_of_the_corridor():
    from diffembed.embedding import pooling

    assert set(POOLINGS) == set(pooling.POOLINGS)


def test_only_poolings_share_a_pass():
    names = ("tiny:causal:last", "bm25", "tiny:causal:mean", "tiny:bidirectional:mean", "tiny:last")
    groups = group_systems([parse_system(name) for name in names])
    assert [[spec.label for spec in group] for group in groups] == [
        ["tiny:causal:last", "tiny:causal:mean"],
        ["bm25"],
        ["tiny:bidirectional:mean"],
        ["tiny:last"],
    ]


# Draws


def test_predicted_tokens_are_those_of_the_tasks():
    draw = draws.find_draw("eighth")
    made = draws.make_tasks(draw, token_spans=word_spans)
    hay = [task for task in made if task.length]
    counted = sum(len(document.text.split()) for task in hay for document in task.corpus)
    predicted = dataclasses.replace(draw, num_entries=0).num_tokens()
    assert predicted * 0.97 < counted <= predicted
    cut = sum(min(len(document.text.split()), 300) for task in hay for document in task.corpus)
    assert abs(dataclasses.replace(draw, num_entries=0).num_tokens(300) - cut) < 0.03 * cut


def test_what_two_draws_share_is_the_same_text():
    half, quarter = (
        {task.name: task for task in draws.make_tasks(draws.find_draw(name), token_spans=word_spans)}
        for name in ("half", "quarter")
    )
    shared = [name for name in quarter if name != "stdlib"]
    assert len(shared) == 6 and set(shared) < set(half)
    assert all(hash_task(half[name]) == hash_task(quarter[name]) for name in shared)
    assert half["stdlib"].corpus[:60] == quarter["stdlib"].corpus


def test_draws_grow_by_their_tokens_and_full_is_150_000():
    sizes = [draw.num_tokens() for draw in draws.DRAWS.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert abs(draws.find_draw("full").num_tokens() - 150_000) < 10_000
    paper = draws.find_draw("paper")
    assert (paper.num_documents, paper.num_queries, paper.lengths[-1]) == (100, 50, 8192)


def test_the_largest_draw_within_the_budget_is_taken():
    one = draws.Pass(tokens_per_s=1000, start_s=5, max_tokens=32_768)
    small = draws.Pass(tokens_per_s=10_000, start_s=1, max_tokens=256)
    draw, predicted_s = draws.choose_draw([one, one, small], 240)
    # By hand: two passes of 75,440 tokens at 1,000 a second, 30,384 at 10,000, and 11 s to load; full would be 311 s.
    assert (draw.name, round(predicted_s)) == ("half", 165)
    assert draws.choose_draw([one, one, small], 320)[0].name == "full"
    assert draws.choose_draw([one], 1)[0].name == "least"
    assert draws.choose_draw([], 1)[0].name == "paper"


def test_a_draw_must_exist_and_must_have_an_effect():
    with pytest.raises(UnknownNameError, match=r"no draw 'halff' \(did you mean 'half'"):
        compare(["bm25"], draw="halff")
    with pytest.raises(ConfigError, match="a draw has no effect on tasks that are given"):
        compare(["bm25"], draw="half", tasks=TASKS)
    with pytest.raises(ConfigError, match="budget_s is 0; it must be above 0"):
        compare(["bm25"], budget_s=0)


# Comparing


def test_scores_are_those_of_the_measures(words):
    found = compare(["bm25", words, BlindEncoder()], tasks=TASKS, is_isolated=False)
    assert [system.label for system in found.systems] == ["bm25", "words", "blind"]
    assert found.groups == ("x", "short")
    # Tied everywhere, the document with the last id comes first: 1 of 8 queries is right.
    assert found.scores["blind"]["x"].interval.value == found.scores["blind"]["short"].interval.value == 0.125
    for task in TASKS:
        run = Session.of(words).run(task, 0)["words"].result
        values = evaluate_run(task.qrels, run.hits["test"], ["Acc@1"])["Acc@1"]
        outcome = next(o for o in found.systems[1].tasks if o.task == task.name)
        assert outcome.values == values and outcome.interval.value == np.mean(list(values.values()))
    assert found.scores["words"]["short"].num_queries == 16
    assert found.scores["bm25"]["short"].interval.value == 1


def test_differences_are_tested_and_corrected(words):
    found = compare(["bm25", words, BlindEncoder()], tasks=TASKS, is_isolated=False)
    assert len(found.differences) == 2 * 3
    one = next(d for d in found.differences if (d.group, d.a, d.b) == ("short", "bm25", "blind"))
    assert one.test.difference.value == 0.875
    assert one.test.p_value <= one.p_holm < 0.01
    same = next(d for d in found.differences if (d.group, d.a, d.b) == ("short", "bm25", "words"))
    assert same.test.difference.value == 0 and same.p_holm == 1


def test_cut_documents_are_counted(words):
    long = make_task("x")
    corpus = [dataclasses.replace(d, text=d.text + " more" * (90 if d.id[1] in "abc" else 0)) for d in long.corpus]
    found = compare([words], tasks=[dataclasses.replace(long, corpus=corpus)], is_isolated=False)
    assert words.max_tokens == 64
    assert found.scores["words"]["x"].truncated_fraction == 3 / 8


def test_a_system_that_fails_is_a_sentence_and_the_others_go_on(words):
    found = compare([words, FailingEncoder(), "bm25"], tasks=TASKS, is_isolated=False)
    assert [(s.label, s.error) for s in found.failed] == [("failing", "these texts cannot be read")]
    assert set(found.scores) == {"words", "bm25"}
    plain = {system["system"]: system for system in found.as_dict()["systems"]}
    assert plain["failing"]["scores"] == {} and plain["words"]["error"] is None


def test_a_comparison_without_a_survivor_fails():
    with pytest.raises(DiffEmbedError, match="failing: these texts cannot be read"):
        compare([FailingEncoder()], tasks=TASKS, is_isolated=False)


def test_names_twice_or_none_are_refused(words):
    with pytest.raises(ConfigError, match="words is named twice"):
        compare([words, words], tasks=TASKS)
    with pytest.raises(ConfigError, match="tiny:causal:last is named twice"):
        compare(["tiny:causal:last", "tiny:last:causal"], tasks=TASKS)
    with pytest.raises(ConfigError, match="no system to compare"):
        compare([], tasks=TASKS)
    with pytest.raises(ConfigError, match="diffembed evaluate index@tiny SUITE; name tiny here"):
        compare(["bm25", "index@tiny"], tasks=TASKS)


def test_poolings_of_one_pass_score_as_they_do_alone():
    names = ["tiny:causal:last", "tiny:causal:mean"]
    together = compare(names, tasks=TASKS, is_isolated=False)
    for name in names:
        alone = compare([name], tasks=TASKS, is_isolated=False)
        left, right = (next(s for s in c.systems if s.label == name) for c in (together, alone))
        assert [t.values for t in left.tasks] == [t.values for t in right.tasks]
    assert together.systems[0].shares_pass_with == ("tiny:causal:mean",)
    values = [[t.values for t in system.tasks] for system in together.systems]
    assert values[0] != values[1], "the two poolings are two systems"
    facts = together.systems[0].facts
    assert (facts["attention"], facts["dim"]) == ("causal", 32) and facts["source_hash"]


def test_everything_is_plain_for_json(words):
    found = compare(["bm25", words], tasks=TASKS, is_isolated=False)
    plain = json.loads(json.dumps(found.as_dict()))
    assert plain["systems"][1]["scores"]["short"]["measure"] == "Acc@1"
    assert [task["length"] for task in plain["tasks"]] == [None, 128, 256]
    assert plain["tasks"][0]["hash"] == hash_task(TASKS[0])


# The standard-library tasks


def test_the_draw_is_measured_and_the_reason_told(words):
    lines = []
    found = compare(["bm25", words], budget_s=1e-6, is_isolated=False, notify=lines.append)
    assert found.groups == ("stdlib", "passkey", "needle")
    assert found.draw.startswith("least: 4 documents and 4 queries at each of 256 tokens")
    assert "words reads" in found.reason and "the least there is, but over the budget of 0 s" in found.reason
    assert found.counted_by == "words"
    assert any(line.startswith("draw least") for line in lines)
    assert found.search is not None and found.search.system == "words" and len(found.search.hits) == 3


def test_the_language_model_counts_the_tokens(words):
    found = compare([words, "tiny", "bm25"], draw="least", is_isolated=False)
    assert found.counted_by == "tiny" and found.reason == "it was asked for"
    tasks = Session.open(group_names(["tiny"])[0]).make_tasks(draws.find_draw("least"), 0)
    assert [task.hash for task in found.tasks] == [hash_task(task) for task in tasks]
    tiny = next(system for system in found.systems if system.label == "tiny")
    # 4 documents of 256 tokens, each with the beginning-of-text token, and 4 short queries.
    passkey = next(task for task in tiny.tasks if task.task == "passkey-256")
    assert 4 * 250 < passkey.num_tokens < 4 * 257 + 4 * 60


def test_a_model_that_cannot_load_leaves_the_counting_to_another(tmp_path):
    found = compare([str(tmp_path), "tiny"], budget_s=1e-6, is_isolated=False)
    assert found.counted_by == "tiny"
    assert [system.label for system in found.failed] == [str(tmp_path)]
    assert "has no *.safetensors file" in found.failed[0].error


# When the machine slows down


def test_a_network_that_overruns_its_share_shortens_the_comparison_for_all(words, monkeypatch):
    quarter = draws.find_draw("quarter")
    monkeypatch.setattr(planning, "_fit_draw", lambda *_: (quarter, "it fits", {"words": 0.0}))
    found = compare(["bm25", words], is_isolated=False)
    assert [task.name for task in found.tasks] == ["stdlib", "passkey-256", "needle-256"]
    assert all(len(system.tasks) == 3 for system in found.systems)
    assert found.reason == "it fits; then the machine slowed down, and texts of more than 256 tokens were left out"
    monkeypatch.setattr(planning, "_fit_draw", lambda *_: (quarter, "it fits", {"words": 1e6}))
    whole = compare(["bm25", words], is_isolated=False)
    assert len(whole.tasks) == 7 and whole.reason == "it fits"
    assert whole.systems[1].tasks[0].values == found.systems[1].tasks[0].values


def outcome(length, seconds):
    return TaskOutcome(
        task=f"t{length}",
        group="t",
        length=length,
        measure="Acc@1",
        interval=Interval(value=0, low=0, high=0),
        values={},
        truncated_fraction=0.0,
        num_tokens=1,
        seconds=seconds,
    )


@pytest.mark.parametrize(
    ("limit_s", "max_tokens", "has_time"),
    [
        # 3 s before, 2 + 2 s at 256; 512 tokens are read in twice the time: 7 + 8 s.
        (15.0, None, True),
        (14.9, None, False),
        # A reader that cuts at 256 tokens needs no longer for longer texts: 7 + 4 s.
        (11.0, 256, True),
        (10.9, 256, False),
        (None, None, True),
    ],
)
def test_the_next_length_is_begun_when_it_would_end_in_time(limit_s, max_tokens, has_time):
    done = [outcome(None, 3.0), outcome(256, 2.0), outcome(256, 2.0)]
    assert _has_time(done, [make_task("a", "short", 512)], limit_s, max_tokens) is has_time
    assert _has_time(done[:1], [make_task("a", "short", 256)], 0.0, max_tokens), "the shortest is always begun"


def test_limits_share_the_budget_by_predicted_time(words):
    contenders = make_contenders(["bm25", words], is_isolated=False)
    _, _, limits = planning._fit_draw(contenders, 1e9, lambda line: None)
    # One network has the whole budget to itself, loading left out.
    assert set(limits) == {"words"}
    assert limits["words"] == pytest.approx(planning.OVERRUN * 1e9 + planning.GRACE_S, rel=0.05)


# Going on where it stopped


def test_finished_systems_are_kept(tmp_path, words):
    names = ["bm25", words, FailingEncoder()]
    first = compare(names, draw="least", folder=tmp_path / "run", is_isolated=False)
    assert len(first.failed) == 1
    words.read.clear()
    names[2] = BlindEncoder()
    names[2].name = "failing"
    lines = []
    second = compare(names, draw="least", folder=tmp_path / "run", is_isolated=False, notify=lines.append)
    kept = {line for line in lines if "kept" in line}
    assert kept == {"bm25: kept from before", "words: kept from before"}
    assert not [kind for kind, _, text in words.read if text.startswith("What is the pass key")]
    assert second.scores["words"] == first.scores["words"] and not second.failed
    with pytest.raises(CheckpointError, match="holds a run with another seed"):
        compare(names, draw="least", seed=1, folder=tmp_path / "run", is_isolated=False)


def test_the_draw_is_kept_with_the_systems(tmp_path, words):
    first = compare([words], budget_s=1e-6, folder=tmp_path / "run", is_isolated=False)
    lines = []
    second = compare([words], budget_s=1e-6, folder=tmp_path / "run", is_isolated=False, notify=lines.append)
    assert second.reason == first.reason and not any("measuring" in line for line in lines)


def test_a_folder_that_was_trained_further_is_run_again(tmp_path):
    from diffembed.embedding.embedder import Embedder

    model = str(tmp_path / "model")
    Embedder.load("tiny").save(model)
    lines = []
    for _ in range(2):
        compare([model], tasks=TASKS[:1], folder=tmp_path / "run", is_isolated=False, notify=lines.append)
    assert lines[-1] == f"{model}: kept from before"
    os.utime(tmp_path / "model" / "embedder.json", (1, 1))
    compare([model], tasks=TASKS[:1], folder=tmp_path / "run", is_isolated=False, notify=lines.append)
    assert lines[-1].startswith(f"{model}: 1 task in")


def test_other_weights_under_the_name_of_an_embedder_are_run_again(tmp_path):
    from diffembed.embedding.embedder import Embedder

    lines = []
    for attention in ("causal", "causal", "bidirectional"):
        embedder = Embedder.load("tiny", attention=attention)
        compare([embedder], tasks=TASKS[:1], folder=tmp_path / "run", is_isolated=False, notify=lines.append)
    assert [line.partition(": ")[2][:4] for line in lines] == ["1 ta", "kept", "1 ta"]


# A process of its own


@pytest.fixture
def remote():
    session = RemoteSession(group_names(["bm25"])[0])
    yield session
    session.close()


def test_another_process_gives_the_same(remote):
    here = Session.open(group_names(["bm25"])[0])
    for task in TASKS:
        assert remote.run(task, 0)["bm25"].result == here.run(task, 0)["bm25"].result
    peak = remote.peak_bytes()
    assert peak is None or 10e6 < peak < peak_process_bytes()


def test_an_error_of_the_child_keeps_its_kind(remote):
    with pytest.raises(ConfigError, match="top_k 0 is below 1"):
        remote.search("bm25", TASKS[0].corpus, "where?", 0)
    assert remote.run(TASKS[0], 0), "the session outlives an error"


def test_a_crash_of_the_child_is_one_sentence(remote):
    with pytest.raises(DiffEmbedError, match=r"stopped with AttributeError: .* has no attribute 'no_such_method'"):
        remote._ask("no_such_method")


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("number", "kind", "sentence"),
    [
        (signal.SIGKILL, ResourceError, "bm25 was killed by the system: most likely memory ran out"),
        (signal.SIGTERM, DiffEmbedError, "bm25 ended without an answer .exit code -15."),
    ],
)
def test_a_child_that_dies_is_told_apart(remote, number, kind, sentence):
    remote._process.send_signal(number)
    remote._process.wait()
    with pytest.raises(kind, match=sentence):
        remote.run(TASKS[0], 0)


def test_the_processes_of_a_comparison_end_with_it(monkeypatch):
    import diffembed.evaluation.demo.contenders as module

    started = []

    class Watched(RemoteSession):
        def __init__(self, group):
            super().__init__(group)
            started.append(self._process)

    monkeypatch.setattr(module, "RemoteSession", Watched)
    found = compare(["bm25", "random"], tasks=TASKS)
    assert len(started) == 2 and all(process.poll() is not None for process in started)
    assert found.scores["bm25"]["x"].interval.value == 1
