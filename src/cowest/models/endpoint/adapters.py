"""Adapters that a vLLM server loads at run time, by names that hold their digests.

Several processes may ask a server for one adapter, as the shards of a turn do. Whoever had it
loaded has it let go in the end; who still asks for it then has it loaded once more.

The server reads the adapter's folder itself, so it must see it under the same path: on the same
machine, or on a volume that both mount alike.
"""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from cowest.errors import CallError, ModelError
from cowest.models.endpoint.complaints import complaint_in, said
from cowest.models.endpoint.settings import Endpoint
from cowest.net.client import Client, Reply
from cowest.net.connections import LostError

LONGEST = 400
"""Characters of what the server says that are shown."""
UNKNOWN = 404
"""Status of a call for an adapter that the server has let go."""
TIMES = 3
"""Times that a call has its adapter loaded again: others may let it go again in between."""


class HeldAdapter:
    """An adapter that a server holds, for as long as this process asks for it."""

    def __init__(self, config: Endpoint, key: str | None, name: str, adapter: Path) -> None:
        self._config, self._key, self._name, self._adapter = config, key, name, adapter
        self._ours = False
        """True once the server loaded it for this process, which then has it let go."""

    async def load(self) -> None:
        """Has the server load it, if it has none of its name. Raises what `load` raises."""
        loaded = await load(self._config, self._key, self._name, self._adapter)
        self._ours = self._ours or loaded

    async def answered(self, post: Callable[[], Awaitable[Reply]]) -> Reply:
        """Makes a call by `post`, again after a load where the server has let the adapter go.

        Raises what `load` raises, and LostError.
        """
        reply = await post()
        for _ in range(TIMES):
            if reply.status != UNKNOWN:
                break
            await self.load()
            reply = await post()
        return reply

    async def unload(self) -> None:
        """Has the server let it go, if it was loaded for this process."""
        if self._ours:
            await unload(self._config, self._key, self._name)


async def load(config: Endpoint, key: str | None, name: str, adapter: Path) -> bool:
    """Has the server load an adapter; False if it had one of this name.

    Raises CallError for a server that is out of reach, and ModelError for one that refuses.
    """
    body = {"lora_name": name, "lora_path": str(adapter.absolute())}
    try:
        reply = await _post(config, key, "/load_lora_adapter", body)
    except LostError as lost:
        raise CallError(
            f"{config.model} at {config.base_url} is out of reach ({said(str(lost), key)}): is the "
            "server up?"
        ) from None
    if reply.status == 200:
        return True
    complaint = said(complaint_in(reply.content).message, key, LONGEST)
    if reply.status == 400 and "already been loaded" in complaint:
        return False
    mend = "it must be trained on the base that the server holds, and lie at that path there too"
    if reply.status in (404, 405) and "adapter" not in complaint.lower():
        mend = (
            "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its "
            "environment"
        )
    raise ModelError(
        f"{config.model} at {config.base_url} does not load {adapter} (HTTP {reply.status}: "
        f"{complaint or 'no reason'}): {mend}"
    )


async def unload(config: Endpoint, key: str | None, name: str) -> None:
    """Has the server forget an adapter; says so on standard error if it does not."""
    try:
        reply = await _post(config, key, "/unload_lora_adapter", {"lora_name": name})
        why = f"HTTP {reply.status}"
        # One that was restarted meanwhile holds it no more.
        if reply.status in (200, 404):
            return
    except LostError as lost:
        why = said(str(lost), key)
    print(f"{config.base_url} still holds the adapter {name} ({why})", file=sys.stderr)


async def _post(config: Endpoint, key: str | None, path: str, body: dict[str, str]) -> Reply:
    """Makes one request. Raises LostError."""
    client = Client(f"{config.base_url}{path}", key, config.timeout, config.forbids)
    try:
        return await client.post(body)
    finally:
        await client.close()
