"""The lock holds every dependency of every extra at a version that pyproject.toml accepts and that is installed."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def requirements() -> dict[str, list[Requirement]]:
    """Extra (`""` for the base) -> what it asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in groups.items()}


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    exact = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    wrong = [line for line, match in zip(lines, exact, strict=True) if match is None]
    assert not wrong, f"not a plain name==version, so it resolves on this machine only: {wrong}"
    return {canonicalize_name(match[1]): match[2] for match in exact if match is not None}


def test_every_dependency_is_pinned_at_a_version_it_accepts() -> None:
    pinned = pins()
    asked = [requirement for group in requirements().values() for requirement in group]
    assert len(asked) > 25
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{requirement.name} is not pinned; run: make lock"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} is pinned at {pinned[name]}"


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned = pins()
    checked = 0
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        if name in pinned:
            installed = distribution.version.partition("+")[0]
            assert installed == pinned[name], f"{name} is installed at {installed}; run: make install"
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("extra", ["", "gemma", "eval", "train", "dev"])
def test_dependencies_of_dependencies_are_pinned_too(extra: str) -> None:
    """A pin that is missing lets two machines get two versions."""
    pinned = pins()
    queue, seen = [requirement.name for requirement in requirements()[extra]], set[str]()
    while queue:
        name = canonicalize_name(queue.pop())
        if name in seen:
            continue
        seen.add(name)
        # The CUDA libraries belong to torch, which pins each of them itself.
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue
        assert name in pinned, f"{name} is needed by extra {extra!r} and not pinned; run: make lock"
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                queue.append(requirement.name)
    assert len(seen) > len(requirements()[extra])
