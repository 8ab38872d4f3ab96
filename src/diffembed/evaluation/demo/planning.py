"""What every system is run on: a draw that fits the budget, made with one tokenizer for all.

Read `make_plan`. The speed of every network is measured before; should the machine slow down afterwards, `Plan.limits`
say when a network has had its share of the time. This module scores nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from diffembed.errors import DiffEmbedError
from diffembed.evaluation.demo.contenders import Contender
from diffembed.evaluation.demo.draws import Draw, Pass, choose_draw, find_draw
from diffembed.evaluation.tasks import AnyTask

Notify = Callable[[str], None]
OVERRUN, GRACE_S = 1.2, 10.0
"""A network may take its share of the budget times this, and as many seconds more: long texts are read more slowly than
the measured ones, and the first texts more slowly than later ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Tasks, and how they were decided; the texts are those of `Comparison`."""

    tasks: Sequence[AnyTask]
    draw: str = ""
    reason: str = ""
    counted_by: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Model -> seconds after which no longer texts are begun; a model that is absent has no limit."""


def make_plan(
    contenders: Sequence[Contender], draw: str, budget_s: float, seed: int, tell: Notify, reason: str | None = None
) -> Plan:
    """The tasks of a draw, or of the largest that fits for `auto`; the first language model that loads counts tokens.

    reason: why a named draw is taken; `None` says that it was asked for.
    Raises DiffEmbedError where nothing loads.
    """
    limits: dict[str, float] = {}
    if draw == "auto":
        chosen, reason, limits = _fit_draw(contenders, budget_s, tell)
    else:
        chosen, reason = find_draw(draw), reason or "it was asked for"
    for contender in _by_rank(contenders):
        session = contender.try_start()
        if session is not None:
            tell(f"draw {chosen}, because {reason}")
            return Plan(
                tasks=session.make_tasks(chosen, seed),
                draw=str(chosen),
                reason=reason,
                counted_by=contender.model if contender.counts_tokens else "words",
                limits=limits,
            )
    raise DiffEmbedError("; ".join(f"{contender.labels[0]}: {contender.error}" for contender in contenders))


def _by_rank(contenders: Sequence[Contender]) -> list[Contender]:
    """Language models first, then encoders, then BM25: whose tokens the lengths are counted in."""
    return sorted(contenders, key=lambda one: (not one.is_language_model, not one.is_dense))


def _fit_draw(contenders: Sequence[Contender], budget_s: float, tell: Notify) -> tuple[Draw, str, dict[str, float]]:
    """Measures every network once, the one that will count the tokens last, and leaves that one open."""
    dense = [one for one in _by_rank(contenders) if one.is_dense]
    first_of = {one.model: one for one in reversed(dense)}
    measured: dict[str, Pass] = {}
    for contender in reversed([one for one in dense if first_of[one.model] is one]):
        tell(f"measuring the speed of {contender.model}")
        session = contender.try_start()
        if session is None:
            continue
        try:
            tokens_per_s = session.tokens_per_s()
        except DiffEmbedError as error:
            contender.error = str(error)
            contender.stop()
            continue
        max_tokens = int(session.facts["max_tokens"])
        measured[contender.model] = Pass(tokens_per_s=tokens_per_s, start_s=contender.load_s, max_tokens=max_tokens)
        if contender is not dense[0]:
            contender.stop()
    passes = [measured[one.model] for one in dense if one.model in measured]
    chosen, predicted_s = choose_draw(passes, budget_s)
    share = OVERRUN * max(1.0, budget_s / predicted_s) if predicted_s else OVERRUN
    limits = {model: share * (one.seconds(chosen) - one.start_s) + GRACE_S for model, one in measured.items()}
    speeds = [f"{model} reads {one.tokens_per_s:,.0f} tokens/s" for model, one in reversed(measured.items())]
    fits = "within" if predicted_s <= budget_s else "the least there is, but over"
    reason = f"{', '.join(speeds)}; about {predicted_s:.0f} s, {fits} the budget of {budget_s:.0f} s"
    return chosen, reason, limits
