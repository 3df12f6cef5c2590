"""Data sets, one per file: raw rows become queries and a corpus.

A domain is a frozen class of settings, as a provider and a scorer are. It is named with its
settings, `{domain: medmcqa, draft: knowledge}`, or by its name alone. Each has

    rows(raw: Path, intake: Intake) -> Iterator[Query | Demonstration]
        One pass: every raw row is used, left out or quarantined.
    load(raw: Path, intake: Intake | None) -> Iterator[Query]
        What is asked, and what is right. Without an intake a bad row raises.
    corpus(raw: Path) -> Iterator[Demonstration]
        What the policy is specialised on. A bad row raises.
    prompts: Prompts
        What each model is asked.
    scorer: AnyScorer
        What answers are scored by.
"""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field, TypeAdapter

from cowest.domains.handbook import Handbook
from cowest.domains.ifqa import IfQA
from cowest.domains.medmcqa import MedMCQA
from cowest.domains.prosocial import Prosocial
from cowest.domains.sites import Sites
from cowest.prompts import Prompts

AnyDomain = Annotated[Handbook | IfQA | MedMCQA | Prosocial | Sites, Field(discriminator="domain")]
"""`domain: handbook`, `ifqa`, `medmcqa`, `prosocial` or `sites`, with its settings."""
NAMES: tuple[str, ...] = tuple(
    kind.model_fields["domain"].default for kind in get_args(get_args(AnyDomain)[0])
)
_DOMAINS: TypeAdapter[AnyDomain] = TypeAdapter(AnyDomain)


def domain(settings: str | Mapping[str, Any]) -> AnyDomain:
    """The domain of a name, or of a name with settings.

    Raises ValueError for a name that is none, and for wrong settings.
    """
    values = {"domain": settings} if isinstance(settings, str) else settings
    if values.get("domain") not in NAMES:
        raise ValueError(
            f"{values.get('domain')!r} is no domain: give one of {', '.join(NAMES)}, or the "
            "prompts themselves"
        )
    return _DOMAINS.validate_python(values)


def _resolve(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, Mapping) and "domain" in value):
        return domain(value).prompts
    return value


DomainPrompts = Annotated[Prompts, BeforeValidator(_resolve)]
"""Prompts, or the domain whose prompts they are.

Settings are digested with the prompts themselves, so that a changed prompt is a change.
"""
