"""The service over HTTP: run in a project's folder, or name its file: `serve --params FILE`.

python -m cowest_serving serve
    answers with the champion and the strong model, on http://127.0.0.1:3000
python -m cowest_serving bento --bake --image NAME:TAG
    makes an image of what answers, the champion in it (needs Docker)
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cowest import environment
from cowest.commands import add_params, settings_help
from cowest.config import enter, load, parse, section
from cowest.errors import ConfigError, CoWestError
from cowest.online.guard import HOW_TO_KEY, is_loopback
from cowest.online.live import ServeConfig


def main() -> None:
    """Serves or packs. Exits with 0 (the service after SIGTERM or SIGINT), 1 for a CoWestError, 2
    for wrong usage, 143 where SIGTERM ended the packing.
    """
    environment.settle()
    given = parser().parse_args()
    # The first process of a container does not end by a signal that it does not take.
    status = 0 if given.command == "serve" else 128 + signal.SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
    try:
        settings = _enter(given.params)
        if given.command == "bento":
            pack(settings, given)
            return
        config = parse(ServeConfig, settings, "serve")
        expect_keys(config, given.host)
        # Only now: BentoML is imported with this, which takes seconds.
        from cowest_serving import server

        server.run(server.bound(given.host, given.port), config)
    except CoWestError as error:
        print(f"cowest_serving: {error}", file=sys.stderr)
        sys.exit(1)


def expect_keys(config: ServeConfig, host: str) -> None:
    """Raises ConfigError if others could reach the service, and would need no key."""
    if not config.keys and host != "localhost" and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: other machines could ask there, and serve.keys has no key, so nobody "
            f"would be answered: {HOW_TO_KEY}. On 127.0.0.1 no key is needed"
        )


def _build_arg(text: str) -> str:
    if text.startswith("="):
        raise argparse.ArgumentTypeError(f"{text!r} names no argument: write NAME or NAME=VALUE")
    return text


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cowest_serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser(
        "serve",
        help="answer questions over HTTP",
        epilog=settings_help.settings(ServeConfig, "serve"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    packing = commands.add_parser(
        "bento",
        help="pack what answers, and make an image of it",
        description="Puts a bento (settings, CoWest itself and a Dockerfile) into BentoML's store, "
        "and prints its tag.",
    )
    packing.add_argument(
        "--image",
        metavar="NAME:TAG",
        help="also make a container image with this name (needs Docker)",
    )
    packing.add_argument(
        "--build-arg",
        action="append",
        type=_build_arg,
        default=[],
        metavar="NAME[=VALUE]",
        help="an ARG of the Dockerfile, as PIP_INDEX_URL or BASE, without a value the "
        "environment's; may be repeated",
    )
    packing.add_argument(
        "--bake",
        action="store_true",
        help="put the champion and the local models in, so that the image needs no registry",
    )
    packing.add_argument(
        "--version", type=int, help="bake this version of the registry, not the champion"
    )
    for command in (serving, packing):
        words = "the settings file (params.yaml); its folder becomes the working folder"
        add_params(command, words, default=os.environ.get("COWEST_PARAMS") or "params.yaml")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    # Its name ends in no PORT: beside a Service named cowest, Kubernetes gives that to every pod.
    serving.add_argument(
        "--port",
        type=int,
        default=os.environ.get("COWEST_LISTEN") or "3000",
        help="port to listen on (COWEST_LISTEN, else 3000)",
    )
    return parser


def _enter(params: Path) -> dict[str, Any]:
    """Makes the folder of the settings the working folder, and returns those of `serve`.

    Raises ConfigError.
    """
    found = section(load(params), "serve", str(params))
    # A slip in the settings is one line here; BentoML would show it in a stack of its own.
    parse(ServeConfig, found, f"{params}: serve")
    os.environ["COWEST_PARAMS"] = str(enter(params))
    return found


def pack(settings: dict[str, Any], given: argparse.Namespace) -> None:
    """Packs, and prints the bento's tag; says on stderr what the image will need besides."""
    from cowest.online import packed
    from cowest_serving import bento

    # Before anything is packed, which takes minutes.
    docker = bento.docker() if given.image is not None else ""
    bake = given.bake or given.version is not None
    tag, config = bento.build(settings, bake, given.version)
    print(tag, flush=True)
    for sentence in packed.lacking(config):
        print(f"note: {sentence}", file=sys.stderr)
    if given.image is not None:
        bento.containerize(docker, tag, given.image, given.build_arg)


if __name__ == "__main__":
    main()
