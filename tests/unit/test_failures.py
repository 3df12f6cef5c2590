"""Failed rows stop the stage that made them, once they are more than may be."""

import pytest

from cowest.errors import ContractError
from cowest.failures import Failures
from tests.factories import make_feedback


def counted(failed: int, good: int) -> Failures:
    failures = Failures("refine")
    rows = [make_feedback(n, failed="refine: no power", score=None) for n in range(failed)] + [
        make_feedback(99 + n) for n in range(good)
    ]
    assert list(failures.counted(rows)) == rows
    return failures


@pytest.mark.parametrize(
    ("failed", "most", "earlier"), [(0, 0, 0), (2, 2, 0), (9, None, 0), (3, 0, 3)]
)
def test_what_may_fail_passes(failed: int, most: int | None, earlier: int) -> None:
    counted(failed, 5).judge(most, earlier)


def test_more_than_may_fail_stop_the_stage_with_their_reason() -> None:
    with pytest.raises(
        ContractError,
        match=r"3 of 8 rows failed, and refine\.max_failed allows 2 \(3 x refine: no power\)",
    ):
        counted(3, 5).judge(2)
