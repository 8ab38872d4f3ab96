"""The doctor reports what was measured and proved, and a broken contract as broken."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from diffembed import doctor
from diffembed.backbones import loading
from diffembed.backbones.registry import ModelSpec
from diffembed.errors import AttentionContractError, UnknownNameError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_S", 0.01)


def test_both_contracts_of_a_language_model_are_held() -> None:
    found = doctor.examine("tiny-gemma3", dtype="float32")
    assert {attention: verdict["held"] for attention, verdict in found.contract.items()} == {
        "causal": True,
        "bidirectional": True,
    }
    assert found.contract["causal"]["num_sliding_layers"] > 0
    assert found.contract["causal"]["num_checks"] > 0
    assert found.is_sound
    assert (found.dtype, found.device, found.kernel) == ("float32", "cpu", "packed")
    assert found.model["attention"] == "causal"
    assert found.speed.tokens_per_s == pytest.approx(found.speed.num_tokens / found.speed.seconds)
    assert found.speed.num_tokens > 0
    assert 0 < found.memory["weights_bytes"] < found.memory["peak_bytes"] < found.memory["machine_bytes"]
    assert found.allocator == "on" or found.allocator.startswith("off: ")
    assert found.environment["versions"]["torch"]


def test_an_encoder_cannot_be_causal_and_is_sound_all_the_same() -> None:
    found = doctor.examine("all-minilm-l6-v2")
    assert found.contract["bidirectional"]["held"] is True
    assert found.contract["causal"]["held"] is None
    assert "cannot be made causal" in found.contract["causal"]["reason"]
    assert found.is_sound
    assert found.model["num_parameters"] == pytest.approx(22.7e6, rel=0.02)


def break_contract(monkeypatch: pytest.MonkeyPatch, *broken: str) -> None:
    prove: Callable[..., Any] = loading.prove

    def prove_or_break(body: Any, family: Any, attention: str, kernel: str) -> Any:
        if attention in broken:
            raise AttentionContractError(f"layer 1 is declared {attention}, but is not")
        return prove(body, family, attention, kernel)

    monkeypatch.setattr(loading, "prove", prove_or_break)


@pytest.mark.parametrize("broken", ["causal", "bidirectional"])
def test_a_broken_contract_is_reported_beside_the_one_that_holds(
    monkeypatch: pytest.MonkeyPatch, run_doctor: Callable[..., tuple[int, dict[str, Any]]], broken: str
) -> None:
    break_contract(monkeypatch, broken)
    code, found = run_doctor("tiny-qwen2")
    assert code == 1
    assert found["is_sound"] is False
    assert found["contract"][broken] == {"held": False, "reason": f"layer 1 is declared {broken}, but is not"}
    assert [verdict["held"] for verdict in found["contract"].values()].count(True) == 1


def test_a_model_that_holds_neither_contract_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    break_contract(monkeypatch, "causal", "bidirectional")
    with pytest.raises(AttentionContractError, match="tiny-qwen2 holds neither attention: layer 1"):
        doctor.examine("tiny-qwen2")


def test_what_cannot_be_loaded_is_refused_as_everywhere() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tiny-llama'"):
        doctor.examine("tiny-lama")


@pytest.fixture
def run_doctor(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    import json

    from diffembed.cli.doctor import doctor as command

    def run(model: str) -> tuple[int, dict[str, Any]]:
        code = command(model, json=True)
        return code, json.loads(capsys.readouterr().out)

    return run


def test_a_person_sees_the_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    from diffembed.cli.doctor import doctor as command

    assert command("tiny-gemma3") == 0
    out = capsys.readouterr().out
    assert out.count("held: ") == 2
    assert "(1 sliding)" in out
    assert max(map(len, out.splitlines())) <= 80


def test_probe_texts_are_real_and_ragged() -> None:
    texts = doctor.probe_texts()
    assert [len(text.split()) for text in texts] == [*doctor.PROBE_WORDS, *doctor.PROBE_WORDS]
    assert len(set(texts)) == len(texts)


def test_weights_that_are_missing_name_the_extra() -> None:
    gone = ModelSpec(
        name="x", source="package", family="bert", location="no_such_package", licence="-", summary="-", extra="eval"
    )
    assert doctor._weights(gone) == "extra eval"


def test_the_diagnosis_is_plain_data() -> None:
    assert set(asdict(doctor.examine("tiny-qwen2"))) >= {"contract", "speed", "memory", "environment"}
