"""A call's key: written by hand for speed, and still the digest that stores were filled by."""

from hypothesis import given
from hypothesis import strategies as st

from cowest.config import Sampling, digest
from cowest.protocols import Request
from cowest.records import Message
from tests.drawn import MESSAGES, TEXT

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0.1, 2.0),
    top_p=st.floats(0.1, 1.0),
    max_tokens=st.integers(1, 9),
    stop=st.lists(TEXT.filter(bool), max_size=2).map(tuple),
    n=st.integers(1, 3),
)


@given(TEXT, MESSAGES, SAMPLINGS, st.integers(0, 5))
def test_a_key_is_the_digest_of_what_the_answer_depends_on(
    model: str, messages: list[Message], sampling: Sampling, sample: int
) -> None:
    plain = [[message.role, message.content] for message in messages]
    expected = digest([model, plain, sampling.model_dump(mode="json", exclude={"n"}), sample])
    assert Request(tuple(messages), sampling, sample, block=7).key(model) == expected


def test_a_key_that_stores_hold_stays_what_it_was() -> None:
    request = Request(
        (Message(role="user", content='wer\n\u2028 "fragt" \x7f'),), Sampling(max_tokens=8)
    )
    assert (
        request.key("m@host/v1")
        == "0dab96e5ee091d77c39dfd2664f0fd577e2073c1719bc71dd3238b9b49c76051"
    )
