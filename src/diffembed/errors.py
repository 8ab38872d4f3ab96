"""Every error a user can meet, as one tree.

DiffEmbedError
    UnknownNameError            a model, pooling, suite ... that does not exist; lists the ones that do
    ConfigError                 settings that contradict each other, or one that would have no effect
    InputError                  texts, files or rows that cannot be used
        EmptyInputError         nothing to work on
        OverflowingTextError    a text longer than the model reads, under the policy `error`
    CheckpointError             weights that are missing, damaged, unsafe, or of another model
        ConversionError         a published checkpoint that cannot be turned into a native one
    StoreError                  an index that is missing, damaged, in use, or made in another way than asked
    AttentionContractError      a network whose attention is not what it is declared to be
    MissingExtraError           an optional library that is not installed; names the extra
    ResourceError               memory, disk or another resource ran out

This module imports nothing of the project.
"""


class DiffEmbedError(Exception):
    """Base of every error the library raises on purpose; the message is one plain sentence."""


class UnknownNameError(DiffEmbedError):
    """A name that is not in a known set; build it with `of` so that the nearest is suggested."""

    @classmethod
    def of(cls, kind: str, name: str, known: list[str] | tuple[str, ...]) -> "UnknownNameError":
        """`no <kind> '<name>'; choose one of a, b, c` plus the nearest known name, if one is near."""
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return cls(f"no {kind} {name!r}{hint}; choose one of {', '.join(sorted(known))}")


class ConfigError(DiffEmbedError):
    """Settings that contradict each other, are out of range, or would have no effect."""


def require(condition: bool, sentence: str) -> None:
    """Raises ConfigError with the sentence unless the condition holds."""
    if not condition:
        raise ConfigError(sentence)


class InputError(DiffEmbedError):
    """Texts, files or rows that cannot be used."""


class EmptyInputError(InputError):
    """There is nothing to work on."""


class OverflowingTextError(InputError):
    """A text is longer than the model reads and the policy is `error`."""


class CheckpointError(DiffEmbedError):
    """Weights that are missing, damaged, unsafe, or of another model."""


class ConversionError(CheckpointError):
    """A published checkpoint that cannot be turned into a native one."""


class StoreError(DiffEmbedError):
    """An index that is missing, damaged, in use by another writer, or made in another way than asked."""


class AttentionContractError(DiffEmbedError):
    """A network whose attention is not what it is declared to be."""


class MissingExtraError(DiffEmbedError):
    """An optional library is not installed."""

    @classmethod
    def of(cls, library: str, extra: str) -> "MissingExtraError":
        """The sentence that names the library and the extra which installs it."""
        return cls(f"{library} is not installed; install it with: pip install 'diffembed[{extra}]'")


class ResourceError(DiffEmbedError):
    """Memory, disk or another resource ran out; what was finished before is kept."""
