"""`diffembed convert`."""

from dataclasses import asdict
from pathlib import Path

from diffembed.cli.options import Json
from diffembed.cli.printing import print_facts, print_json, print_table
from diffembed.errors import ConfigError


def convert(
    source: str | None = None,
    out: Path | None = None,
    /,
    *,
    family: str | None = None,
    mask_token_id: int | None = None,
    revision: str | None = None,
    check: Path | None = None,
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
    layouts
        List the layouts that can be converted.
    json
        Print JSON lines.
    """
    from diffembed.backbones.conversion.catalogue import LAYOUTS
    from diffembed.backbones.conversion.convert import convert_checkpoint

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
    if json:
        print_json({"out": out, **asdict(report)})
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
            **{f"note {number}": note for number, note in enumerate(report.notes, start=1)},
        }
    )
