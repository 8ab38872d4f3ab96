"""Keeps freed memory pages in the process, so that large activations are not mapped and zeroed again at every op.

Read `keep_pages`. On Linux with glibc, big blocks are otherwise mapped and unmapped by the kernel at each allocation:
page faults, not arithmetic, then rule large batches on a CPU (docs/log.md, 2026-11-22). The effect is bounded: blocks
above 32 MB are still mapped, and `release_pages` gives back what an encode job kept.
"""

import ctypes
import ctypes.util
import platform
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MMAP_THRESHOLD_BYTES = 32 << 20
"""Largest value glibc accepts on 64-bit machines; the activations of one token budget stay below it."""
TRIM_THRESHOLD_BYTES = 512 << 20
"""Free bytes at the top of the heap above which pages go back; bounds what is kept."""


@cache
def keep_pages() -> str:
    """Tunes glibc once per process; returns `on`, or `off: <reason>` where it cannot be done."""
    if platform.system() != "Linux":
        return f"off: {platform.system()} has another allocator"
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return "off: not glibc"
    # One arena: other threads would otherwise get heaps of at most 64 MB and map every large block after all.
    settings = (
        (M_ARENA_MAX, 1),
        (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
    )
    if not all(libc.mallopt(option, value) for option, value in settings):
        return "off: glibc refused the settings"
    return "on"


def release_pages() -> None:
    """Gives free pages back to the system; does nothing where `keep_pages` is off."""
    if keep_pages() == "on":
        ctypes.CDLL(None).malloc_trim(0)
