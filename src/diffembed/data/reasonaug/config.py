"""Settings of a ReasonAug run, and the YAML file they come from.

Read `ReasonAugConfig` first. `identity` is the part that decides the data; the rest (endpoint, budget) may change
between two runs into the same folder. This module knows nothing of what the settings do.
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from diffembed.errors import ConfigError, InputError, MissingExtraError, UnknownNameError

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where questions are sent."""

    base_url: str = "https://api.openai.com/v1"
    """Root of an OpenAI-compatible API: hosted, vLLM, llama.cpp, transformers serve."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; unset means that the server needs none. The key is never stored."""
    concurrency: int = 8
    """Requests in flight at once; >= 1."""
    timeout_s: float = 300.0
    """Seconds to wait for one answer; > 0."""
    max_retries: int = 6
    """Further tries of a request after HTTP 408, 409, 429, 5xx or a broken connection, with exponential back-off and
    jitter; >= 0."""
    max_consecutive_failures: int = 10
    """Requests in a row that may fail for good before the run stops; >= 1."""
    token_limit_field: str = "max_tokens"
    """`max_tokens`, or `max_completion_tokens` where the model asks for it."""
    batch_rows: int = 50_000
    """Requests per batch file; >= 1. 50,000 is the limit of OpenAI's batch API."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "concurrency", "max_consecutive_failures", "batch_rows")
        _at_least(self, 0, "max_retries")
        if self.timeout_s <= 0:
            raise ConfigError(f"endpoint.timeout_s is {self.timeout_s}; it must be above 0")
        if self.token_limit_field not in ("max_tokens", "max_completion_tokens"):
            raise UnknownNameError.of(
                "endpoint.token_limit_field", self.token_limit_field, ["max_tokens", "max_completion_tokens"]
            )


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """What a run may spend, over all its sessions in one folder."""

    max_tokens: int | None = None
    """Prompt plus completion tokens; None = no limit."""
    max_cost: float | None = None
    """In the currency of the prices; None = no limit."""
    prompt_price: float | None = None
    """Price of a million prompt tokens; None = unknown, and the cost is not reported."""
    completion_price: float | None = None
    """Price of a million completion tokens; None = unknown."""

    def __post_init__(self) -> None:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ConfigError("budget.prompt_price and budget.completion_price go together; set both or neither")
        if self.max_cost is not None and self.prompt_price is None:
            raise ConfigError("budget.max_cost needs budget.prompt_price and budget.completion_price")
        for name in ("max_tokens", "max_cost", "prompt_price", "completion_price"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ConfigError(f"budget.{name} is {value}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How problems are asked for and checked."""

    model: str = "gpt-4o-mini"
    """Name the endpoint knows the model by; the paper's is gpt-4o-mini."""
    rounds: int = 8
    """Problems asked for per concept; >= 1. The paper's is 8."""
    max_attempts: int = 3
    """Times a row is asked anew, first time included, when the answer cannot be used; >= 1."""
    temperature: float | None = None
    """None leaves it to the endpoint, as the paper does."""
    definition_max_tokens: int = 1000
    """Longest definition in tokens; doubled for a retry after an answer that was cut short."""
    problem_max_tokens: int = 4000
    """Longest problem with its solution, and longest answer of a check; doubled likewise."""
    max_fault_fraction: float = 0.5
    """Share of a stage's rows that may be lost to unusable answers before the run stops; in [0, 1]. Rows a check
    rejects do not count."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "rounds", "max_attempts", "definition_max_tokens", "problem_max_tokens")
        _fractions(self, "max_fault_fraction")


@dataclass(frozen=True, kw_only=True)
class AssemblyConfig:
    """How pairs become training rows; the defaults are the paper's."""

    p2i_rows: int = 2
    """Problem-to-concept rows per problem, each with a negative of its own; >= 0."""
    p2i_name_fraction: float = 0.5
    """Share of p2i rows whose positive is the concept's name instead of its definition; in [0, 1]."""
    max_problem_pairs: int = 20
    """Ordered pairs of problems sampled per concept (p2ps and ps2ps together); >= 0."""
    ps2ps_fraction: float = 0.25
    """Share of those pairs whose query is more than the problem; in [0, 1]."""
    ps2ps_solution_fraction: float = 0.6
    """Share of ps2ps queries that add the solution; the others add the concept's name; in [0, 1]."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "p2i_rows", "max_problem_pairs")
        _fractions(self, "p2i_name_fraction", "ps2ps_fraction", "ps2ps_solution_fraction")


@dataclass(frozen=True, kw_only=True)
class NegativesConfig:
    """Where hard negatives come from."""

    encoder: str | None = None
    """Model or folder that ranks the candidates; None = BM25."""
    skip_top: int = 2
    """Best-ranked other concepts left out as likely false negatives; >= 0. A domain with too few concepts skips fewer,
    and the report counts it."""
    are_written: bool = False
    """Also ask the language model to write negatives: one more p2ps row per problem of a concept with several."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "skip_top")


