"""The service, with a policy whose decoding thread breaks off at the question `Break off.`

`python -m tests.breaking serve`. It is opened again when a file `go on` lies in the project.
"""

import runpy
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cowest.models.decoding import HFModel
from cowest.models.hf import HFConfig
from cowest.models.prefixes import Prefix, Prefixes
from cowest.protocols import Request

ASKED = "Break off."
GO_ON = Path("go on")


def main() -> None:
    """Serves."""
    tokens, longest, open_model = HFModel.tokens, Prefixes.longest, HFConfig.open
    opened: list[HFConfig] = []
    breaks: list[list[int]] = []

    def noting(model: HFModel, request: Request) -> list[int]:
        prompt = tokens(model, request)
        if any(ASKED in message.content for message in request.messages):
            breaks.append(prompt)
        return prompt

    def breaking(prefixes: Prefixes, prompt: Sequence[int]) -> Prefix:
        if prompt in breaks:
            raise ZeroDivisionError(ASKED)
        return longest(prefixes, prompt)

    def open_again(config: HFConfig, *given: Any) -> AbstractContextManager[Any]:
        # In the thread that loads, so that others are answered meanwhile.
        while opened and not GO_ON.exists():
            time.sleep(0.01)
        opened.append(config)
        return open_model(config, *given)

    HFModel.tokens = noting  # type: ignore[method-assign]
    Prefixes.longest = breaking  # type: ignore[method-assign]
    HFConfig.open = open_again  # type: ignore[method-assign,assignment]
    runpy.run_module("cowest_serving", run_name="__main__")


if __name__ == "__main__":
    main()
