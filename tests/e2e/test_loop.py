"""The whole wheel, with a service that is never stopped: what it answers is judged by people and
harvested, the next turn learns from it, a gate closes before another opens, and the service takes
up the new version, and the old one again when that is rolled back.
"""

import json
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowest import cli, config, io, stages
from cowest.records import Query
from tests import lines, tiny
from tests.examples import EXAMPLES, made_tiny, replying
from tests.service import Server

pytestmark = pytest.mark.minutes

PATIENCE = 120.0
"""Seconds that a busy machine is given; the setting `watch` is half a second here."""
ASKED = {
    "My Quillon blender hums, and nothing turns.": "The jar is not locked. Please turn it.",
    "There is a whistle in my Osk heater.": "The filter is full. Please wash it.",
}


DECIDING = ("pin", "compare", "register")
"""Stages that decide once more on what a turn made."""


def turn(folder: Path, only: Collection[str] = ()) -> dict[str, Any]:
    """Turns the wheel once, or some of its stages, and returns the decision."""
    params = config.load(folder / "params.yaml")
    ports = lines.paths()
    ports["pin"]["raw"] = params["turn"]["raw"]
    ports |= {
        stage: dict(lines.flags(made["cmd"])) for stage, made in lines.entries(folder).items()
    }
    with tiny.standing_in(folder):
        if not only:
            for name in ("models", "reports"):
                shutil.rmtree(name, ignore_errors=True)
        for stage, given in ports.items():
            if not only or stage in only:
                stages.run(stage, config.section(params, stage), None, **given)
    decided: dict[str, Any] = json.loads((folder / "reports" / "decision.json").read_text())
    return decided


def command(folder: Path, *words: str) -> None:
    with tiny.standing_in(folder):
        assert cli.main(list(words)) == 0


def gate(folder: Path, **bound: float) -> None:
    """Leaves one gate: alignment against what there was before it."""
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["compare"]["gates"] = [{"over": "before", **bound}]
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def shown(server: Server, version: int) -> dict[str, Any]:
    """Policy, draft and answer of each question, from one version."""
    found = {}
    for question in ASKED:
        reply = answered(server, question)
        assert reply["cowest"]["version"] == version
        more, text = reply["cowest"], reply["choices"][0]["message"]["content"]
        found[question] = (more["drafting"]["model"], more["draft"], text)
    return found


def answered(server: Server, question: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    status, text = server.get("/v1/chat/completions", {"model": "cowest", "messages": messages})
    assert status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


def taken_up(server: Server, version: int) -> None:
    """Asks until a version answers; none of another answers after it."""
    seen: list[int] = []
    ends = time.monotonic() + PATIENCE
    while not seen or seen[-1] != version:
        assert time.monotonic() < ends, seen
        seen.append(answered(server, "Are you there?")["cowest"]["version"])
    assert sorted(seen) == seen


def test_the_wheel_turns_on_what_was_served(tmp_path: Path) -> None:
    folder = tmp_path / "support"
    shutil.copytree(EXAMPLES / "support-archive", folder)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    made_tiny(params, replying())
    params["serve"]["watch"] = 0.5
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert turn(folder)["promoted"]

    server = Server(folder, tmp_path)
    try:
        server.wait("/readyz")
        for question, better in ASKED.items():
            reply = answered(server, question)
            assert reply["cowest"]["version"] == 1
            verdict = {"id": reply["id"], "better": better}
            assert server.get("/v1/feedback", verdict)[0] == 200
        command(folder, "harvest")
        first = shown(server, 1)

        gate(folder, better_by=0.9)
        refused = turn(folder)
        assert (refused["promoted"], refused["version"], refused["against"]) == (False, 2, 1)
        assert shown(server, 1) == first
        gate(folder, at_least=-1.0)
        made = turn(folder, DECIDING)
        assert (made["promoted"], made["version"], made["against"]) == (True, 3, 1)
        learned = {}
        for query in io.read(folder / "data" / "queries.jsonl", Query):
            learned[query.prompt[-1].content] = (query.targets, query.split)
        for question, better in ASKED.items():
            assert learned[question] == ((better,), "train")
        taken_up(server, 3)
        policies = [{policy for policy, *_ in of.values()} for of in (first, shown(server, 3))]
        assert policies[0].isdisjoint(policies[1]), "another adapter drafts"

        command(folder, "rollback", "--why", "a customer complained")
        taken_up(server, 4)
        assert shown(server, 4) == first
    finally:
        server.stop()
