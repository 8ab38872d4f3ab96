"""From a name, a folder or a hub id to a `Backbone` whose attention is proved.

Read `load_backbone`. Only safetensors are read; remote code runs only behind a flag and with a pinned revision.
Must not know pooling, data or training.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from diffembed.backbones.arithmetic import pick_device, pick_dtype
from diffembed.backbones.attention import register_kernel
from diffembed.backbones.contract import Verdict, kernel_name, prove
from diffembed.backbones.conversion.convert import converted_folder
from diffembed.backbones.conversion.sidecar import read_sidecar
from diffembed.backbones.fetching import fetch_snapshot
from diffembed.backbones.registry import (
    ATTENTIONS,
    Attention,
    FamilySpec,
    ModelSpec,
    family_of,
    find_model,
    names_folder,
)
from diffembed.errors import CheckpointError, ConfigError, UnknownNameError
from diffembed.provenance import hash_bytes

Kernel = Literal["packed", "sdpa", "eager"]
KERNELS: tuple[Kernel, ...] = ("packed", "sdpa", "eager")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Of the known families: any of them is enough, without all of them transformers makes up an empty vocabulary."""
FINGERPRINT_BLOCKS = 64
FINITE_BLOCK = 1 << 22
FINGERPRINT_BLOCK_BYTES = 1 << 16


@dataclass(kw_only=True, slots=True)
class Backbone:
    """A network that gives hidden states, its tokenizer, and what was proved of it."""

    name: str
    model: Any
    """Native transformers body without a head, in eval mode."""
    tokenizer: Any
    family: FamilySpec
    attention: Attention
    kernel: Kernel
    source_hash: str
    """Identifies the weights: sha256 of the packaged file, or a fingerprint of the folder."""
    mask_token_id: int | None
    """The token a diffusion model restores; `None` where there is none."""
    shifts_logits: bool
    """True where position i predicts token i + 1 (networks born autoregressive)."""
    max_tokens: int
    verdict: Verdict

    @property
    def config(self) -> Any:
        """The transformers config, with `is_causal` as proved."""
        return self.model.config

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.model.dtype


def load_backbone(
    name: str,
    *,
    attention: Attention | None = None,
    dtype: str = "auto",
    device: str = "auto",
    kernel: Kernel = "packed",
    allow_remote_code: bool = False,
    revision: str | None = None,
) -> Backbone:
    """The network of a known name (`diffembed models`), a local folder, or a hub id (`owner/name[@revision]`).

    attention: `None` takes what the checkpoint stores, else causal for language models.
    dtype: `auto` is bfloat16 where the device multiplies it faster, float32 elsewhere.
    Raises UnknownNameError, ConfigError, CheckpointError, AttentionContractError.
    """
    if attention is not None and attention not in ATTENTIONS:
        raise UnknownNameError.of("attention", attention, list(ATTENTIONS))
    if kernel not in KERNELS:
        raise UnknownNameError.of("attention kernel", kernel, list(KERNELS))
    torch_device = pick_device(device)
    torch_dtype = pick_dtype(dtype, torch_device)
    register_kernel()
    name = pin_revision(name, revision)
    spec = find_model(name)
    if spec is not None and spec.source == "shipped":
        raise CheckpointError(
            f"{name} is an embedder; load it with Embedder.load, or name the language model below it, {spec.base}"
        )
    if allow_remote_code and spec is not None and spec.source != "hub":
        raise ConfigError(f"{name} is native, so allow_remote_code would have no effect; leave it out")
    if spec is not None and spec.source == "tiny":
        body, tokenizer, facts = _load_tiny(spec, attention, torch_dtype, kernel)
    else:
        folder = locate(name, spec, allow_remote_code=allow_remote_code)
        body, tokenizer, facts = _load_folder(folder, name, attention, torch_dtype, kernel, allow_remote_code)
    body = body.eval().to(torch_device)
    family = family_of(body.config.model_type, name)
    chosen = _stored_attention(body.config, family)
    limit = int(body.config.max_position_embeddings)
    return Backbone(
        name=spec.name if spec is not None else name,
        model=body,
        tokenizer=tokenizer,
        family=family,
        attention=chosen,
        kernel=kernel,
        source_hash=facts["source_hash"],
        mask_token_id=facts.get("mask_token_id", getattr(tokenizer, "mask_token_id", None)),
        shifts_logits=facts.get("shifts_logits", not family.is_encoder),
        max_tokens=min(limit, spec.max_tokens) if spec is not None and spec.max_tokens else limit,
        verdict=prove(body, family, chosen, kernel),
    )


