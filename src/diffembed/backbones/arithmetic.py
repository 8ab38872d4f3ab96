"""Where a network computes and in which number format: `auto` is answered by measuring, not by the processor's name.

Read `pick_dtype`. Knows nothing of models.
"""

import re
import time
from functools import cache
from pathlib import Path

import torch

from diffembed.errors import ConfigError, UnknownNameError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WORTHWHILE_SPEEDUP = 1.2
"""How much faster bfloat16 products must be to be chosen; float32 is the more exact one, and timings are noisy."""
NUM_TIMINGS = 7


def pick_device(device: str) -> torch.device:
    """`auto` is the first GPU, else the CPU. Raises ConfigError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    accelerator, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
    allowed = ["auto", "cpu"]
    if accelerator is not None and count:
        allowed += [accelerator.type, *(f"{accelerator.type}:{number}" for number in range(count))]
    # Processes that share the CPU of a machine are given cpu:0, cpu:1 ...
    if device not in allowed and re.fullmatch(r"cpu:\d+", device) is None:
        raise ConfigError(f"device is {device!r}; this machine has {', '.join(allowed)}")
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it and on a processor that multiplies it faster, float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if prefers_bfloat16(device) else torch.float32
    if dtype not in DTYPES:
        raise UnknownNameError.of("dtype", dtype, ["auto", *DTYPES])
    return DTYPES[dtype]


def prefers_bfloat16(device: torch.device) -> bool:
    """True where bfloat16 products are computed in hardware and are the faster ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return has_bfloat16_units() and bfloat16_speedup() >= WORTHWHILE_SPEEDUP


def has_bfloat16_units() -> bool:
    """True where the system reports bfloat16 instructions: mkldnn also calls it supported where it is emulated."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    is_wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    has_units = "avx512_bf16" in flags or "amx_bf16" in flags
    return is_wide and has_units and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def bfloat16_speedup() -> float:
    """How many times faster this processor's bfloat16 product is than its float32 one; takes about 20 ms, once.

    Having the instructions says nothing: an Intel Xeon whose AMX is hidden from the virtual machine multiplies bfloat16
    at half the speed of float32, an AMD EPYC with the same flags at twice (docs/log.md, 2026-11-25).
    """
    left, right = torch.randn(512, 640), torch.randn(640, 640)
    seconds = {dtype: float("inf") for dtype in (torch.float32, torch.bfloat16)}
    # In turns, and the least of several: another process can only make a product slower.
    for _ in range(NUM_TIMINGS):
        for dtype in seconds:
            pair = left.to(dtype), right.to(dtype)
            started = time.perf_counter()
            torch.nn.functional.linear(*pair)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    return seconds[torch.float32] / seconds[torch.bfloat16]
