"""Rollbacks, approvals, holds and releases as lines of the log: what they enter and refuse, and who
is champion after them, also to a process that knows nothing of them.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cowest.commands import turn
from cowest.errors import RegistryError
from cowest.protocols import Entry
from cowest.records import Decision
from cowest.registry import acts
from cowest.registry.log import champion_of, find, fold, held, rolled_back, settled, waiting
from cowest.registry.runs import folder_of
from cowest.registry.since import data_tags, since_champion
from cowest.registry.tracking import MlflowTracker
from tests import log_of_november

GIVEN = {"yes": "promoted", "no": "refused", "late": "late"}
NOTED = {"waiting": "waiting", "hold": "noted", "release": "noted"}


class Log:
    """A log that is written to as the registry does it, without its files."""

    def __init__(self) -> None:
        self.rows: list[Decision] = []

    @property
    def now(self) -> list[Decision]:
        return fold(self.rows)

    @property
    def champion(self) -> int | None:
        return champion_of(self.now)

    def add(self, entry: Entry, content: str = "", seen: Sequence[Decision] | None = None) -> int:
        """Adds a line, as it was told by the log that its process had seen; gives its number."""
        told = acts.told(entry, self.now if seen is None else seen)
        if entry.of is not None:
            found = find(self.rows, entry.of)
            assert found is not None
            content = found.digest or ""
        verdict = NOTED.get(told.get("kind", ""), GIVEN[told["promote"]])
        row = {
            "version": len(self.rows) + 1,
            "turn": entry.turn,
            "verdict": verdict,
            "against": entry.against,
            "reason": told["reason"],
            "digest": content,
            "tags": entry.tags | {name: told[name] for name in told if name != "reason"},
        }
        self.rows.append(Decision.model_validate(row))
        return len(self.rows)

    def turn(self, content: str, *, passed: bool = True, waits: bool = False) -> int:
        """A turn that is judged against today's champion."""
        entry = Entry(
            turn=f"t{len(self.rows)}",
            against=self.champion,
            promote=passed,
            reason="better",
            waits=waits,
            contents=(content,),
        )
        return self.add(entry, content)

    def verdict(self, version: int) -> str:
        return self.now[version - 1].verdict

    def digest(self) -> str | None:
        """What the champion holds."""
        found = find(self.now, self.champion)
        return None if found is None else found.digest


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_rollback_makes_the_champion_before_champion_again(log: Log) -> None:
    log.turn("a")
    log.turn("b")
    made = log.add(acts.rollback(log.now, None, "worse  on\ninvoices"))
    assert (made, log.champion, log.digest()) == (3, 3, "a")
    row = log.now[2]
    assert (row.kind, row.of, row.against, row.reason) == ("rollback", 1, 2, "worse on invoices")
    assert row.by == acts.who()


def test_rollbacks_one_after_another_go_further_back(log: Log) -> None:
    for content in "abc":
        log.turn(content)
    log.add(acts.rollback(log.now, None, "so"))
    assert log.digest() == "b"
    log.add(acts.rollback(log.now, None, "so"))
    assert log.digest() == "a", "and not back to c"
    with pytest.raises(RegistryError, match="no champion before"):
        acts.rollback(log.now, None, "so")
    log.turn("d")
    log.add(acts.rollback(log.now, None, "so"))
    assert log.digest() == "a", "what d replaced"


def test_what_cannot_be_gone_back_to_is_refused(log: Log) -> None:
    with pytest.raises(RegistryError, match="there is no champion"):
        acts.rollback(log.now, None, "so")
    log.turn("a")
    refused = log.turn("b", passed=False)
    waits = log.turn("c", waits=True)
    log.turn("d")
    log.add(acts.rollback(log.now, 1, "so"))
    for version, said in (
        (99, "has no version 99"),
        (1, "is what the champion, version 5, holds"),
        (5, "is what the champion, version 5, holds"),
        (refused, "was never champion: it was refused"),
        (waits, f"it waits: `cowest approve {waits}"),
    ):
        with pytest.raises(RegistryError, match=said):
            acts.rollback(log.now, version, "so")
    with pytest.raises(RegistryError, match="--why is empty"):
        acts.rollback(log.now, 4, " \n")


