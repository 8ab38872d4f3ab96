"""`Embedder`: texts in, vectors out, in the order they came.

Read `Embedder.load` and `Embedder.encode`. Must not know losses, suites or stores.
"""

import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffembed.backbones.attention import Direction
from diffembed.backbones.loading import Backbone, Kernel, load_backbone, locate, pin_revision
from diffembed.backbones.registry import Attention, FamilySpec, find_model
from diffembed.embedding.checkpoint import (
    CONFIG_FILE,
    EmbedderConfig,
    base_location,
    checkpoint_folder,
    load_config,
    read_sentence_transformers,
    relative_base,
)
from diffembed.embedding.lora import merge_lora
from diffembed.embedding.packing import default_budget, encode_packed
from diffembed.embedding.pooling import find_pooling
from diffembed.embedding.precision import cut_dims, normalise
from diffembed.embedding.progress import EncodeProgress
from diffembed.embedding.text import Kind, Overflow, TextTemplate, TokenizedText, Tokenizer, WindowedText
from diffembed.errors import CheckpointError, ConfigError, InputError
from diffembed.provenance import atomic_folder, environment, write_json
from diffembed.records import EncodeReport, Vectors

SLAB_TEXTS = 2048
"""Texts tokenised at a time: enough to sort well, little enough that memory does not grow with the corpus."""


