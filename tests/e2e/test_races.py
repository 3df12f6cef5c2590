"""Promotions and rollbacks that are killed between two writes, or meet each other: there is always
exactly one champion, old or new, and the act that was killed can be done again.

`make gate-races` runs the long form.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cowest.protocols import Registry
from cowest.records import Decision
from cowest.registry.log import champion_of, find
from cowest.registry.mlflow import ALIAS, RegistryConfig
from cowest.registry.runs import Runs
from tests import deciders, log_of_november
from tests.registries import make_version

pytestmark = pytest.mark.minutes

KILLS = int(os.environ.get("COWEST_KILLS", "3"))
ROUNDS = int(os.environ.get("COWEST_RACES", "5"))
ACTS = ("promote", "rollback")
PAIRS = (("promote", "promote"), ("rollback", "rollback"), ("promote", "rollback"))
NEVER = -1
"""A process that is to be killed at this write lives."""


@dataclass
class Place:
    """A registry, opened once by a process that only looks on."""

    config: RegistryConfig
    registry: Registry
    runs: Runs

    def alias(self) -> int:
        found = self.runs.client.get_registered_model(self.config.name)
        return int(found.aliases[ALIAS])


@pytest.fixture(scope="module", params=deciders.KINDS)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A registry with three champions behind it."""
    folder = tmp_path_factory.mktemp(request.param)
    with deciders.registry_of(request.param, folder) as config:
        registry = config.open()
        found = Place(config, registry, config.runs())
        for name in ("first", "second", "third"):
            version = make_version(folder / name, name)
            registry.decide(
                version,
                turn=name,
                promote=True,
                against=registry.champion(),
                reason="better",
                tags={},
            )
        yield found


def expect_sound(place: Place, scratch: Path) -> list[Decision]:
    """Exactly one champion, whom older code finds too, with its alias and its files."""
    registry = place.registry
    champion, log = registry.champion(), registry.log()
    found: int | None = None
    for one in log:
        if one.promoted:
            assert one.against == found, one
            found = one.version
    assert champion == found == champion_of(log) == place.alias()
    before = [one.model_copy(update={"verdict": _given(one)}) for one in log]
    assert log_of_november.champion_of(log_of_november.fold(before)) == champion
    assert champion is not None
    registry.fetch(champion, scratch / "champion")
    return log


def _given(one: Decision) -> str:
    return {"yes": "promoted", "no": "refused", "late": "late"}[one.tags["promote"]]


def weights(scratch: Path) -> str:
    return (scratch / "champion" / "adapter" / "adapter_model.safetensors").read_text()


@pytest.mark.parametrize("what", ACTS)
def test_killed_between_two_writes(place: Place, what: str, tmp_path: Path) -> None:
    """Before each of some writes: the champion is the old one or the new one, and no third."""
    context = deciders.context()

    def run(name: str, at: int) -> int | None:
        """The writes of an act that lives; None if it was killed."""
        written = context.SimpleQueue()
        given = (place.config, what, str(tmp_path), name, at, written)
        process = context.Process(target=deciders.doomed, args=given)
        process.start()
        process.join(deciders.PATIENCE)
        assert process.exitcode is not None, "it hangs"
        return None if written.empty() else int(written.get())

    every = run(f"{what}whole", NEVER)
    assert every is not None
    assert every >= 2
    luck = random.Random(what)
    moments = luck.sample(range(every), min(KILLS, every))
    moments += luck.choices(range(every), k=KILLS - len(moments))
    for number, moment in enumerate(moments):
        old = expect_sound(place, tmp_path)
        name = f"{what}{number}"
        assert run(name, moment) is None, f"write {moment} of {every} never came"
        log = expect_sound(place, tmp_path)
        added = log[len(old) :]
        assert len(added) <= 1
        assert [one.promoted for one in added] == [True] * len(added), "old or new"
        champion = find(log, champion_of(log))
        if added:
            assert champion == added[0]
        # Done again, it ends as if nothing had been.
        if what == "promote" or not added:
            assert run(name, NEVER) is not None
        log = expect_sound(place, tmp_path)
        assert len(log) == len(old) + 1
        assert log[-1].promoted
        if what == "promote":
            assert weights(tmp_path) == name
    print(f"{what}: {KILLS} kills before {sorted(set(moments))} of {every} writes")


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_two_at_once(place: Place, pair: tuple[str, str], tmp_path: Path) -> None:
    """In each round both have seen the same log, and one of them counts."""
    context = deciders.context()
    together, made = context.Barrier(2), context.SimpleQueue()
    old = expect_sound(place, tmp_path)
    processes = []
    for name, what in zip(("a", "b"), pair, strict=True):
        given = (
            place.config,
            what,
            str(tmp_path),
            f"{name}{''.join(pair)}",
            ROUNDS,
            together,
            made,
        )
        processes.append(context.Process(target=deciders.racer, args=given))
    for process in processes:
        process.start()
    for process in processes:
        process.join(ROUNDS * deciders.PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    results = [made.get() for _ in range(2 * ROUNDS)]
    log = expect_sound(place, tmp_path)
    for number in range(ROUNDS):
        counted = {version for of, version, promoted in results if of == number and promoted}
        assert len(counted) == 1, f"round {number}: {counted} counted"
    promoted = [one for one in log[len(old) :] if one.promoted]
    assert len(promoted) == ROUNDS
    assert all(find(log, one.version) == one for one in promoted)
