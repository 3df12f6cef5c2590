"""The shelf: the versions that may answer, each opened with its policy, and the strong model."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

from cowest import version
from cowest.models import AnyProvider
from cowest.models.openai import OpenAIConfig
from cowest.online.baked import Baked
from cowest.online.breaker import Breaker
from cowest.online.live import ServeConfig, champion_of, opened
from cowest.online.upstream import Upstream
from cowest.prompts import Prompts
from cowest.protocols import AsyncChatModel, Registry


class Shelf(Protocol):
    """The place that a service takes its versions from."""

    async def champion(self) -> int:
        """Returns the version that should answer. Raises RegistryError if there is none."""
        ...

    def strong(self) -> AbstractAsyncContextManager[Upstream]:
        """Opens the strong model, which all versions share."""
        ...

    def policy(self, number: int) -> AbstractAsyncContextManager[tuple[Prompts, Upstream]]:
        """Opens the policy of a version, and gives it with the version's prompts."""
        ...


class RegistryShelf:
    """The versions of the registry that the settings name."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self._registry: Registry | Baked | None = None
        # MLflow tries a server that is down for minutes, and nothing is said meanwhile. Whoever
        # asks here asks again.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

    async def champion(self) -> int:
        """Asks the registry in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self._champion)

    @asynccontextmanager
    async def strong(self) -> AsyncIterator[Upstream]:
        """Opens the strong model of the settings."""
        config = self.config
        patience = config.deadline * (1 - config.draft_share) / 2
        async with _opened(config.strong, None, config.cache) as model:
            yield Upstream(model, Breaker(config.breaker, "the strong model"), patience)

    @asynccontextmanager
    async def policy(self, number: int) -> AsyncIterator[tuple[Prompts, Upstream]]:
        """Fetches a version, and opens its policy."""
        config = self.config
        # A call must have had half of its usual time before its lateness counts.
        patience = config.deadline * config.draft_share / 2
        async with AsyncExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="cowest."))
            folder = Path(temporary) / "version"
            await asyncio.to_thread(self._open().fetch, number, folder)
            trained = await asyncio.to_thread(version.expect, folder)
            opening = _opened(config.policy, folder / "adapter", config.cache)
            model = await stack.enter_async_context(opening)
            breaker = Breaker(config.breaker, "the policy")
            yield trained.prompts, Upstream(model, breaker, patience)

    def _champion(self) -> int:
        return champion_of(self._open())

    def _open(self) -> Registry | Baked:
        if self._registry is None:
            self._registry = opened(self.config)
        return self._registry


def _opened(
    provider: AnyProvider, adapter: Path | None, cache: bool
) -> AbstractAsyncContextManager[AsyncChatModel]:
    """Opens a model for people who wait; only the calls of an endpoint can be kept."""
    if isinstance(provider, OpenAIConfig):
        return provider.open_async(adapter, cache=cache)
    return provider.open_async(adapter)
