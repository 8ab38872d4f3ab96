"""An embedder as a plain sentence-transformers folder, which loads without diffembed and without remote code.

Read `export_embedder`. What plain sentence-transformers cannot express is refused, and what is written is loaded back
there and compared before the folder gets its name.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffembed.backbones.registry import Attention
from diffembed.embedding.card import (
    ExportReport,
    Score,
    base_name,
    licence_of,
    read_scores,
    write_card,
    write_licences,
)
from diffembed.embedding.checkpoint import checkpoint_folder
from diffembed.embedding.embedder import Embedder
from diffembed.embedding.pooling import POOLINGS
from diffembed.errors import CheckpointError, ConfigError, MissingExtraError
from diffembed.provenance import atomic_folder, environment, hash_file, write_json

POOLING_KEYS = {
    "mean": "pooling_mode_mean_tokens",
    "first": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
    "weighted_mean": "pooling_mode_weightedmean_tokens",
}
"""Our pooling -> its key in sentence-transformers' 1_Pooling/config.json."""
assert POOLING_KEYS.keys() == POOLINGS.keys()

LARGEST_DIFFERENCE = 1e-5
"""Of a component, vectors scaled to length 1, in float32."""
SMALLEST_COSINE = 0.999
"""In narrower number formats."""
LONGEST_PROBE_TOKENS = 1024
"""Truncation is compared too where the limit is no longer; longer texts would take longer than the export."""
INSTRUCTION = "Given a question, retrieve passages that answer it"
PROBES = (
    "Tides rise and fall twice a day.",
    "a",
    "Une tasse de café, s'il vous plaît: 3,50 €",
    "The cat sat on the mat. " * 12,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """What sentence-transformers is told beside the weights."""

    prompts: dict[str, str]
    """Written in front of queries and documents; carries the beginning-of-text token where there is one."""
    include_prompt: bool
    """False leaves the prompt's tokens out of the pooling."""
    opening: str
    """The beginning-of-text token as text; empty where the checkpoint has none."""


def export_embedder(
    model: str,
    out: Path | str,
    *,
    dtype: str = "float32",
    attention: Attention | None = None,
    pooling: str | None = None,
    max_tokens: int | None = None,
    evaluation: Path | str | None = None,
) -> ExportReport:
    """Writes `model` (anything `Embedder.load` takes) as a plain sentence-transformers folder, or nothing.

    dtype: of the stored weights; float32 keeps merged adapters exact.
    evaluation: folder of an evaluation run; the results below it are named in the model card.
    Raises ConfigError for a template plain sentence-transformers cannot express, CheckpointError when it gives other
    vectors than the embedder, MissingExtraError without sentence-transformers, which is needed for that comparison.
    """
    try:
        import sentence_transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of("sentence-transformers", "train") from error
    scores = [] if evaluation is None else read_scores(Path(evaluation))
    embedder = Embedder.load(
        model, dtype=dtype, attention=attention, pooling=pooling, max_tokens=max_tokens, device="cpu"
    )
    pipeline = make_pipeline(embedder)
    with atomic_folder(out) as part:
        _write_network(embedder, part)
        _write_tokenizer(embedder, pipeline, part)
        _write_modules(embedder, pipeline, part)
        report = _compare(embedder, pipeline, part, Path(out), dtype, scores)
        write_json(part / "provenance.json", _provenance(embedder, report))
        write_licences(part, embedder, checkpoint_folder(model))
        write_card(part / "README.md", embedder, report.prompts, scores, report)
    return report


def make_pipeline(embedder: Embedder) -> Pipeline:
    """Prompts and pooling of an embedder. Raises ConfigError for what cannot be expressed."""
    template = embedder.template
    if template.wrapper != "{text}":
        raise ConfigError(
            f"the template wraps texts in {template.wrapper!r}, which plain sentence-transformers cannot leave "
            "out of the pooling; load the model with diffembed instead"
        )
    texts = {kind: template.instruction_text(kind, None) for kind in ("query", "document")}
    if embedder.backbone.family.pools_special_tokens:
        return Pipeline(prompts=texts, include_prompt=True, opening="")
    (bare,) = embedder.tokenize(["a"])[0].windows
    prefix = len(embedder.backbone.tokenizer.backend_tokenizer.encode(texts["document"], add_special_tokens=False).ids)
    num_opening = bare.pool_start - (0 if template.pools_instruction else prefix)
    if bare.pool_stop < len(bare):
        raise ConfigError(
            f"{embedder.name} writes a token behind every text that is not pooled, which plain sentence-transformers "
            "would pool; load the model with diffembed instead"
        )
    opening = "".join(embedder.backbone.tokenizer.convert_ids_to_tokens(bare.ids[:num_opening].tolist()))
    if opening and template.pools_instruction and any(texts.values()):
        raise ConfigError(
            "the template averages the instruction but not the beginning-of-text token, which plain "
            "sentence-transformers cannot tell apart; load the model with diffembed instead"
        )
    prompts = {kind: opening + text for kind, text in texts.items()}
    return Pipeline(prompts=prompts, include_prompt=template.pools_instruction and not opening, opening=opening)


def _write_network(embedder: Embedder, folder: Path) -> None:
    body = embedder.backbone.model
    body.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_causal", "use_bidirectional_attention"):
        config.pop(key, None)
    if embedder.attention == "bidirectional" and not embedder.backbone.family.is_encoder:
        config["is_causal"] = False
        # vLLM and TEI read this key; in gemma 3 transformers takes it to halve the sliding window as well.
        if not body.config.model_type.startswith("gemma3"):
            config["use_bidirectional_attention"] = True
    write_json(path, config)


def _write_tokenizer(embedder: Embedder, pipeline: Pipeline, folder: Path) -> None:
    tokenizer = embedder.backbone.tokenizer
    if not pipeline.opening and not embedder.template.appends_eos:
        tokenizer.save_pretrained(folder)
        return
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    # The prompt carries the beginning-of-text token, so that it is attended and, as part of the prompt, not pooled.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if embedder.template.appends_eos:
        end = tokenizer.eos_token
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
        )
    else:
        backend.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    # A token that is declared special is not counted as part of a prompt that ends with it.
    names = {
        key: value
        for key, value in tokenizer.special_tokens_map.items()
        if isinstance(value, str) and value not in pipeline.opening
    }
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=embedder.max_tokens, padding_side="right", **names
    ).save_pretrained(folder)