class Embedder:
    """A backbone, a pooling and a template; satisfies `records.Encoder`."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        pooling: str | None = None,
        template: TextTemplate | None = None,
        max_tokens: int | None = None,
        is_normalised: bool = True,
        name: str | None = None,
        token_budget: int | None = None,
        dims: int | None = None,
    ) -> None:
        """`None` takes the backbone's own value. Raises ConfigError when `max_tokens` is more than it can read."""
        self.backbone = backbone
        self.pooling = pooling or backbone.family.pooling
        find_pooling(self.pooling)
        self.template = template or TextTemplate()
        self.max_tokens = backbone.max_tokens if max_tokens is None else max_tokens
        if not 1 <= self.max_tokens <= backbone.max_tokens:
            raise ConfigError(f"max_tokens is {self.max_tokens}; {backbone.name} reads 1 to {backbone.max_tokens}")
        self.is_normalised = is_normalised
        self.name = name or backbone.name
        self.token_budget = default_budget(backbone.device) if token_budget is None else _checked(token_budget)
        self._dims = dims
        self.adapter_folders: tuple[Path, ...] = ()
        """LoRA folders merged into the backbone at load; `save` copies them."""
        self.location: str | None = None
        """What `load` takes to load it again, a folder as an absolute path; None where more than a name made it."""
        self._tokenizer = Tokenizer(
            backbone.tokenizer,
            self.template,
            max_tokens=self.max_tokens,
            pools_special_tokens=backbone.family.pools_special_tokens,
        )
        if dims is not None:
            cut_dims(np.zeros((1, backbone.dim), dtype=np.float32), dims)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        attention: Attention | None = None,
        pooling: str | None = None,
        template: TextTemplate | None = None,
        max_tokens: int | None = None,
        dtype: str = "auto",
        device: str = "auto",
        kernel: Kernel = "packed",
        token_budget: int | None = None,
        dims: int | None = None,
        adapters: Sequence[str | Path] = (),
        is_compiled: bool = False,
        allow_remote_code: bool = False,
        revision: str | None = None,
    ) -> "Embedder":
        """An embedder from a model name, a checkpoint folder, a sentence-transformers folder or a hub id.

        attention, pooling, template, max_tokens: `None` takes what the checkpoint stores.
        adapters: LoRA folders merged in this order on top of what the checkpoint holds (an MNTP adapter, then a
            contrastive one); `save` keeps them, together with the attention they were stacked under.
        is_compiled: True compiles the layers with torch.compile (slow first call, needs a C++ compiler on the CPU).
        Raises CheckpointError when the base weights are not the ones an adapter was trained on.
        """
        loading: dict[str, Any] = {
            "dtype": dtype,
            "device": device,
            "kernel": kernel,
            "allow_remote_code": allow_remote_code,
        }
        checkpoint = checkpoint_folder(name)
        if checkpoint is not None:
            loading["revision"] = revision
            embedder = cls._load_checkpoint(checkpoint, attention, pooling, template, max_tokens, loading)
        else:
            name = pin_revision(name, revision)
            spec = find_model(name)
            stored = {}
            if spec is None or spec.source != "tiny":
                folder = locate(name, spec, allow_remote_code=allow_remote_code)
                stored = read_sentence_transformers(folder)
            backbone = load_backbone(name, attention=attention, **loading)
            limit = min(stored.get("max_tokens", backbone.max_tokens), backbone.max_tokens)
            embedder = cls(
                backbone,
                pooling=pooling or stored.get("pooling"),
                template=template or _stored_template(stored, backbone.family),
                max_tokens=limit if max_tokens is None else max_tokens,
                is_normalised=stored.get("is_normalised", True),
            )
        if template is None and not adapters:
            embedder.location = location_of(name)
        for adapter in map(Path, adapters):
            merge_lora(embedder.backbone.model, adapter)
            embedder.adapter_folders += (adapter,)
        if token_budget is not None:
            embedder.token_budget = _checked(token_budget)
        if dims is not None:
            cut_dims(np.zeros((1, embedder.backbone.dim), dtype=np.float32), dims)
            embedder._dims = dims
        if is_compiled:
            compile_layers(embedder.backbone)
        return embedder

    @classmethod
    def _load_checkpoint(
        cls,
        folder: Path,
        attention: Attention | None,
        pooling: str | None,
        template: TextTemplate | None,
        max_tokens: int | None,
        loading: dict[str, Any],
    ) -> "Embedder":
        config = load_config(folder)
        base = base_location(config, folder)
        backbone = load_backbone(base, attention=attention or config.attention, **loading)
        if backbone.source_hash != config.base_hash:
            raise CheckpointError(
                f"{folder} was trained on weights {config.base_hash[:12]} of {config.base}, "
                f"found {backbone.source_hash[:12]}; an adapter works only on its own base"
            )
        if config.mask_token_id is not None:
            backbone.mask_token_id = config.mask_token_id
        for adapter in config.adapters:
            merge_lora(backbone.model, folder / adapter)
        embedder = cls(
            backbone,
            pooling=pooling or config.pooling,
            template=template or config.template,
            max_tokens=config.max_tokens if max_tokens is None else max_tokens,
            is_normalised=config.is_normalised,
            name=config.name,
            dims=config.dims,
        )
        embedder.adapter_folders = tuple(folder / adapter for adapter in config.adapters)
        return embedder

    @property
    def dim(self) -> int:
        """Number of components of each vector."""
        return self.backbone.dim if self._dims is None else self._dims

    @property
    def attention(self) -> Attention:
        """`causal` or `bidirectional`, as proved at load."""
        return self.backbone.attention

    def encode_queries(self, texts: Sequence[str], instruction: str | None = None) -> Vectors:
        """[N, dim] float32. `None` uses the checkpoint's default instruction, `''` none. Cut texts are warned about."""
        vectors, report = self.encode(texts, kind="query", instruction=instruction)
        _warn_of_cuts(report)
        return vectors

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """[N, dim] float32. Cut texts are warned about, once, with their number."""
        vectors, report = self.encode(texts, kind="document")
        _warn_of_cuts(report)
        return vectors

    def encode(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "document",
        instruction: str | None = None,
        dims: int | None = None,
        overflow: Overflow = "truncate",
        progress: bool | None = None,
    ) -> tuple[Vectors, EncodeReport]:
        """([N, dim] float32 in the order of `texts`, token counts and truncation flags).

        dims: Matryoshka cut. overflow: `error`, `truncate` or `chunk` (windows of max_tokens, token-weighted mean).
        progress: `None` shows a bar on a terminal when the work is long.
        """
        by_pooling, report = self.encode_poolings(
            texts, [self.pooling], kind=kind, instruction=instruction, overflow=overflow, progress=progress
        )
        vectors = by_pooling[self.pooling]
        return cut_dims(vectors, self._dims if dims is None else dims, is_normalised=self.is_normalised), report

    def encode_poolings(
        self,
        texts: Sequence[str],
        poolings: Sequence[str],
        *,
        kind: Kind = "document",
        instruction: str | None = None,
        overflow: Overflow = "truncate",
        direction: Direction | tuple[Direction, ...] | None = None,
        progress: bool | None = None,
    ) -> tuple[dict[str, Vectors], EncodeReport]:
        """The same for several poolings at the cost of one forward.

        direction: another attention than the trained one, per network or per layer, for the direction ablation.
        """
        if isinstance(texts, str):
            raise InputError("encode takes a list of texts, got one string; write [text]")
        started = time.perf_counter()
        vectors = {name: np.zeros((len(texts), self.backbone.dim), dtype=np.float32) for name in poolings}
        num_tokens = np.zeros(len(texts), dtype=np.int64)
        is_truncated = np.zeros(len(texts), dtype=np.bool_)
        with EncodeProgress(len(texts), is_shown=progress) as bar:
            for first in range(0, len(texts), SLAB_TEXTS):
                slab = slice(first, first + SLAB_TEXTS)
                tokenized = self.tokenize(texts[slab], kind=kind, instruction=instruction, overflow=overflow)
                num_tokens[slab] = [text.num_tokens for text in tokenized]
                is_truncated[slab] = [text.is_truncated for text in tokenized]
                for name, rows in self._encode_tokenized(tokenized, poolings, direction, bar).items():
                    vectors[name][slab] = rows
        report = EncodeReport(
            num_tokens=num_tokens,
            is_truncated=is_truncated,
            seconds=time.perf_counter() - started,
            max_tokens=self.max_tokens,
        )
        return vectors, report

    def tokenize(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        kind: Kind = "document",
        instruction: str | None = None,
        overflow: Overflow = "truncate",
    ) -> list[TokenizedText]:
        """What the network reads of each text, or list of token ids; the same function builds the training batches."""
        return self._tokenizer.encode(texts, kind=kind, instruction=instruction, overflow=overflow)

    def tokenize_windows(self, texts: Sequence[str], *, overlap_tokens: int) -> list[WindowedText]:
        """Documents whole, in overlapping windows where they are long, with the place of every token."""
        return self._tokenizer.encode_windows(texts, overlap_tokens=overlap_tokens)

    def token_spans(self, text: str, tokenized: TokenizedText) -> list[NDArray[np.int64]]:
        """`Tokenizer.spans`: which characters of a document each token of its windows stands for."""
        return self._tokenizer.spans(text, tokenized)

    def _encode_tokenized(
        self,
        tokenized: Sequence[TokenizedText],
        poolings: Sequence[str],
        direction: Direction | tuple[Direction, ...] | None,
        bar: EncodeProgress,
    ) -> dict[str, Vectors]:
        windows = [window for text in tokenized for window in text.windows]
        pooled = encode_packed(
            self.backbone, windows, poolings, budget=self.token_budget, direction=direction, on_batch=bar.advance
        )
        return {name: join_windows(tokenized, rows, is_normalised=self.is_normalised) for name, rows in pooled.items()}

    def similarity(self, queries: Vectors, documents: Vectors) -> Vectors:
        """[num queries, num documents] cosine."""
        return normalise(queries) @ normalise(documents).T

    def config(self, folder: Path | None = None) -> EmbedderConfig:
        """What `save` writes into embedder.json."""
        base = self.backbone.name if folder is None else relative_base(self.backbone.name, folder)
        return EmbedderConfig(
            name=self.name,
            base=base,
            base_hash=self.backbone.source_hash,
            attention=self.attention,
            pooling=self.pooling,
            max_tokens=self.max_tokens,
            is_normalised=self.is_normalised,
            template=self.template,
            adapters=tuple(f"adapter-{i}" for i in range(len(self.adapter_folders))),
            mask_token_id=self.backbone.mask_token_id,
            dims=self._dims,
        )

    def save(self, folder: Path | str) -> None:
        """Writes a checkpoint folder: settings, adapters, provenance; the base weights are named, not copied.

        Raises CheckpointError if the folder exists and is not empty.
        """
        folder = Path(folder)
        with atomic_folder(folder) as part:
            config = self.config(folder)
            for name, source in zip(config.adapters, self.adapter_folders, strict=True):
                shutil.copytree(source, part / name)
            write_json(part / CONFIG_FILE, config.as_dict())
            write_json(
                part / "provenance.json",
                {"contract": self.backbone.verdict.as_dict(), "environment": environment()},
            )


