import json

import pytest

from diffembed.data.set_aside import set_aside
from diffembed.errors import ConfigError, InputError, UnknownNameError
from diffembed.evaluation.suites.instructions import find_instruction, load_instructions
from diffembed.evaluation.suites.named import SUITES, find_suite
from diffembed.evaluation.suites.reading import load_token_spans, read_tasks
from diffembed.evaluation.suites.set_asides import NUM_CONCEPTS, NUM_TOPICS, SEED, read_concept_task, read_topic_task
from diffembed.evaluation.tasks import InstructionTask, LabelTask, PairTask, Task


def test_every_suite_is_sound():
    for name, suite in SUITES.items():
        assert suite.name == name and bool(suite.tasks) != bool(suite.mteb_tasks)
        names = [spec.name for spec in suite.tasks] + list(suite.mteb_tasks)
        assert len(set(names)) == len(names)
        assert name.startswith("dev-") == (suite.purpose == "development")
    tests = {spec.place for suite in SUITES.values() if suite.purpose == "test" for spec in suite.tasks if spec.place}
    development = {spec.place for s in SUITES.values() if s.purpose == "development" for spec in s.tasks}
    assert not tests & development


def test_a_folder_is_a_suite_and_its_tasks_get_instructions(beir_folder, instruction_folder, sts_folder, label_folder):
    (task,) = read_tasks(find_suite(str(beir_folder)))
    assert isinstance(task, Task) and task.instruction == "Retrieve text based on user query"
    (narrow,) = read_tasks(find_suite(str(instruction_folder)))
    assert isinstance(narrow, InstructionTask) and narrow.narrative_slot == "instruction"
    assert narrow.og.instruction == narrow.changed.instruction == "Retrieve text based on user query"
    (pairs,) = read_tasks(find_suite(str(sts_folder / "small.tsv")))
    assert isinstance(pairs, PairTask) and pairs.instruction == "Retrieve semantically similar text"
    kinds = [task.instruction for task in read_tasks(find_suite(str(label_folder))) if isinstance(task, LabelTask)]
    assert kinds == ["Classify the text", "Identify the topic of the text"]


def test_suites_read_below_the_data_folder(beir_folder, monkeypatch):
    beir_folder.rename(beir_folder.parent / "qmsum_longembed")
    data = beir_folder.parents[1]
    (task,) = read_tasks(SUITES["long"], data=data)
    assert task.name == "qmsum_longembed" and len(task.queries) == 3
    monkeypatch.setenv("DIFFEMBED_DATA", str(data))
    assert next(read_tasks(SUITES["long"])).name == "qmsum_longembed"
    monkeypatch.delenv("DIFFEMBED_DATA")
    with pytest.raises(ConfigError, match="--data DIR or set DIFFEMBED_DATA"):
        next(read_tasks(SUITES["long"]))
    with pytest.raises(InputError, match="does not exist"):
        next(read_tasks(SUITES["long"], data=data / "nowhere"))
    with pytest.raises(InputError, match=r"no folder .*scifact"):
        next(read_tasks(SUITES["general"], data=data))


def test_sentences_are_hidden_in_the_held_out_text(tmp_path):
    import zstandard

    (tmp_path / "text").mkdir()
    hay = "\n\n".join(f"Chapter {n}. The ship sailed past island {n}. Nobody spoke for {n} days." for n in range(400))
    (tmp_path / "text" / "novels_valid.txt.zst").write_bytes(zstandard.compress(hay.encode()))
    settings = {"names": ["needle-256"], "counted_by": "words", "data": tmp_path}
    (task,) = read_tasks(SUITES["screen"], **settings)
    assert (task.family, task.length, len(task.corpus), len(task.queries)) == ("needle", 256, 40, 40)
    assert all(len(document.text.split()) <= 256 for document in task.corpus)
    assert all("The ship sailed past island" in document.text for document in task.corpus)
    assert next(read_tasks(SUITES["screen"], **settings)) == task
    assert next(read_tasks(SUITES["screen"], **settings, seed=1)) != task
    (tmp_path / "eval" / "sts").mkdir(parents=True)
    sheep = "sheep of the flock"
    lines = [f"4.5\tThe {n} {sheep} went over the hill today\tOver the hill went {n} {sheep} today" for n in range(80)]
    table = "\n".join(["score\tsentence1\tsentence2", *lines])
    (tmp_path / "eval" / "sts" / "stsb_dev.tsv.zst").write_bytes(zstandard.compress(table.encode()))
    settings["names"] = ["paraphrase-256", "birthday-256"]
    paraphrase, birthday = read_tasks(SUITES["dev-long"], **settings)
    for made, asked in ((paraphrase, "Over the hill went"), (birthday, "On which day was")):
        assert (made.length, len(made.corpus), len(made.queries)) == (256, 60, 60)
        assert all(query.text.startswith(asked) for query in made.queries)
    spans = load_token_spans("tiny")
    assert spans("two words")[-1][1] == 9


