"""Intervals: how often their ends miss, and where there is none."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cowest import intervals
from cowest.intervals import Estimate, Ratio, difference_of, mean_of

Floats = NDArray[np.float64]


def estimate(ratio: Ratio, groups: list[Any], alpha: float = 0.05) -> Estimate:
    (found,) = intervals.estimates([str(group) for group in groups], [ratio], alpha)
    assert found is not None
    return found


def ends(values: Floats, groups: list[Any], alpha: float = 0.05) -> tuple[float, float]:
    found = estimate(mean_of(values), groups, alpha)
    assert found.low is not None and found.high is not None, found.note
    return found.low, found.high


@pytest.mark.parametrize(
    ("tail", "freedom", "expected"),
    [
        (0.025, 1, 12.7062),
        (0.025, 9, 2.26216),
        (0.025, 5.5, 2.50186),
        (0.0005, 33, 3.61091),
        (0.025, 5000, 1.96044),
    ],
)
def test_quantiles_of_student(tail: float, freedom: float, expected: float) -> None:
    assert intervals.student(tail, freedom) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("found", "expected"), [(0, 0.102818), (4, 0.274503), (34, 1.0)])
def test_the_largest_share_that_a_count_allows(found: int, expected: float) -> None:
    assert intervals.highest_share(found, 34, 0.025) == pytest.approx(expected, abs=1e-6)


def test_few_even_groups_have_students_interval() -> None:
    values = np.array([0.1, 0.3, 0.4, 0.6, 0.7, 0.9])
    low, high = ends(values, [1, 2, 3, 4, 5, 6])
    reach = 2.570582 * values.std(ddof=1) / np.sqrt(6)
    # Values that are hardly skewed: the correction moves an end by little, and outwards only.
    assert values.mean() - 1.15 * reach < low <= values.mean() - reach + 1e-6
    assert values.mean() + reach - 1e-6 <= high < values.mean() + 1.15 * reach


def test_the_long_side_of_skewed_groups_is_farther_off() -> None:
    low, high = ends(np.array([0.9] * 12 + [0.7, 0.5, 0.2, 0.85, 0.8]), list(range(17)))
    mean = np.mean([0.9] * 12 + [0.7, 0.5, 0.2, 0.85, 0.8])
    assert mean - low > 1.3 * (high - mean) > 0


@pytest.mark.parametrize("alpha", [0.05, 0.0025])
def test_a_skewed_end_is_at_most_twice_as_far_off_and_within_what_can_be(alpha: float) -> None:
    """Of 24 groups 20 lost a right answer: that is surely a loss, at the level of 20 slices too."""
    before, after = np.ones(24), np.array([0.0] * 20 + [1.0] * 4)
    found = estimate(difference_of(after, before), list(range(24)), alpha)
    assert found.high is not None and found.low is not None
    error = np.std(after - before, ddof=1) / np.sqrt(24)
    assert found.high <= found.mean + 2 * error * intervals.student(alpha / 2, 23) + 1e-6
    assert -1 <= found.low < found.high < -0.25


def test_one_large_group_says_less_than_its_queries_pretend() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.2, 120)
    even = [n % 20 for n in range(120)]
    uneven = [n % 20 if n < 90 else 0 for n in range(120)]
    one, other = ends(values, even), ends(values, uneven)
    assert other[1] - other[0] > 1.1 * (one[1] - one[0])


def test_a_stricter_level_reaches_farther() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 30)
    wide, usual = ends(values, list(range(30)), alpha=0.001), ends(values, list(range(30)))
    assert wide[0] < usual[0] < usual[1] < wide[1]


@pytest.mark.parametrize("moved", [0, 4, 5])
def test_fewer_than_five_groups_that_differ_have_no_interval(moved: int) -> None:
    before = np.full(60, 0.5)
    after = before.copy()
    after[: 2 * moved : 2] += 0.3
    found = estimate(difference_of(after, before), [n // 2 for n in range(60)])
    assert (found.low is None) == (moved < 5)
    if moved < 5:
        assert (
            found.note
            == f"no interval: only {moved} groups differ, and fewer than 5 could be chance"
        )


def test_a_loss_and_a_gain_within_a_group_are_a_difference() -> None:
    before = np.array([0.0, 1.0] * 10)
    after = np.array([1.0, 0.0] * 10)
    found = estimate(difference_of(after, before), [n // 2 for n in range(20)])
    # The groups have no spread, which proves nothing: of 10 such groups, 31 % may differ in truth.
    assert (found.mean, found.low, found.high) == (0.0, -0.308497, 0.308497)


def test_groups_of_one_mean_have_the_interval_of_a_count_though_their_queries_differ() -> None:
    groups = [n // 2 for n in range(20)]
    half = estimate(mean_of(np.array([0.0, 1.0] * 10), (0.0, 1.0)), groups)
    assert (half.mean, half.low, half.high) == (0.5, 0.345751, 0.654249)
    # Ten means that are equal but for the last bits.
    thirds = np.array([0.1, 0.2, 0.3] * 10)
    found = estimate(mean_of(thirds, (0.0, 1.0)), [n // 3 for n in range(30)])
    assert found.low is not None and found.low < 0.15
    # Lengths have no bounds, so that there is nothing to count to.
    lengths = estimate(mean_of(np.array([30.0, 50.0] * 10)), groups)
    assert (lengths.low, lengths.high) == (40.0, 40.0)


def test_a_share_of_the_gap_that_all_groups_have_alike_has_no_interval() -> None:
    groups = list(range(10))
    found = estimate(intervals.gap_closed(np.zeros(10), np.ones(10), np.ones(10)), groups)
    assert (found.mean, found.low, found.high) == (1.0, None, None)
    assert found.note == "no interval: all groups have the same share"


def test_names_of_groups_may_be_long_and_end_in_a_nul() -> None:
    values = np.array([0.0, 1.0, 0.5, 0.7, 0.2, 0.9])
    names = ["a", "a\0", "b", "c", "d", "e"]
    (found,) = intervals.estimates(names, [mean_of(values)])
    assert found is not None and found.groups == 6
    tracemalloc.start()
    try:
        intervals.numbered(["x" * 50_000, *(f"g{n}" for n in range(2000))])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10_000_000, "each name would take as much as the longest: 400 MB"
    assert intervals.numbered(["b", "a", "c", "a"]).tolist() == [1, 0, 2, 0]


def test_where_nearly_all_groups_are_alike_the_ends_are_those_of_a_count() -> None:
    """34 groups that are all right, or all right but one, may be 89.7 or 84.7 % right in truth."""
    groups = list(range(34))
    perfect = estimate(mean_of(np.ones(34), (0.0, 1.0)), groups)
    assert (perfect.low, perfect.high) == (0.897182, 1.0)
    nearly = estimate(mean_of(np.array([1.0] * 33 + [0.5]), (0.0, 1.0)), groups)
    assert nearly.low == pytest.approx(1 - 0.153263, abs=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_under_five_groups_there_is_no_interval(groups: int) -> None:
    values = np.random.default_rng(0).random(20)
    found = estimate(mean_of(values), [n % groups for n in range(20)])
    assert (found.low, found.high) == (None, None)
    assert found.note is not None and found.note.startswith("no interval")


def test_a_gap_that_one_group_holds_has_no_interval() -> None:
    before, ideal = np.zeros(10), np.zeros(10)
    ideal[0] = 1.0
    found = estimate(intervals.gap_closed(before, ideal / 2, ideal), list(range(10)))
    assert (found.mean, found.low) == (0.5, None)
    assert found.note is not None and "nothing to divide by" in found.note


def test_ends_miss_as_often_as_they_say_with_ten_unequal_groups() -> None:
    """2,000 simulations: the standard error of a share of 2.5 % is 0.35 %."""
    rng = np.random.default_rng(5)
    below = above = 0
    for _ in range(2000):
        sizes = rng.integers(2, 12, 10)
        groups = np.repeat(np.arange(10), sizes)
        luck = rng.normal(0.0, 0.3, 10)[groups]
        low, high = ends(luck + rng.normal(0.0, 0.5, len(groups)), list(groups))
        below += low > 0
        above += high < 0
    assert 0.01 < below / 2000 < 0.033
    assert 0.01 < above / 2000 < 0.033