def _checked(token_budget: int) -> int:
    if token_budget < 1:
        raise ConfigError(f"token_budget is {token_budget}; a pack holds at least 1 token")
    return token_budget


def join_windows(tokenized: Sequence[TokenizedText], rows_WD: Vectors, *, is_normalised: bool) -> Vectors:
    """[N, D] one vector per text from one per window: their mean, weighted by the tokens that were pooled."""
    if len(rows_WD) > len(tokenized):
        windows = [window for text in tokenized for window in text.windows]
        owners = np.repeat(np.arange(len(tokenized)), [len(text.windows) for text in tokenized])
        weights = np.array([window.pool_stop - window.pool_start for window in windows], dtype=np.float32)
        sums = np.zeros((len(tokenized), rows_WD.shape[1]), dtype=np.float32)
        np.add.at(sums, owners, rows_WD * weights[:, None])
        totals = np.bincount(owners, weights, minlength=len(tokenized)).astype(np.float32)
        rows_WD = (sums / np.maximum(totals, 1.0)[:, None]).astype(np.float32)
    return normalise(rows_WD) if is_normalised else rows_WD


def _stored_template(stored: dict[str, Any], family: FamilySpec) -> TextTemplate | None:
    """How a sentence-transformers folder dresses texts; `None` for any other folder."""
    if not stored or "template" in stored:
        return stored.get("template")
    pools_instruction = stored.get("pools_instruction", True)
    has_prompts = bool(stored["query_prompt"] or stored["document_prompt"])
    # A network that pools its special tokens anyway needs no word, and keeps the identity it had without one.
    is_usual = family.pools_special_tokens and pools_instruction
    if is_usual and not has_prompts:
        return None
    template = TextTemplate(pools_instruction=pools_instruction, pools_special_tokens=None if is_usual else True)
    if not has_prompts:
        return template
    return replace(
        template,
        instruction_format="{instruction}",
        default_instruction=stored["query_prompt"],
        document_prefix=stored["document_prompt"],
    )


def _warn_of_cuts(report: EncodeReport) -> None:
    num_cut = int(report.is_truncated.sum())
    if num_cut:
        warnings.warn(
            f"{num_cut} of {len(report.is_truncated)} texts were longer than {report.max_tokens} tokens and were cut; "
            "see encode(..., overflow='chunk')",
            stacklevel=3,
        )


def compile_layers(backbone: Backbone) -> None:
    """Compiles the token-wise part of every layer; attention over packs stays as it is."""
    for layer in backbone.model.get_submodule(backbone.family.layers):
        for name, module in layer.named_children():
            if name != backbone.family.attention.partition(".")[0]:
                setattr(layer, name, torch.compile(module, dynamic=True))


def location_of(name: str) -> str:
    """What names a model from any working directory: the absolute path of a folder, else the name itself."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if find_model(name) is None and folder.is_dir() else name
