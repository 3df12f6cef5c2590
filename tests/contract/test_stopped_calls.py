"""Feedback until the pairs are made, with a strong model and a judge behind an endpoint."""

from pathlib import Path
from typing import Any

import pytest

from cowest import io, preferences, stages
from cowest.domains import domain
from cowest.errors import ContractError
from cowest.preferences import PairRule
from cowest.records import Draft, Feedback, grown
from tests.factories import make_query
from tests.servers import ChatServer, Fate, chat_server, completion, error

RULE = {"per_query": 2, "keep": "early"}
PROMPTS = domain("handbook").prompts


def answers(body: dict[str, Any]) -> Fate:
    """The strong model repeats what it is told; the judge likes what names Italy."""
    said = body["messages"][-1]["content"]
    if body["model"] == "judge":
        return Fate(body=completion("9" if "Italy" in said else "1"))
    return Fate(body=completion(f"So it is: {said[-60:]}"))


def settings(server: ChatServer, name: str) -> dict[str, Any]:
    return {"provider": "openai", "model": name, "base_url": server.url, "key_env": None}


def drafts(path: Path) -> Path:
    """Six drafts of each query, one of which names Italy, at another place in each."""
    rows = []
    for number in range(12):
        query = make_query(
            number, f"Where is it made? ({number})", targets=("there",), split="train"
        )
        for sample in range(6):
            text = f"Italy {number}" if sample == number % 6 else f"guess {number} {sample}"
            rows.append(grown(Draft, query, sample=sample, draft=text, policy="p"))
    io.write(path, rows)
    return path


def test_no_call_is_made_twice_and_the_pairs_are_those_of_all_drafts(tmp_path: Path) -> None:
    rows = {
        name: tmp_path / f"{name}.jsonl" for name in ("drafts", "part", "fed", "all", "all_fed")
    }
    drafts(rows["drafts"])
    with chat_server(otherwise=answers) as server:
        scorer = {"scorer": "judge", "model": settings(server, "judge")}
        whole = {"strong": settings(server, "m"), "prompts": PROMPTS.model_dump(mode="json")}
        part = whole | {"select": {"share": 1, "stop": {"scorer": scorer, "rule": RULE}}}
        given = {"drafts": [rows["drafts"]], "refinements": rows["part"]}
        # A call of the last wave fails for good: the stage ends badly, and its calls are kept.
        late = "guess 11 4"
        server_fails = {"on": True}

        def failing(body: dict[str, Any]) -> Fate:
            if server_fails["on"] and late in body["messages"][-1]["content"]:
                return error(400, "no")
            return answers(body)

        with chat_server(otherwise=failing) as other:
            strong = {**settings(server, "m"), "base_url": other.url}
            with pytest.raises(ContractError):
                stages.run("refine", part | {"strong": strong}, **given)
            before = other.calls + server.calls
            server_fails["on"] = False
            stages.run("refine", part | {"strong": strong}, **given)
            assert other.calls + server.calls <= before + 3
            made = other.calls
            stages.run("refine", part | {"strong": strong}, **given)
            assert other.calls == made
            assert all(count == 1 for said, count in other.asked().items() if late not in said)
        calls = sum(1 + max(number % 6 + 1, 3) for number in range(12))
        assert made <= calls + 1 < 12 * 7
        stages.run("score", {"scorer": scorer}, refinements=[rows["part"]], feedback=rows["fed"])
        judged = server.asked()
        assert set(judged.values()) == {1}, "score finds what refine had judged"
        stages.run("refine", whole, drafts=[rows["drafts"]], refinements=rows["all"])
        stages.run("score", {"scorer": scorer}, refinements=[rows["all"]], feedback=rows["all_fed"])
    assert pairs(rows["fed"]) == pairs(rows["all_fed"]) and len(pairs(rows["fed"])) == 24


def pairs(feedback: Path) -> list[tuple[str, str, str]]:
    found = []
    for group in io.groups(feedback, Feedback):
        for pair in preferences.pairs(group, PairRule.model_validate(RULE), PROMPTS.draft):
            found.append((pair.query, pair.chosen[0].content, pair.rejected[0].content))
    return found
