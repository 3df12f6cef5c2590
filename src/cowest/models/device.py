"""Tells a device that is lost to this process from an error that may be over the next time."""

import re

LOST = re.compile(
    r"(?:CUDA|HIP)(?: driver)? error: (?:"
    r"an illegal (?:memory access|instruction)|device-side assert|misaligned address"
    r"|unspecified launch failure|the launch timed out|hardware stack error|invalid program counter"
    r"|operation not supported on global/shared address space"
    r"|uncorrectable (?:ECC|NVLink) error|Invalid access of peer GPU memory"
    r"|tensor memory not completely freed)"
)
"""Errors after which the process gets no more work done on the GPU. CUDA's manual says of most that
"the process must be terminated and relaunched" (cudaError in the CUDA Runtime API)."""
CODES = frozenset({214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810})
"""Their numbers, which newer torch gives along, and that of an MPS client that was ended."""


def is_lost(error: BaseException | None) -> bool:
    """True for an error, or one with such a cause, after which only a new process gets the GPU.

    Torch's alone count: what a server says of a GPU of its own is no news of ours.
    """
    # A chain that someone else made may go in a circle.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        says = LOST.search(str(error)) or getattr(error, "error_code", None) in CODES
        if says and isinstance(error, RuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False
