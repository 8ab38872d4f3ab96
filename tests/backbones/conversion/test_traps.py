"""Every documented defect is refused with a sentence that names it, and leaves nothing behind."""

import json
import os
from pathlib import Path

import pytest

from diffembed.backbones.conversion.convert import convert_checkpoint
from diffembed.errors import ConversionError

FAMILY = {"diffullama": "diffullama"}


def list_traps() -> list[tuple[str, dict]]:
    root = Path(os.environ.get("DIFFEMBED_FIXTURES", "/nonexistent"))
    return [
        (path.parent.name, trap) for path in sorted(root.glob("*/traps.json")) for trap in json.loads(path.read_text())
    ]


TRAPS = [pytest.param(name, trap, id=f"{name}-{Path(trap['dir']).name or trap['kind']}") for name, trap in list_traps()]
needs_fixtures = pytest.mark.skipif(not TRAPS, reason="DIFFEMBED_FIXTURES does not name the converter fixtures")


@needs_fixtures
@pytest.mark.parametrize(("name", "trap"), [case for case in TRAPS if case.values[1]["dir"] != "."])
def test_trap(name, trap, golden_folder, tmp_path, capsys):
    folder = golden_folder / name / trap["dir"]
    golden = folder / "golden.npz" if (folder / "golden.npz").exists() else None
    out = tmp_path / "out"
    try:
        report = convert_checkpoint(folder, out, family=FAMILY.get(name), golden=golden)
    except ConversionError as error:
        for word in trap["error_should_mention"]:
            assert word in str(error)
        assert "CANARY" not in str(error)
        assert list(tmp_path.iterdir()) == []
    else:
        assert trap["kind"] == "refuse_or_match", trap["defect"]
        assert report.golden is not None and not report.golden.failures
    assert "CANARY" not in "".join(capsys.readouterr())


@needs_fixtures
def test_all_kinds_of_traps_are_covered():
    kinds = {(name, trap["kind"]) for name, trap in list_traps() if trap["dir"] == "."}
    assert kinds == {("diffullama", "refuse_without_flag"), ("sdar", "warn"), ("llada_moe", "dispatch")}
    assert sum(trap["dir"] != "." for _, trap in list_traps()) >= 24


def test_unmarked_llama_needs_the_family_to_be_named(golden_folder, tmp_path):
    with pytest.raises(ConversionError, match=r"llama.*--family diffullama"):
        convert_checkpoint(golden_folder / "diffullama", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_llada_moe_is_told_from_llada_by_its_architecture(golden_folder, tmp_path):
    with pytest.raises(ConversionError, match=r"LLaDAMoEModelLM.*llada-moe.*cannot be read as llada"):
        convert_checkpoint(golden_folder / "llada_moe", tmp_path / "out", family="llada")
