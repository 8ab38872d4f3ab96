"""LongEmbed's two ways to average: the eight columns of arXiv 2505.15045, and the benchmark's own six tasks.

Read `make_columns`. Pure arithmetic on scores by length.
"""

from collections.abc import Mapping

from diffembed.errors import InputError

SHORT_LENGTHS, LONG_LENGTHS = (256, 512, 1024, 2048, 4096), (8192, 16384, 32768)
SYNTHETIC = {"Pk": "LEMBPasskeyRetrieval", "Nd": "LEMBNeedleRetrieval"}
REAL = {
    "NQA": "LEMBNarrativeQARetrieval",
    "QMS": "LEMBQMSumRetrieval",
    "SFD": "LEMBSummScreenFDRetrieval",
    "WQA": "LEMBWikimQARetrieval",
}
COLUMNS = ("Pk<=4k", "Pk>4k", "Nd<=4k", "Nd>4k", *REAL)


def make_columns(scores: Mapping[str, float]) -> dict[str, float]:
    """The eight columns from scores by result name (`LEMBPasskeyRetrieval-256`, ..., `LEMBQMSumRetrieval`).

    Raises InputError for a score that is missing.
    """
    columns = {}
    for short, task in SYNTHETIC.items():
        for mark, lengths in (("<=4k", SHORT_LENGTHS), (">4k", LONG_LENGTHS)):
            values = [_find(scores, f"{task}-{length}") for length in lengths]
            columns[f"{short}{mark}"] = sum(values) / len(values)
    return columns | {short: _find(scores, task) for short, task in REAL.items()}


def is_of_column(task: str, column: str) -> bool:
    """Whether a task's score enters a column of `make_columns`; every task enters an average."""
    short, _, mark = column.partition("<" if "<" in column else ">")
    if short not in SYNTHETIC or not mark:
        return True
    lengths = SHORT_LENGTHS if "<" in column else LONG_LENGTHS
    return task in [f"{SYNTHETIC[short]}-{length}" for length in lengths]


def column_average(columns: Mapping[str, float]) -> float:
    """Plain mean of the eight columns: the paper's average."""
    return sum(_find(columns, name) for name in COLUMNS) / len(COLUMNS)


def official_average(columns: Mapping[str, float]) -> float:
    """Mean of the benchmark's six tasks; a synthetic task is the mean of its eight lengths."""
    num_short, num_long = len(SHORT_LENGTHS), len(LONG_LENGTHS)
    synthetic = [
        (num_short * _find(columns, f"{short}<=4k") + num_long * _find(columns, f"{short}>4k")) / (num_short + num_long)
        for short in SYNTHETIC
    ]
    return (sum(synthetic) + sum(_find(columns, name) for name in REAL)) / (len(SYNTHETIC) + len(REAL))


def _find(scores: Mapping[str, float], name: str) -> float:
    if name not in scores:
        raise InputError(f"LongEmbed's averages need {name}, which was not scored")
    return scores[name]