def test_what_was_rolled_back_is_not_promoted_by_a_turn_that_makes_it_again(log: Log) -> None:
    log.turn("a")
    log.turn("b")
    log.add(acts.rollback(log.now, None, "worse on invoices"))
    again = log.turn("b")
    assert (log.verdict(again), log.digest()) == ("refused", "a")
    assert "worse on invoices" in log.now[again - 1].reason
    assert "`cowest rollback --to 2 --why" in log.now[again - 1].reason
    log.turn("c")
    assert log.digest() == "c", "what is new is promoted"
    again = log.turn("b")
    assert log.verdict(again) == "refused", "whoever is champion"
    log.add(acts.rollback(log.now, 2, "mended the invoices"))
    assert log.digest() == "b"
    assert rolled_back(log.now, ["b"]) is None
    assert rolled_back(log.now, ["c"]) is not None


def test_equal_answers_are_known_whatever_else_lies_in_the_folder(log: Log) -> None:
    log.turn("a")
    first = Entry("x", 1, True, "better", contents=("b", "answers"), tags={"answers": "answers"})
    log.add(first, "b")
    log.add(acts.rollback(log.now, None, "so"))
    log.add(Entry("y", 3, True, "better", contents=("other curves", "answers")), "other curves")
    assert log.digest() == "a"


def test_a_turn_that_was_judged_before_a_rollback_is_late(log: Log) -> None:
    log.turn("a")
    log.turn("b")
    judged = Entry("x", 2, True, "better", contents=("c",))
    log.add(acts.rollback(log.now, None, "so"))
    made = log.add(judged, "c")
    assert (log.verdict(made), log.digest()) == ("late", "a")
    assert settled(log.now, "x") is None, "it is judged again, against the restored champion"


def test_a_turn_that_was_refused_against_what_was_rolled_back_is_late(log: Log) -> None:
    log.turn("a")
    log.turn("b")
    judged = Entry("x", 2, False, "not better", contents=("c",))
    log.add(acts.rollback(log.now, None, "worse on invoices"))
    made = log.add(judged, "c")
    assert (log.verdict(made), log.digest()) == ("late", "a")
    assert "run the turn again" in log.now[made - 1].reason
    assert settled(log.now, "x") is None, "it is judged again, against the restored champion"
    again = log.add(Entry("x", 3, True, "better", contents=("c",)), "c")
    assert (log.verdict(again), log.digest()) == ("promoted", "c")


def test_a_turn_that_was_refused_against_a_champion_that_a_better_one_replaced_is_decided(
    log: Log,
) -> None:
    log.turn("a")
    judged = Entry("x", 1, False, "not better", contents=("c",))
    log.turn("b")
    assert log.verdict(log.add(judged, "c")) == "refused"
    # What was brought back since is no champion that went.
    log.add(acts.rollback(log.now, None, "worse on invoices"))
    log.add(acts.rollback(log.now, 2, "the invoices are mended"))
    log.turn("d")
    assert log.verdict(log.add(Entry("y", 2, False, "not better"), "e")) == "refused"


def test_a_version_that_waits_is_approved(log: Log) -> None:
    log.turn("a")
    waits = log.turn("b", waits=True)
    assert (log.verdict(waits), log.digest()) == ("waiting", "a")
    assert [one.version for one in waiting(log.now)] == [waits]
    made = log.add(acts.approval(log.now, waits, "read 20 answers"))
    assert (log.champion, log.digest()) == (made, "b")
    assert waiting(log.now) == []
    again = acts.approval(log.now, waits, "once more")
    assert settled(log.now, again.turn) == log.now[made - 1], "it is answered with what was done"
    log.add(acts.rollback(log.now, None, "so"))
    with pytest.raises(RegistryError, match=f"`cowest rollback --to {made} --why"):
        acts.approval(log.now, waits, "so")
    with pytest.raises(RegistryError, match="does not wait for approval: it was promoted"):
        acts.approval(log.now, 1, "so")


def test_a_version_whose_like_was_rolled_back_waits_no_longer(log: Log) -> None:
    log.turn("a")
    first, second = log.turn("b", waits=True), log.turn("b", waits=True)
    made = log.add(acts.approval(log.now, second, "read it"))
    log.add(acts.rollback(log.now, None, "worse on invoices"))
    assert waiting(log.now) == [], "though it was judged against what is champion again"
    with pytest.raises(RegistryError, match=f"worse on invoices.*`cowest rollback --to {made} "):
        acts.approval(log.now, first, "so")
    assert f"--to {made} " in acts.fate(log.now, log.now[first - 1])


def test_a_hold_stops_an_approval_that_was_begun_before(log: Log) -> None:
    log.turn("a")
    waits = log.turn("b", waits=True)
    begun = acts.approval(log.now, waits, "so")
    log.add(acts.hold(log.now, "invoices move"))
    with pytest.raises(RegistryError, match="invoices move"):
        log.add(begun)
    log.add(acts.release(log.now, "moved"))
    log.add(begun)
    assert log.digest() == "b"


