"""Does a converted folder compute what the original code computed? Compared with stored outputs.

Read `check_golden`. Everything runs through plain transformers in float32: what is checked is what any tool would load.
The legend of a golden file: `row_*` is one text, `batch_*` are texts computed one by one, padded right for storage.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from diffembed.backbones.conversion.sidecar import read_sidecar
from diffembed.errors import ConversionError, InputError

# B = rows in batch, T = tokens, D = hidden width, V = vocabulary

STATE_TOLERANCE = 2e-5
LOGIT_TOLERANCE = 5e-5
REQUIRED_KEYS = (
    "row_input_ids",
    "row_last_hidden_state",
    "batch_input_ids",
    "batch_attention_mask",
    "batch_last_hidden_state",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenReport:
    """Largest absolute differences from the original code, by comparison."""

    differences: dict[str, float]
    """`row states`, `row logits`, `padded right states`, ... -> largest difference."""
    largest_value: float
    """Largest absolute hidden state of the original, to judge the differences by."""
    looks_causal: bool
    """True where the states are those a causal conversion gives."""

    @property
    def failures(self) -> dict[str, float]:
        """The comparisons above tolerance, not-a-number included."""
        return {
            name: difference for name, difference in self.differences.items() if not difference <= tolerance_of(name)
        }


def tolerance_of(comparison: str) -> float:
    """Largest accepted difference: rounding of float32 reaches 5e-6, the smallest known mistake costs 7e-4."""
    return LOGIT_TOLERANCE if comparison.endswith("logits") else STATE_TOLERANCE


def check_golden(
    folder: Path, golden: Path | str, *, name: str | None = None, attention: Literal["stored", "causal"] = "stored"
) -> GoldenReport:
    """Compares a native folder with golden outputs, alone and in ragged batches padded on either side.

    attention: "causal" forces the wrong attention, to prove that the check can fail.
    Raises ConversionError when a difference exceeds 2e-5 (states) or 5e-5 (logits), InputError for a file that is no
    golden file.
    """
    report = compare_golden(folder, golden, attention=attention)
    if report.failures:
        worst = max(report.failures, key=lambda key: np.nan_to_num(report.failures[key], nan=np.inf))
        hint = "; these are the states of causal attention" if report.looks_causal else ""
        raise ConversionError(
            f"{name or folder.name} does not reproduce {Path(golden).name}: {worst} differ by "
            f"{report.failures[worst]:.2g}, expected at most {tolerance_of(worst):g}{hint}"
        )
    return report


def compare_golden(
    folder: Path, golden: Path | str, *, attention: Literal["stored", "causal"] = "stored"
) -> GoldenReport:
    """The differences, without judging them."""
    arrays = _read_golden(Path(golden))
    model = load_plain(folder, is_causal=attention == "causal")
    scale = (read_sidecar(folder) or {}).get("logit_scale", 1.0)
    differences: dict[str, float] = {}
    row_states = _run_padded(model, arrays["row_input_ids"], np.ones_like(arrays["row_input_ids"]))
    runs = {"row": (row_states, arrays["row_last_hidden_state"], arrays.get("row_logits"))}
    ids_BT, mask_BT = arrays["batch_input_ids"], arrays["batch_attention_mask"]
    is_real = mask_BT == 1
    expected = arrays["batch_last_hidden_state"][is_real]
    expected_logits = arrays["batch_logits"][is_real] if "batch_logits" in arrays else None
    for side, order in (("right", _identity(mask_BT)), ("left", _left_padding(mask_BT))):
        ids, mask = (np.take_along_axis(each, order, axis=1) for each in (ids_BT, mask_BT))
        runs[f"padded {side}"] = (_run_padded(model, ids, mask)[mask == 1], expected, expected_logits)
    lengths = tuple(int(length) for length in mask_BT.sum(axis=1))
    runs["packed"] = (_run_packed(model, ids_BT[is_real], lengths), expected, expected_logits)
    for name, (states, golden_states, golden_logits) in runs.items():
        differences[f"{name} states"] = _difference(states, golden_states)
        if golden_logits is not None:
            differences[f"{name} logits"] = _difference(_logits(model, states) * scale, golden_logits)
    wrong = arrays.get("row_last_hidden_state_if_causal_WRONG")
    return GoldenReport(
        differences=differences,
        largest_value=float(np.abs(arrays["row_last_hidden_state"]).max()),
        looks_causal=wrong is not None and _difference(row_states, wrong) < 1e-3,
    )


def load_plain(folder: Path, *, is_causal: bool = False) -> Any:
    """The folder through plain transformers, float32: a language model where it has a head, else the bare body."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    config = AutoConfig.from_pretrained(folder)
    if is_causal:
        config.is_causal = True
    has_head = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or [])
    loader = AutoModelForCausalLM if has_head else AutoModel
    has_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = loader.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="sdpa")
    finally:
        if has_bar:
            logging.enable_progress_bar()
    return model.eval()


def _run_padded(model: Any, ids_BT: NDArray[np.int64], mask_BT: NDArray[np.int64]) -> NDArray[np.float32]:
    """Last hidden states [B, T, D], after the final norm; either padding side."""
    import torch

    positions_BT = np.maximum(np.cumsum(mask_BT, axis=1) - 1, 0)
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        out = model.base_model(
            input_ids=torch.from_numpy(ids_BT),
            attention_mask=torch.from_numpy(mask_BT),
            position_ids=torch.from_numpy(positions_BT),
        )
    return out.last_hidden_state.numpy()


def _run_packed(model: Any, ids_T: NDArray[np.int64], lengths: tuple[int, ...]) -> NDArray[np.float32]:
    """Last hidden states [T, D] of texts that share one row of tokens, through the kernel that embeds."""
    import torch

    from diffembed.backbones.attention import KERNEL_NAME, PackedLayout, register_kernel

    register_kernel()
    model.set_attn_implementation(KERNEL_NAME)
    layout = PackedLayout(lengths, "causal" if model.config.is_causal else "bidirectional")
    with torch.inference_mode():
        out = model.base_model(
            input_ids=torch.from_numpy(ids_T)[None], position_ids=layout.position_ids(), packed=layout
        )
    return out.last_hidden_state[0].numpy()


def _logits(model: Any, states: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    head = model.get_output_embeddings()
    if head is None:
        return np.empty(0, np.float32)
    with torch.inference_mode():
        return head(torch.from_numpy(states)).numpy()


def _read_golden(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} is no golden file ({error})") from error
    missing = [key for key in REQUIRED_KEYS if key not in arrays]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; a golden file holds {', '.join(REQUIRED_KEYS)}")
    return arrays


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max())


def _identity(mask_BT: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.broadcast_to(np.arange(mask_BT.shape[1]), mask_BT.shape)


def _left_padding(mask_BT: NDArray[np.int64]) -> NDArray[np.int64]:
    """Column order that moves the padding of each row to its front and keeps the tokens in order."""
    return np.argsort(mask_BT, axis=1, kind="stable")
