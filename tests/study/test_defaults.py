"""Defaults of what studies are made of, pinned: results are kept under the hash of what was chosen, not of defaults.

`python tests/study/test_defaults.py` writes them anew.
"""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from diffembed.provenance import to_plain, write_json
from diffembed.study.graph import ScoreConfig
from diffembed.training.adapt_config import AdaptConfig
from diffembed.training.config import TrainConfig

PINNED = Path(__file__).with_name("defaults.json")


def dataclasses_in(kind: Any) -> set[type]:
    """The dataclasses that a type is made of, at any depth."""
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return {found for part in typing.get_args(kind) for found in dataclasses_in(part)}
    parts = typing.get_type_hints(kind).values()
    return {kind} | {found for part in parts for found in dataclasses_in(part)}


def defaults() -> dict[str, Any]:
    """Class and field -> default, of all configs that a node of a study may have."""
    found = {}
    kinds = {kind for root in (AdaptConfig, TrainConfig, ScoreConfig) for kind in dataclasses_in(root)}
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        for field in dataclasses.fields(kind):
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            if default is not dataclasses.MISSING:
                found[f"{kind.__name__}.{field.name}"] = to_plain(default)
    return found


def test_no_default_changed_unseen():
    pinned, now = json.loads(PINNED.read_text(encoding="utf-8")), defaults()
    assert (
        len(now) > 60 and {"SourceConfig.buried_max_words", "LoraConfig.rank", "ScoreConfig.num_ranges"} <= now.keys()
    )
    changed = [
        f"{name}: {pinned[name]} -> {now[name]}" for name in pinned.keys() & now.keys() if pinned[name] != now[name]
    ]
    assert not changed, (
        f"{'; '.join(changed)}: plans that leave it out now mean something else, and their stored results still count. "
        "Rather add a field. Else write the old value into the plans whose results stand, and their new config_key "
        "into the node.json of those results; then write defaults.json anew."
    )
    assert pinned.keys() == now.keys(), "fields with a default came or went: write defaults.json anew"


if __name__ == "__main__":
    write_json(PINNED, defaults())
