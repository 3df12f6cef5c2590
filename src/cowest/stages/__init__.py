"""The stages, in order. Each is one module with a `Config` and a `main(ports..., config)`.

`validate@queries` is the stage `validate` with the settings `validate.queries`: one module, two places in the line.
"""

import importlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from cowest import environment
from cowest.config import parse
from cowest.errors import ConfigError
from cowest.ports import config_of, connect, takes_shard

STAGES = (
    "pin", "prepare", "validate@queries", "validate@corpus", "sft", "draft", "refine", "score", "validate@feedback", "pair",
    "validate@pairs", "dpo", "evaluate", "compare", "register",
)  # fmt: skip


def main_of(stage: str) -> Callable[..., None]:
    """The `main` of a stage; for `validate@pairs`, of `validate`."""
    if stage not in STAGES:
        raise ConfigError(f"{stage!r} is no stage: the stages are {', '.join(STAGES)}")
    module = importlib.import_module(f"cowest.stages.{stage.partition('@')[0]}")
    found: Callable[..., None] = module.main
    return found


def run(
    stage: str, config: Mapping[str, Any], shard: tuple[int, int] | None = None, **ports: Any
) -> None:
    """Checks settings and inputs, runs one stage, says what became of its calls, and writes what it took into the ledger.

    Raises ConfigError and InputError before anything is spent, and what the stage raises.
    """
    environment.settle()
    from cowest.ledger import store

    main = main_of(stage)
    settings = parse(config_of(main), dict(config), f"settings of {stage}")
    paths = connect(main, ports, stage)
    if shard is not None and not takes_shard(main):
        raise ConfigError(f"{stage} has no shards: run it whole")
    extra = {"shard": shard} if shard is not None else {}
    started = time.monotonic()
    with store.accounting(stage) as account:
        try:
            main(**paths, config=settings, **extra)
        except BaseException:
            if account.requests:
                print(f"{stage} stopped: {account.line()}", file=sys.stderr)
            raise
        account.seconds = time.monotonic() - started
        assert account.requests == account.answered + account.aside, (
            f"{stage} lost completions: {account.line()}"
        )
        if account.requests:
            print(f"{stage}: {account.line()}", file=sys.stderr)
