"""Every published layout this project converts, and how a folder is recognised as one of them.

Read `find_layout`. Recognition goes by `architectures`, never by folder names or by `model_type` alone: two layouts
share the model_type "llada".
"""

from collections.abc import Mapping
from typing import Any

from diffembed.backbones.conversion.dense import DENSE
from diffembed.backbones.conversion.diffugpt import DIFFUGPT
from diffembed.backbones.conversion.layout import Layout
from diffembed.backbones.conversion.llada import LLADA
from diffembed.backbones.conversion.moe import MOE
from diffembed.errors import ConversionError, UnknownNameError

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (*DENSE, LLADA, DIFFUGPT, *MOE)}


def find_layout(config: Mapping[str, Any]) -> Layout | None:
    """The layout that `architectures` in config.json names; `None` where nothing marks a published diffusion model."""
    architectures = config.get("architectures") or []
    for layout in LAYOUTS.values():
        if layout.is_marked and any(name in layout.architectures for name in architectures):
            return layout
    return None


def choose_layout(config: Mapping[str, Any], name: str, family: str | None) -> Layout:
    """The layout a conversion uses.

    family: the user's choice; needed where the folder is not marked.
    Raises ConversionError for an unknown layout (listing the known ones), an unmarked folder without `family`, or a
    `family` that contradicts what the folder says; UnknownNameError for a `family` that does not exist.
    """
    if family is not None and family not in LAYOUTS:
        raise UnknownNameError.of("published layout", family, list(LAYOUTS))
    found = find_layout(config)
    if family is not None:
        if found is not None and found.name != family:
            raise ConversionError(
                f"{name} says architectures {config.get('architectures')}, which is the layout {found.name}; "
                f"it cannot be read as {family}"
            )
        return LAYOUTS[family]
    if found is not None:
        return found
    described = f"architectures {config.get('architectures')} and model_type {config.get('model_type')!r}"
    unmarked = [
        layout
        for layout in LAYOUTS.values()
        if not layout.is_marked and set(layout.architectures) & set(config.get("architectures") or [])
    ]
    if unmarked:
        choices = " or ".join(f"--family {layout.name} ({layout.examples})" for layout in unmarked)
        raise ConversionError(
            f"{name} has {described}: an ordinary causal model looks the same, so say what it is with {choices}"
        )
    raise ConversionError(
        f"{name} has {described}, which no known published layout has; known are {', '.join(sorted(LAYOUTS))}"
    )
