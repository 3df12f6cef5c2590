"""Texts and messages that hypothesis draws."""

from hypothesis import strategies as st

from cowest.records import Message

TEXT = st.text(st.characters(codec="utf-8"))
MESSAGES = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=TEXT),
    max_size=4,
)