def pin_revision(name: str, revision: str | None) -> str:
    """`owner/name@revision`, so that all that goes by the name reads the same commit; `None` leaves the name alone.

    Raises ConfigError where the revision would have no effect.
    """
    if revision is None:
        return name
    spec = find_model(name)
    hub_id = name if spec is None else spec.location
    if names_folder(name) if spec is None else spec.source != "hub":
        raise ConfigError(f"{name} does not come from the hub, so revision {revision!r} would have no effect")
    if "@" in hub_id:
        raise ConfigError(f"{name} names its revision, so revision {revision!r} would have no effect; give one of them")
    return f"{hub_id}@{revision}"


def locate(name: str, spec: ModelSpec | None, *, allow_remote_code: bool = False) -> Path:
    """The folder that holds the weights of a name, a path or a hub id; fetched, unpacked or converted on first use.

    Of a shipped embedder: the folder of its language model.
    """
    if spec is not None and spec.source == "gguf-package":
        from diffembed.backbones.gguf import native_folder

        return native_folder(spec)
    if spec is not None and spec.source == "package":
        return _package_folder(spec)
    if spec is not None and spec.base is not None:
        return locate(spec.base, find_model(spec.base))
    if spec is None and names_folder(name):
        path = Path(name).expanduser()
        if not path.is_dir():
            raise CheckpointError(
                f"{name} is not a folder; name a checkpoint folder, a hub id or one of: diffembed models"
            )
        return path if allow_remote_code else converted_folder(path)
    hub_id, _, pinned = (spec.location if spec is not None else name).partition("@")
    snapshot = fetch_snapshot(
        hub_id, pinned or (spec.revision if spec is not None else None), allow_remote_code=allow_remote_code
    )
    return snapshot if allow_remote_code else converted_folder(snapshot)


def _package_folder(spec: ModelSpec) -> Path:
    import importlib

    try:
        package = importlib.import_module(spec.location)
    except ImportError as error:
        raise CheckpointError(
            f"the package {spec.location} with the weights of {spec.name} is not installed"
        ) from error
    return Path(package.get_model_path())


def _load_tiny(spec: ModelSpec, attention: Attention | None, dtype: torch.dtype, kernel: Kernel) -> Any:
    from diffembed.backbones.tiny import build_tiny

    model, tokenizer = build_tiny(spec.family)
    body = model.model
    _set_attention(body.config, family_of(spec.family, spec.name), attention, spec.name)
    body.set_attn_implementation(kernel_name(kernel))
    facts = {"source_hash": hash_bytes(f"{spec.name} seed 0".encode()), "shifts_logits": True}
    return body.to(dtype), tokenizer, facts


def _load_folder(
    folder: Path, origin: str, attention: Attention | None, dtype: torch.dtype, kernel: Kernel, allow_remote_code: bool
) -> Any:
    from transformers import AutoConfig, AutoModel

    _require_safetensors(folder, origin)
    raw = _read_config(folder, origin)
    if "auto_map" in raw and not allow_remote_code:
        raise CheckpointError(
            f"{origin} needs remote code; convert it to a native checkpoint with: diffembed convert {origin} OUT"
        )
    family = family_of(raw.get("model_type", "?"), origin)
    if not any((folder / file).is_file() for file in TOKENIZER_FILES) and not allow_remote_code:
        raise CheckpointError(
            f"{origin} has no tokenizer ({', '.join(TOKENIZER_FILES)}); save the model's tokenizer beside the weights"
        )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=allow_remote_code)
    _set_attention(config, family, attention, origin)
    try:
        with _quiet_transformers():
            body, info = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                attn_implementation=kernel_name(kernel),
                trust_remote_code=allow_remote_code,
                output_loading_info=True,
                # So that we name the tensor; `_require_whole` refuses it.
                ignore_mismatched_sizes=True,
            )
    except Exception as error:
        # safetensors, json and shape errors have no common base; each means that the weights cannot be used.
        raise CheckpointError(f"{origin} cannot be loaded: {_first_line(error)}") from error
    _require_whole(body, info, family, origin)
    tokenizer = _load_tokenizer(folder, len(body.get_input_embeddings().weight), origin, allow_remote_code)
    facts = read_sidecar(folder) or {}
    facts.setdefault("source_hash", fingerprint(folder))
    return body, tokenizer, facts


