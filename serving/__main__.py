"""The service over HTTP: run in a project's folder, or name its file: `serve --params FILE`.

python -m cowest_serving serve
    answers with the champion and the strong model, on http://127.0.0.1:3000
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from cowest import environment
from cowest.config import enter, load, parse, section
from cowest.errors import CoWestError


def main() -> NoReturn:
    """Becomes BentoML's server. Exits with 1 for a CoWestError, with 2 for wrong usage."""
    environment.settle()
    given = _parser().parse_args()
    try:
        _enter(given.params)
    except CoWestError as error:
        print(f"cowest_serving: {error}", file=sys.stderr)
        sys.exit(1)
    place = ["--host", given.host, "--port", str(given.port)]
    command = [sys.executable, "-m", "bentoml", "serve", "cowest_serving.service:CoWest", *place]
    # The server takes our place, so that a signal to this process reaches it.
    os.execv(sys.executable, command)  # noqa: S606


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cowest_serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="answer questions over HTTP")
    serving.add_argument(
        "--params",
        type=Path,
        default=Path(os.environ.get("COWEST_PARAMS") or "params.yaml"),
        help="the settings file (params.yaml); the service runs in its folder",
    )
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    serving.add_argument("--port", type=int, default=3000, help="port to listen on (3000)")
    return parser


def _enter(params: Path) -> None:
    """Makes the folder of the settings the working folder. Raises ConfigError."""
    from cowest.online.live import ServeConfig

    # A slip in the settings is one line here; BentoML would show it in a stack of its own.
    parse(ServeConfig, section(load(params), "serve", str(params)), f"{params}: serve")
    os.environ["COWEST_PARAMS"] = str(enter(params))


if __name__ == "__main__":
    main()
