"""The texts that a language model is asked with: templates in data files, checked and versioned.

Read `Prompts` first. The packaged templates are the YAML files beside this module, in `prompts/`; a run may bring
its own folder. This module knows nothing of rows or models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from diffembed.data.reasonaug.rows import Kind, Task
from diffembed.errors import ConfigError, InputError, MissingExtraError, UnknownNameError
from diffembed.provenance import hash_text

Messages = list[dict[str, str]]

PLACEHOLDERS = {
    "definition": {"domain", "concept", "language"},
    "problem": {"question_type", "domain", "concept", "rules", "language"},
    "question_check": {"domain", "concept", "language"},
    "solution_check": {"domain", "concept", "problem", "solution", "language"},
    "negative": {"domain", "concept", "question_type", "query", "positive", "language"},
}
"""Template -> the names it may use."""
KNOBS = "knobs"
INSTRUCTIONS = "instructions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Which random knobs problems of a domain have, and how likely each is."""

    name: str
    kind: Kind
    themes: tuple[str, ...] = ()
    """Settings, each as likely as having none."""
    styles: Mapping[str, float]
    """Style -> weight; the style `none` adds no sentence. Empty = no such knob."""
    difficulty: float = 0.0
    """Probability of a sentence that compares with an exam."""
    several: float = 0.0
    """Probability of asking for several steps or several concepts."""
    several_concepts: float = 0.0
    """Of those, the share that asks for several concepts."""
    hidden_name: float = 0.0
    """Probability that the solution must not name the concept."""
    short: float = 0.0
    """Probability of asking for about four sentences."""
    rules: tuple[str, ...] = ()
    """Rules every problem of this profile has; names in `sentences`."""


class Prompts:
    """All templates of a run, rendered into messages."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """`texts`: template name -> its YAML text. Raises InputError for a damaged one, ConfigError for a bad name."""
        self._values = {name: _parse(name, text) for name, text in texts.items()}
        missing = sorted({*PLACEHOLDERS, KNOBS, INSTRUCTIONS} - set(self._values))
        if missing:
            raise InputError(f"the prompt templates lack {', '.join(missing)}.yaml")
        self.versions = {
            name: f"{self._values[name].get('version', 0)}:{hash_text(texts[name])[:16]}" for name in sorted(texts)
        }
        """Template -> version number and hash, for the provenance."""
        for name, allowed in PLACEHOLDERS.items():
            for text in (self._values[name].get("system", ""), *self._values[name]["user"].values()):
                _check_placeholders(name, text, allowed)
        self.sentences: Mapping[str, str] = self._values[KNOBS]["sentences"]
        self.profiles = {name: _profile(name, each) for name, each in self._values[KNOBS]["profiles"].items()}
        for profile in self.profiles.values():
            for sentence in (*profile.rules, *(style for style in profile.styles if style != "none")):
                if sentence not in self.sentences:
                    raise UnknownNameError.of("knob sentence", sentence, list(self.sentences))

    @classmethod
    def load(cls, folder: Path | None = None) -> "Prompts":
        """The packaged templates, or those of a folder; a file the folder lacks is taken from the package."""
        packaged = resources.files("diffembed.data.reasonaug").joinpath("prompts")
        texts = {
            entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
            for entry in packaged.iterdir()
            if entry.name.endswith(".yaml")
        }
        if folder is not None:
            own = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))}
            if not own:
                raise InputError(f"{folder} holds no prompt template; expected some of {', '.join(sorted(texts))}.yaml")
            for name in own:
                if name not in texts:
                    raise UnknownNameError.of("prompt template", name, list(texts))
            texts |= own
        return cls(texts)

    def profile(self, name: str) -> Profile:
        """The knobs of that name; UnknownNameError lists those there are."""
        if name not in self.profiles:
            raise UnknownNameError.of("knob profile", name, list(self.profiles))
        return self.profiles[name]

    def messages(self, name: str, kind: Kind, **values: str) -> Messages:
        """System and user turn of a template, in the variant for this kind of solution."""
        turns: Messages = []
        if system := self._values[name].get("system"):
            turns.append({"role": "system", "content": Template(system).substitute(values).strip()})
        variants = self._values[name]["user"]
        text = variants.get(kind.value, variants.get("default"))
        if text is None:
            raise ConfigError(f"the template {name}.yaml has no text for {kind.value} problems and no default")
        turns.append({"role": "user", "content": Template(text).substitute(values).strip()})
        return turns

    def sentence(self, name: str, **values: str) -> str:
        """One rule of a problem."""
        return Template(self.sentences[name]).substitute(values)

    def instruction(self, task: Task, *, question_type: str, domain: str) -> str:
        """The retrieval instruction that goes with the rows of a task."""
        return Template(self._values[INSTRUCTIONS][task.value]).substitute(question_type=question_type, domain=domain)


def _parse(name: str, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError.of("pyyaml", "reasonaug") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"the template {name}.yaml is not valid YAML: {' '.join(str(error).split())}") from error
    needed = {KNOBS: {"profiles", "sentences"}, INSTRUCTIONS: {task.value for task in Task}}.get(name, {"user"})
    if not isinstance(values, Mapping) or not needed <= set(values):
        raise InputError(f"the template {name}.yaml needs the keys {', '.join(sorted(needed))}")
    return values


def _check_placeholders(name: str, text: str, allowed: set[str]) -> None:
    template = Template(text)
    if not template.is_valid():
        raise ConfigError(f"the template {name}.yaml has a $ that starts no name; write $$ for a dollar sign")
    for used in template.get_identifiers():
        if used not in allowed:
            raise UnknownNameError.of(f"placeholder of {name}.yaml", used, sorted(allowed))


def _profile(name: str, values: Mapping[str, Any]) -> Profile:
    try:
        return Profile(
            name=name,
            kind=Kind(values["kind"]),
            styles=dict(values.get("styles") or {}),
            themes=tuple(values.get("themes") or ()),
            rules=tuple(values.get("rules") or ()),
            **{key: float(value) for key, value in values.items() if key not in ("kind", "styles", "themes", "rules")},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the knob profile {name!r} cannot be used: {error}") from error
