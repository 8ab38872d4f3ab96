"""Under which licence a checkpoint folder is, and the files that say so, which follow what is made from it.

Read `copy_licences`. Knows nothing of weights.
"""

import shutil
from pathlib import Path

PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*")


def read_licence(folder: Path) -> str | None:
    """`license:` of the model card's front matter; `None` where it names none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key.strip() == "license" and value.strip():
            return value.strip().strip("\"'")
    return None


def copy_licences(folder: Path, out: Path) -> None:
    """Writes the licences and notices of a folder to `out`; a file that is there already is added to."""
    for path in sorted(path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()):
        target = out / path.name
        if target.exists():
            add_notice(target, path.read_text(encoding="utf-8", errors="replace"))
        else:
            shutil.copyfile(path, target)


def add_notice(path: Path, text: str) -> None:
    """Appends a notice to a file, once."""
    before = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    if text.strip() not in before:
        path.write_text(f"{before}\n{text}" if before else text, encoding="utf-8")
