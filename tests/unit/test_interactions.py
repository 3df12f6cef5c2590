"""The row of an answer, and its id."""

from cowest.online.interactions import Interaction, ServedCall, new_id
from cowest.records import Message


def test_an_interaction_comes_back_as_it_was_written() -> None:
    row = Interaction(
        id=new_id(),
        at=1.5,
        seconds=0.5,
        model="cowest",
        version=3,
        prompt=(Message(role="user", content="Where?"),),
        draft="Oslo",
        answer="Norway",
        drafting=ServedCall(model="p", finish="stop", seconds=0.1, first=0.05),
        answering=ServedCall(model="s", finish="length", usd=0.01, seconds=0.3),
        finish="length",
    )
    assert Interaction.model_validate_json(row.model_dump_json()) == row


def test_ids_are_never_the_same() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000
