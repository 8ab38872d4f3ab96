"""LoRA training speed and memory: `diffembed train` against the sentence-transformers trainer as its manual has it.

    python -m benchmarks.train

Same rows, weights, adapters, loss and number format (the one that is faster here), causal attention (what
sentence-transformers gives unasked). Each contestant lives in a process of its own and takes its turn in every round.
Only training steps are timed. Writes benchmarks/results/train.json and the section `train` of docs/benchmarks.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.encode import fast_dtype, flops, gemm_peak, ragged_texts
from benchmarks.report import machine_line, write_section
from diffembed.provenance import environment, write_json

MODEL = "gemma-3-270m"
RESULT = Path(__file__).parent / "results" / "train.json"
NUM_ROWS = 8
MAX_TOKENS = 1024
LORA = {"rank": 16, "dropout": 0.05}
TEMPERATURE = 0.02
# Rows per step, and GradCache's mini-batch (rows for sentence-transformers, tokens for diffembed); None is without.
THEIR_SETTINGS: tuple[tuple[int, int | None], ...] = ((2, None), (4, None), (8, None), (8, 4))
OUR_SETTINGS: tuple[tuple[int, int | None], ...] = ((4, None), (8, 2048))


def make_rows(num_rows: int) -> list[dict[str, Any]]:
    """Triplets of ragged passages; what they say does not matter for speed."""
    texts = ragged_texts(3 * num_rows, seed=1)
    return [
        {"query": texts[3 * i], "positive": texts[3 * i + 1], "negatives": [texts[3 * i + 2]]} for i in range(num_rows)
    ]


class StepClock:
    """Seconds inside training steps, told by the trainer's callbacks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Timer(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.started = time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                clock.seconds += time.perf_counter() - self.started

        return Timer()


def prepare_ours(rows: int, mini_batch: int | None) -> Any:
    """A function that trains one pass over the rows and returns its seconds."""
    from diffembed.embedding.embedder import Embedder
    from diffembed.training.config import TrainConfig
    from diffembed.training.contrast import load_rows, make_trainer, plan_batches
    from diffembed.training.runs import open_run, prepare_network, start_processes
    from diffembed.training.settings import make_config

    folder = Path(tempfile.mkdtemp())
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in make_rows(NUM_ROWS)), encoding="utf-8")
    config = make_config(
        TrainConfig,
        {
            "model": {"name": MODEL, "attention": "causal", "dtype": fast_dtype()},
            "data": {"sources": [{"kind": "rows", "path": str(folder / "rows.jsonl")}]},
            "batch": {
                "rows": rows,
                "query_max_tokens": MAX_TOKENS,
                "document_max_tokens": MAX_TOKENS,
                "mini_batch_tokens": mini_batch,
            },
            "lora": LORA,
            "loss": {"temperature": TEMPERATURE, "drops_same_texts": False},
            "optimiser": {"warmup_steps": 0},
            "run": {"output": str(folder / "run"), "save_every_steps": 10**6},
        },
    )
    triplets = load_rows(config).train
    processes = start_processes(config)
    embedder = Embedder.load(MODEL, attention="causal", dtype=fast_dtype(), max_tokens=MAX_TOKENS)
    prepare_network(config, embedder)
    run = open_run(config, embedder, processes, {})
    plan, steps = plan_batches(config, triplets)

    def train() -> float:
        trainer = make_trainer(config, run, triplets, plan, steps)
        trainer.args.save_strategy = "no"
        clock = StepClock()
        trainer.add_callback(clock.callback())
        trainer.train()
        return clock.seconds

    return train


def prepare_theirs(rows: int, mini_batch: int | None) -> Any:
    """The same by sentence-transformers alone, as its manual's pages on training, PEFT and GradCache have it."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, TaskType
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    from diffembed.backbones.loading import locate
    from diffembed.backbones.registry import find_model

    folder = locate(MODEL, find_model(MODEL))
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, fast_dtype())})
    model.max_seq_length = MAX_TOKENS
    model.add_adapter(
        LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            r=LORA["rank"],
            lora_alpha=2 * LORA["rank"],
            lora_dropout=LORA["dropout"],
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        )
    )
    data = make_rows(NUM_ROWS)
    dataset = Dataset.from_dict(
        {
            "anchor": [row["query"] for row in data],
            "positive": [row["positive"] for row in data],
            "negative": [row["negatives"][0] for row in data],
        }
    )
    scale = 1 / TEMPERATURE
    loss = (
        losses.MultipleNegativesRankingLoss(model, scale=scale)
        if mini_batch is None
        else losses.CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=mini_batch)
    )

    def train() -> float:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=tempfile.mkdtemp(),
            num_train_epochs=1,
            per_device_train_batch_size=rows,
            learning_rate=1e-4,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        clock = StepClock()
        trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss)
        trainer.add_callback(clock.callback())
        trainer.train()
        return clock.seconds

    return train


def work(spec: dict[str, Any]) -> None:
    """The worker: prepares, says so, then answers each line with the seconds of one pass and the peak memory."""
    prepare = prepare_ours if spec["library"] == "diffembed" else prepare_theirs
    # Trainers print their logs; the answers need stdout for themselves.
    answers, sys.stdout = sys.stdout, sys.stderr
    train = prepare(spec["rows"], spec["mini_batch"])
    Path("/proc/self/clear_refs").write_text("5")
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        seconds = train()
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(json.dumps({"seconds": seconds, "peak_bytes": int(peak.split()[1]) * 1024}), file=answers, flush=True)


class Contestant:
    """A worker process that prepares once and trains on request."""

    def __init__(self, library: str, setting: tuple[int, int | None]) -> None:
        rows, mini_batch = setting
        unit = "tokens" if library == "diffembed" else "rows"
        cached = f", GradCache of {mini_batch} {unit}" if mini_batch is not None else ""
        self.name = f"{library}, {rows} rows a step{cached}"
        spec = json.dumps({"library": library, "rows": rows, "mini_batch": mini_batch})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.train", "--worker", spec],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended without an answer")
        return json.loads(line)

    def train(self) -> dict[str, Any]:
        """{"seconds", "peak_bytes"} of one pass over the rows."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._read()
        print(f"{self.name}: {answer['seconds']:.1f} s", file=sys.stderr)
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def search(library: str, settings: tuple[tuple[int, int | None], ...]) -> dict[str, Any]:
    """Seconds and peak memory of each setting, one pass each after the process has warmed up on loading."""
    found = {}
    for setting in settings:
        contestant = Contestant(library, setting)
        found[json.dumps(setting)] = contestant.train()
        contestant.close()
    return found


