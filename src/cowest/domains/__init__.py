"""Data sets, one a file: raw rows -> queries and corpus, with the prompts and the notes that go with them.

A domain is a module with
    load(raw: Path) -> Iterator[Query]               what is asked, and what is right
    corpus(raw: Path) -> Iterator[Demonstration]     what the policy is specialised on
    PROMPTS: Prompts                                 what each model is asked
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator

from cowest.prompts import Prompts
from cowest.records import Demonstration, Query

DomainName = Literal["handbook"]


class Domain(Protocol):
    PROMPTS: Prompts

    def load(self, raw: Path) -> Iterator[Query]: ...

    def corpus(self, raw: Path) -> Iterator[Demonstration]: ...


def domain(name: str) -> Domain:
    """The module of a domain."""
    module: Any = importlib.import_module(f"cowest.domains.{name}")
    return module  # type: ignore[no-any-return]


def _resolve(value: Any) -> Any:
    if isinstance(value, str):
        if value not in DomainName.__args__:  # type: ignore[attr-defined]
            raise ValueError(f"{value!r} is no domain: give one of {', '.join(DomainName.__args__)}, or the prompts themselves")  # type: ignore[attr-defined]
        return domain(value).PROMPTS
    return value


DomainPrompts = Annotated[Prompts, BeforeValidator(_resolve)]
"""Prompts, or the name of the domain whose prompts they are. Digested after it is resolved, so a changed prompt is a change."""
