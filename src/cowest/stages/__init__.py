"""The stages, in order. Each is one module with a `Config` and a `main(ports..., config)`.

`validate@queries` is the stage `validate` with the settings `validate.queries`: one module that
stands in several places of the line.
"""

import importlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from cowest import checkpoints, environment
from cowest.config import parse
from cowest.errors import ConfigError
from cowest.ports import config_of, connect, takes_shard

STAGES = (
    "pin",
    "prepare",
    "validate@queries",
    "validate@corpus",
    "sft",
    "draft",
    "refine",
    "score",
    "validate@feedback",
    "pair",
    "validate@pairs",
    "dpo",
    "evaluate",
    "compare",
    "register",
)


def main_of(stage: str) -> Callable[..., None]:
    """The `main` of a stage; for `validate@pairs`, that of `validate`. Raises ConfigError."""
    if stage not in STAGES:
        raise ConfigError(f"{stage!r} is no stage: the stages are {', '.join(STAGES)}")
    module = importlib.import_module(f"cowest.stages.{stage.partition('@')[0]}")
    found: Callable[..., None] = module.main
    return found


def run(
    stage: str, config: Mapping[str, Any], shard: tuple[int, int] | None = None, **ports: Any
) -> None:
    """Runs one stage: checks settings and inputs first, and accounts for the calls at the end.

    Says what became of the calls, and writes what the stage took into the ledger. Raises
    ConfigError and InputError before anything is spent, and what the stage raises.
    """
    # Before the first import of a library that reads the environment.
    environment.settle()
    environment.spin_if_idle()
    from cowest.ledger import account, store

    main = main_of(stage)
    settings = parse(config_of(main), dict(config), f"settings of {stage}")
    paths = connect(main, ports, stage)
    if shard is not None and not takes_shard(main):
        raise ConfigError(f"{stage} has no shards: run it whole")
    # A stage without shards has no such argument.
    extra = {}
    if shard is not None:
        extra["shard"] = shard
    started = time.monotonic()
    # Of processes that train together, one is the stage.
    counting = store.accounting if checkpoints.is_first() else account.opened
    with counting(stage) as counts:
        try:
            main(**paths, config=settings, **extra)
        except BaseException:
            # Also when it was interrupted: what was answered until then was paid for.
            if counts.requests:
                print(f"{stage} stopped: {counts.line()}", file=sys.stderr)
            raise
        counts.seconds = time.monotonic() - started
        assert counts.requests == counts.answered + counts.aside, (
            f"{stage} lost completions: {counts.line()}"
        )
        if counts.requests:
            print(f"{stage}: {counts.line()}", file=sys.stderr)
