"""Settings and questions for a server of `tests.servers`."""

from typing import Any

from cowest.config import Sampling
from cowest.models.openai import OpenAIConfig
from cowest.protocols import Completion, Request
from cowest.records import Message
from tests.servers import ChatServer


def config(server: ChatServer, **settings: Any) -> OpenAIConfig:
    return OpenAIConfig(
        **{
            "model": "tiny",
            "base_url": server.url,
            "key_env": None,
            "backoff": 0.01,
            "timeout": 5,
            **settings,
        }
    )


def ask(text: str, **sampling: Any) -> Request:
    return Request((Message(role="user", content=text),), Sampling(**sampling))


def answers(settings: OpenAIConfig, *texts: str) -> list[Completion]:
    with settings.open() as model:
        return list(model.generate([ask(text) for text in texts]))
