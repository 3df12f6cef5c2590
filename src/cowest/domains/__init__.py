"""Data sets, one a file: raw rows -> queries and corpus, with the prompts and the scorer that go with them.

A domain is a frozen class of settings, as a provider and a scorer are: `{domain: medmcqa, draft: knowledge}`, or its name alone. It has
    rows(raw: Path, intake: Intake) -> Iterator[Query | Demonstration]     one pass: each raw row is used, left out or quarantined
    load(raw: Path, intake: Intake | None) -> Iterator[Query]     what is asked, and what is right; without an intake a bad row raises
    corpus(raw: Path) -> Iterator[Demonstration]                  what the policy is specialised on
    prompts: Prompts                                              what each model is asked
    scorer: AnyScorer                                             what its answers are scored by
"""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field, TypeAdapter

from cowest.domains.handbook import Handbook
from cowest.domains.ifqa import IfQA
from cowest.domains.medmcqa import MedMCQA
from cowest.domains.prosocial import Prosocial
from cowest.prompts import Prompts

AnyDomain = Annotated[Handbook | IfQA | MedMCQA | Prosocial, Field(discriminator="domain")]
"""`domain: handbook`, `ifqa`, `medmcqa` or `prosocial`, with its settings."""
NAMES: tuple[str, ...] = tuple(
    kind.model_fields["domain"].default for kind in get_args(get_args(AnyDomain)[0])
)
_DOMAINS: TypeAdapter[AnyDomain] = TypeAdapter(AnyDomain)


def domain(settings: str | Mapping[str, Any]) -> AnyDomain:
    """A domain, by its name or with its settings. Raises ValueError for a name that is none, and for wrong settings."""
    values = {"domain": settings} if isinstance(settings, str) else settings
    if values.get("domain") not in NAMES:
        raise ValueError(
            f"{values.get('domain')!r} is no domain: give one of {', '.join(NAMES)}, or the prompts themselves"
        )
    return _DOMAINS.validate_python(values)


def _resolve(value: Any) -> Any:
    return (
        domain(value).prompts
        if isinstance(value, str) or (isinstance(value, Mapping) and "domain" in value)
        else value
    )


DomainPrompts = Annotated[Prompts, BeforeValidator(_resolve)]
"""Prompts, or the domain whose prompts they are. Digested after it is resolved, so a changed prompt is a change."""
