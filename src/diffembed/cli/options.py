"""Options that several commands share, so that one word means one thing everywhere."""

import sys
from typing import Annotated, Any, Literal

from cyclopts import CoercionError, Parameter, Token

DEFAULT_MODEL, FASTER_MODEL = "gemma-3-270m-diffusion", "all-minilm-l6-v2"


def _hyphen_or_name(_: Any, tokens: tuple[Token, ...]) -> str:
    """A file, or `-`; every other word that starts with a hyphen is a mistyped option."""
    value = tokens[0].value
    if value.startswith("-") and value != "-":
        raise CoercionError(msg=f"Unknown option: {value}")
    return value


Source = Annotated[str, Parameter(allow_leading_hyphen=True, converter=_hyphen_or_name)]
Model = Annotated[str | None, Parameter(name=["--model", "-m"])]
Json = Annotated[bool, Parameter(name="--json")]
Attention = Literal["causal", "bidirectional"] | None
Pooling = Literal["mean", "weighted_mean", "last", "first"] | None
Dtype = Literal["auto", "float32", "bfloat16"]


def say_default(model: str | None) -> None:
    """Says on stderr which model stands in where none was named, and which one is there if speed matters more."""
    if model is None:
        print(
            f"diffembed: no --model given, so {DEFAULT_MODEL} is used; --model {FASTER_MODEL} is faster "
            "(others: diffembed models)",
            file=sys.stderr,
        )
