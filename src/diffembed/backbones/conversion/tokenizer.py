"""The tokenizer of a published checkpoint, carried over without remote code.

Read `copy_tokenizer`; `find_mask_token` is where the mask id comes from.
"""

import shutil
from pathlib import Path
from typing import Any

from diffembed.backbones.conversion.layout import Layout
from diffembed.backbones.conversion.source import Source, read_object
from diffembed.errors import ConversionError
from diffembed.provenance import write_json

FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
CONFIG = "tokenizer_config.json"


def copy_tokenizer(source: Source, layout: Layout, folder: Path) -> Any | None:
    """Copies the tokenizer files and loads the result with a native class; `None` where there is no tokenizer.

    Raises ConversionError when only remote code could read it.
    """
    present = [name for name in FILES if (source.folder / name).is_file()]
    if not any(name in present for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        return None
    for name in present:
        shutil.copyfile(source.folder / name, folder / name)
    config = read_object(source.folder / CONFIG, source.name) if (source.folder / CONFIG).is_file() else {}
    is_remote = config.pop("auto_map", None) is not None
    config.pop("trust_remote_code", None)
    if is_remote or "tokenizer_class" not in config:
        config["tokenizer_class"] = _native_class(source, layout, present, config.get("tokenizer_class"))
    write_json(folder / CONFIG, config)

    from transformers import AutoTokenizer

    try:
        # The config folder of a half-made checkpoint is not there yet; the class name in tokenizer_config.json decides.
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConversionError(f"{source.name}: the tokenizer cannot be read without remote code ({error})") from error


def _native_class(source: Source, layout: Layout, present: list[str], published: str | None) -> str:
    if layout.tokenizer_class:
        return layout.tokenizer_class
    if "tokenizer.json" in present:
        return "PreTrainedTokenizerFast"
    raise ConversionError(
        f"{source.name}: tokenizer class {published!r} is remote code and there is no tokenizer.json to read instead"
    )


def find_mask_token(source: Source, layout: Layout, tokenizer: Any | None, vocab_size: int) -> int | None:
    """Id of the mask token: from config.json, else the tokenizer, else what the authors set in code.

    Raises ConversionError when it lies outside the embedding table.
    """
    found = source.config.get("mask_token_id")
    if found is None and tokenizer is not None:
        found = tokenizer.mask_token_id
        if found is None:
            vocabulary = tokenizer.get_vocab()
            found = next((vocabulary[token] for token in layout.mask_tokens if token in vocabulary), None)
    if found is None:
        found = layout.mask_token_id(vocab_size)
    if found is not None:
        check_mask_token(found, vocab_size, source.name)
    return found


def check_mask_token(token_id: Any, vocab_size: int, name: str) -> None:
    """Raises ConversionError for a mask id that is no row of the embedding table."""
    if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
        raise ConversionError(f"{name}: mask_token_id is {token_id!r}, but the embedding table has {vocab_size} rows")


def check_vocabulary(tokenizer: Any, vocab_size: int, name: str) -> None:
    """Raises ConversionError when the tokenizer has ids without a row in the embedding table."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise ConversionError(
            f"{name}: the tokenizer has ids up to {largest}, but the embedding table has {vocab_size} rows"
        )
