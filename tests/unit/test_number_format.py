"""Settings of training that follow from the machine."""

import pytest

from cowest import training


@pytest.mark.parametrize(
    ("machine", "capability", "fast"),
    [
        ("x86_64", "DEFAULT", False),
        ("x86_64", "AVX2", False),
        ("AMD64", "AVX2", False),
        ("x86_64", "AVX512", True),
        ("aarch64", "DEFAULT", True),
        ("aarch64", "SVE256", True),
    ],
)
def test_bfloat16_is_left_where_a_cpu_computes_it_one_number_at_a_time(
    machine: str, capability: str, fast: bool
) -> None:
    assert training.is_fast_in_bfloat16(capability, machine) == fast
