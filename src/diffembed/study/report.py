"""The report of a study, made from stored results alone: no training, no encoding, no date.

Read `write_study`, then `make_blocks`. Every number and every verdict follows from `findings` and `claims`.
"""

from collections.abc import Sequence
from pathlib import Path

from diffembed.evaluation.statistics.significance import Interval
from diffembed.provenance import atomic_file
from diffembed.study.accounts import (
    contamination_blocks,
    cost_blocks,
    family_blocks,
    machines_blocks,
    mean,
    rates_blocks,
)
from diffembed.study.claims import judge, p_text
from diffembed.study.findings import (
    MARK,
    Findings,
    SkillTest,
    find,
    first_seed_score,
    is_in_domain,
    marked,
    seed_scores,
    task_value,
)
from diffembed.study.page import Block, Heading, Items, Paragraph, Table, render_html, render_markdown
from diffembed.study.plan import StudyPlan
from diffembed.study.store import Store

SINGLE = " (one seed)"


def write_study(plan: StudyPlan, store: Store, *, page: Path | str, html: Path | str, command: str) -> Findings:
    """Writes the Markdown page and the HTML page; equal results give equal bytes. command: how to make them again."""
    findings = find(plan, store)
    blocks = make_blocks(findings, store, command=command)
    for path, text in (
        (page, render_markdown(blocks)),
        (html, render_html(blocks, title=f"diffembed study {plan.name}")),
    ):
        with atomic_file(path) as part:
            part.write_text(text, encoding="utf-8")
    return findings


def make_blocks(findings: Findings, store: Store, *, command: str) -> list[Block]:
    """The whole page."""
    return [
        Heading(f"The study: {findings.plan.name}", level=1),
        Paragraph(_what_it_is(findings.plan)),
        Paragraph(
            "This page is generated from the stored per-query results (fingerprint "
            f"{store.fingerprint(findings.graph)}): `{command}`"
        ),
        *_missing(findings),
        *(Paragraph(f"**Note:** {note}") for note in findings.plan.notes),
        *_claims(findings),
        *family_blocks(findings, store),
        *_primary(findings),
        *_systems(findings),
        *_seeds(findings),
        *_tasks(findings),
        *_lengths(findings),
        *_directions(findings),
        *_curve(findings),
        *_exploratory(findings),
        *rates_blocks(findings, store),
        *cost_blocks(findings, store),
        *machines_blocks(findings),
        *contamination_blocks(findings, store),
    ]


def _what_it_is(plan: StudyPlan) -> str:
    adaptation = plan.adaptation
    tokens = 0 if adaptation is None else adaptation.num_steps * adaptation.step_tokens
    adapted = (
        f"{tokens / 1e6:.2f} million tokens of adaptation for each objective, "
        f"{'low-rank adapters of rank ' + str(adaptation.lora.rank)}, " if adaptation is not None else ""
    )  # fmt: skip
    seeds = [len(arm.seeds) for arm in plan.arms.values()]
    times = f"{min(seeds)} to {max(seeds)} seeds" if min(seeds) < max(seeds) else f"{max(seeds)} seeds"
    times = "one seed" if max(seeds) == 1 else times
    backbones = list(dict.fromkeys(plan.factors(arm)["backbone"] for arm in plan.arms))
    steps = sorted({plan.factors(arm)["num_steps"] for arm in plan.arms})
    made = f"{' or '.join(map(str, steps))} steps of fine-tuning on the same rows in the same order, {times} an arm."
    if len(backbones) > 1:
        return (
            f"{len(backbones)} networks ({', '.join(backbones)}), {adapted}{made} Networks of different pre-training "
            "differ in their data, their size and their tokenizer too: what separates them is not one cause."
        )
    once = " Seeds repeat the fine-tuning; each objective was adapted once, and no interval knows what another run of "
    return (
        f"This study is small and controlled: one network ({backbones[0]}), {adapted}{made}"
        + (f"{once}it would give." if plan.objectives else "")
        + " It tests the objective, at the scale of low-rank adapters, not 580 billion tokens of diffusion "
        "pre-training as the 7B models of arXiv 2505.15045 had; a difference that is absent here may still come with "
        "scale, and one that is found here was found without it." + _learning_rates(plan)
    )


def _learning_rates(plan: StudyPlan) -> str:
    if plan.learning_rates is not None:
        return ""
    parts = [plan.fine_tuning.optimiser, *([] if plan.adaptation is None else [plan.adaptation.optimiser])]
    rates = " and ".join(f"{rate:g}" for rate in dict.fromkeys(part.learning_rate for part in parts))
    return f" No learning rate was tuned: every arm and objective has {rates}, and another may order them otherwise."


def _missing(findings: Findings) -> list[Block]:
    if not findings.missing:
        return []
    names = ", ".join(f"`{name}`" for name in findings.missing)
    return [
        Paragraph(
            f"**Not finished:** {len(findings.missing)} of {len(findings.graph)} nodes have no result that fits the "
            f"plan, and nothing below stands in for them: {names}."
        )
    ]


