"""Cron expressions are read as KFP's controller reads them.

robfig_cron.jsonl holds what robfig/cron 1.2.0 itself answers: for an expression, a time and a zone
the next five times, or that it refuses the expression.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from cowest.errors import ConfigError
from cowest.kubeflow import cron

ANSWERS = [
    json.loads(line)
    for line in Path(__file__).with_name("robfig_cron.jsonl").read_text().splitlines()
]


def test_what_is_taken_comes_when_kfp_says() -> None:
    taken = 0
    for answer in ANSWERS:
        try:
            read = cron.parse(answer["cron"])
        except ConfigError:
            continue
        zone = ZoneInfo(answer["zone"])
        times = read.next_times(5, zone, datetime.fromisoformat(answer["after"]))
        said = [f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in times]
        assert said == answer.get("next"), answer
        taken += 1
    assert taken > 200


def test_what_kfp_takes_is_taken_but_for_what_surprises() -> None:
    """Refused beyond KFP: five fields, nicknames, and what never comes to pass."""
    for answer in ANSWERS:
        text = answer["cron"]
        surprises = len(text.split()) != 6 or not answer.get("next")
        try:
            cron.parse(text)
            refused = False
        except ConfigError:
            refused = True
        assert refused == ("error" in answer or surprises), answer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 2 * * *", "five fields, and KFP would read the first one as seconds: put a 0 before"),
        ("0 0 2 * * * *", "has 7 fields, and KFP takes six"),
        ("0 0 2 30 2 *", "matches no date, and KFP's controller would accept it and hang"),
        ("0 0 2 * * 7", "day of week '7': '7' is not within 0-6, from the lower to the higher: "),
        ("0 0 25 * * *", "hour '25': '25' is not within 0-23"),
        ("0 0 2 L * *", "day of month 'L': 'L' is no number"),
        ("0 0 2 */0 * *", "the step of '*/0' is 0"),
        ("0 0 2 1-2-3 * *", "'1-2-3' is not read"),
        (", 0 2 * * *", "second ',' holds no value"),
        ("@daily", "write `0 0 0 * * *`"),
        ("@every 1h", "write six fields"),
        ("0 0 \uff12 * * *", "use only digits, names of days and months"),
        ("0 0 2 * * *\n", "use only digits, names of days and months"),
        ("", "has 0 fields"),
    ],
)
def test_what_is_refused_says_why(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="--cron") as caught:
        cron.parse(text)
    assert said in str(caught.value)


def test_the_hour_that_comes_twice_is_shown_twice() -> None:
    read = cron.parse("0 30 2 * * *")
    berlin = ZoneInfo("Europe/Berlin")
    times = read.next_times(2, berlin, datetime(2026, 10, 24, 22, tzinfo=UTC))
    assert [time.hour for time in times] == [0, 1]
    assert {time.astimezone(berlin).hour for time in times} == {2}


def test_a_zone_that_is_not_known_is_said() -> None:
    assert cron.zone_of("UTC") is UTC
    for name in ("Middle/Earth", "", "../etc/passwd", "CEST+2"):
        with pytest.raises(ConfigError, match="is no time zone"):
            cron.zone_of(name)