def test_names_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"no suite 'reasonin' \(did you mean 'reasoning'\?\)"):
        find_suite("reasonin")
    with pytest.raises(UnknownNameError, match="no task in suite 'long' 'qmsum'"):
        next(read_tasks(SUITES["long"], names=["qmsum"], data=tmp_path))
    with pytest.raises(ConfigError, match="run through mteb"):
        next(read_tasks(SUITES["followir"]))
    assert find_suite("mteb:ArguAna").mteb_tasks == ("ArguAna",)
    with pytest.raises(UnknownNameError):
        find_suite("mteb:")


def test_instructions_choose_the_wording_then_the_other_then_the_default():
    name = "BrightAopsRetrieval"
    assert find_instruction(name, "retrieval").startswith("Given a problem, rretrieve")
    assert find_instruction(name, "retrieval", prompts="mteb") == (
        "Represent this Math problem for searching relevant examples"
    )
    assert (
        find_instruction("ArguAna", "retrieval", prompts="mteb")
        == "Given a claim, find documents that refute the claim"
    )
    assert find_instruction("Unheard", "retrieval", own="Find it") == "Find it"
    assert find_instruction("Unheard", "clustering") == "Identify the topic of the text"
    with pytest.raises(UnknownNameError, match="no task type 'guessing'"):
        find_instruction("Unheard", "guessing")
    with pytest.raises(UnknownNameError, match="no prompts 'mine'"):
        find_instruction("Unheard", "retrieval", prompts="mine")
    for wordings in load_instructions()["tasks"].values():
        assert set(wordings) <= {"paper", "mteb"} and not any(text.endswith(":") for text in wordings.values())


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_concepts(folder, num_concepts=40):
    rows = []
    for number in range(num_concepts):
        for problem in range(3):
            shared = {"concept": f"C{number}", "domain": "d", "instruction": "Find.", "negatives": []}
            text = f"problem {problem} of concept number {number} " + "and its long story " * 6
            rows.append({**shared, "task": "p2i", "solution_check": "not used", "query": text,
                         "positive": f"C{number}\ndefinition of number {number}"})  # fmt: skip
            rows.append({**shared, "task": "p2ps", "solution_check": "yes", "query": text,
                         "positive": f"another problem {problem} solved by {number}"})  # fmt: skip
        rows.append({**shared, "task": "p2ps", "solution_check": "no", "query": f"wrong {number}", "positive": "wrong"})
    write_rows(folder / "train_triplets.jsonl", rows)
    return rows


def test_concept_tasks_are_what_training_sets_aside(tmp_path):
    folder = tmp_path / "train" / "reasonaug"
    write_concepts(folder)
    to_idea, to_problem = (read_concept_task(folder, name=f"concepts-{kind}") for kind in ("p2i", "p2ps"))
    assert len(to_idea.corpus) == NUM_CONCEPTS and len(to_idea.queries) == 3 * NUM_CONCEPTS
    assert all(len(judged) == 1 for judged in to_idea.qrels.values())
    assert all(len(judged) == 3 for judged in to_problem.qrels.values())
    assert not any("wrong" in query.text for query in to_problem.queries)
    from diffembed.data.source_config import SourceConfig
    from diffembed.data.sources import load_sources

    config = SourceConfig(
        kind="folder", path="train", sets=("reasonaug",), keep={"solution_check": ("yes", "not used")}
    )
    (source,) = load_sources([config], seed=7, data_root=tmp_path).values()
    trained = set_aside(source.triplets, num_values=NUM_CONCEPTS, seed=SEED).train
    assert len(trained) == 6 * 10
    assert not {row.positive for row in trained} & {document.text for document in to_idea.corpus}
    with pytest.raises(UnknownNameError, match="concepts-p2i"):
        read_concept_task(folder, name="concepts-i2ps")


def test_topic_task_widens_the_instruction(tmp_path):
    folder = tmp_path / "train" / "debtags"
    rows = []
    for number in range(NUM_TOPICS + 3):
        for constraint in ("in Java", "with a window"):
            rows.append(
                {
                    "query": f"software for: T{number}",
                    "topic_tag": f"t{number}",
                    "instruction": f'A relevant package is a program related to "T{number}", but only {constraint}.',
                    "positive": f"package {number} {constraint}",
                    "negatives": [f"package {number} without"],
                }
            )
    write_rows(folder / "triplets.jsonl", rows)
    task = read_topic_task(folder, name="topics")
    assert len(task.og.queries) == 2 * NUM_TOPICS and task.narrative_slot == "instruction"
    first = task.og.queries[0]
    assert first.instruction == f'A relevant package is a program related to "{first.text.split()[-1]}".'
    assert list(task.og.qrels[first.id].values()) == [1, 1, 1]
    assert sorted(task.changed.qrels[first.id].values()) == [0, 0, 1]
    for row in rows:
        row["instruction"] = "Anything."
    write_rows(folder / "triplets.jsonl", rows)
    with pytest.raises(InputError, match="no instruction with a constraint"):
        read_topic_task(folder, name="topics")