def _claims(findings: Findings) -> list[Block]:
    blocks: list[Block] = [Heading("What holds of the paper's claims")]
    for verdict in judge(findings):
        blocks += [
            Paragraph(
                f"**{verdict.skill}**: that {verdict.claim} {verdict.verdict}. {_measured_on(findings, verdict.skill)}"
            ),
            Items(verdict.reasons),
        ]
    family = findings.plan.primary
    blocks.append(
        Paragraph(
            "Rules, fixed before any result: an advantage holds where every comparison has its "
            f"{_percent(family.level)} interval above zero and a Holm-corrected p below {1 - family.level:.2f}; parity "
            f"holds where no interval reaches {100 * family.margin:.1f} points behind. An advantage fails where an "
            "interval lies wholly below zero with such a p, parity where one lies wholly below that margin. Everything "
            "else is undecided, and the interval says what remains possible."
        )
    )
    return blocks


def _measured_on(findings: Findings, skill: str) -> str:
    """The tasks behind the name of a skill, which is larger than they are."""
    tasks = [marked(task, findings.plan.row_sets) for task in findings.plan.primary.skills[skill]]
    note = f"; {MARK.strip()} in-domain" if any(task.endswith(MARK) for task in tasks) else ""
    return f"Measured on {', '.join(tasks)}{note}."


def _marked_skill(plan: StudyPlan, skill: str, tasks: Sequence[str]) -> str:
    return skill + (MARK if any(is_in_domain(task, plan.row_sets) for task in tasks) else "")


def _primary(findings: Findings) -> list[Block]:
    family = findings.plan.primary
    num_tests = len(family.controls) * len(family.skills)
    rows = [_test_row(findings, test) for test in findings.primary]
    rows += [
        [skill, f"{family.subject} - {control}", _factors(findings.plan, family.subject, control), "no result"]
        + 4 * ["-"]
        for skill, control in findings.untested
    ]
    return [
        Heading("The primary family"),
        Paragraph(
            f"`{family.subject}` against {', '.join(f'`{name}`' for name in family.controls)}: {num_tests} paired "
            "tests, Holm-corrected together. Points of 100; intervals redraw queries, and seeds "
            "where there are several. A p asks whether the queries alone could make the difference of the very runs "
            "that were made: where it is small and the interval includes zero, the seeds disagree."
            + (" Each objective has one adaptation, whose luck no test can see." if findings.plan.objectives else "")
        ),
        Table(_test_columns(family.level), rows),
    ]


def _factors(plan: StudyPlan, a: str, b: str) -> str:
    """What separates two arms; `-` beside a system that is no arm."""
    if a not in plan.arms or b not in plan.arms:
        return "-"
    return ", ".join(plan.differences(a, b)) or "nothing"


def _test_columns(level: float) -> list[str]:
    return ["skill", "difference", "differ in", "points", f"{_percent(level)} interval", "p", "Holm p", "queries"]


def _test_row(findings: Findings, test: SkillTest) -> list[str]:
    interval = test.comparison.difference
    return [
        _marked_skill(findings.plan, test.skill, test.tasks),
        f"{test.a} - {test.b}" + (SINGLE if test.is_single else ""),
        _factors(findings.plan, test.a, test.b),
        f"{100 * interval.value:+.1f}",
        f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}",
        p_text(test.comparison.p_value),
        p_text(test.p_holm),
        f"{test.comparison.num_queries:,}",
    ]


def _systems(findings: Findings) -> list[Block]:
    skills = list(findings.plan.primary.skills)
    rows = []
    for name, seeds in findings.systems.items():
        by_skill = findings.scores[name]
        rows.append([name, str(len(seeds)), *(_score(by_skill.get(skill)) for skill in skills)])
    columns = [_marked_skill(findings.plan, *of) for of in findings.plan.primary.skills.items()]
    return [
        Heading("Every system"),
        Paragraph(
            "Mean over the tasks of a skill and over seeds, with its interval; `-` where a system has no such score. "
            f"{MARK.strip()} in-domain: training rows of the same kind exist."
        ),
        Table(["system", "seeds", *columns], rows),
    ]


def _seeds(findings: Findings) -> list[Block]:
    skills = findings.plan.primary.skills
    rows = [
        [name, str(seed), *(_score(scores.get(skill)) for skill in skills)]
        for name, seed, scores in seed_scores(findings)
    ]
    if not rows:
        return []
    return [
        Heading("Every seed"),
        Paragraph(
            "Systems that were fine-tuned more than once, each time alone: what another order of rows, other negatives "
            "and another start of the adapters change. Intervals redraw queries."
        ),
        Table(["system", "seed", *(_marked_skill(findings.plan, *of) for of in skills.items())], rows),
    ]


