"""`diffembed index` builds, searches and changes an index, and says what it did within 80 columns."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffembed.embedding.embedder import location_of

pytest.importorskip("lance", reason="the extra `index` is not installed")

Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFEMBED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "home"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "tides.md").write_text("# Tides\n\nThe moon pulls the sea.\n\n## Neap tides\n\nThey are low.\n")
    (folder / "bread.txt").write_text("Bread rises by yeast.\n")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    return folder


def test_a_corpus_from_first_build_to_last_deletion(
    run: Run, notes: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run("index", "build", "sea", str(notes), "--model", "tiny-llama", "--dtype", "float32")
    assert code == 0
    facts = {line[:9].strip(): line[9:].strip() for line in out.splitlines()}
    assert facts["texts"] == "2 new, 0 changed, 0 unchanged, 0 removed"
    assert facts["model"] == "tiny-llama"
    assert facts["skipped"].startswith("1, see")

    (notes / "bread.txt").write_text("Bread rises by yeast and time.\n")
    (notes / "salt.txt").write_text("Salt comes from the sea.\n")
    ran = run("index", "build", "sea", "--json")
    (row,) = ran.rows  # type: ignore[attr-defined]
    assert "no --model given" not in ran[2], "the index knows its model"
    assert (row["num_new"], row["num_changed"], row["num_unchanged"], row["num_encoded"]) == (1, 1, 1, 2)

    code, out, _ = run("index", "search", "sea", "Neap tides are low", "-k", "1", "--mode", "bm25")
    assert code == 0
    head, *lines = out.splitlines()
    assert head.endswith("notes/tides.md:5")
    assert "7  They are low." in lines[-1]
    (hit,) = run("index", "search", "sea", "yeast", "--mode", "hybrid", "-k", "1", "--json").rows  # type: ignore[attr-defined]
    assert (hit["parent"], set(hit["parts"])) == ("notes/bread.txt", {"dense", "bm25"})

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps({"id": "own", "text": "Rope."}).encode())))
    assert run("index", "add", "sea", "-", "--format", "jsonl")[1].splitlines()[0].split() == ["added", "1", "chunks"]
    assert run("index", "delete", "sea", "own", "--json").rows == [  # type: ignore[attr-defined]
        {"texts_deleted": 1, "num_rows": 4}
    ]
    assert "4 of 3 texts; heading, 640 characters" in run("index", "stats", "sea")[1]
    assert run("index", "optimize", "sea", "--json").rows[0]["num_added"] == 0  # type: ignore[attr-defined]
    code, out, _ = run("index", "list")
    assert out.splitlines()[-1].split()[:4] == ["sea", "tiny-llama", "3", "4"]
    assert (home / "indexes" / "sea" / "index.json").exists()


def test_rows_without_ids_are_added_beside_each_other(run: Run, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were numbered, so that the first row of a second `add` took the place of the first row of the first."""
    assert run("index", "build", "sea", str(notes), "--model", "tiny")[0] == 0
    for text in ("Ropes hold.\n", "Knots hold.\n\nKnots hold.\nSails pull.\n", "Ropes hold.\n"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run("index", "add", "sea", "-")[0] == 0
    (stats,) = run("index", "stats", "sea", "--json").rows  # type: ignore[attr-defined]
    assert stats["num_added"] == 3
    hits = run("index", "search", "sea", "hold", "--mode", "bm25", "--json").rows  # type: ignore[attr-defined]
    assert sorted(hit["text"] for hit in hits) == ["Knots hold.", "Ropes hold."]
    assert {hit["parent"].partition("#")[0] for hit in hits} == {"added"}


def test_columns_of_added_rows_can_be_chosen(run: Run, notes: Path, tmp_path: Path) -> None:
    assert run("index", "build", "sea", str(notes), "--model", "tiny")[0] == 0
    (tmp_path / "more.csv").write_text("key,body,lang\nk1,Ropes hold.,en\n")
    assert run("index", "add", "sea", str(tmp_path / "more.csv"), "--text-column", "body", "--id-column", "key")[0] == 0
    hits = run("index", "search", "sea", "ropes", "--mode", "bm25", "--json").rows  # type: ignore[attr-defined]
    assert [(hit["parent"], hit["metadata"]) for hit in hits] == [("k1", {"lang": "en"})]
    code, _, err = run("index", "build", "sea", "--model", "tiny", "--replace")
    assert code == 1 and "--drop-added" in err
    assert run("index", "build", "sea", "--model", "tiny", "--replace", "--drop-added")[0] == 0


def test_another_way_of_making_needs_replace(run: Run, notes: Path) -> None:
    build = ("index", "build", "sea", str(notes), "--model", "tiny")
    assert run(*build)[0] == 0
    code, _, err = run(*build, "--chunk", "fixed", "--size", "20", "--unit", "tokens", "--overlap", "5")
    assert code == 1
    assert err.endswith("to make it anew, run the same command again with --replace\n")
    assert "was made with chunks heading, 640 characters" in err
    assert run(*build, "--chunk", "whole", "--precision", "int8", "--replace")[0] == 0
    assert "as int8" in run("index", "stats", "sea")[1]
    assert "; whole" in run("index", "stats", "sea")[1]
    code, _, err = run("index", "build", "sea", "--replace")
    assert (code, "no --model given" in err) == (0, False), "the index keeps its model"
    assert "tiny-qwen2 (" in run("index", "stats", "sea")[1]
    code, _, err = run("index", "search", "sea", "tides", "--model", "tiny-llama")
    assert code == 1
    assert "was made with tiny" in err


def test_an_index_keeps_how_its_model_is_loaded(run: Run, notes: Path) -> None:
    assert run("index", "build", "sea", str(notes), "--model", "tiny", "--dims", "32")[0] == 0
    assert run("index", "search", "sea", "tides", "--model", "tiny")[0] == 0, "with the components of the index"
    assert run("index", "build", "sea", "--replace")[0] == 0
    assert ", 32 components" in run("index", "stats", "sea")[1]


def test_a_server_takes_the_model_of_its_index(run: Run, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loaded the default model, and then said that the index was made by another."""
    server = pytest.importorskip("diffembed.serve.server", reason="the extra `serve` is not installed")
    engines: dict[str, Any] = {}

    def serve(models: list[str], *, indexes: list[str], settings: Any, load: Any, **_: object) -> None:
        engines.update(server.load_engines(models, settings, load))
        assert list(server.open_indexes(indexes, engines)) == ["sea"]

    monkeypatch.setattr(server, "serve", serve)
    assert run("index", "build", "sea", str(notes), "--model", "tiny", "--dims", "32")[0] == 0
    code, _, err = run("serve", "--index", "sea")
    assert (code, err) == (0, "")
    assert [engine.embedder.dim for engine in engines.values()] == [32]
    engines.clear()
    assert run("serve", "--index", "sea", "--model", "tiny")[0] == 0
    assert [engine.embedder.dim for engine in engines.values()] == [32], "as the index was made, also where it is named"
    code, _, err = run("serve", "--index", "sea", "--max-tokens", "16")
    assert code == 2 and "leave out --max-tokens" in err
    assert run("serve", "--index", "sea", "--token-budget", "64")[0] == 0, "which changes no vector"
    code, _, err = run("serve", "--index", "sea", "--token-budget", "0")
    assert code == 2 and "token_budget is 0" in err
    assert run("serve", "--index", "none")[0] == 1


def test_a_model_folder_is_known_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index keeps an absolute path; `serve --model` names the folder as the user stands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert location_of("model") == location_of("./model") == str(tmp_path / "model")
    assert location_of("tiny") == "tiny" and location_of("owner/name") == "owner/name"


def test_one_damaged_index_does_not_hide_the_others(run: Run, notes: Path, home: Path) -> None:
    for name in ("lakes", "sea"):
        assert run("index", "build", name, str(notes), "--model", "tiny")[0] == 0
    (home / "indexes" / "lakes" / "index.json").write_text("{")
    code, out, _ = run("index", "list")
    assert code == 0
    assert "lakes" in out and "is damaged" in " ".join(out.split())
    assert out.splitlines()[-1].split()[:4] == ["sea", "tiny-qwen2", "2", "3"]
    broken, whole = run("index", "list", "--json").rows  # type: ignore[attr-defined]
    assert "is damaged" in broken["error"]
    assert whole["num_rows"] == 3


def test_sources_are_checked_before_the_model_is_loaded(run: Run) -> None:
    code, _, err = run("index", "build", "new", "nowhere.txt", "--model", "no-such-model")
    assert (code, "there is no file or folder nowhere.txt" in err) == (1, True)


@pytest.mark.parametrize(
    ("tokens", "code", "message"),
    [
        (("search", "none", "x"), 1, "there is no index in"),
        (("build", "new"), 2, "name at least one source"),
        (("build", "new", "nowhere.txt"), 1, "there is no file or folder nowhere.txt"),
        (("build", "new", "hf://elsewhere/x"), 2, "is no address; write hf://datasets/OWNER/NAME"),
        (("build", "new", ".", "--chunk", "whole", "--size", "5"), 2, "whole documents are not cut"),
        (("build", "new", ".", "--cores-per-actor", "1"), 2, "no effect without ray"),
        (("serch", "x"), 2, "diffembed index --help"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, tokens: tuple[str, ...], code: int, message: str) -> None:
    model = ("--model", "tiny") if tokens[0] == "build" else ()
    ran = run("index", *tokens, *model)
    assert ran[0] == code
    assert message in ran[2]
    assert ran[2].count("\n") <= 2


def test_a_filter_is_checked_before_the_model_is_loaded(run: Run, notes: Path) -> None:
    assert run("index", "build", "sea", str(notes), "--model", "tiny")[0] == 0
    code, _, err = run("index", "search", "sea", "x", "--where", "colour = 'red'")
    assert code == 2
    assert "columns are id, document" in err
    rows = run("index", "search", "sea", "x", "--where", "source LIKE '%.txt'", "--json").rows  # type: ignore[attr-defined]
    assert [row["parent"] for row in rows] == ["notes/bread.txt"]


def test_every_verb_shows_its_example(run: Run) -> None:
    for verb in ("build", "search", "add", "delete", "list", "stats", "optimize"):
        code, out, _ = run("index", verb, "--help")
        assert code == 0
        assert f"index {verb}" in out.partition("example")[2]
        assert max(map(len, out.splitlines())) <= 80
