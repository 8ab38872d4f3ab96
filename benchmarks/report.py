"""Writes measured tables into docs/benchmarks.md, each between its own pair of marks."""

import re
from pathlib import Path
from typing import Any

from diffembed.provenance import atomic_file

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
INTRODUCTION = """# Benchmarks

Measured side by side in one run, never across runs: these machines are shared and their speed drifts. Each table is
written by the command it names, and the raw figures lie in `benchmarks/results/`.
"""


def machine_line(result: dict[str, Any]) -> str:
    """Date, command, processor and versions of a result, as one line."""
    env = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items())
    return f"{result['date']}, `{result['command']}`, {env['processor']}, {env['num_cores']} cores; {versions}."


def write_section(mark: str, title: str, body: str) -> None:
    """Replaces the section between the marks, or adds it at the end of the page."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else INTRODUCTION
    section = f"<!-- {mark} -->\n## {title}\n\n{body}\n<!-- /{mark} -->\n"
    pattern = re.compile(rf"<!-- {mark} -->.*?<!-- /{mark} -->\n", re.S)
    text = pattern.sub(lambda _: section, text) if pattern.search(text) else f"{text.rstrip()}\n\n{section}"
    with atomic_file(PAGE) as part:
        part.write_text(text, encoding="utf-8")
