"""What a result depends on: the code that is imported, and no comment of it."""

import ast
from pathlib import Path

from diffembed import code
from diffembed.study.graph import CODE


def closure(*modules):
    seen, waiting = set(), [*modules]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += code._imports(ast.parse(code._file(name).read_text(encoding="utf-8")))
    return seen


def test_results_depend_on_the_code_that_makes_them_and_on_no_other():
    found = {kind: closure(*modules) for kind, modules in CODE.items()}
    train = found["train"]
    assert {"diffembed.training.losses", "diffembed.embedding.packing", "diffembed.data.mixing"} <= train
    assert not {name for name in train if name.split(".")[1:2] in (["evaluation"], ["cli"], ["analysis"])}
    assert not {name for name in found["evaluate"] if name.startswith("diffembed.training")}
    # Of the study: what hands weights from node to node, and neither plans nor pages.
    study = {kind: {name for name in names if name.startswith("diffembed.study.")} for kind, names in found.items()}
    assert study["adapt"] == study["train"] == {"diffembed.study.weights"}
    assert study["evaluate"] == study["direction"] == {"diffembed.study.loading"}


def test_comments_and_docstrings_leave_the_hash_as_it_is(monkeypatch, tmp_path):
    source = '"""About."""\nVALUE = 1\n"""Its unit."""\n\n\ndef f():\n    """What."""\n    return VALUE\n'
    other = "# a note\nVALUE = 1\n\n\ndef f():\n    return VALUE  # here\n"
    assert code._essence(ast.parse(source)) == code._essence(ast.parse(other))
    assert code._essence(ast.parse(source)) != code._essence(ast.parse(source.replace("= 1", "= 2")))


def test_tables_count_and_what_only_says_or_fetches_does_not(monkeypatch):
    modules = ("diffembed.evaluation.suites.instructions", "diffembed.evaluation.results")
    real, changed, seen = Path.read_text, "", set()

    def read(path, **kwargs):
        seen.add(path.name)
        return real(path, **kwargs) + ("# another wording\n" if path.name == changed else "")

    monkeypatch.setattr(Path, "read_text", read)
    before = code.hash_code.__wrapped__(*modules)
    assert "instructions.toml" in seen and not seen & {"expected.toml", "errors.py"}
    changed = "instructions.py"
    assert code.hash_code.__wrapped__(*modules) == before
    changed = "instructions.toml"
    assert code.hash_code.__wrapped__(*modules) != before


def test_all_that_is_passed_over_exists():
    for name in code.UNSEEN:
        assert code._file(name).is_file() or code._file(name).with_suffix(".toml").is_file(), name
