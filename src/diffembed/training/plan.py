"""What a run would read, hold and take, before any weight is loaded: the dry run.

Read `plan_training` and `plan_adaptation`. Everything that can be resolved is: files are read, rows counted, texts
tokenised; what is out of reach (the hub, a folder that is not here) is said and bounded from the config.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from diffembed.backbones.arithmetic import pick_device, pick_dtype
from diffembed.data.formats import Triplet
from diffembed.data.mixing import BatchPlan
from diffembed.data.opening import resolve
from diffembed.data.published import PUBLIC_E5
from diffembed.data.source_config import SourceConfig
from diffembed.embedding.packing import default_budget
from diffembed.embedding.text import Kind, TextTemplate, Tokenizer
from diffembed.errors import CheckpointError, ConfigError, InputError, MissingExtraError
from diffembed.objectives.vocabulary import CHUNK_BYTES
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.batches import columns_of
from diffembed.training.config import LoraConfig, ModelConfig, TrainConfig
from diffembed.training.contrast import load_rows, plan_batches
from diffembed.training.settings import resolve_name, resolve_path
from diffembed.training.shapes import Shape, shape_of

SAMPLE_ROWS = 512
"""Rows of the run's own batches whose texts are tokenised to estimate the tokens of all."""
HUB_TIMEOUT_S = 3.0
ACTIVATION_BYTES = {2: (38, 17, 4, 10.5), 4: (59, 29, 4, 20.5)}
"""Bytes of a weight -> bytes per token and layer that backward keeps, per unit of width, heads x head width, key/value
heads x head width and ffn width; with adapters and dropout on all seven projections. Fitted to what autograd saved for
qwen2, llama and gemma3 shapes (transformers 5.23, peft 0.21); a test measures it again."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on paper."""

    model: str
    num_weights: int
    """Of the body with its embedding table, and of a head of its own where one is loaded."""
    num_trained: int
    num_rows: int | None
    """None where the rows are out of reach."""
    num_steps: int | None
    """Length of the schedule; None where it follows from rows out of reach."""
    stop_step: int | None
    """Last step that is made."""
    tokens_per_step: int
    """Mean of a sample of the run's batches, or the most that the limits allow (see `notes`)."""
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """Part -> bytes, per process."""
    notes: list[str] = field(default_factory=list)
    """What was assumed, and what is out of reach."""

    @property
    def num_tokens(self) -> int | None:
        """Tokens that the run reads."""
        return None if self.stop_step is None else self.stop_step * self.tokens_per_step

    @property
    def peak_bytes(self) -> int:
        """Sum of the memory plan."""
        return sum(self.memory_bytes.values())


def plan_training(config: TrainConfig, *, num_processes: int = 1) -> Plan:
    """The plan of `diffembed train`. Raises the errors of the config; what is out of reach becomes a note."""
    notes: list[str] = []
    shape = shape_of(resolve_name(config.model.name))
    triplets, batches, num_steps = _rows_and_steps(config, notes)
    num_rows = len(triplets) if triplets is not None else None
    tokens_per_step, largest_step = _step_tokens(config, triplets, batches, num_steps, notes)
    budget = default_budget(pick_device(config.model.device))
    if config.batch.mini_batch_tokens is not None:
        longest = max(config.batch.query_max_tokens, config.batch.document_max_tokens)
        held = max(config.batch.mini_batch_tokens, longest)
        notes.append("GradCache: activations of one mini-batch at a time, one more forward pass")
    else:
        held = -(-largest_step // num_processes)
    num_trained = _num_trained(shape, config.lora)
    memory = _memory(config.model, config.lora, shape, held, min(held, budget))
    return Plan(
        model=config.model.name,
        num_weights=shape.num_body_weights,
        num_trained=num_trained,
        num_rows=num_rows,
        num_steps=num_steps,
        stop_step=config.run.stop_after_steps or num_steps,
        tokens_per_step=tokens_per_step,
        memory_bytes=memory,
        notes=notes,
    )


def plan_adaptation(config: AdaptConfig, *, num_processes: int = 1) -> Plan:
    """The plan of `diffembed adapt`."""
    notes: list[str] = []
    shape = shape_of(resolve_name(config.model.name))
    num_rows, num_steps = None, config.run.schedule_steps
    try:
        from diffembed.training.adapt import count_steps, load_text

        rows, _ = load_text(config, load_tokenizer(config.model.name))
        num_rows = len(rows.rows)
        num_steps = count_steps(config, num_rows)
    except (InputError, CheckpointError, MissingExtraError) as error:
        notes.append(f"text out of reach: {error}")
        if config.text.max_tokens is not None and num_steps is None:
            num_steps = int(config.text.max_tokens * config.run.num_epochs) // (
                config.text.row_tokens * config.batch.rows
            )
            notes.append("steps are the most that text.max_tokens allows")
    held = config.batch.micro_rows * config.text.row_tokens
    memory = _memory(config.model, config.lora, shape, held, held)
    memory["vocabulary chunks"] = 2 * CHUNK_BYTES
    own_head = 0 if shape.has_tied_head else shape.vocabulary * shape.width
    memory["weights"] += own_head * _weight_bytes(config.model)
    return Plan(
        model=config.model.name,
        num_weights=shape.num_body_weights + own_head,
        num_trained=_num_trained(shape, config.lora),
        num_rows=num_rows,
        num_steps=num_steps,
        stop_step=config.run.stop_after_steps or num_steps,
        tokens_per_step=config.batch.rows * config.text.row_tokens,
        memory_bytes=memory,
        notes=notes,
    )


