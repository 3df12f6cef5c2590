"""The egress filter against a real server that shows every request body that reached it."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cowest import collaboration, io, stages
from cowest.config import Sampling
from cowest.errors import ConfigError, ContractError
from cowest.ledger import store
from cowest.ledger.account import egress
from cowest.models.egress import EgressConfig, Filter
from cowest.models.estimate import Counting
from cowest.models.openai import OpenAIConfig
from cowest.protocols import Completion, Request, Served
from cowest.records import Draft, Feedback, Message
from tests import servers
from tests.endpoints import parts, whole
from tests.factories import make_query
from tests.servers import ChatServer, Fate, chat_server, completion, said, streamed

pytestmark = pytest.mark.usefixtures("own_store")

KEY = "sk-proj-aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0dF2hJ4kL6nP8rS0uV3"
PLANTED = {
    "email": "ann.lee@example.com",
    "card": "4111 1111 1111 1111",
    "phone": "+49 30 901820",
    "secret": KEY,
    "term": "Project Falcon",
    "iban": "DE89 3704 0044 0532 0130 00",
    "national_id": "219-09-9998",
}
planted_in = partial(servers.planted_in, PLANTED)
TERMS = ["project falcon"]


def settings(server: ChatServer, on_found: str, **egress: Any) -> dict[str, Any]:
    filter_ = {"on_found": on_found, "terms": TERMS, **egress}
    return {
        "provider": "openai",
        "model": "tiny",
        "base_url": server.url,
        "key_env": None,
        "backoff": 0.01,
        "egress": filter_,
    }


def config(server: ChatServer, on_found: str, **egress: Any) -> OpenAIConfig:
    return OpenAIConfig(**settings(server, on_found, **egress))


def ask(*texts: str) -> Request:
    roles = ["user", "assistant"] * len(texts)
    return Request(
        tuple(Message(role=role, content=text) for role, text in zip(roles, texts, strict=False)),
        Sampling(),
    )  # type: ignore[arg-type]


def answers(model: OpenAIConfig, *texts: str) -> list[Completion]:
    with model.open() as opened:
        return list(opened.generate(ask(text) for text in texts))


def test_masks_leave_and_are_undone_in_the_answer() -> None:
    with chat_server() as server:
        (found,) = answers(
            config(server, "mask"),
            "Write to ann.lee@example.com and bob@example.com, not ann.lee@example.com.",
        )
        (body,) = server.bodies
    assert body["messages"][-1]["content"] == "Write to [EMAIL_1] and [EMAIL_2], not [EMAIL_1]."
    assert (
        found.text
        == "answer to Write to ann.lee@example.com and bob@example.com, not ann.lee@example.com."
    )


def test_masks_stay_in_the_answer_where_that_is_asked() -> None:
    with chat_server() as server:
        (found,) = answers(config(server, "mask", unmask=False), "Write to ann.lee@example.com.")
    assert found.text == "answer to Write to [EMAIL_1]."


def test_shots_and_all_messages_of_a_request_are_masked_alike() -> None:
    request = ask(
        "Who is bob@example.com?", "A colleague of ann.lee@example.com.", "And ann.lee@example.com?"
    )
    with chat_server() as server, config(server, "mask").open() as model:
        list(model.generate([request]))
    (body,) = server.bodies
    assert [m["content"] for m in body["messages"]] == [
        "Who is [EMAIL_1]?",
        "A colleague of [EMAIL_2].",
        "And [EMAIL_2]?",
    ]


@pytest.mark.parametrize("on_found", ["mask", "refuse"])
def test_a_number_that_another_message_names_does_not_leave(on_found: Any) -> None:
    filter_ = Filter(EgressConfig(on_found=on_found), "tiny")
    passed = filter_.passed(ask("Hello.", "Your SSN?", "219099998"))
    assert passed.found == {"national_id": 1}
    sent = passed.request and [message.content for message in passed.request.messages]
    assert sent == (["Hello.", "Your SSN?", "[NATIONAL_ID_1]"] if on_found == "mask" else None)


def test_a_refused_row_fails_in_its_place_and_no_reason_says_what_was_found() -> None:
    texts = [
        "a",
        f"mail {PLANTED['email']}",
        f"pay {PLANTED['card']} and {PLANTED['email']}",
        "b",
        f"key {KEY}",
    ]
    with chat_server() as server, store.accounting("refine") as account:
        found = answers(config(server, "refuse"), *texts)
        assert server.asked() == {"a": 1, "b": 1}
    assert [c.text for c in found] == ["answer to a", None, None, "answer to b", None]
    assert found[1].failed == "not sent: the egress filter found 1 email"
    assert found[2].failed == "not sent: the egress filter found 1 card, 1 email"
    assert {c.finish for c in found if c.text is None} == {"failed"}
    assert not planted_in([c.failed for c in found])
    assert (account.requests, account.answered, account.aside) == (5, 2, 3)
    assert account.line().endswith(
        "; egress kept in 1 card, 2 email, 1 secret (in 3 of the requests)"
    )


def test_where_all_are_refused_nothing_is_called() -> None:
    with chat_server() as server:
        found = answers(
            config(server, "refuse"), *[f"row {n}: {PLANTED['email']}" for n in range(500)]
        )
        assert server.calls == 0 and [c.text for c in found] == [None] * 500


def test_the_account_says_how_much_was_masked_and_never_what() -> None:
    with chat_server() as server, store.accounting("refine") as account:
        answers(
            config(server, "mask"),
            "nothing",
            *PLANTED.values(),
            f"{PLANTED['email']} of {PLANTED['term']}",
        )
    said = account.line()
    assert said.endswith(
        "; egress masked 1 card, 2 email, 1 iban, 1 national_id, 1 phone, 1 secret, 2 term (in 8 "
        "of the requests)"
    )
    assert not planted_in(said)


def test_what_is_let_go_is_counted_for_outside_and_changes_nothing() -> None:
    text = f"mail {PLANTED['email']}"

    class Echo:
        name = "echo"

        def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
            return (Completion(request.messages[-1].content, self.name) for request in requests)

    allow, echo = EgressConfig(), Echo()
    assert allow.over(echo, outside=False) is echo
    assert EgressConfig(detect=()).over(echo, outside=True) is echo
    with store.accounting("refine") as account:
        (found,) = allow.over(echo, outside=True).generate([ask(text)])
    assert found == Completion(text, "echo")
    assert account.egress() == ["egress let go 1 email (in 1 of the requests)"]


def test_an_answer_is_known_by_what_was_sent(own_store: Path) -> None:
    """So a filter that lets a request through as it is asks nothing again, and one masked
    request is one call, whoever it is about.
    """
    with chat_server() as server:
        plain, masked = config(server, "allow"), config(server, "mask")
        answers(plain, "no secrets")
        answers(masked, "no secrets")
        assert server.calls == 1
        ann, bob = answers(masked, "Write to ann.lee@example.com.", "Write to bob@example.com.")
        assert server.calls == 2 and (ann.text, bob.text) == (
            "answer to Write to ann.lee@example.com.",
            "answer to Write to bob@example.com.",
        )
        answers(plain, "Write to ann.lee@example.com.")
        assert server.calls == 3


def test_masks_are_a_part_of_the_name_and_the_other_ways_are_not() -> None:
    with chat_server() as server:
        names = {}
        for case, (on_found, more) in {
            "off": ("mask", {"detect": ()}),
            "allow": ("allow", {}),
            "refuse": ("refuse", {}),
            "mask": ("mask", {}),
            "again": ("mask", {}),
            "left": ("mask", {"unmask": False}),
            "terms": ("mask", {"terms": ["x"]}),
            "ip": ("mask", {"detect": ["ip"]}),
        }.items():
            with config(server, on_found, **more).open() as model:
                names[case] = model.name
                (found,) = model.generate([ask("hello")])
                assert found.model == model.name, (
                    "an answer from the store bears the name of who was asked"
                )
        assert server.calls == 1
    plain = OpenAIConfig(model="tiny", base_url=server.url).name
    assert names["off"] == names["allow"] == names["refuse"] == plain
    assert names["mask"] == names["again"] and len({*names.values()}) == 5


def test_the_store_holds_what_came_back_and_nothing_that_was_masked(own_store: Path) -> None:
    with chat_server() as server:
        found = answers(
            config(server, "mask"), *(f"Tell me of {planted}!" for planted in PLANTED.values())
        )
    assert planted_in([c.text for c in found]) == set(PLANTED), "here it is put back"
    kept = b"".join(path.read_bytes() for path in own_store.rglob("*") if path.is_file())
    assert kept and not [kind for kind, planted in PLANTED.items() if planted.encode() in kept]
    assert b"[EMAIL_1]" in kept


def test_a_masked_call_is_not_estimated_again() -> None:
    with chat_server() as server:
        model = config(server, "mask")
        answers(model, f"mail {PLANTED['email']}")
        counting = Counting(model)
        list(
            model.egress.over(counting, outside=False, counted=False).generate(
                [ask(f"mail {PLANTED['email']}"), ask("new")]
            )
        )
    assert (counting.estimate.stored, counting.estimate.calls) == (1, 1)


def test_terms_of_a_file_that_is_not_there_stop_before_any_call(tmp_path: Path) -> None:
    with chat_server() as server, pytest.raises(ConfigError, match=r"terms_file .* can't be read"):
        answers(config(server, "mask", terms_file=tmp_path / "none.txt"), "x")
    assert server.calls == 0


def drafts(path: Path) -> Path:
    """Six queries, with something planted in the question, in the draft, or in both."""
    rows = []
    for number, planted in enumerate(PLANTED.values()):
        query = make_query(
            number, f"What of {planted}? ({number})", targets=(f"Ask {planted}",), split="train"
        )
        rows += [
            Draft(**query.model_dump(), sample=n, draft=draft, policy="p")
            for n, draft in enumerate([f"It is {planted}.", "Nothing."])
        ]
    io.write(path, rows)
    return path


@pytest.mark.parametrize("on_found", ["mask", "refuse"])
def test_no_body_of_refine_and_judge_holds_what_was_planted(tmp_path: Path, on_found: str) -> None:
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("drafts", "refinements", "feedback")}
    drafts(paths["drafts"])
    shot = {"user": f"Who has {PLANTED['card']}?", "assistant": f"{PLANTED['email']} has."}
    prompts = {
        "refine": {"user": "{query}\n{draft}", "system": f"You work for {PLANTED['term']}."},
        "solo": {"user": "{query}", "shots": [shot]},
    }
    with chat_server() as server:
        refine = {"strong": settings(server, on_found), "prompts": prompts, "max_failed": None}
        stages.run("refine", refine, drafts=[paths["drafts"]], refinements=paths["refinements"])
    with chat_server(otherwise=Fate(body=completion("7"))) as judge:
        score = {
            "scorer": {"scorer": "judge", "model": settings(judge, on_found)},
            "max_failed": None,
        }
        stages.run("score", score, refinements=[paths["refinements"]], feedback=paths["feedback"])
    rows = list(io.read(paths["feedback"], Feedback))
    assert len(rows) == 14
    if on_found == "refuse":
        assert server.calls == judge.calls == 0, "the shot holds something, so every row does"
        assert all(
            row.failed and row.failed.startswith("solo: not sent: the egress filter found ")
            for row in rows
        )
    else:
        assert all(row.failed is None and row.score == 0.7 for row in rows)
        assert {kind for row in rows for kind in planted_in(row.refinement)} == set(PLANTED), (
            "what was masked is put back"
        )
        assert server.calls == 21 and judge.calls > 21
    bodies = [*server.bodies, *judge.bodies]
    assert [planted_in(body) for body in bodies if planted_in(body)] == []


def test_refused_rows_fail_the_stage_as_other_failures_do(tmp_path: Path) -> None:
    with (
        chat_server() as server,
        pytest.raises(ContractError, match="the egress filter found") as raised,
    ):
        refine = {
            "strong": settings(server, "refuse"),
            "prompts": {"refine": {"user": "{query} {draft}"}, "solo": {}},
        }
        stages.run(
            "refine",
            refine,
            drafts=[drafts(tmp_path / "d.jsonl")],
            refinements=tmp_path / "r.jsonl",
        )
    assert not planted_in(str(raised.value))


def test_a_question_that_is_asked_and_answered(tmp_path: Path) -> None:
    """What `cowest ask` and the service do: `collaboration.answer` with the models that their
    settings open.
    """
    from cowest.models.scripted import ScriptedConfig, ScriptRule
    from cowest.prompts import Prompts, Template

    prompts = Prompts(refine=Template(user="{query}\n{draft}"), solo=Template())
    policy = ScriptedConfig(rules=(ScriptRule(match="", replies=(f"Pay with {PLANTED['card']}",)),))
    with (
        chat_server() as server,
        policy.open() as drafting,
        config(server, "mask").open() as strong,
    ):
        asked = (Message(role="user", content=f"Where is {PLANTED['email']}?"),)
        _, refined = collaboration.answer(asked, drafting, strong, prompts, Sampling(), Sampling())
        assert [body["messages"][-1]["content"] for body in server.bodies] == [
            "Where is [EMAIL_1]?\nPay with [CARD_1]"
        ]
    assert (
        refined
        and refined.text == f"answer to Where is {PLANTED['email']}?\nPay with {PLANTED['card']}"
    )
    assert any(line.startswith("egress masked ") for line in egress())


def served(model: OpenAIConfig, *texts: str) -> list[list[str | Completion]]:
    """The parts of the answers that people get, each to a conversation of one text."""

    async def ask_all() -> list[list[str | Completion]]:
        async with model.open_async() as opened:
            return [await parts(opened, ask(text)) for text in texts]

    return asyncio.run(ask_all())


def test_masks_are_undone_in_a_stream_wherever_its_pieces_end() -> None:
    pieces = [
        said(text) for text in ("Write to [", "EMA", "IL_1", "], or to [EMAIL_3] ", "[EMAIL_")
    ]
    fate = Fate(pieces=[*pieces, *streamed("", usage=True)])
    with chat_server(otherwise=fate) as server:
        (found,) = served(config(server, "mask"), "Is it ann.lee@example.com?")
        (plain,) = served(config(server, "mask", unmask=False), "Is it ann.lee@example.com?")
        assert [body["messages"][-1]["content"] for body in server.bodies] == [
            "Is it [EMAIL_1]?"
        ] * 2
    assert whole(found).text == "Write to ann.lee@example.com, or to [EMAIL_3] [EMAIL_"
    assert "[EMAIL_1]" not in "".join(map(str, found))
    assert whole(plain).text == "Write to [EMAIL_1], or to [EMAIL_3] [EMAIL_"


def test_a_stream_is_masked_and_unmasked_as_a_stage_is(own_store: Path) -> None:
    text = "Write to ann.lee@example.com and bob@example.com, not ann.lee@example.com."
    long = f"{text} {'A word. ' * 2000}"
    with chat_server() as server:
        model = config(server, "mask")
        stage = answers(model, text, long)
        assert [whole(found) for found in served(model, text, long)] == stage
        assert not planted_in(server.bodies)
        with model.open() as opened:
            assert {found.model for found in stage} == {opened.name}
    rows = store.open_store().fetch("SELECT text FROM calls")
    assert len(rows) == 2 and not planted_in(rows), "what is served is not kept"


def test_nothing_of_a_served_request_that_may_not_leave_is_sent() -> None:
    with chat_server() as server:
        found = served(config(server, "refuse"), "ann.lee@example.com, call +49 30 901820", "well")
        assert [body["messages"][-1]["content"] for body in server.bodies] == ["well"]
    refused, good = map(whole, found)
    assert (refused.text, refused.failed) == (
        None,
        "not sent: the egress filter found 1 email, 1 phone",
    )
    assert good.text == "answer to well"


def test_texts_that_end_an_answer_do_not_leave_either() -> None:
    """A person who asks the service gives them, as the conversation."""
    stop = ("well", "ann.lee@example.com")
    request = replace(ask("Is it ann.lee@example.com?"), sampling=Sampling(stop=stop))

    async def asked(model: OpenAIConfig) -> Completion:
        async with model.open_async() as opened:
            stream = opened.stream(request, Served("id", time.monotonic() + 30))
            return whole([part async for part in stream])

    with chat_server() as server:
        refused = asyncio.run(asked(config(server, "refuse")))
        assert not server.bodies
        assert refused.failed == "not sent: the egress filter found 2 email"
        asyncio.run(asked(config(server, "mask")))
        (body,) = server.bodies
    # The model writes what it has seen, and that ends its answer.
    assert body["stop"] == ["well", "[EMAIL_1]"] and not planted_in(body)


def test_who_leaves_a_filtered_stream_cuts_the_connection() -> None:
    async def leave() -> None:
        async with config(server, "mask").open_async() as model:
            stream = model.stream(ask("ann@example.com"), Served("r", time.monotonic() + 20))
            assert await anext(stream) == "To "
            await stream.aclose()
            until = time.monotonic() + 10
            while not server.cut:
                assert time.monotonic() < until
                await asyncio.sleep(0.01)

    with chat_server(otherwise=Fate(pieces=[said("To [EMA"), 20.0])) as server:
        asyncio.run(leave())
