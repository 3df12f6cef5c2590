"""Shards and their parts: in order, whole, and judged by whoever joins them."""

from pathlib import Path

import pytest

from cowest import fanout, io
from cowest.errors import ConfigError, ContractError, InputError
from tests.factories import make_feedback, make_trial

LIMITS = {"draft": 1, "refine": 1, "score": 1}


def test_shards_have_names_that_can_be_read_again() -> None:
    assert fanout.shards(3) == ["0/3", "1/3", "2/3"]
    assert list(map(fanout.shard_of, fanout.shards(12)))[10] == (10, 12)
    for number in (0, 1001):
        with pytest.raises(ConfigError, match=f"{number} shards: a turn has 1 to 1000"):
            fanout.shards(number)


@pytest.mark.parametrize("name", ["", "3", "3/3", "-1/3", "a/b", "0/3/1", "1/"])
def test_what_is_no_shard_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no shard: 0/3 is the first of three"):
        fanout.shard_of(name)


def test_parts_come_in_the_order_of_their_numbers() -> None:
    parts = [(name, f"part-{name}") for name in fanout.shards(11)]
    found = fanout.in_order(sorted(parts, reverse=True))
    assert [str(path) for path in found] == [f"part-{index}/11" for index in range(11)]


@pytest.mark.parametrize(
    "names", [[], ["0/3", "2/3"], ["0/2", "0/2"], ["0/2", "1/3"], ["1/2"]], ids=str
)
def test_parts_that_are_not_whole_are_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match="the parts of a file are not whole"):
        fanout.in_order([(name, "file") for name in names])


def test_a_part_may_have_no_rows(tmp_path: Path) -> None:
    for number, content in enumerate((b"a\n", b"", b"b\nc\n")):
        (tmp_path / str(number)).write_bytes(content)
    fanout.join([tmp_path / "0", tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"a\nb\nc\n"
    fanout.join([tmp_path / "1"], tmp_path / "none")
    assert (tmp_path / "none").read_bytes() == b""


def failed(number: int, stage: str) -> object:
    """A row that failed in a stage, as `collaboration` writes it."""
    gone = {"score": None, "solo_score": None, "draft_score": None}
    if stage == "draft":
        gone |= {"draft": None, "refinement": None, "failed": "draft: cut"}
    elif stage == "refine":
        gone |= {"refinement": None, "failed": "refine: status 500"}
    elif stage == "solo":
        gone |= {"solo": None, "failed": "solo: status 500"}
    else:
        gone |= {"failed": "score: no number"}
    return make_feedback(number, **gone)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (["draft", "refine", "score"], None),
        (["draft", "draft"], "draft: 2 of 6 rows failed, and draft.max_failed allows 1"),
        (["refine", "solo"], "refine: 2 of 6 rows failed, and refine.max_failed allows 1"),
        (["score", "score"], "score: 2 of 6 rows failed, and score.max_failed allows 1"),
    ],
    ids=str,
)
def test_failed_rows_count_for_the_stage_in_which_they_failed(
    stages: list[str], said: str | None, tmp_path: Path
) -> None:
    rows = [make_feedback(number) for number in range(6 - len(stages))]
    rows += [failed(10 + number, stage) for number, stage in enumerate(stages)]
    io.write(tmp_path / "rows", rows)
    if said is None:
        fanout.judge_feedback(tmp_path / "rows", LIMITS)
        return
    with pytest.raises(ContractError, match=said):
        fanout.judge_feedback(tmp_path / "rows", LIMITS)
    fanout.judge_feedback(tmp_path / "rows", dict.fromkeys(LIMITS))


def test_trials_are_judged_together(tmp_path: Path) -> None:
    bad = {"score": None, "failed": "refine: status 500", "refinement": None}
    io.write(tmp_path / "rows", [make_trial(0), make_trial(1, **bad), make_trial(2, **bad)])
    fanout.judge_trials(tmp_path / "rows", 2)
    with pytest.raises(ContractError, match="evaluate: 2 of 3 rows failed"):
        fanout.judge_trials(tmp_path / "rows", 1)