@dataclass(frozen=True, kw_only=True)
class LeakageConfig:
    """Texts the data must not repeat."""

    against: tuple[Path, ...] = ()
    """Row files with a `text` or `query` column (benchmark queries); none = no check."""
    max_ratio: float = 0.7
    """Rows whose query has a SequenceMatcher ratio over words at or above this with any of them are dropped; in
    (0, 1]. The paper's threshold is 0.7."""

    def __post_init__(self) -> None:
        _fractions(self, "max_ratio")
        if self.max_ratio == 0:
            raise ConfigError("leakage.max_ratio 0 drops every row; choose a value above 0, such as 0.7")


@dataclass(frozen=True, kw_only=True)
class ReasonAugConfig:
    """A whole run."""

    concepts: Path | None = None
    """YAML file of domains and concepts; None only for a replay of the published files."""
    name: str = "ReasonAug"
    """Name of the data set in its card."""
    seed: int = 0
    """Decides knobs, sampled pairs and forms of positives."""
    language: str = "en"
    """ISO 639-1 code of the language to write in; answers in another are asked again."""
    answers: str = "live"
    """`live` sends requests; `batch` writes OpenAI batch files and reads their answers in a later run."""
    exclude_concepts: Path | None = None
    """Held-out concepts (a row file with a column `concept`): never a query, positive or negative."""
    prompts: Path | None = None
    """Folder of prompt templates to use instead of the packaged ones."""
    tokenizer: Path | None = None
    """tokenizer.json for the card's token counts; None = the WordPiece tokenizer packaged with all-MiniLM-L6-v2."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    assembly: AssemblyConfig = field(default_factory=AssemblyConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    leakage: LeakageConfig = field(default_factory=LeakageConfig)

    def __post_init__(self) -> None:
        if self.answers not in ("live", "batch"):
            raise UnknownNameError.of("answers mode", self.answers, ["live", "batch"])

    def identity(self) -> dict[str, Any]:
        """The settings that decide the data, as plain values; files count by content, elsewhere, not by path."""
        plain = dataclasses.asdict(self)
        for name in ("endpoint", "budget", "answers", "concepts", "exclude_concepts", "prompts", "tokenizer"):
            del plain[name]
        del plain["leakage"]["against"]
        # A limit on losses decides whether a run ends, not what it writes: it can be raised half-way.
        del plain["generation"]["max_fault_fraction"]
        return plain


def load_config(path: Path | str) -> ReasonAugConfig:
    """The config of a YAML file; the paths in it are relative to that file.

    Raises ConfigError for a wrong type and UnknownNameError for an unknown key, naming the nearest one.
    """
    path = Path(path)
    values = read_yaml(path)
    if not isinstance(values, Mapping):
        raise InputError(f"{path} holds no mapping of settings; see recipes/reasonaug for an example")
    return config_from(ReasonAugConfig, values, folder=path.parent)


def read_yaml(path: Path) -> Any:
    """The value of a YAML file."""
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError.of("pyyaml", "reasonaug") from error
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def config_from(kind: type[C], values: Mapping[str, Any], *, folder: Path, prefix: str = "") -> C:
    """A config dataclass from plain values: nested, type-checked, no unknown key; paths become relative to folder."""
    types = typing.get_type_hints(kind)
    known = [each.name for each in dataclasses.fields(typing.cast(Any, kind))]
    built: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UnknownNameError.of("setting", f"{prefix}{key}", [f"{prefix}{name}" for name in known])
        built[key] = _value(types[key], value, folder=folder, name=f"{prefix}{key}")
    missing = [
        each.name
        for each in dataclasses.fields(typing.cast(Any, kind))
        if each.name not in built
        and each.default is dataclasses.MISSING
        and each.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"the setting {prefix}{missing[0]} is required")
    return kind(**built)


def _value(kind: Any, value: Any, *, folder: Path, name: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must hold settings of its own; received {value!r}")
        return config_from(kind, value, folder=folder, prefix=f"{name}.")
    choices = typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_value(choices[0], item, folder=folder, name=name) for item in items)
    if value is None and type(None) in choices:
        return None
    if Path in choices and isinstance(value, str):
        return folder / value
    if bool not in choices and isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; expected {_names(choices)}")
    if float in choices and isinstance(value, int | float):
        return float(value)
    if isinstance(value, tuple(choice for choice in choices if isinstance(choice, type))):
        return value
    raise ConfigError(f"{name} is {value!r}; expected {_names(choices)}")


def _names(choices: tuple[Any, ...]) -> str:
    return " or ".join("null" if choice is type(None) else choice.__name__ for choice in choices)


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be at least {least}")


def _fractions(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be in [0, 1]")
