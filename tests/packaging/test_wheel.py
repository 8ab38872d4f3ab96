"""The built wheel, installed without extras in an empty environment, does the main job."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from diffembed.cli.options import FASTER_MODEL

ROOT = Path(__file__).parents[2]
MAX_SOURCE_BYTES, MAX_WHEEL_BYTES = 1_000_000, 33_000_000
"""Of what is no adapter, packed; and with two adapters of at most 16 MB."""

pytestmark = pytest.mark.slow


def python(*arguments: str, interpreter: Path | str = sys.executable, **kwargs: object) -> None:
    subprocess.run([str(interpreter), *arguments], check=True, **kwargs)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("diffembed-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    python("-m", "venv", str(folder))
    install = ["-m", "pip", "install", "--quiet", "--no-compile", "--constraint", str(ROOT / "constraints.txt")]
    for what in ("torch", str(wheel)):
        python(*install, what, interpreter=folder / "bin" / "python")
    return folder / "bin"


def diffembed(environment: Path, *arguments: str, cwd: Path, text: str = "") -> "subprocess.CompletedProcess[str]":
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(environment / "diffembed"), *arguments],
        input=text,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**variables, "HF_HUB_OFFLINE": "1", "DIFFEMBED_CACHE": str(cwd / "cache")},
    )


def test_the_wheel_holds_the_package_its_licence_and_no_weights_but_adapters(wheel: Path) -> None:
    infos = zipfile.ZipFile(wheel).infolist()
    names = [info.filename for info in infos]
    ends = ("licenses/LICENSE", "licenses/NOTICE", "diffembed/py.typed", "diffembed/cli/encode.py", "entry_points.txt")
    ends += ("gemma-3-270m-diffusion/adapter-0/adapter_model.safetensors", "gemma-3-270m-diffusion/NOTICE")
    for end in ends:
        assert any(name.endswith(end) for name in names), f"{end} is missing"
    assert all(name.startswith("diffembed") for name in names)
    assert wheel.stat().st_size < MAX_WHEEL_BYTES
    others = [info for info in infos if not info.filename.endswith("adapter_model.safetensors")]
    assert sum(info.compress_size for info in others) < MAX_SOURCE_BYTES


def test_it_encodes(environment: Path, tmp_path: Path) -> None:
    texts = "A cat purrs.\nTides rise.\n"
    ran = diffembed(environment, "encode", "-", "-o", "v.parquet", "-m", FASTER_MODEL, cwd=tmp_path, text=texts)
    assert ran.returncode == 0, ran.stderr
    assert "2 rows of 384 components, by all-minilm-l6-v2" in ran.stdout
    read = "import pyarrow.parquet as pq; print(pq.read_table('v.parquet')['id'].to_pylist())"
    shown = subprocess.run(
        [environment / "python", "-c", read], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert shown.stdout == "['1', '2']\n"


def test_it_searches(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "tides.md").write_text("# Tides\n\nThe moon pulls the sea twice a day.\n")
    (tmp_path / "bread.md").write_text("# Bread\n\nFlour, water and salt are baked.\n")
    ran = diffembed(environment, "search", ".", "why does the ocean rise?", "-m", FASTER_MODEL, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.index("tides.md:1") < ran.stdout.index("bread.md:1")


def test_the_default_model_names_its_extra_and_the_model_that_needs_none(environment: Path, tmp_path: Path) -> None:
    ran = diffembed(environment, "encode", "-", "-o", "v.parquet", cwd=tmp_path, text="x")
    assert ran.returncode == 1
    said, error = ran.stderr.splitlines()
    assert f"--model {FASTER_MODEL}" in said
    assert "pip install 'diffembed[gemma]'" in error
    assert not (tmp_path / "v.parquet").exists()