def _tasks(findings: Findings) -> list[Block]:
    tasks = list(dict.fromkeys(task for seeds in findings.systems.values() for one in seeds for task in one))
    rows = []
    for task in tasks:
        found = {name: [one[task] for one in seeds if task in one] for name, seeds in findings.systems.items()}
        main = next(results[0].main for results in found.values() if results)
        cut = max(
            (result.truncated_fraction or 0.0 for results in found.values() for result in results), default=0.0
        )  # fmt: skip
        values = [
            f"{100 * mean([task_value(r) for r in results]):.1f}" if results else "-" for results in found.values()
        ]
        rows.append([marked(task, findings.plan.row_sets), main, f"{100 * cut:.0f} %", *values])
    if not rows:
        return []
    return [
        Heading("Every task"),
        Paragraph(
            "Points of 100, mean over seeds; cut: the largest share of documents that a system did not read whole."
        ),
        Table(["task", "measure", "cut", *findings.systems], rows),
    ]


def _lengths(findings: Findings) -> list[Block]:
    """Passkey and needle by tokens per document."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for name, seeds in findings.systems.items():
        for task in dict.fromkeys(task for one in seeds for task in one):
            family, _, length = task.rpartition("-")
            if family in ("passkey", "needle") and length.isdigit():
                values = [task_value(one[task]) for one in seeds if task in one]
                found.setdefault((family, int(length)), {})[name] = mean(values)
    if not found:
        return []
    rows = [
        [f"{family} {length:,}", *(f"{100 * by[name]:.1f}" if name in by else "-" for name in findings.systems)]
        for (family, length), by in sorted(found.items(), key=lambda item: (item[0][0] != "passkey", item[0][1]))
    ]
    return [
        Heading("Accuracy by length of the document"),
        Paragraph("Accuracy@1 in points of 100, by tokens per document."),
        Table(["task", *findings.systems], rows),
    ]


def _directions(findings: Findings) -> list[Block]:
    rows = []
    for arm, found in findings.directions.items():
        for row in found:
            task = marked(row["task"], findings.plan.row_sets)
            against = row["against_trained"]
            change = "-"
            if against is not None:
                interval = Interval(**against["difference"])
                change = f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
            score = 100 * row["score"]["value"]
            rows.append([arm, task, row["variant"], f"{score:.1f}", change, p_text(row["p_holm"])])
    if not rows:
        return []
    return [
        Heading("Attention changed at test time"),
        Paragraph(
            "Each trained network as it is and in the two other ways: bidirectional, causal (no token sees a later "
            "one), anti-causal (none sees an earlier one); nothing is trained again. Exploratory; one seed; Holm "
            "within a task. "
            f"{MARK.strip()} in-domain."
        ),
        Table(["arm", "task", "attention", "score", "against trained", "Holm p"], rows),
    ]


def _curve(findings: Findings) -> list[Block]:
    curve, plan = findings.plan.curve, findings.plan
    if curve is None or plan.adaptation is None:
        return []
    skills, seed = list(plan.primary.skills), plan.arms[curve.arm].seeds[0]
    end = f"evaluate-{curve.arm}-s{seed}"
    points = [(step, f"evaluate-{curve.arm}@{step}") for step in curve.at_steps] + [(plan.adaptation.num_steps, end)]
    start = _unadapted(plan, curve.arm)
    if start is not None and seed in plan.arms[start].seeds:
        points.insert(0, (0, f"evaluate-{start}-s{seed}"))
    rows = [
        [
            f"{step * plan.adaptation.step_tokens:,}",
            *(_score(first_seed_score(findings, node, skill)) for skill in skills),
        ]
        for step, node in points
    ]
    return [
        Heading("Score against tokens of adaptation"),
        Paragraph(f"`{curve.arm}`, fine-tuned alike from earlier states of its adaptation, first seed. Exploratory."),
        Table(["tokens", *skills], rows),
    ]


def _unadapted(plan: StudyPlan, arm: str) -> str | None:
    """The arm that differs from another in nothing but that it has no adaptation."""
    wanted = {**plan.factors(arm), "objective": "none"}
    return next((name for name in plan.arms if plan.factors(name) == wanted), None)


def _exploratory(findings: Findings) -> list[Block]:
    columns = _test_columns(findings.plan.primary.level)
    blocks: list[Block] = []
    if findings.exploratory:
        blocks += [
            Heading("Exploratory comparisons"),
            Paragraph("Not fixed in advance and not corrected: leads to follow, not findings."),
            Table(columns, [_test_row(findings, test) for test in findings.exploratory]),
        ]
    if findings.by_kind:
        blocks += [
            Heading("Skills taken apart"),
            Paragraph("The kinds of tasks that a skill averages, each alone; exploratory too."),
            Table(columns, [_test_row(findings, test) for test in findings.by_kind]),
        ]
    return blocks


def _score(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _percent(level: float) -> str:
    return f"{100 * level:g} %"
