"""How much memory a process takes that does a piece of work: what was measured, made a rule of.

The model: a process takes what its modules take, an image as it was decoded, and what the largest of its passes through
a network holds. A rule knows no network by name: it says what the largest of the usual ones took for each of their
pixels, so that it is rather too much than too little. Measured by `python -m benchmarks.performance.memory_of_work`.
"""

import sys

from workloads.costs.work import Size, Work

# In bytes: of a process with NumPy and Arrow alone, with torch, and with torch that has opened a GPU.
PLAIN = 300e6
WITH_TORCH = 700e6
WITH_GPU = 3e9

# In bytes for each pixel: of an image beside its superpixels and label maps, of the input of a forward pass, and of the
# input of a pass whose activations are kept for gradients.
_OF_IMAGE = 150.0
_OF_FORWARD = 640.0
_OF_TRAINING = 6000.0


def peak_resident_bytes() -> int:
    """The most bytes that this process has held."""
    # Who plans needs no such module, which not every system has.
    import resource

    # In bytes on macOS, in units of 1024 elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def worker_bytes(work: Work | None, size: Size, *, uses_gpu: bool) -> float:
    """Bytes that a process holds at most while it does such work on images of a size, beside what it was asked to keep.

    Where the passes run on a GPU, what they hold is there.
    """
    image = _OF_IMAGE * size[0] * size[1]
    passes = list(work.all_passes()) if work is not None else []
    if not passes:
        return PLAIN + image
    if uses_gpu:
        return WITH_GPU + image
    each = (
        one.batch * one.image_size[0] * one.image_size[1] * (_OF_TRAINING if one.training else _OF_FORWARD)
        for one in passes
    )
    return WITH_TORCH + image + max(each)
