"""A run against a server with a real language model behind it: Gemma-3-270M, the packaged pre-trained base.

The base model was never taught to chat, so the server guides it as servers with guided decoding do: the tags are
put down for it, a verdict is whichever of YES and NO it finds likelier. Every other word is the model's own.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed.data.reasonaug.config import load_config
from diffembed.data.reasonaug.pipeline import replay, run

pytestmark = pytest.mark.slow

CONCEPTS = """
domains:
  - name: legal doctrine
    question_type: law
    profile: open
    themes: [the sale of a horse, the lease of a house, a contract for bread]
    concepts: [Promissory Estoppel, Frustration of Purpose, Mirror Image Rule]
"""
MAX_NEW_TOKENS = 6


class Writer:
    """Continues prompts with the real model, one at a time."""

    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from diffembed.backbones.loading import load_backbone

        backbone = load_backbone("gemma-3-270m", attention="causal", kernel="sdpa")
        self.tokenizer = backbone.tokenizer
        with torch.device("meta"):
            self.model = AutoModelForCausalLM.from_config(backbone.config, dtype=backbone.model.dtype)
        self.model.model = backbone.model
        self.model.tie_weights()
        self.model.eval()
        self.lock = threading.Lock()

    def write(self, prompt: str) -> str:
        """A sampled continuation up to the next tag; the prompt decides the seed."""
        import torch

        ids = self.tokenizer(prompt, return_tensors="pt")
        with self.lock, torch.random.fork_rng():
            torch.manual_seed(int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16))
            with torch.inference_mode():
                out = self.model.generate(**ids, max_new_tokens=MAX_NEW_TOKENS, do_sample=True, top_p=0.9)
        text = self.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return text.partition("**")[0].strip() or "Nothing."

    def choose(self, prompt: str) -> str:
        """YES or NO, whichever is likelier as the next word."""
        import torch

        ids = self.tokenizer(prompt, return_tensors="pt")
        first = {word: self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ("YES", "NO")}
        with self.lock, torch.inference_mode():
            scores_V = self.model(**ids, logits_to_keep=1).logits[0, -1]
        return max(first, key=lambda word: float(scores_V[first[word]]))

    def reply(self, messages: list[dict[str, str]]) -> str:
        asked = messages[-1]["content"]
        if asked.startswith(("Look again", "A problem and a proposed")):
            return self.choose("\n\n".join(turn["content"] for turn in messages) + "\n\nAnswer:")
        if "reference entry" in asked:
            definition = self.write(f"{asked}\n\n**Definition**\n")
            return f"**Definition**\n{definition}"
        problem = self.write(f"{asked}\n\n**Problem**\n")
        solution = self.write(f"{asked}\n\n**Problem**\n{problem}\n\n**Solution**\n")
        return f"**Problem**\n{problem}\n\n**Solution**\n{solution}"


def test_three_concepts_end_to_end_with_a_real_language_model(
    server: Any, write_config: Callable[..., Path], tmp_path: Path, reply: Any
) -> None:
    writer = Writer()
    server.script = lambda messages, seen: reply(text=writer.reply(messages))
    generation = {"model": "gemma-3-270m", "rounds": 1, "max_fault_fraction": 1.0}
    config = load_config(write_config(CONCEPTS, generation=generation, endpoint={"concurrency": 2, "max_retries": 0}))
    outcome = run(config, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "triplets.jsonl").read_text().splitlines()]
    assert outcome.num_rows == len(rows) > 0
    total = outcome.report["yield"][-1]
    assert total["concepts"] == total["definitions"] == 3
    assert 0 < total["kept_pairs"] <= total["checked_pairs"] <= 3
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    written = " ".join(each["response"]["choices"][0]["message"]["content"] for each in answers)
    for row in rows:
        assert len(row) == 9
        assert all(str(value) for value in row.values())
        assert row["instance"] != row["negative_instance"]
        assert row["user_query"].splitlines()[0] in written or row["user_query"] == row["instance"]
    replay(tmp_path / "out", tmp_path / "again", config=config)
    assert (tmp_path / "again" / "triplets.jsonl").read_bytes() == (tmp_path / "out" / "triplets.jsonl").read_bytes()
