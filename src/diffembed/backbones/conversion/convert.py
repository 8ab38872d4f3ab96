"""From a published diffusion checkpoint to a folder that plain transformers loads, bidirectional, without remote code.

Read `convert_checkpoint`. The weights are copied byte by byte under new names; every native tensor has exactly one
published origin of the right shape and nothing is left over (`plan.py`). Knows no templates.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffembed.backbones.conversion import sidecar
from diffembed.backbones.conversion.catalogue import choose_layout, find_layout
from diffembed.backbones.conversion.hub import convert_once, fetch
from diffembed.backbones.conversion.layout import Layout, PublishedConfig, TrainedAttention
from diffembed.backbones.conversion.parity import GoldenReport, check_golden
from diffembed.backbones.conversion.pipeline import Pipeline, read_pipeline, write_pipeline
from diffembed.backbones.conversion.plan import plan_conversion
from diffembed.backbones.conversion.source import Source, open_source, read_config
from diffembed.backbones.conversion.tokenizer import check_mask_token, check_vocabulary, copy_tokenizer, find_mask_token
from diffembed.backbones.conversion.writer import MAX_SHARD_BYTES, hash_tensors, write_shards
from diffembed.backbones.licences import copy_licences, read_licence
from diffembed.errors import CheckpointError
from diffembed.provenance import atomic_folder, environment, hash_file, write_json

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionReport:
    """What a conversion did; all but `golden` and `seconds` is kept in `diffembed.json`."""

    family: str
    """Published layout."""
    native: str
    """`model_type` of the native class."""
    source: str
    """Folder name or hub id."""
    revision: str | None
    """Commit of the hub; `None` for a folder."""
    source_hash: str
    """sha256 over names, dtypes, shapes and bytes of the converted weights, however they are sharded."""
    source_config_hash: str
    """sha256 of the published config.json."""
    licence: str | None
    """Licence named in the published model card; `None` where it names none."""
    num_parameters: int
    num_bytes: int
    dtype: str
    """dtype of the embedding table; other tensors keep theirs."""
    mask_token_id: int | None
    """`None` where the checkpoint does not tell it."""
    shifts_logits: bool
    """True where the logits at position i - 1 score the token at position i."""
    logit_scale: float
    """Factor on the logits."""
    has_head: bool
    """False where the checkpoint was published without a language-model head."""
    trained_attention: TrainedAttention
    """Attention it was trained with; the converted network attends fully in either case."""
    pipeline: Pipeline | None
    """Pooling, normalising and quantiser of its own sentence-transformers pipeline, where it has one."""
    notes: tuple[str, ...]
    """What a user should know before relying on it."""
    golden: GoldenReport | None = None
    """Comparison with outputs of the original code, where some were given."""
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        """The part kept beside the weights."""
        values = asdict(self)
        del values["golden"], values["seconds"]
        return {"format": sidecar.FORMAT, **values, "environment": environment()}


def convert_checkpoint(
    source: Path | str,
    out: Path | str,
    *,
    family: str | None = None,
    mask_token_id: int | None = None,
    revision: str | None = None,
    golden: Path | str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Writes a native, bidirectional transformers folder to `out`, or nothing at all.

    source: folder or hub id of a published checkpoint (safetensors).
    family: needed where the folder does not say what it is (DiffuLLaMA).
    mask_token_id: overrides what the checkpoint says.
    golden: golden.npz with outputs of the original code; a difference above its tolerance stops the conversion.
    progress: called with (bytes written, bytes in total).
    Raises ConversionError naming the tensor or key, what was expected and what was found.
    """
    started = time.perf_counter()
    folder, commit = fetch(source, revision)
    published = open_source(folder, str(source))
    layout = choose_layout(published.config, published.name, family)
    plan = plan_conversion(published, layout)
    vocab_size = plan.embedding.shape[0]
    pipeline = read_pipeline(published, layout)
    golden_report = None
    with atomic_folder(out) as part:
        tokenizer = copy_tokenizer(published, layout, part)
        if tokenizer is not None:
            check_vocabulary(tokenizer, vocab_size, published.name)
        if mask_token_id is None:
            mask_token_id = find_mask_token(published, layout, tokenizer, vocab_size)
        else:
            check_mask_token(mask_token_id, vocab_size, published.name)
        hashes = write_shards(plan.tensors, part, max_shard_bytes=max_shard_bytes, progress=progress)
        copy_licences(folder, part)
        if pipeline is not None:
            write_pipeline(published, part)
        report = ConversionReport(
            family=layout.name,
            native=plan.config.model_type,
            source=_public_name(source, folder, commit),
            revision=commit,
            source_hash=hash_tensors(plan.tensors, hashes),
            source_config_hash=hash_file(folder / "config.json"),
            licence=read_licence(folder),
            num_parameters=sum(tensor.num_elements for tensor in plan.tensors.values()),
            num_bytes=sum(tensor.num_bytes for tensor in plan.tensors.values()),
            dtype=DTYPES[plan.embedding.dtype],
            mask_token_id=mask_token_id,
            shifts_logits=layout.shifts_logits,
            logit_scale=layout.logit_scale(PublishedConfig(published.config, published.name)),
            has_head=layout.has_head,
            trained_attention=layout.trained_attention,
            pipeline=pipeline,
            notes=_notes(published, layout, plan.unread, mask_token_id, tokenizer),
        )
        write_json(part / sidecar.NAME, report.facts())
        plan.config.dtype = report.dtype
        plan.config.mask_token_id = mask_token_id
        # Last on purpose: a folder without config.json does not load, whenever the process dies.
        plan.config.save_pretrained(part)
        if golden is not None:
            golden_report = check_golden(part, golden, name=published.name)
    if layout.trained_attention != "bidirectional":
        warnings.warn(f"{published.name}: {report.notes[0]}", stacklevel=2)
    return replace(report, golden=golden_report, seconds=time.perf_counter() - started)


def converted_folder(folder: Path) -> Path:
    """`folder` itself, or for a published layout its conversion in the user cache, made on first use.

    Unmarked layouts (DiffuLLaMA) are left alone: only an explicit conversion may open their attention.
    """
    try:
        config = read_config(folder, str(folder))
    except CheckpointError:
        # No published layout either; whoever loads the folder says what is wrong with it.
        return folder
    if find_layout(config) is None:
        return folder
    return convert_once(folder, lambda out: convert_checkpoint(folder, out))


def _notes(
    published: Source, layout: Layout, unread: tuple[str, ...], mask_token_id: int | None, tokenizer: Any | None
) -> tuple[str, ...]:
    notes = []
    if layout.trained_attention == "block-causal":
        block = published.config.get("block_size")
        size = f" of {block} tokens" if block else ""
        notes.append(
            f"trained with block-causal attention (blocks{size} from left to right); "
            "full attention is outside its training"
        )
    if unread:
        notes.append(f"config keys without a place in {layout.name}'s native class, left out: {', '.join(unread)}")
    if tokenizer is None:
        notes.append("published without a tokenizer: token ids only")
    if mask_token_id is None and layout.has_head:
        notes.append("nothing on file says which id is the mask token; fill needs it")
    return tuple(notes)


def _public_name(source: Path | str, folder: Path, commit: str | None) -> str:
    """Hub id, known name or bare folder name: never a path of this machine."""
    if commit and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return folder.resolve().name if Path(source).is_dir() else str(source)