def load_tokenizer(name: str) -> Any:
    """A model's tokenizer without its weights; raises CheckpointError where only the hub has it and is out of reach."""
    from diffembed.backbones.loading import locate
    from diffembed.backbones.registry import find_model
    from diffembed.backbones.tiny import build_tokenizer
    from diffembed.embedding.checkpoint import base_location, checkpoint_folder, load_config

    name = resolve_name(name)
    folder = checkpoint_folder(name)
    if folder is not None:
        return load_tokenizer(base_location(load_config(folder), folder))
    spec = find_model(name)
    if spec is not None and spec.source == "tiny":
        return build_tokenizer()
    from transformers import AutoTokenizer

    if spec.source != "hub" if spec is not None else Path(name).is_dir():
        return AutoTokenizer.from_pretrained(locate(name, spec))
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = (spec.location if spec is not None else name).partition("@")
    cached = try_to_load_from_cache(repository, "tokenizer_config.json", revision=revision or None)
    if isinstance(cached, str):
        return AutoTokenizer.from_pretrained(Path(cached).parent)
    if not hub_answers():
        raise CheckpointError(f"the tokenizer of {name} is on the hub, which does not answer")
    return AutoTokenizer.from_pretrained(repository, revision=revision or None)


def _rows_and_steps(config: TrainConfig, notes: list[str]) -> tuple[list[Triplet] | None, BatchPlan | None, int | None]:
    missing = _missing_data(config)
    try:
        rows = None if missing else load_rows(config)
    except InputError as error:
        # A hub that cannot be reached has the library's own error behind it; bad rows have none.
        if not isinstance(error.__cause__, OSError | ValueError):
            raise
        rows, missing = None, str(error)
    if rows is None:
        notes.append(f"rows out of reach: {missing}")
        most = _most_rows(config)
        steps = config.run.schedule_steps
        if steps is None and most is not None:
            steps = max(1, round(most // config.batch.rows * config.run.num_epochs))
            notes.append(f"steps are the most that max_rows allows, {most:,} rows")
        return None, None, steps
    for report in rows.reports:
        if report.num_bad:
            notes.append(f"{report.source}: {report.num_bad} of {report.num_rows} rows cannot be used")
    plan, steps = plan_batches(config, rows.train)
    notes.append("steps per epoch: " + ", ".join(f"{name} {share}" for name, share in plan.shares.items()))
    return rows.train, plan, steps


def _missing_data(config: TrainConfig) -> str:
    """What is not on this machine; empty where every path of the sources is."""
    try:
        root = Path() if config.data.root is None else resolve_path(config.data.root)
    except ConfigError as error:
        return str(error)
    paths = [resolve(source.path, root) for source in config.data.sources if source.path is not None]
    missing = [f"no file or folder {path}" for path in paths if not path.exists()]
    if len(paths) < len(config.data.sources) and not hub_answers():
        missing.append("the hub does not answer")
    return ", ".join(missing)


@cache
def hub_answers() -> bool:
    """False within seconds where there is no way to the hub; the libraries would try again for minutes."""
    from threading import Thread
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    answered = []

    def ask() -> None:
        with suppress(OSError):
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
            answered.append(True)

    # A thread, because looking up a name takes as long as the system likes.
    asking = Thread(target=ask, daemon=True)
    if not constants.HF_HUB_OFFLINE:
        asking.start()
        asking.join(HUB_TIMEOUT_S)
    return bool(answered)


def _most_rows(config: TrainConfig) -> int | None:
    """Rows that `max_rows` of every source allows; None where a source has no limit."""
    most = [_most_of(source) for source in config.data.sources]
    return None if None in most else sum(value for value in most if value is not None)


def _most_of(source: SourceConfig) -> int | None:
    if source.max_rows is None:
        return None
    sets = len(source.sets) or {"public_e5": len(PUBLIC_E5), "reasonir": 2}.get(source.kind, 1)
    return None if source.kind == "folder" and not source.sets else sets * source.max_rows


def _step_tokens(
    config: TrainConfig,
    triplets: Sequence[Triplet] | None,
    batches: BatchPlan | None,
    num_steps: int | None,
    notes: list[str],
) -> tuple[int, int]:
    """(mean, largest) tokens of a step, all texts of its rows together, as the limits cut them.

    Batches are of one source each, so that the largest may hold several times the mean, and it is the one that decides
    whether a run fits.
    """
    batch = config.batch
    num_documents = 1 + (0 if config.loss.kind == "simcse" else config.loss.num_negatives)
    most = batch.rows * (batch.query_max_tokens + num_documents * batch.document_max_tokens)
    if triplets is None or batches is None or num_steps is None:
        notes.append("tokens are the most that the limits allow")
        return most, most
    try:
        tokenizer = load_tokenizer(config.model.name)
    except CheckpointError as error:
        notes.append(f"{error}; tokens are the most that the limits allow")
        return most, most
    longest = max(batch.query_max_tokens, batch.document_max_tokens)
    encoder = Tokenizer(tokenizer, config.template or TextTemplate(), max_tokens=longest, pools_special_tokens=False)
    spread = range(0, num_steps, max(1, num_steps * batch.rows // SAMPLE_ROWS))
    counts = [_count_tokens(encoder, [triplets[place] for place in batches.batch(step)], config) for step in spread]
    seen = {batches.group_of(step) for step in spread}
    others = {batches.group_of(step): step for step in range(min(num_steps, batches.steps_per_epoch))}
    rest = [
        _count_tokens(encoder, [triplets[place] for place in batches.batch(step)], config)
        for group, step in others.items()
        if group not in seen
    ]
    mean, largest = round(sum(counts) / len(counts)), max(counts + rest)
    notes.append(
        f"tokens from {len(counts) + len(rest)} of {num_steps:,} batches: {mean:,} a step, {largest:,} in the largest "
        f"seen, {most:,} at most"
    )
    return mean, largest


def _count_tokens(encoder: Tokenizer, rows: Sequence[Triplet], config: TrainConfig) -> int:
    total = 0
    for column, texts in columns_of(rows).items():
        is_query = column == "query" or config.loss.kind == "simcse"
        kind: Kind = "query" if is_query else "document"
        limit = config.batch.query_max_tokens if is_query else config.batch.document_max_tokens
        for text, row in zip(texts, rows, strict=True):
            (tokens,) = encoder.encode([text], kind=kind, instruction=row.instruction if is_query else None)
            total += min(tokens.num_tokens, limit)
    return total


def _num_trained(shape: Shape, lora: LoraConfig | None) -> int:
    return shape.num_body_weights if lora is None else shape.num_lora_weights(lora.rank, lora.targets)


def _weight_bytes(model: ModelConfig) -> int:
    return int(pick_dtype(model.dtype, pick_device(model.device)).itemsize)


def _memory(model: ModelConfig, lora: LoraConfig | None, shape: Shape, held: int, pack: int) -> dict[str, int]:
    """`held`: tokens whose activations are kept for backward; `pack`: tokens that go through a layer at once."""
    weight_bytes = _weight_bytes(model)
    num_trained = _num_trained(shape, lora)
    trained_bytes = 4 if lora is not None and lora.dtype == "float32" else weight_bytes
    per_token = sum(
        factor * size
        for factor, size in zip(
            ACTIVATION_BYTES[weight_bytes],
            (shape.width, shape.heads * shape.head_width, shape.kv_heads * shape.head_width, shape.ffn_width),
            strict=True,
        )
    )
    if model.gradient_checkpointing:
        activations = held * shape.layers * shape.width * weight_bytes + pack * per_token
    else:
        activations = held * shape.layers * per_token
    return {
        "weights": shape.num_body_weights * weight_bytes + (num_trained * trained_bytes if lora is not None else 0),
        "gradients": num_trained * trained_bytes,
        # Two moments in float32, and a float32 copy of every narrower weight.
        "optimiser": num_trained * (8 if trained_bytes == 4 else 12),
        "activations": round(activations),
    }