def _load_tokenizer(folder: Path, num_rows: int, origin: str, allow_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=allow_remote_code)
    except Exception as error:
        # As for the weights: json, tokenizers and transformers have no common error for a file that cannot be used.
        raise CheckpointError(f"the tokenizer of {origin} cannot be loaded: {_first_line(error)}") from error
    # Gemma 3 publishes one special token more than its text model has rows; no ordinary text contains it.
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    largest = max((index for index in tokenizer.get_vocab().values() if index not in special), default=0)
    if largest >= num_rows:
        raise CheckpointError(
            f"the tokenizer of {origin} has ids up to {largest}, but the embedding table has {num_rows} rows; "
            "take the tokenizer that the weights were trained with"
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no loading report on stderr: what is wrong with a checkpoint is said by our errors."""
    from transformers.utils import logging

    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()


def _read_config(folder: Path, origin: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{origin} has no config.json; it is not a checkpoint folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{origin}: config.json is damaged ({error})") from error
    return config if isinstance(config, dict) else {}


def _require_safetensors(folder: Path, origin: str) -> None:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{origin} holds only pickled weights ({pickles[0]}), which can run code when opened; "
                "save them as safetensors first"
            )
        raise CheckpointError(f"{origin} has no *.safetensors file")
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
            try:
                header = json.loads(opened.read(header_bytes)) if 0 < header_bytes < size else None
            except (UnicodeDecodeError, json.JSONDecodeError):
                header = None
        if header is None:
            raise CheckpointError(f"{origin}: {file.name} is truncated or damaged; fetch it again")
        end = max((item["data_offsets"][1] for key, item in header.items() if key != "__metadata__"), default=0)
        if size != 8 + header_bytes + end:
            raise CheckpointError(
                f"{origin}: {file.name} is truncated: {size} bytes, its header says {8 + header_bytes + end}; "
                "fetch it again"
            )


def _require_whole(body: Any, info: dict[str, Any], family: FamilySpec, origin: str) -> None:
    # A pooler that the published checkpoint left out is never used: pooling is ours.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise CheckpointError(f"{origin} lacks {len(missing)} tensors, first {missing[0]!r}; the weights are not whole")
    if info.get("mismatched_keys"):
        name, found, expected = sorted(info["mismatched_keys"])[0]
        raise CheckpointError(f"{origin}: tensor {name!r} has shape {tuple(found)}, expected {tuple(expected)}")
    # What lies beside the layers (a head, a vision tower) is left out on purpose, never a part of a layer.
    inside = re.compile(rf"(^|\.){re.escape(family.layers)}\.\d")
    # A constant that old GPT-2 files store in every layer is the one exception.
    stray = [key for key in info["unexpected_keys"] if not key.endswith(".masked_bias")]
    if unread := sorted(filter(inside.search, stray)):
        raise CheckpointError(
            f"{origin} holds {len(unread)} tensors that the layers of its config.json ({family.model_type}) have no "
            f"place for, first {unread[0]!r}; config.json belongs to other weights"
        )
    for name, parameter in body.named_parameters():
        # In pieces: a whole mask of the embedding table would be the largest tensor of the process.
        if not all(torch.isfinite(piece).all() for piece in parameter.detach().flatten().split(FINITE_BLOCK)):
            raise CheckpointError(f"{origin}: tensor {name!r} holds NaN or infinite values")


def _set_attention(config: Any, family: FamilySpec, attention: Attention | None, origin: str) -> None:
    """Writes the intent onto the config object: the one way transformers 5 honours in every family."""
    # An embedder reads each text once: keys are never kept for a next token.
    config.use_cache = False
    if family.is_encoder:
        if attention == "causal":
            raise ConfigError(f"{origin} is a {family.model_type} encoder and cannot be made causal")
        return
    if attention is None:
        attention = _stored_attention(config, family)
    config.is_causal = attention == "causal"
    if getattr(config, "use_bidirectional_attention", None):
        if attention == "causal":
            raise ConfigError(f"{origin} stores use_bidirectional_attention and cannot be loaded as causal")
        if family.model_type == "gemma3_text":
            # With this key gemma 3 sees distance < window on both sides, with is_causal alone distance <= window.
            config.use_bidirectional_attention, config.sliding_window = None, config.sliding_window - 1


def _stored_attention(config: Any, family: FamilySpec) -> Attention:
    if family.is_encoder or getattr(config, "use_bidirectional_attention", None):
        return "bidirectional"
    return "causal" if getattr(config, "is_causal", True) else "bidirectional"


def fingerprint(folder: Path) -> str:
    """Hash of a checkpoint: config.json whole, every safetensors header, and 64 blocks spread over each file.

    Reads at most 4 MB a file, so that a 15 GB model is named in a second.
    """
    parts = [(folder / "config.json").read_bytes()]
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as opened:
            header_bytes = int.from_bytes(opened.read(8), "little")
            parts += [file.name.encode(), size.to_bytes(8, "little"), opened.read(header_bytes)]
            for block in range(FINGERPRINT_BLOCKS):
                opened.seek(block * max(size - FINGERPRINT_BLOCK_BYTES, 0) // (FINGERPRINT_BLOCKS - 1))
                parts.append(opened.read(FINGERPRINT_BLOCK_BYTES))
    return hash_bytes(b"".join(parts))