def test_what_became_of_a_version_that_waited(log: Log) -> None:
    log.turn("a")
    approved, passed_by = log.turn("b", waits=True), log.turn("c", waits=True)
    made = log.add(acts.approval(log.now, approved, "so"))
    for version, said in (
        (approved, f"was never champion: it was approved as version {made}"),
        (passed_by, "was never champion: it can be approved no longer"),
    ):
        log.turn("d")
        with pytest.raises(RegistryError, match=said):
            acts.rollback(log.now, version, "so")


def test_a_turn_that_is_run_again_says_what_became_of_its_version(log: Log) -> None:
    log.turn("a")
    log.turn("b")
    waits = log.turn("c", waits=True)
    assert f"`cowest approve {waits} --why" in turn.nothing_new(log.now[waits - 1], log.now)
    log.add(acts.approval(log.now, waits, "read it"))
    assert "it was approved as version 4" in turn.nothing_new(log.now[waits - 1], log.now)
    log.add(acts.rollback(log.now, 1, "worse on invoices"))
    assert "promoted; version 5 is champion" in turn.nothing_new(log.now[1], log.now)
    log.add(acts.rollback(log.now, 2, "so"))
    log.add(acts.rollback(log.now, 1, "worse again"))
    said = turn.nothing_new(log.now[1], log.now)
    assert "promoted, and rolled back by version 7 (worse again); version 7 is champion" in said


def test_versions_that_name_each_other_in_a_circle_stop_nobody(log: Log) -> None:
    for content in "ab":
        log.turn(content)
    made = log.add(acts.rollback(log.now, None, "so"))
    row = log.rows[made - 1]
    log.rows[made - 1] = row.model_copy(update={"tags": row.tags | {"of": str(made)}})
    with pytest.raises(RegistryError, match="no champion before"):
        acts.rollback(log.now, None, "so")


def test_an_approval_is_late_if_the_champion_it_was_judged_against_is_gone(log: Log) -> None:
    log.turn("a")
    waits = log.turn("b", waits=True)
    log.turn("c")
    assert waiting(log.now) == []
    made = log.add(acts.approval(log.now, waits, "so"))
    assert (log.verdict(made), log.digest()) == ("late", "c")
    assert "run the turn again" not in log.now[made - 1].reason, "its turn is decided"
    log.add(acts.rollback(log.now, None, "so"))
    assert [one.version for one in waiting(log.now)] == [waits], "the same files are champion"
    log.add(acts.approval(log.now, waits, "so"))
    assert log.digest() == "b"


def test_a_hold_lets_nothing_be_promoted_but_by_a_rollback(log: Log) -> None:
    log.turn("a")
    log.turn("b")
    log.add(acts.hold(log.now, "invoices move"))
    with pytest.raises(RegistryError, match="held already, by version 3: invoices move"):
        acts.hold(log.now, "so")
    waits = log.turn("c")
    refused = log.turn("d", passed=False)
    assert (log.verdict(waits), log.verdict(refused), log.digest()) == ("waiting", "refused", "b")
    assert "invoices move" in log.now[waits - 1].reason
    with pytest.raises(RegistryError, match="promotions are held by version 3"):
        acts.approval(log.now, waits, "so")
    log.add(acts.rollback(log.now, None, "so"))
    assert log.digest() == "a"
    log.add(acts.release(log.now, "moved"))
    assert held(log.now) is None
    with pytest.raises(RegistryError, match="not held"):
        acts.release(log.now, "so")
    log.turn("e")
    assert log.digest() == "e"


def test_a_hold_before_the_first_champion(log: Log) -> None:
    entry = acts.hold(log.now, "not yet")
    assert (entry.of, entry.against) == (None, None)
    log.add(entry)
    log.turn("a")
    assert (log.champion, log.verdict(2)) == (None, "waiting")
    release = acts.release(log.now, "now")
    assert release.of == 1
    log.add(release)
    log.add(acts.approval(log.now, 2, "so"))
    assert log.digest() == "a"


def test_two_that_hold_at_once_hold_once(log: Log) -> None:
    log.turn("a")
    seen = log.now
    log.add(acts.hold(seen, "one"), seen=seen)
    log.add(acts.hold(seen, "other"), seen=seen)
    hold = held(log.now)
    assert hold is not None
    assert hold.reason == "one"
    log.add(acts.release(log.now, "so"))
    assert held(log.now) is None


