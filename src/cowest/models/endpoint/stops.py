"""Reasons to stop a stage, with one wording for single calls and for batches."""

from cowest.errors import BudgetError, CallError
from cowest.ledger import account
from cowest.models.endpoint.complaints import said
from cowest.models.endpoint.settings import Endpoint

LONGEST = 600
"""Maximum length of a reason, in characters."""
KEPT = "what was answered is kept"


def stopped(config: Endpoint, key: str | None, why: str, kept: str = KEPT) -> CallError:
    """Makes the error for an endpoint that would answer no call: where, why, and what to do.

    `why` may quote the endpoint, so the key and characters that steer a terminal are taken out.
    """
    why = said(why, key, LONGEST)
    return CallError(f"{config.model} at {config.base_url} {why}; {kept}: mend it and run again")


def over_budget(config: Endpoint, reached: str) -> BudgetError:
    """Makes the error for a spent budget: which model, where the turn stands, and what to do."""
    return BudgetError(f"{config.model}: {reached}; {KEPT}: raise pin.budget and run again")


def check_version(config: Endpoint, name: str) -> None:
    """Raises CallError if the model changed within the turn and `on_version_change` is stop."""
    if config.on_version_change != "stop":
        return
    versions = account.reported(name)
    if len(versions) > 1:
        raise CallError(
            f"{name} changed in the middle of the turn: it reported {' and '.join(versions)}; "
            f"{KEPT}. Name the version that you want as `model`, or set on_version_change to say "
            "to go on with answers of both"
        )
