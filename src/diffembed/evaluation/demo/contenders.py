"""Systems that share a network, ready to be loaded, run and put away again.

Read `Contender`. This module knows nothing of tasks, draws or scores.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from diffembed.errors import ConfigError, DiffEmbedError
from diffembed.evaluation.demo.isolation import RemoteSession
from diffembed.evaluation.demo.sessions import AnySession, Session
from diffembed.evaluation.systems.identity import identify
from diffembed.evaluation.systems.names import BASELINES
from diffembed.evaluation.systems.recipes import SystemGroup, group_names
from diffembed.records import Encoder


class Contender:
    """Systems that share a network, and their session while it is open."""

    def __init__(self, source: SystemGroup | Encoder, is_isolated: bool) -> None:
        """source: names to be loaded, or an encoder that is loaded and stays in this process."""
        self.labels: tuple[str, ...] = (source.name,) if not isinstance(source, SystemGroup) else source.labels
        self.model = self.labels[0]
        self.is_language_model = self.counts_tokens = False
        if isinstance(source, SystemGroup):
            spec = source.specs[0]
            # Attention hardly changes the speed, a recipe (text read twice) does.
            self.model = f"{source.recipe}@{spec.model}" if source.recipe else spec.model
            self.is_language_model = spec.is_language_model
            self.counts_tokens = spec.model not in BASELINES
        self.is_dense = self.model != "bm25"
        self.session: AnySession | None = None
        self.load_s = 0.0
        self.error: str | None = None
        self._source = source
        self._is_isolated = is_isolated

    def version(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of the files, where the model is a folder that may be trained further.

        Of an `Embedder`, its identity; other encoders that are given as objects are known by their names alone.
        """
        if not isinstance(self._source, SystemGroup):
            from diffembed.embedding.embedder import Embedder

            if isinstance(self._source, Embedder):
                return [(identify(self._source, pooling=self._source.pooling), 0, 0)]
            return []
        folders = (self._source.specs[0].model, *self._source.adapters)
        files = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]

    def start(self) -> AnySession:
        """The open session, loaded on first use."""
        if self.session is None:
            started = time.perf_counter()
            if not isinstance(self._source, SystemGroup):
                self.session = Session.of(self._source)
            elif self._is_isolated:
                self.session = RemoteSession(self._source)
            else:
                self.session = Session.open(self._source)
            self.load_s = time.perf_counter() - started
        return self.session

    def stop(self) -> None:
        """Closes the session; the next `start` loads anew."""
        if self.session is not None:
            self.session.close()
            self.session = None

    def try_start(self) -> AnySession | None:
        """The session, or `None` with the sentence kept in `error`, now and ever after."""
        if self.error is not None:
            return None
        try:
            return self.start()
        except DiffEmbedError as error:
            self.error = str(error)
            return None


def make_contenders(models: Sequence[str | Encoder], is_isolated: bool) -> list[Contender]:
    """One contender per network and attention, names first. Raises ConfigError for a system that is named twice."""
    named = group_names([model for model in models if isinstance(model, str)])
    given = [model for model in models if not isinstance(model, str)]
    contenders = [
        *(Contender(source, is_isolated) for source in named),
        *(Contender(source, False) for source in given),
    ]
    for one in named:
        if one.recipe == "index":
            name = one.specs[0].label
            raise ConfigError(
                f"an index is measured on a suite: diffembed evaluate index@{name} SUITE; name {name} here"
            )
    labels = [label for one in contenders for label in one.labels]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice; name each system once")
    return contenders
