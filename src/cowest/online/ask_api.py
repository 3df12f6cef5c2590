"""The body and the reply of `POST /ask`: one question, or a conversation that ends with one."""

from typing import Self

from pydantic import BaseModel, Field, model_validator

from cowest.records import Message, Record


class Ask(Record):
    """The body of a request: a question, or the messages of a conversation that ends with one.

    The service holds it to `serve.limits`, as every request.
    """

    question: str | None = Field(default=None, min_length=1)
    messages: tuple[Message, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.question is None) == (self.messages is None):
            raise ValueError("give either question or messages")
        last = self.prompt[-1]
        if last.role != "user" or not last.content.strip():
            raise ValueError("the last message must be the user's, and not empty")
        return self

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The conversation as messages; a question is one message of the user."""
        return self.messages or (Message(role="user", content=self.question or ""),)


class Answer(BaseModel):
    """One answered question."""

    answer: str = Field(description="the strong model's answer, with the draft before it")
    draft: str = Field(description="what the policy wrote for it")
    version: int = Field(description="the policy's version in the registry")
    policy: str
    strong: str
