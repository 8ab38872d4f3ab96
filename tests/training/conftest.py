import json
import random
from pathlib import Path

import pytest

from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import TrainConfig
from diffembed.training.settings import make_config

WORDS = ("model", "text", "token", "state", "mask", "vector", "question", "answer", "search", "cluster", "read", "hide")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and wait for them where the processor is shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_rows(num_rows, *, seed=0, num_negatives=2, min_words=3, max_words=30):
    """Rows whose lengths differ, so that packs are ragged and a tiny sliding window is crossed."""
    draw = random.Random(seed)
    rows = []
    for number in range(num_rows):
        query = " ".join(draw.choices(WORDS, k=4)) + f" {number}"
        rows.append(
            {
                "query": query,
                "positive": query + " " + " ".join(draw.choices(WORDS, k=draw.randint(min_words, max_words))),
                "negatives": [" ".join(draw.choices(WORDS, k=6)) + f" {number} {k}" for k in range(num_negatives)],
                "instruction": "find the answer" if number % 2 else "find the text",
                "concept": f"concept {number % 5}",
            }
        )
    return rows


def write_rows(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train_builder(folder: Path):
    def build(name="run", **overrides) -> TrainConfig:
        rows = overrides.pop("rows", None) or make_rows(48)
        file = write_rows(folder / f"{name}.jsonl", rows)
        values = {
            "model": {"name": "tiny-gemma3", "attention": "bidirectional", "dtype": "float32"},
            "data": {"sources": [{"kind": "rows", "path": str(file), "name": "rows"}]},
            "lora": {"rank": 4, "dropout": 0.1},
            "batch": {"rows": 8, "query_max_tokens": 40, "document_max_tokens": 64, "mini_batch_tokens": 150},
            "optimiser": {"warmup_steps": 2, "learning_rate": 5e-3},
            "run": {
                "output": str(folder / name),
                "schedule_steps": 6,
                "save_every_steps": 2,
                "log_every_steps": 1,
            },
        }
        for section, changes in overrides.items():
            values[section] = {**values.get(section, {}), **changes} if isinstance(changes, dict) else changes
        return make_config(TrainConfig, values)

    return build


@pytest.fixture
def train_config(tmp_path):
    """A function from overrides to a config of six tiny steps with LoRA, dropout and GradCache."""
    return train_builder(tmp_path)


@pytest.fixture(scope="session")
def straight_run(tmp_path_factory):
    """(config, folder) of one uninterrupted run, for every test that compares with it."""
    from diffembed.training.contrast import train

    folder = tmp_path_factory.mktemp("straight")
    config = train_builder(folder)("run")
    train(config)
    return config, folder / "run"


@pytest.fixture
def rows_of():
    """The rows that configs are made of, as a function of their number and seed."""
    return make_rows


def adapt_builder(tmp_path: Path):
    def build(name="adapt", **overrides) -> AdaptConfig:
        draw = random.Random(1)
        for file, num_words in (("train.txt", 3000), ("held.txt", 500)):
            lines = [" ".join(draw.choices(WORDS, k=12)) for _ in range(num_words // 12)]
            (tmp_path / file).write_text("\n".join(lines), encoding="utf-8")
        values = {
            "model": {"name": "tiny-gemma3", "dtype": "float32"},
            "text": {
                "files": [str(tmp_path / "train.txt")],
                "held_out": [str(tmp_path / "held.txt")],
                "row_tokens": 32,
                "held_out_rows": 6,
            },
            "lora": {"rank": 4, "dropout": 0.1},
            "batch": {"rows": 8, "micro_rows": 4},
            "optimiser": {"warmup_steps": 2, "learning_rate": 1e-2},
            "run": {
                "output": str(tmp_path / name),
                "schedule_steps": 6,
                "save_every_steps": 2,
                "log_every_steps": 1,
            },
            "measure_every_steps": 4,
        }
        for section, changes in overrides.items():
            values[section] = {**values.get(section, {}), **changes} if isinstance(changes, dict) else changes
        return make_config(AdaptConfig, values)

    return build


@pytest.fixture
def adapt_config(tmp_path):
    """A function from overrides to a config of six tiny steps of masked diffusion with LoRA and dropout."""
    return adapt_builder(tmp_path)


@pytest.fixture(scope="session")
def straight_adaptation(tmp_path_factory):
    """(config, folder) of one uninterrupted adaptation."""
    from diffembed.training.adapt import adapt

    folder = tmp_path_factory.mktemp("straight-adaptation")
    config = adapt_builder(folder)("run")
    adapt(config)
    return config, folder / "run"