def test_an_act_has_what_its_files_rest_on_and_not_what_the_turn_cost(log: Log) -> None:
    tags = {"base": "m@1", "dataset/raw": "{}", "cost": '{"usd":1}', "gates": "[]", "by": "ana"}
    log.add(Entry("x", None, True, "better", tags=tags), "a")
    log.turn("b")
    entry = acts.rollback(log.now, None, "so")
    shown = {"base": "m@1", "dataset/raw": "{}", "of": "1", "by": acts.who(), "removed": "b"}
    assert entry.tags == shown


def _as_november_read_it(row: Decision) -> Decision:
    """A line with the verdict that the older code reads from its tag `promote`."""
    return row.model_copy(update={"verdict": GIVEN[row.tags["promote"]]})


def _act(log: Log, luck: random.Random, seen: Sequence[Decision]) -> tuple[Entry, str]:
    """A random entry by a process that has seen an older log, with the content of a turn."""
    content = luck.choice("abcdefghijklmnopqrstuvwxyz")
    known = [one.version for one in seen] or [1]
    choice = luck.randrange(8)
    if choice == 0:
        return acts.rollback(seen, luck.choice([None, None, luck.choice(known)]), "so"), ""
    if choice == 1:
        return acts.approval(seen, luck.choice(known), "so"), ""
    if choice == 2:
        return acts.hold(seen, "so"), ""
    if choice == 3:
        return acts.release(seen, "so"), ""
    turn = f"t{luck.randrange(len(log.rows) + 2)}"
    against = luck.choice([champion_of(seen), champion_of(seen), luck.choice([None, *known])])
    passed, waits = luck.random() < 0.8, luck.random() < 0.2
    return Entry(turn, against, passed, "so", waits=waits, contents=(content,)), content


def test_a_file_without_a_tag_is_neither_added_nor_removed() -> None:
    names = [f"f{number:03d}" for number in range(60)]
    then = dict.fromkeys(names, "as it was")

    def since(**now: str | None) -> dict[str, str]:
        made = Decision(
            version=1,
            turn="t",
            verdict="promoted",
            against=None,
            reason="better",
            digest="d",
            tags={"code": "c", **data_tags(then)},
        )
        data = {name: value for name, value in sorted({**then, **now}.items()) if value}
        tracker = cast(MlflowTracker, SimpleNamespace(settings=lambda _: None))
        found = since_champion([made], 1, tracker, data=data, code="c", settings={})
        assert found is not None
        return found.data

    assert since() == {}
    assert since(a="new") == {"a": "added"}
    assert since(a="new", f049="other") == {"a": "added", "f049": "changed"}
    assert since(f000=None) == {"f000": "removed"}, "f050 has a tag now, and had none"
    assert since(f055="other", f059=None, g="new") == {}, "nothing is known of them"


def test_code_from_before_agrees_on_who_is_champion() -> None:
    """In 3,000 logs written by processes that look, wait, and write; some lines are deleted."""
    acted, removed = 0, 0
    for seed in range(3000):
        luck, log = random.Random(seed), Log()
        for _ in range(luck.randrange(3, 16)):
            seen = fold(log.rows[: max(0, len(log.rows) - luck.choice([0, 0, 0, 1, 2]))])
            try:
                entry, content = _act(log, luck, seen)
            except RegistryError:
                continue
            log.add(entry, content, seen)
        rows = [row for row in log.rows if luck.random() < 0.9 or seed % 2]
        ours = fold(rows)
        theirs = log_of_november.fold(_as_november_read_it(row) for row in rows)
        assert champion_of(ours) == log_of_november.champion_of(theirs), seed
        assert [one.promoted for one in ours] == [one.promoted for one in theirs], seed
        for one in ours:
            now, then = settled(ours, one.turn), log_of_november.settled(theirs, one.turn)
            assert (now and now.version) == (then and then.version), seed
        acted += sum(one.kind != "turn" for one in ours if one.promoted)
        removed += len(rows) < len(log.rows)
    assert acted > 300
    assert removed > 500


@pytest.mark.parametrize(
    ("address", "folder"),
    [
        ("/projects/it is #1/version", "/projects/it is #1/version"),
        ("file:///projects/a%20b", "/projects/a b"),
        ("mlflow-artifacts:/1/run/artifacts/version", None),
        ("s3://bucket/version", None),
    ],
)
def test_an_address_of_a_server_is_no_folder(address: str, folder: str | None) -> None:
    assert folder_of(address) == (None if folder is None else Path(folder))
