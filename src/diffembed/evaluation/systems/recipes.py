"""From the names a user types to systems that rank: models, baselines, and recipes over any backbone.

Read `group_names`, then `SystemGroup.open`. A name is `NAME[:attention][:pooling]` (see `systems.parse_system`) or
`RECIPE@NAME`:
e5-style    causal attention, `Instruct: ... Query: ...`, the state of the end-of-text token (E5-Mistral's form)
echo        causal attention, the text read twice, the second copy averaged
llm2vec     opened attention, mean, over an MNTP adapter: llm2vec@BASE+ADAPTER[+ADAPTER]
hybrid      the named system fused with BM25 by reciprocal rank
int8        the named system with document vectors of one byte per component
maxp        the named system over the passages that a search reads, the best of a document counting
index       the first ten hits of the named system in an approximate index, however few the documents; encodes anew
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from diffembed.backbones.registry import find_model
from diffembed.documents import ChunkPolicy
from diffembed.embedding.checkpoint import checkpoint_folder
from diffembed.embedding.text import TextTemplate
from diffembed.errors import ConfigError, UnknownNameError
from diffembed.evaluation.systems.baselines import RandomEncoder
from diffembed.evaluation.systems.names import BASELINES, SystemSpec, group_systems, parse_system
from diffembed.evaluation.systems.reading import Reader, read_embedder, read_with
from diffembed.evaluation.systems.searching import DenseSystem, HybridSystem, LexicalSystem, System
from diffembed.records import Encoder

if TYPE_CHECKING:
    from diffembed.embedding.embedder import Embedder

Recipe = Literal["e5-style", "echo", "llm2vec", "hybrid", "int8", "maxp", "index"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)
_MARKS = {"hybrid": "bm25", "int8": "int8", "maxp": "maxp", "index": "index"}
"""Recipe -> what is added to the name of the system that it is applied to."""
E5_TEMPLATE = TextTemplate(instruction_format="Instruct: {instruction}\nQuery: ", appends_eos=True)
"""Source: Wang et al. 2024 (arXiv 2401.00368)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemGroup:
    """Systems that are opened together because they share a forward pass."""

    specs: tuple[SystemSpec, ...]
    recipe: Recipe | None = None
    adapters: tuple[str, ...] = ()
    """LoRA folders merged into the base, for `llm2vec`."""

    @property
    def is_pinned(self) -> bool:
        """True where the names alone say which weights are read: baselines, and networks that packages carry."""
        if self.specs[0].model in BASELINES:
            return True
        model = find_model(self.specs[0].model)
        return model is not None and model.source in ("tiny", "package", "gguf-package") and not self.adapters

    @property
    def labels(self) -> tuple[str, ...]:
        """Names used in tables: as typed, but `NAME+bm25` for a hybrid, `NAME+int8`, `NAME+maxp` and `NAME+index`."""
        plain = tuple(spec.label for spec in self.specs)
        if self.recipe is None:
            return plain
        if self.recipe in _MARKS:
            return tuple(f"{label}+{_MARKS[self.recipe]}" for label in plain)
        return tuple(f"{self.recipe}@{'+'.join((spec.label, *self.adapters))}" for spec in self.specs)

    def open(
        self,
        *,
        max_tokens: int | None = None,
        dtype: str = "auto",
        cache_folder: Path | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> System:
        """Loads the weights. max_tokens: cut texts there, even where the model reads more."""
        first = self.specs[0]
        if first.model == "bm25":
            return LexicalSystem()
        if first.model == "random":
            encoder = RandomEncoder()
            if self.recipe == "index":
                return self._indexed(encoder, True)
            return self._dress(read_with(encoder, cache_folder=cache_folder, key="random-0", notify=notify), True)
        embedder = limited(self._load(first, dtype), max_tokens)
        if self.recipe == "index":
            return self._indexed(embedder, not embedder.backbone.family.is_encoder)
        reader: Reader
        if self.recipe == "echo":
            from diffembed.evaluation.systems.echo import read_echo

            reader = read_echo(embedder, self.labels[0], cache_folder=cache_folder, notify=notify)
        else:
            labels = self.labels if self.recipe in ("e5-style", "llm2vec") else [spec.label for spec in self.specs]
            poolings = {label: spec.pooling or embedder.pooling for label, spec in zip(labels, self.specs, strict=True)}
            reader = read_embedder(embedder, poolings, cache_folder=cache_folder, notify=notify)
        return self._dress(reader, not embedder.backbone.family.is_encoder)

    def _dress(self, reader: Reader, sends_instructions: bool) -> System:
        precision: Literal["float32", "int8"] = "int8" if self.recipe == "int8" else "float32"
        chunks = ChunkPolicy() if self.recipe == "maxp" else None
        system = DenseSystem(reader, precision=precision, chunks=chunks, sends_instructions=sends_instructions)
        return HybridSystem(system) if self.recipe == "hybrid" else system

    def _indexed(self, encoder: Encoder, sends_instructions: bool) -> System:
        from diffembed.evaluation.systems.index_system import IndexSystem

        return IndexSystem(encoder, label=self.labels[0], sends_instructions=sends_instructions)

    def _load(self, spec: SystemSpec, dtype: str) -> "Embedder":
        from diffembed.embedding.embedder import Embedder

        if self.recipe == "e5-style":
            return Embedder.load(spec.model, attention="causal", pooling="last", template=E5_TEMPLATE, dtype=dtype)
        if self.recipe == "echo":
            from diffembed.evaluation.systems.echo import TEMPLATE

            return Embedder.load(spec.model, attention="causal", pooling="mean", template=TEMPLATE, dtype=dtype)
        if self.recipe != "llm2vec":
            return Embedder.load(spec.model, attention=spec.attention, pooling=spec.pooling, dtype=dtype)
        from diffembed.backbones.loading import locate
        from diffembed.embedding.lora import merge_lora

        embedder = Embedder.load(spec.model, attention="bidirectional", pooling="mean", dtype=dtype)
        for adapter in self.adapters:
            merge_lora(embedder.backbone.model, Path(adapter) if Path(adapter).is_dir() else locate(adapter, None))
        return embedder


def group_names(names: Sequence[str]) -> list[SystemGroup]:
    """Groups in order of first mention; nothing is loaded.

    Raises UnknownNameError for an unknown recipe, ConfigError for a name twice or a recipe that cannot be applied.
    """
    plain: dict[str, tuple[int, SystemSpec]] = {}
    placed: list[tuple[int, SystemGroup]] = []
    for place, name in enumerate(names):
        recipe, mark, rest = name.partition("@")
        # A hub id may pin its revision with the same mark, but has a slash before it.
        if mark and "/" not in recipe and not Path(name).exists():
            placed.append((place, _recipe_group(recipe, rest)))
        else:
            spec = parse_system(name)
            if spec.label in plain:
                raise ConfigError(f"{spec.label} is named twice; name each system once")
            plain[spec.label] = (place, spec)
    for specs in group_systems([spec for _, spec in plain.values()]):
        placed.append((plain[specs[0].label][0], SystemGroup(specs=tuple(specs))))
    groups = [group for _, group in sorted(placed, key=lambda item: item[0])]
    labels = [label for group in groups for label in group.labels]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice; name each system once")
    return groups


def _recipe_group(recipe: str, rest: str) -> SystemGroup:
    known = next((name for name in RECIPES if name == recipe), None)
    if known is None:
        raise UnknownNameError.of("recipe", recipe, list(RECIPES))
    base, *adapters = rest.split("+") if known == "llm2vec" else [rest]
    spec = parse_system(base)
    if spec.model == "bm25" or (spec.model == "random" and known not in _MARKS):
        raise ConfigError(f"the recipe {known} needs a network; {spec.model} has none")
    if known in ("e5-style", "echo", "llm2vec"):
        if spec.attention or spec.pooling:
            raise ConfigError(f"the recipe {known} sets attention and pooling itself; write {known}@{spec.model}")
        if not spec.is_language_model:
            raise ConfigError(f"the recipe {known} needs a language model; {spec.model} is an encoder")
    if known == "llm2vec" and not adapters and checkpoint_folder(spec.model) is None:
        raise ConfigError(
            f"llm2vec needs an MNTP adapter: write llm2vec@{spec.model}+FOLDER (make one with: diffembed adapt), "
            f"or {spec.model}:bidirectional:mean for the network as it is"
        )
    return SystemGroup(specs=(spec,), recipe=known, adapters=tuple(adapters))


def limited(embedder: "Embedder", max_tokens: int | None) -> "Embedder":
    """The same embedder reading at most `max_tokens`; itself where it reads no more already."""
    if max_tokens is None or max_tokens >= embedder.max_tokens:
        return embedder
    return with_limit(embedder, max_tokens)


def with_limit(embedder: "Embedder", max_tokens: int) -> "Embedder":
    """The same embedder reading `max_tokens`, up to what its network reads."""
    return type(embedder)(
        embedder.backbone,
        pooling=embedder.pooling,
        template=embedder.template,
        max_tokens=max_tokens,
        is_normalised=embedder.is_normalised,
        name=embedder.name,
        token_budget=embedder.token_budget,
        dims=None if embedder.dim == embedder.backbone.dim else embedder.dim,
    )
