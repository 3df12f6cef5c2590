"""The service, with a policy whose decoding thread breaks off at the question `Break off.`

`python -m tests.breaking serve`. It is opened again when a file `go on` lies in the project.
"""

import runpy
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from cowest.models.batching import Batching, Call
from cowest.models.hf import HFConfig

ASKED = "Break off."
GO_ON = Path("go on")


def main() -> None:
    """Serves."""
    prepare, open_model = Batching._read, HFConfig.open
    opened: list[HFConfig] = []

    def read(batching: Batching, most: int) -> int:
        for call in batching._reading:
            if _asks_it(call):
                raise ZeroDivisionError(ASKED)
        return prepare(batching, most)

    def open_again(config: HFConfig, *given: Any) -> AbstractContextManager[Any]:
        # In the thread that loads, so that others are answered meanwhile.
        while opened and not GO_ON.exists():
            time.sleep(0.01)
        opened.append(config)
        return open_model(config, *given)

    Batching._read = read  # type: ignore[method-assign]
    HFConfig.open = open_again  # type: ignore[method-assign,assignment]
    runpy.run_module("cowest_serving", run_name="__main__")


def _asks_it(call: Call) -> bool:
    return any(ASKED in message.content for message in call.request.messages)


if __name__ == "__main__":
    main()
