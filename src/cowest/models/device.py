"""Tells a device that is lost to this process from an error that may be over the next time."""

import re

LOST = re.compile(
    r"(?:CUDA|HIP|XPU) error: (?:"
    r"an illegal (?:memory access|instruction)|device-side assert|misaligned address"
    r"|unspecified launch failure|the launch timed out|hardware stack error|invalid program counter"
    r"|operation not supported on global/shared address space"
    r"|uncorrectable (?:ECC|NVLink) error)"
)
"""Errors after which CUDA refuses all further work of the process, as its manual says of each
("The process must be terminated and relaunched"; cudaError in the CUDA Runtime API)."""


def is_lost(error: BaseException | None) -> bool:
    """True for an error, or one with such a cause, after which only a new process gets the GPU.

    Torch's alone count: what a server says of a GPU of its own is no news of ours.
    """
    # A chain that someone else made may go in a circle.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, RuntimeError) and LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
