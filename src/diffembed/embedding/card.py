"""The model card of an export: what it is, where it came from, under which licence, and how it was evaluated.

Read `write_card`. Nothing in it is an assertion of the author: every line is read from the embedder or from results.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffembed.backbones.conversion.sidecar import read_sidecar
from diffembed.backbones.licences import add_notice, copy_licences, read_licence
from diffembed.backbones.loading import locate
from diffembed.backbones.registry import Attention, find_model
from diffembed.embedding.embedder import Embedder
from diffembed.errors import CheckpointError, InputError
from diffembed.provenance import atomic_file, hash_file

UNKNOWN_LICENCE = "not stated by the base model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One evaluation result."""

    task: str
    system: str
    measure: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What an export wrote, and how far it is from the embedder it came from."""

    out: Path
    model: str
    dtype: str
    attention: Attention
    num_adapters: int
    """LoRA folders that were merged into the weights."""
    prompts: Mapping[str, str]
    num_texts: int
    """Texts compared between diffembed and plain sentence-transformers."""
    largest_difference: float
    """Of any component, vectors scaled to length 1."""
    smallest_cosine: float
    licence: str
    num_scores: int
    """Evaluation results named in the model card."""


def read_scores(folder: Path) -> list[Score]:
    """The main measure of every result.json below a folder of an evaluation run.

    Raises InputError when there is none, CheckpointError for a damaged one.
    """
    scores = []
    for path in sorted(folder.rglob("result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            interval = result["scores"][result["main"]]
            scores.append(
                Score(
                    task=result["task"],
                    system=result["label"],
                    measure=result["main"],
                    value=float(interval["value"]),
                    low=float(interval["low"]),
                    high=float(interval["high"]),
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is no evaluation result ({error!r})") from error
    if not scores:
        raise InputError(f"{folder} holds no result.json; name the folder that diffembed evaluate wrote")
    return scores


def base_name(embedder: Embedder) -> str:
    """Name or hub id of the base; of a folder only its name, never a path of this machine."""
    name = embedder.backbone.name
    return Path(name).resolve().name if Path(name).is_dir() else name


def licence_of(embedder: Embedder) -> str:
    """Licence of the base weights, as the registry or the published model card names it."""
    spec = find_model(embedder.backbone.name)
    if spec is not None:
        return spec.licence
    folder = locate(embedder.backbone.name, None)
    return (read_sidecar(folder) or {}).get("licence") or read_licence(folder) or UNKNOWN_LICENCE


def write_licences(out: Path, embedder: Embedder, checkpoint: Path | None) -> None:
    """Licences and notices of the base weights, and of the checkpoint folder where the embedder is one."""
    spec = find_model(embedder.backbone.name)
    if spec is None or spec.source != "tiny":
        base = locate(embedder.backbone.name, spec)
        copy_licences(base, out)
        if notice := (read_sidecar(base) or {}).get("notice"):
            add_notice(out / "NOTICE", f"{notice}\n")
    if checkpoint is not None:
        copy_licences(checkpoint, out)


def write_card(
    path: Path, embedder: Embedder, prompts: Mapping[str, str], scores: Sequence[Score], report: ExportReport
) -> None:
    """README.md with the front matter that model hubs read."""
    with atomic_file(path) as part:
        part.write_text("\n".join(_lines(embedder, prompts, scores, report)) + "\n", encoding="utf-8")


def _lines(embedder: Embedder, prompts: Mapping[str, str], scores: Sequence[Score], report: ExportReport) -> list[str]:
    backbone = embedder.backbone
    family = backbone.config.model_type
    is_open = report.licence.lower() in ("apache-2.0", "mit")
    facts = {
        "base weights": f"{base_name(embedder)}, sha256 {backbone.source_hash}",
        "architecture": f"{family}, {backbone.dim} components, reads {embedder.max_tokens:,} tokens",
        "attention": f"{embedder.attention}, proved layer by layer at export",
        "pooling": f"{embedder.pooling}, {'length 1' if embedder.is_normalised else 'not normalised'}",
        "merged adapters": ", ".join(
            f"{folder.name} (sha256 {hash_file(folder / 'adapter_model.safetensors')[:12]})"
            for folder in embedder.adapter_folders
        )
        or "none",
        "licence of the base weights": report.licence,
        "number format": report.dtype,
    }
    return [
        "---",
        f"license: {report.licence.lower() if is_open else 'other'}",
        *([] if is_open else [f"license_name: {json.dumps(report.licence)}"]),
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-transformers, feature-extraction, diffembed]",
        "---",
        f"# {Path(embedder.name).name}",
        "",
        "Text embeddings, exported by diffembed. Loads in plain sentence-transformers, without remote code:",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("path/to/this/folder")',
        "queries = model.encode_query([...])",
        "documents = model.encode_document([...])",
        "```",
        "",
        *_prompt_lines(embedder, prompts),
        "## Provenance",
        "",
        "| fact | value |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in facts.items()),
        "",
        *_family_lines(family, embedder.attention),
        "## Evaluation",
        "",
        *_score_lines(scores),
        "",
        f"Plain sentence-transformers and diffembed were compared on {report.num_texts} texts at export: "
        f"largest difference of a component {report.largest_difference:.1e}, "
        f"smallest cosine {report.smallest_cosine:.6f}.",
    ]


def _prompt_lines(embedder: Embedder, prompts: Mapping[str, str]) -> list[str]:
    if not any(prompts.values()) and not embedder.template.instruction_format:
        return []
    form = embedder.template.instruction_format
    opening = prompts["document"].removesuffix(embedder.template.document_prefix)
    return [
        f"Queries with an instruction: `model.encode(texts, prompt={json.dumps(opening + form)})` with the instruction "
        "in place of `{instruction}`. The stored prompts are applied by `encode_query`, `encode_document` and `encode`"
        + (
            f"; they carry the token `{opening}` that the tokenizer of this folder does not write by itself, so do not "
            "leave them out."
            if opening
            else "."
        ),
        "",
    ]


def _family_lines(family: str, attention: str) -> list[str]:
    if attention == "bidirectional" and family.startswith("gemma3"):
        return ["Bidirectional attention of this family was shown to hold in sentence-transformers only.", ""]
    return []


def _score_lines(scores: Sequence[Score]) -> list[str]:
    if not scores:
        return ["No evaluation was given when this folder was written."]
    return [
        "| task | system | measure | value | 95 % interval |",
        "|---|---|---|---|---|",
        *(
            f"| {score.task} | {score.system} | {score.measure} | {score.value:.4f} | "
            f"{score.low:.4f} to {score.high:.4f} |"
            for score in scores
        ),
    ]
