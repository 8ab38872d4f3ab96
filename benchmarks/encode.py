"""Encoding speed and memory: diffembed against sentence-transformers, same weights, same texts, one run.

    python -m benchmarks.encode

Each contestant lives in a process of its own, loads once, and takes its turn in every round, so that a machine whose
speed drifts is fair to all. Writes benchmarks/results/encode.json and the section `encode` of docs/benchmarks.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import machine_line, write_section
from diffembed.provenance import environment, write_json

MODEL = "gemma-3-270m"
RESULT = Path(__file__).parent / "results" / "encode.json"
NUM_TEXTS = 64
MEAN_WORDS, LONGEST_WORDS = 100, 620
"""Give about 145 Gemma tokens a text and 900 in the longest."""
SENTENCE_TRANSFORMERS_BATCHES = (1, 2, 4, 8)


def ragged_texts(num_texts: int = NUM_TEXTS, seed: int = 3) -> list[str]:
    """Passages of Python's own documentation with log-normal lengths."""
    import pydoc_data.topics

    words = " ".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics)).split()
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(np.log(MEAN_WORDS) - 0.32, 0.8, num_texts).astype(int), 3, LONGEST_WORDS)
    starts = generator.integers(0, len(words) - LONGEST_WORDS, num_texts)
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def equal_texts(num_tokens: int, total_tokens: int) -> list[str]:
    """Texts of one length, for the share of the bound by length."""
    import pydoc_data.topics

    words = " ".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics)).split()
    # More words than fit: both sides cut at `num_tokens`.
    return [" ".join(words[i * 50 : i * 50 + num_tokens]) for i in range(max(total_tokens // num_tokens, 1))]


def flops(lengths: list[int], config: Any, is_causal: bool) -> float:
    """Multiply-adds x 2 of one forward: linear layers, and the attention that is not masked."""
    width, heads, groups, head_dim = (
        config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
    )  # fmt: skip
    linear = width * head_dim * (2 * heads + 2 * groups) + 3 * width * config.intermediate_size
    total = 2.0 * linear * config.num_hidden_layers * sum(lengths)
    for kind in config.layer_types:
        window = config.sliding_window if kind == "sliding_attention" else None
        for length in lengths:
            positions = np.arange(length)
            back = positions if window is None else np.minimum(positions, window - (1 if is_causal else 0))
            ahead = 0 if is_causal else (back[::-1])
            total += 4.0 * heads * head_dim * float((back + ahead + 1).sum())
    return total


def fast_dtype() -> str:
    """The number format both sides run in: the one this processor multiplies faster."""
    import torch

    from diffembed.backbones.arithmetic import pick_dtype

    return str(pick_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


def gemm_peak(dtype: str) -> float:
    """FLOP/s of the machine's product of a number format, in the shape of the model's widest layers."""
    import torch

    left, right = (torch.randn(2048, 640, dtype=getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(40):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - started)
    return 2.0 * 2048 * 640 * 2048 / statistics.median(seconds[5:])


class Contestant:
    """A worker process that loads once and encodes on request."""

    def __init__(self, name: str, spec: dict[str, Any]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.encode", "--worker", json.dumps(spec)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.ready = self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended without an answer")
        return json.loads(line)

    def encode(self, texts: list[str]) -> dict[str, Any]:
        """{"seconds": ...} of one pass."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def work(spec: dict[str, Any]) -> None:
    """The worker: loads, says so, then answers one line of texts with one line of figures."""
    if spec["library"] == "diffembed":
        from diffembed import Embedder

        embedder = Embedder.load(MODEL, attention="causal", dtype=spec["dtype"], max_tokens=spec.get("max_tokens"))
        encode = lambda texts: embedder.encode(texts, progress=False)[0]  # noqa: E731
        weights = sum(p.numel() * p.element_size() for p in embedder.backbone.model.parameters())
    else:
        import torch
        from sentence_transformers import SentenceTransformer

        from diffembed.backbones.loading import locate
        from diffembed.backbones.registry import find_model

        folder = locate(MODEL, find_model(MODEL))
        model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": getattr(torch, spec["dtype"])})
        model.max_seq_length = spec.get("max_tokens", model.max_seq_length)
        encode = lambda texts: model.encode(texts, batch_size=spec["batch"], normalize_embeddings=True)  # noqa: E731
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # What loading needed for a moment is not what encoding needs: the peak is counted from here.
    Path("/proc/self/clear_refs").write_text("5")
    print(json.dumps({"weights_bytes": weights, "loaded_bytes": _status_bytes("VmRSS")}), flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        started = time.perf_counter()
        encode(texts)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "peak_bytes": _status_bytes("VmHWM")}), flush=True)


def _status_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def rounds(contestants: list[Contestant], texts: list[str], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round, in turn; the first round warms up and is dropped."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for turn in range(num_rounds + 1):
        for contestant in contestants:
            elapsed = contestant.encode(texts)["seconds"]
            if turn > 0:
                seconds[contestant.name].append(elapsed)
            print(f"round {turn} {contestant.name}: {elapsed:.1f} s", file=sys.stderr)
    return seconds


def main() -> None:
    """Runs every contestant and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    from diffembed import load_backbone

    backbone = load_backbone(MODEL, attention="causal")
    texts = ragged_texts()
    lengths = [len(ids) for ids in backbone.tokenizer(texts).input_ids]
    tokens, needed, config = sum(lengths), flops(lengths, backbone.config, is_causal=True), backbone.config
    del backbone
    dtype = fast_dtype()
    peaks = [gemm_peak(dtype)]

    # First find the best batch size of the other side, then let the three run in turn.
    narrow = {}
    for batch in SENTENCE_TRANSFORMERS_BATCHES:
        rival = Contestant(f"batch {batch}", {"library": "st", "dtype": dtype, "batch": batch})
        narrow[batch] = statistics.median(rounds([rival], texts, 1)[rival.name])
        rival.close()
    best = min(narrow, key=lambda batch: narrow[batch])
    ours = Contestant(f"diffembed {dtype}", {"library": "diffembed", "dtype": dtype})
    rival = Contestant(
        f"sentence-transformers {dtype}, batch {best} (its best)", {"library": "st", "dtype": dtype, "batch": best}
    )
    default = Contestant(
        "sentence-transformers float32, batch 32 (its default)", {"library": "st", "dtype": "float32", "batch": 32}
    )
    seconds = rounds([ours, rival, default], texts, arguments.rounds)
    peaks.append(gemm_peak(dtype))
    for other in (rival, default):
        other.close()

    memory = {}
    for num_texts in (NUM_TEXTS, 8 * NUM_TEXTS):
        memory[num_texts] = ours.encode(ragged_texts(num_texts, seed=4))["peak_bytes"]
    weights = ours.ready["weights_bytes"]
    loaded = ours.ready["loaded_bytes"]
    ours.close()

    by_length = {}
    for length in (128, 4096):
        even = Contestant(f"{length} tokens", {"library": "diffembed", "dtype": dtype, "max_tokens": length})
        equal = equal_texts(length, 8192)
        elapsed = statistics.median(rounds([even], equal, 3)[even.name])
        by_length[length] = {
            "tokens_per_s": length * len(equal) / elapsed,
            "flops_per_s": flops([length] * len(equal), config, is_causal=True) / elapsed,
        }
        even.close()
    peaks.append(gemm_peak(dtype))

    peak = statistics.median(peaks)
    rows = {
        name: {
            "median_s": statistics.median(values),
            "seconds": values,
            "tokens_per_s": tokens / statistics.median(values),
            "share_of_gemm_peak": needed / statistics.median(values) / peak,
        }
        for name, values in seconds.items()
    }
    # Ratios are taken round by round and then the median, so that a slow minute cancels.
    ratios = {
        name: statistics.median(theirs / own for theirs, own in zip(values, seconds[ours.name], strict=True))
        for name, values in seconds.items()
        if name != ours.name
    }
    result = {
        "model": MODEL,
        "texts": {"count": len(texts), "tokens": tokens, "mean": tokens / len(texts), "longest": max(lengths)},
        "dtype": dtype,
        "gemm_peak_flops": peak,
        "gemm_peaks_flops": peaks,
        "contestants": rows,
        "ours_is_faster_by": ratios,
        "batch_search_s": narrow,
        "by_length": by_length,
        "memory_bytes": {"weights": weights, "after_load": loaded, "peak_by_texts": memory},
        "environment": environment(),
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.encode",
    }
    write_json(RESULT, result)
    write_section("encode", "Encoding", _table(result))
    print(json.dumps(result, indent=2))


def _table(result: dict[str, Any]) -> str:
    texts, peak = result["texts"], result["gemm_peak_flops"]
    lines = [
        machine_line(result),
        "",
        f"{texts['count']} texts, {texts['tokens']:,} tokens, mean {texts['mean']:.0f}, longest {texts['longest']}; "
        f"medians of interleaved rounds. Machine's {result['dtype']} GEMM peak: {peak / 1e12:.2f} TFLOP/s.",
        "",
        "| what | tokens/s | share of GEMM peak | diffembed is faster by |",
        "|---|---|---|---|",
    ]
    for name, row in result["contestants"].items():
        ratio = result["ours_is_faster_by"].get(name)
        faster = f"{ratio:.2f} x" if ratio else ""
        lines.append(f"| {name} | {row['tokens_per_s']:,.0f} | {row['share_of_gemm_peak']:.0%} | {faster} |")
    lines += ["", "| texts of | tokens/s | share of GEMM peak, attention counted |", "|---|---|---|"]
    for length, row in result["by_length"].items():
        lines.append(f"| {length} tokens | {row['tokens_per_s']:,.0f} | {row['flops_per_s'] / peak:.0%} |")
    memory = result["memory_bytes"]
    peaks = ", ".join(f"{value / 2**20:,.0f} MiB for {count} texts" for count, value in memory["peak_by_texts"].items())
    lines += [
        "",
        f"Memory: weights {memory['weights'] / 2**20:,.0f} MiB, process after loading "
        f"{memory['after_load'] / 2**20:,.0f} MiB, peak {peaks}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
