from diffembed.evaluation.hub.longembed import LONG_LENGTHS, REAL, SHORT_LENGTHS, SYNTHETIC
from diffembed.evaluation.reports.summary import make_rows
from diffembed.evaluation.run import Evaluation
from diffembed.evaluation.scoring import TaskResult
from diffembed.evaluation.statistics.significance import Interval


def result(task, value, *, family="", main="nDCG@10"):
    return TaskResult(
        task=task,
        label="m",
        kind="retrieval",
        family=family,
        main=main,
        scores={main: Interval(value=value, low=value - 0.1, high=value + 0.1)},
        per_query={main: {"q1": value, "q2": value}},
    )


def rows_of(suite, results):
    return {row.task: row for row in make_rows(Evaluation(results={suite: results}, skipped=[]))}


def test_longembed_has_its_columns_and_both_averages_once_it_is_whole():
    results = [result(task, 0.4) for task in REAL.values()]
    for task in SYNTHETIC.values():
        for length in (*SHORT_LENGTHS, *LONG_LENGTHS):
            value = 1.0 if length in SHORT_LENGTHS else 0.2
            results.append(result(f"{task}-{length}", value, family=task, main="Acc@1"))
    rows = rows_of("longembed", results)
    assert rows["Pk<=4k"].value == 1.0 and round(rows["Nd>4k"].value, 6) == 0.2
    # (1 + 0.2 + 1 + 0.2 + 4 * 0.4) / 8 and (2 * (5 * 1 + 3 * 0.2) / 8 + 4 * 0.4) / 6
    assert round(rows["mean of 8 columns (arXiv 2505.15045)"].value, 6) == 0.5
    assert round(rows["mean of 6 tasks (LongEmbed)"].value, 6) == 0.5
    assert "mean of 6 tasks (LongEmbed)" not in rows_of("longembed", results[:-1])
    assert "Pk<=4k" not in rows_of("mteb:LEMB", results)


def test_families_have_a_mean_with_an_interval_and_in_domain_tasks_a_mark():
    lengths = [result("passkey-256", 1.0, family="passkey"), result("passkey-512", 0.5, family="passkey")]
    rows = rows_of("screen", [*lengths, result("scifact", 0.6), result("theoremqa_q2q", 0.6)])
    mean = rows["passkey (mean of 2)"]
    assert (mean.value, mean.num_queries) == (0.75, 4) and mean.low <= 0.75 <= mean.high
    assert rows["scifact"].in_domain and not rows["theoremqa_q2q"].in_domain
    assert rows["scifact"].published is None and rows["scifact"].difference is None


def test_published_values_stand_beside_the_score():
    import dataclasses

    row = rows_of("general", [dataclasses.replace(result("scifact", 0.65), label="all-minilm-l6-v2")])["scifact"]
    assert row.published == 64.51 and round(row.difference, 2) == 0.49 and "MTEB" in row.source