def _write_modules(embedder: Embedder, pipeline: Pipeline, folder: Path) -> None:
    names = ["Transformer", "Pooling", *(["Normalize"] if embedder.is_normalised else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
            for number, (name, path) in enumerate(zip(names, paths, strict=False))
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": embedder.max_tokens, "do_lower_case": False})
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": embedder.backbone.dim,
            **{key: name == embedder.pooling for name, key in POOLING_KEYS.items()},
            "include_prompt": pipeline.include_prompt,
        },
    )
    if embedder.is_normalised:
        (folder / "2_Normalize").mkdir()
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": pipeline.prompts,
            "default_prompt_name": "document" if pipeline.prompts["document"] else None,
            "similarity_fn_name": "cosine",
            # For diffembed itself: prompts do not say how an instruction is written, nor what opens a text.
            "diffembed": asdict(
                replace(
                    embedder.template,
                    wrapper=pipeline.opening + "{text}",
                    appends_eos=False,
                    pools_instruction=pipeline.include_prompt,
                    pools_special_tokens=True,
                )
            ),
        },
    )


def _compare(
    embedder: Embedder, pipeline: Pipeline, folder: Path, out: Path, dtype: str, scores: Sequence[Score]
) -> ExportReport:
    """Loads the folder in plain sentence-transformers. Raises CheckpointError when the vectors differ."""
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"dtype": dtype}, trust_remote_code=False, local_files_only=True
    )
    probes = list(PROBES)
    if embedder.max_tokens <= LONGEST_PROBE_TOKENS:
        probes.append("tide " * (embedder.max_tokens + 5))
    custom = pipeline.opening + embedder.template.instruction_text("query", INSTRUCTION)
    pairs = {
        "a document": (embedder.encode(probes)[0], plain.encode_document(probes)),
        "a query": (embedder.encode(probes, kind="query")[0], plain.encode_query(probes)),
        "a query with an instruction": (
            embedder.encode(probes, kind="query", instruction=INSTRUCTION)[0],
            plain.encode(probes, prompt=custom),
        ),
    }
    difference, cosine = 0.0, 1.0
    for kind, (ours, theirs) in pairs.items():
        for text, one, other in zip(probes, _unit(ours), _unit(np.asarray(theirs, np.float32)), strict=True):
            difference, cosine = max(difference, float(np.abs(one - other).max())), min(cosine, float(one @ other))
            is_same = difference <= LARGEST_DIFFERENCE if dtype == "float32" else cosine >= SMALLEST_COSINE
            if not is_same:
                raise CheckpointError(
                    f"plain sentence-transformers gives another vector than diffembed for {kind} "
                    f"({text[:30]!r}: cosine {cosine:.6f}); {embedder.name} with pooling {embedder.pooling} and its "
                    "template cannot be exported"
                )
    return ExportReport(
        out=out,
        model=embedder.name,
        dtype=dtype,
        attention=embedder.attention,
        num_adapters=len(embedder.adapter_folders),
        prompts=pipeline.prompts,
        num_texts=len(pairs) * len(probes),
        largest_difference=difference,
        smallest_cosine=cosine,
        licence=licence_of(embedder),
        num_scores=len(scores),
    )


def _unit(vectors: Any) -> Any:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _provenance(embedder: Embedder, report: ExportReport) -> dict[str, Any]:
    return {
        "base": base_name(embedder),
        "base_hash": embedder.backbone.source_hash,
        "adapters": [hash_file(folder / "adapter_model.safetensors") for folder in embedder.adapter_folders],
        "contract": embedder.backbone.verdict.as_dict(),
        "comparison": {
            key: value for key, value in asdict(report).items() if key in ("num_texts", "largest_difference", "dtype")
        },
        "environment": environment(),
    }
