"""What glibc's malloc is told, where its defaults cost much. Without effect where the C library is another."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_GIGABYTE = 1 << 30


def keep_freed_memory() -> None:
    """Have what is freed kept for the next image, instead of giving it back to the system and faulting it in again page
    by page: with activations of tens of megabytes that was a third of the time of a forward pass."""
    _tell({_TRIM_THRESHOLD: _GIGABYTE, _MMAP_THRESHOLD: _GIGABYTE})


def share_arenas() -> None:
    """Have all threads share two arenas, to be called before they start.

    A driver of Ray has dozens of threads; with an arena for each, what they free is kept many times over, and memory
    grew by a tenth from 500 images to 20 000 (`benchmarks/performance/memory.py`).
    """
    _tell({_ARENA_MAX: 2})


def _tell(options: dict[int, int]) -> None:
    try:
        library = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            library.mallopt(option, value)
    except (OSError, AttributeError):
        return
