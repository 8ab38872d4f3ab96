import pytest

from diffembed.errors import EmptyInputError, InputError
from diffembed.evaluation.suites.folders import read_folder, read_pairs
from diffembed.evaluation.tasks import InstructionTask, LabelTask, PairTask, Task


def test_beir_folder(beir_folder):
    (task,) = read_folder(beir_folder)
    assert isinstance(task, Task) and task.name == "topics"
    assert [query.id for query in task.queries] == ["1", "2", "3"]
    assert task.corpus[0].full_text.startswith("cats Cats purr")
    assert task.qrels == {"1": {"cats": 1}, "2": {"dogs": 1}, "3": {"rust": 1, "lisp": 0}}
    assert task.queries[1].excluded_ids == {"cats"}
    assert task.queries[2].instruction == "Find languages."
    assert task.subsets == {"animal": {"1", "2"}, "language": {"3"}}


def test_instruction_folder_shares_the_corpus_it_points_to(instruction_folder):
    (task,) = read_folder(instruction_folder, narrative_slot="instruction")
    assert isinstance(task, InstructionTask) and task.narrative_slot == "instruction"
    assert task.og.corpus is task.changed.corpus and len(task.og.corpus) == 4
    assert task.og.queries[0].instruction == "Any animal is relevant."
    assert task.changed.qrels["pets"] == {"cats": 0, "dogs": 1}
    assert task.og.candidates["pets"] == ["cats", "dogs", "rust"]


def test_tables_of_pairs_and_labels(sts_folder, label_folder):
    (pairs,) = read_folder(sts_folder)
    assert isinstance(pairs, PairTask) and pairs.name == "small" and pairs.gold == [5.0, 2.5, 0.0, 4.0]
    assert read_folder(sts_folder / "small.tsv") == [pairs]
    classification, clustering = read_folder(label_folder)
    assert isinstance(classification, LabelTask) and len(classification.train_texts) == 18
    assert clustering.kind == "clustering" and clustering.train_texts == ()


def test_a_query_does_not_find_itself(beir_folder):
    (beir_folder / "corpus.jsonl.zst").unlink()
    (beir_folder / "corpus.jsonl").write_text(
        '{"_id": "1", "text": "which animal hunts mice at night?"}\n'
        '{"_id": "2", "text": "another text under the id of a query"}\n{"_id": "3", "text": "x"}\n'
    )
    (beir_folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t2\t1\n2\t3\t1\n")
    (task,) = read_folder(beir_folder)
    assert task.queries[0].excluded_ids == {"1"}
    assert task.queries[1].excluded_ids == {"cats"}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("corpus.jsonl", "", "corpus.jsonl holds no documents"),
        ("corpus.jsonl", '{"_id": "a", "title": "t"}\n', "document 'a' in .*corpus.jsonl has no text"),
        ("corpus.jsonl", '{"_id": "a", "text": "t"}\n{"_id": "a", "text": "u"}\n', "jsonl:2: the id 'a' occurs twice"),
        ("corpus.jsonl", '{"text": "t"}\n', "topics/corpus.jsonl:1 is no JSON object with an _id"),
        ("corpus.jsonl", '{"_id": "a"', "topics/corpus.jsonl:1 is no JSON object with an _id"),
        ("queries.jsonl", '{"_id": "1", "text": " "}\n', "query '1' in .*queries.jsonl has no text"),
        ("queries.jsonl", '{"_id": "1", "text": "x"}\n', "name query '2', which is not among its queries .*topics"),
        ("qrels/test.tsv", "query\tdoc\n", "the header must be query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\tcats\n", "test.tsv:2 has 2 cells; it must have 3"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\tcats\thigh\n", "the grade 'high' is no whole number"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\tcats\t1\n1\tcats\t1\n", "test.tsv:3: .* 'cats' twice"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\towls\t1\n", "name document 'owls', which is not .*topics"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "test.tsv holds no judgements"),
        ("candidates.jsonl", '{"_id": "1"}\n', "query '1' in .*candidates.jsonl has no list of candidates"),
        ("candidates.jsonl", '{"_id": "1", "candidates": ["cats"]}\n', "query '2' .* has no candidate"),
    ],
)
def test_a_defect_is_refused_with_file_and_id(beir_folder, name, text, words):
    (beir_folder / f"{name}.zst").unlink(missing_ok=True)
    (beir_folder / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_folder(beir_folder)


@pytest.mark.parametrize("name", ["corpus.jsonl.zst", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(beir_folder, name):
    (beir_folder / name).unlink()
    with pytest.raises(InputError, match=f"{name.removesuffix('.zst')} is missing"):
        read_folder(beir_folder)


def test_a_compressed_file_cut_short_is_refused(beir_folder):
    path = beir_folder / "corpus.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"corpus.jsonl.zst"):
        read_folder(beir_folder)


def test_an_instruction_that_is_missing_is_named(instruction_folder):
    (instruction_folder / "queries.jsonl").write_text('{"_id": "pets", "text": "pets", "instruction_og": "x"}\n')
    with pytest.raises(InputError, match=r"query 'pets' .* has no instruction_changed"):
        read_folder(instruction_folder)


def test_a_corpus_pointer_must_lead_somewhere(instruction_folder):
    (instruction_folder / "CORPUS").write_text("corpus = ../elsewhere/corpus.jsonl\n")
    with pytest.raises(InputError, match=r"elsewhere/corpus.jsonl is missing"):
        read_folder(instruction_folder)
    (instruction_folder / "CORPUS").write_text("../topics\n")
    with pytest.raises(InputError, match="CORPUS must read"):
        read_folder(instruction_folder)


def test_what_is_no_task_folder(tmp_path, sts_folder):
    with pytest.raises(InputError, match="is no task folder"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        read_folder(tmp_path / "nowhere")
    path = sts_folder / "small.tsv"
    path.write_text("score\tsentence1\tsentence2\nfive\ta\tb\n")
    with pytest.raises(InputError, match=r"sts/small.tsv:2: the score 'five' is no number"):
        read_pairs(path)
    path.write_text("score\tsentence1\tsentence2\n")
    with pytest.raises(EmptyInputError, match=r"has 0 pairs.*small.tsv"):
        read_pairs(path)
