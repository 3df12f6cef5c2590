"""Cron expressions as KFP's controller reads them, which is robfig/cron 1.2 (`cron.Parse`).

Six fields, seconds first: second, minute, hour, day of month, month, day of week (0 is Sunday).
Libraries in Python read other dialects: Sunday as 7, `L`, `#`, ranges that wrap. KFP refuses these
only when a schedule is sent, and some mistakes not even then:

- five fields, which everybody writes, KFP takes too, and reads the first one as seconds;
- a date that never comes (30 February) passes, and the controller of every schedule then hangs.

A day of month and a day of week both count (either one is enough), unless one of them begins with
`*` or `?`, also as `*/2`: then both have to match.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cowest.errors import ConfigError

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
NICKNAMES = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
"""Nicknames that KFP takes in place of six fields, with the equal fields."""
NUMBER = re.compile(r"\+?[0-9]{1,18}")
UNITS = ("month", "day", "hour", "minute", "second")
STEPS = {
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
    "second": timedelta(seconds=1),
}
YEARS = 5
"""Number of years ahead in which a time is looked for."""


class _Bounds(NamedTuple):
    """The values that a field may hold."""

    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()


FIELDS = (
    _Bounds("second", 0, 59),
    _Bounds("minute", 0, 59),
    _Bounds("hour", 0, 23),
    _Bounds("day of month", 1, 31),
    _Bounds("month", 1, 12, MONTHS),
    _Bounds("day of week", 0, 6, DAYS),
)


class Field(NamedTuple):
    """The values that a field of an expression stands for."""

    values: frozenset[int]
    starred: bool
    """True if a part of the field begins with `*` or `?`."""


@dataclass(frozen=True)
class Cron:
    """A valid expression for KFP that matches some time."""

    text: str
    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    def following(self, after: datetime, zone: tzinfo) -> datetime | None:
        """The first time after another one (UTC); None if none comes within five years.

        Days and hours are those of `zone`, as in KFP's controller: an hour comes twice when summer
        time ends, and is left out when it begins.
        """
        time = after.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        limit = time.astimezone(zone).year + YEARS
        moved = False
        while time.astimezone(zone).year <= limit:
            unit = self._unfit(time.astimezone(zone))
            if unit is None:
                return time
            if not moved:
                moved, time = True, _floor(time, unit, zone)
            time = _advanced(time, unit, zone)
        return None

    def _unfit(self, local: datetime) -> str | None:
        """The largest unit of a local time that does not fit, or None."""
        for unit in UNITS:
            fits = self._has_day(local) if unit == "day" else self._has(unit, local)
            if not fits:
                return unit
        return None

    def _has(self, unit: str, local: datetime) -> bool:
        values: frozenset[int] = getattr(self, unit).values
        return getattr(local, unit) in values

    def _has_day(self, local: datetime) -> bool:
        day = local.day in self.day.values
        weekday = local.isoweekday() % 7 in self.weekday.values
        if self.day.starred or self.weekday.starred:
            return day and weekday
        return day or weekday

    def next_times(self, count: int, zone: tzinfo, now: datetime | None = None) -> list[datetime]:
        """The next times in UTC, fewer if no more come within five years of the last."""
        times: list[datetime] = []
        time = now or datetime.now(UTC)
        while len(times) < count:
            found = self.following(time, zone)
            if found is None:
                break
            times.append(found)
            time = found
        return times


def parse(text: str) -> Cron:
    """Reads an expression of six fields. Raises ConfigError."""
    wrong = f"--cron {text!r}"
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(f"{wrong}: use only digits, names of days and months, and , - * ? /")
    if text.startswith("@"):
        fields = NICKNAMES.get(text)
        say = f"write `{fields}`" if fields else "write six fields, such as `0 0 2 * * *`"
        raise ConfigError(f"{wrong}: {say}")
    parts = text.split()
    if len(parts) == len(FIELDS) - 1:
        raise ConfigError(
            f"{wrong} has five fields, and KFP would read the first one as seconds: put a 0 before "
            f"it, `0 {' '.join(parts)}`"
        )
    if len(parts) != len(FIELDS):
        raise ConfigError(
            f"{wrong} has {len(parts)} fields, and KFP takes six: second, minute, hour, day of "
            "month, month, day of week, such as `0 0 2 * * *` for 02:00 each day"
        )
    read = [_field(part, bounds, wrong) for part, bounds in zip(parts, FIELDS, strict=True)]
    cron = Cron(" ".join(parts), *read)
    if cron.following(datetime.now(UTC), UTC) is None:
        raise ConfigError(
            f"{wrong} matches no date, and KFP's controller would accept it and hang: "
            "mend its day and month"
        )
    return cron


def zone_of(name: str) -> tzinfo:
    """The time zone of a name such as Europe/Berlin. Raises ConfigError."""
    # An image without the tables of time zones knows UTC all the same.
    if name in ("UTC", "Etc/UTC"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"--timezone {name!r} is no time zone that is known here: give a name such as UTC or "
            "Europe/Berlin (`pip install tzdata` brings the tables of all)"
        ) from None


def _field(text: str, bounds: _Bounds, wrong: str) -> Field:
    """Reads one field: parts between commas, of which empty ones count for nothing."""
    values: set[int] = set()
    starred = False
    for part in filter(None, text.split(",")):
        found, star = _part(part, bounds, f"{wrong}: {bounds.name} {text!r}")
        values |= found
        starred |= star
    if not values:
        raise ConfigError(f"{wrong}: {bounds.name} {text!r} holds no value")
    return Field(frozenset(values), starred)


def _part(text: str, bounds: _Bounds, wrong: str) -> tuple[set[int], bool]:
    """The values of `*`, `5`, `1-5`, or one of these with a step; True if it is a star."""
    span, *steps = text.split("/")
    ends = span.split("-")
    starred = ends[0] in ("*", "?")
    if len(steps) > 1 or (len(ends) > 2 and not starred):
        raise ConfigError(f"{wrong}: {text!r} is not read: write 1, 1-5, 1-5/2 or */5")
    if starred:
        first, last = bounds.first, bounds.last
    else:
        first, last = _value(ends[0], bounds, wrong), _value(ends[-1], bounds, wrong)
    step = 1
    if steps:
        step = _value(steps[0], bounds._replace(names=()), wrong)
        # `5/10` means from 5 to the end, and `5-5/10` only 5.
        if len(ends) == 1:
            last = bounds.last
    if not bounds.first <= first <= last <= bounds.last:
        sunday = ": Sunday is 0" if bounds.names is DAYS and last == 7 else ""
        raise ConfigError(
            f"{wrong}: {text!r} is not within {bounds.first}-{bounds.last}, from the lower to the "
            f"higher{sunday}"
        )
    if step == 0:
        raise ConfigError(f"{wrong}: the step of {text!r} is 0")
    return set(range(first, last + 1, step)), starred


def _value(text: str, bounds: _Bounds, wrong: str) -> int:
    if text.lower() in bounds.names:
        return bounds.names.index(text.lower()) + bounds.first
    if not NUMBER.fullmatch(text):
        raise ConfigError(f"{wrong}: {text!r} is no number{' or name' if bounds.names else ''}")
    return int(text)


def _floor(time: datetime, unit: str, zone: tzinfo) -> datetime:
    """The beginning of the month, day, hour or minute of a time, in a zone."""
    if unit == "second":
        return time
    if unit == "minute":
        return time.replace(second=0)
    wall = time.astimezone(zone).replace(minute=0, second=0, tzinfo=None)
    if unit != "hour":
        wall = wall.replace(hour=0)
    return _instant(wall.replace(day=1) if unit == "month" else wall, zone)


def _advanced(time: datetime, unit: str, zone: tzinfo) -> datetime:
    """A time, one unit later: months and days in local time, the other units in elapsed time."""
    if unit in STEPS:
        return time + STEPS[unit]
    wall = time.astimezone(zone).replace(tzinfo=None)
    if unit == "day":
        return _instant(wall + timedelta(days=1), zone)
    later = (wall.replace(day=1) + timedelta(days=31)).replace(day=1)
    return _instant(later + timedelta(days=wall.day - 1), zone)


def _instant(wall: datetime, zone: tzinfo) -> datetime:
    """The UTC time of a local time, as Go's `time.Date` finds it.

    A local time that comes twice, or never, could be one of two: the order below decides.
    """
    naive = wall.replace(tzinfo=UTC)
    offset = naive.astimezone(zone).utcoffset() or timedelta()
    time = naive - offset
    return naive - (time.astimezone(zone).utcoffset() or timedelta())
