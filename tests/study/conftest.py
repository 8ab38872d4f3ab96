"""A whole study in seconds: tiny networks, a few rows, a retrieval task and sentence pairs."""

import json
import random
from pathlib import Path

import pytest

from diffembed.study.plan import StudyPlan
from diffembed.study.store import Store
from diffembed.training.settings import make_config

WORDS = ("model", "text", "token", "state", "mask", "vector", "question", "answer", "search", "cluster", "read", "hide")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DIFFEMBED_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def write_jsonl(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> None:
    """rows.jsonl, text.txt, held.txt, and the tasks `finding` and `pairs`."""
    draw = random.Random(0)

    def sentence(num_words):
        return " ".join(draw.choices(WORDS, k=num_words))

    rows = []
    for number in range(48):
        query = f"{sentence(4)} r{number}"
        rows.append({"query": query, "positive": f"{query} {sentence(8)}", "negatives": [f"{sentence(7)} n{number}"],
                     "instruction": "find the text"})  # fmt: skip
    write_jsonl(folder / "rows.jsonl", rows)
    for name, num_lines in (("text", 120), ("held", 30)):
        lines = [f"{sentence(12)} {name}{number}" for number in range(num_lines)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    documents = [f"{sentence(10)} d{number} {sentence(12)}" for number in range(30)]
    write_jsonl(
        folder / "finding" / "corpus.jsonl",
        [{"_id": f"d{number}", "title": "", "text": text} for number, text in enumerate(documents)],
    )
    write_jsonl(
        folder / "finding" / "queries.jsonl",
        [{"_id": f"q{n}", "text": f"{sentence(2)} d{n} {sentence(1)}"} for n in range(20)],
    )
    (folder / "finding" / "qrels").mkdir()
    (folder / "finding" / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in range(20)), encoding="utf-8"
    )
    (folder / "pairs").mkdir()
    (folder / "pairs" / "pairs.tsv").write_text(
        "score\tsentence1\tsentence2\n"
        + "".join(f"{n % 6}.0\t{sentence(5)} p{n}\t{sentence(5)} p{n} {sentence(n % 6)}\n" for n in range(24)),
        encoding="utf-8",
    )


def plan_values(folder: Path):
    return {
        "name": "tiny",
        "backbone": "tiny-gemma3",
        "dtype": "float32",
        "adaptation": {
            "text": {
                "files": [str(folder / "text.txt")],
                "held_out": [str(folder / "held.txt")],
                "row_tokens": 32,
                "max_tokens": 1024,
                "held_out_rows": 4,
            },
            "batch": {"rows": 8, "micro_rows": 4},
            "lora": {"rank": 2, "dropout": 0.0},
            "optimiser": {"warmup_steps": 1, "learning_rate": 5e-3},
            "save_every_steps": 1,
        },
        "fine_tuning": {
            "num_steps": 4,
            "data": {"sources": [{"kind": "rows", "path": str(folder / "rows.jsonl"), "name": "rows"}]},
            "batch": {"rows": 8, "query_max_tokens": 40, "document_max_tokens": 64},
            "lora": {"rank": 2, "dropout": 0.1},
            "optimiser": {"warmup_steps": 1, "learning_rate": 5e-3},
            "save_every_steps": 1,
        },
        "evaluation": {
            "suites": {str(folder / "finding"): [], str(folder / "pairs"): []},
            "counted_by": "words",
            "baselines": ["bm25"],
            "adapted_only": False,
        },
        "arms": {
            "ar-cpt": {"attention": "causal", "objective": "causal"},
            "diffusion": {
                "attention": "bidirectional",
                "objective": "diffusion",
                "control": "ar-cpt",
                "differs_in": ["attention", "objective"],
            },
            "bi": {"attention": "bidirectional", "control": "diffusion", "differs_in": ["objective"]},
        },
        "primary": {
            "subject": "diffusion",
            "controls": ["ar-cpt", "bi"],
            "skills": {"reasoning": ["finding"], "general": ["pairs"]},
        },
    }


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """(plan, store) of one finished study, which tests must leave as it is."""
    from diffembed.study.run import run_study

    folder = tmp_path_factory.mktemp("whole")
    write_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFEMBED_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        plan = make_config(StudyPlan, plan_values(Path("data")))
        run_study(plan, Store("tiny"))
    return plan, Store("tiny", folder)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The data folder `data` of the current one; every test sees the same relative paths, and so the same plan."""
    monkeypatch.chdir(tmp_path)
    write_data(Path("data"))
    return Path("data")


@pytest.fixture
def values(data):
    """The plan as its YAML file holds it."""
    return plan_values(data)


@pytest.fixture
def make_plan(data):
    """A function from changes of sections to a plan."""

    def make(**changes) -> StudyPlan:
        values = plan_values(data)
        for section, change in changes.items():
            whole = {**values.get(section, {}), **change} if isinstance(change, dict) else change
            values[section] = {k: v for k, v in whole.items() if v is not None} if isinstance(whole, dict) else whole
        return make_config(StudyPlan, values)

    return make


@pytest.fixture
def store(tmp_path):
    return Store("tiny", tmp_path)
