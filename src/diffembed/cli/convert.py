"""`diffembed convert`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diffembed.cli.options import Json
from diffembed.cli.printing import print_facts, print_json, print_table
from diffembed.errors import ConfigError

if TYPE_CHECKING:
    from diffembed.backbones.consistency import ConsistencyReport


def convert(
    source: str | None = None,
    out: Path | None = None,
    /,
    *,
    family: str | None = None,
    mask_token_id: int | None = None,
    revision: str | None = None,
    check: Path | None = None,
    self_check: bool = False,
    layouts: bool = False,
    json: Json = False,
) -> None:
    """Convert a published diffusion model to a native one.

    The folder loads in plain transformers, bidirectional, without remote code.

    For example:
        diffembed convert --layouts

    Parameters
    ----------
    source
        A folder or hub id of a published checkpoint (safetensors).
    out
        The folder to write.
    family
        Published layout, where the checkpoint does not say which it is.
    mask_token_id
        Id of the mask token, where the checkpoint does not tell it.
    revision
        Commit, tag or branch of the hub.
    check
        A golden.npz with outputs of the original code; a difference stops the conversion.
    self_check
        Read a paragraph with the result: are states finite, are masked words restored better than by counting?
    layouts
        List the layouts that can be converted.
    json
        Print JSON lines.
    """
    from diffembed.backbones.consistency import check_consistency
    from diffembed.backbones.conversion.catalogue import LAYOUTS
    from diffembed.backbones.conversion.convert import convert_checkpoint
    from diffembed.backbones.loading import load_backbone

    if layouts:
        rows = [{"family": layout.name, "examples": layout.examples} for layout in LAYOUTS.values()]
        if json:
            for row in rows:
                print_json(row)
        else:
            print_table(["family", "published checkpoints"], [list(row.values()) for row in rows])
        return
    if source is None or out is None:
        raise ConfigError("name a published checkpoint and a folder to write: diffembed convert SOURCE OUT")
    report = convert_checkpoint(
        source, out, family=family, mask_token_id=mask_token_id, revision=revision, golden=check
    )
    own = check_consistency(load_backbone(str(out), dtype="float32")) if self_check else None
    if json:
        self_report = {**asdict(own), "is_alive": own.is_alive} if own else None
        print_json({"out": out, **asdict(report), "self_check": self_report})
        return
    golden = report.golden
    print_facts(
        {
            "folder": f"{out}: {report.family} as {report.native}, {report.num_parameters:,} weights, {report.dtype}",
            "attention": f"bidirectional; trained {report.trained_attention}",
            "mask token": report.mask_token_id if report.mask_token_id is not None else "unknown",
            "logits": "shifted by one" if report.shifts_logits else "in place",
            "source": f"{report.source}, sha256 {report.source_hash[:12]}, licence {report.licence or 'not stated'}",
            **({"largest difference": f"{max(golden.differences.values()):.1e}"} if golden else {}),
            **({"self-check": _self_check_line(own)} if own else {}),
            **{f"note {number}": note for number, note in enumerate(report.notes, start=1)},
        }
    )


def _self_check_line(report: "ConsistencyReport") -> str:
    states = f"{report.num_tokens} tokens, states finite, largest {report.largest_state:.1f}"
    if report.masked_nll is None:
        return f"{states}; no denoising head or mask token to test"
    verdict = "alive" if report.is_alive else "NOT alive: these weights restore words worse than counting them"
    return f"{states}; masked words {report.masked_nll:.2f} nats, counting {report.unigram_nll:.2f}: {verdict}"