def main() -> None:
    """Finds the best setting of each side, then lets the two run in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    from diffembed import load_backbone

    backbone = load_backbone(MODEL, attention="causal")
    texts = [text for row in make_rows(NUM_ROWS) for text in (row["query"], row["positive"], *row["negatives"])]
    lengths = [min(len(ids), MAX_TOKENS) for ids in backbone.tokenizer(texts).input_ids]
    # Backward through frozen weights costs as much as forward: the gradient of the inputs, none of the weights.
    needed = 2 * flops(lengths, backbone.config, is_causal=True)
    del backbone
    dtype = fast_dtype()
    peaks = [gemm_peak(dtype)]
    theirs = search("sentence-transformers", THEIR_SETTINGS)
    ours = search("diffembed", OUR_SETTINGS)
    best_theirs = min(theirs, key=lambda setting: theirs[setting]["seconds"])
    # The fastest of ours that needs no more memory than their fastest.
    limit = theirs[best_theirs]["peak_bytes"]
    fitting = {name: found for name, found in ours.items() if found["peak_bytes"] <= limit} or ours
    best_ours = min(fitting, key=lambda setting: fitting[setting]["seconds"])
    contestants = [
        Contestant("diffembed", tuple(json.loads(best_ours))),
        Contestant("sentence-transformers", tuple(json.loads(best_theirs))),
    ]
    seconds: list[list[float]] = [[], []]
    memory = [0, 0]
    for turn in range(arguments.rounds + 1):
        for place, contestant in enumerate(contestants):
            answer = contestant.train()
            memory[place] = answer["peak_bytes"]
            # The first round warms up.
            if turn > 0:
                seconds[place].append(answer["seconds"])
        peaks.append(gemm_peak(dtype))
    for contestant in contestants:
        contestant.close()
    peak, tokens = statistics.median(peaks), sum(lengths)
    result = {
        "model": MODEL,
        "rows": NUM_ROWS,
        "texts": {"count": len(texts), "tokens": tokens, "mean": tokens / len(texts), "longest": max(lengths)},
        "dtype": dtype,
        "gemm_peak_flops": peak,
        "contestants": {
            contestant.name: {
                "seconds": seconds[place],
                "tokens_per_s": tokens / statistics.median(seconds[place]),
                "share_of_gemm_bound": needed / statistics.median(seconds[place]) / peak,
                "peak_bytes": memory[place],
            }
            for place, contestant in enumerate(contestants)
        },
        "ours_is_faster_by": statistics.median(t / o for o, t in zip(*seconds, strict=True)),
        "settings": {"diffembed": ours, "sentence-transformers": theirs},
        "environment": environment(),
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.train",
    }
    write_json(RESULT, result)
    write_section("train", "LoRA training", _table(result))
    print(json.dumps(result, indent=2))


def _table(result: dict[str, Any]) -> str:
    texts = result["texts"]
    lines = [
        machine_line(result),
        "",
        f"{MODEL}, LoRA of rank {LORA['rank']} on seven projections, dropout {LORA['dropout']}, {result['dtype']}; "
        f"{result['rows']} triplets, {texts['tokens']:,} tokens, mean {texts['mean']:.0f}, longest {texts['longest']}; "
        "each side with its fastest setting, medians of interleaved rounds. The GEMM bound is forward and backward "
        f"through frozen weights at the machine's {result['gemm_peak_flops'] / 1e12:.2f} TFLOP/s.",
        "",
        "| what | tokens/s | share of GEMM bound | peak memory |",
        "|---|---|---|---|",
    ]
    for name, row in result["contestants"].items():
        peak = f"{row['peak_bytes'] / 2**30:.1f} GiB"
        lines.append(f"| {name} | {row['tokens_per_s']:,.0f} | {row['share_of_gemm_bound']:.0%} | {peak} |")
    lines += ["", f"diffembed is faster by {result['ours_is_faster_by']:.2f} x."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
