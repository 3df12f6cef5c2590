"""The champion and the strong model behind HTTP: `cowest.online`, mounted on BentoML.

    python -m cowest_serving serve              (in a project's folder, or make serve)
    curl localhost:3000/ask -H 'content-type: application/json' \\
        -d '{"question": "Which country makes the Phoenix fan?"}'
    bentoml build -f serving/bentofile.yaml     (in the repository's root)

POST /ask returns the answer, the draft behind it, and the version that drafted. The status is 200;
400 if the body asks nothing; 502 if a model gave no answer; 503 while no model can be asked.
GET /livez is 200 at once. GET /readyz is 503 with the reason until both models have answered, then
200. COWEST_PARAMS names the settings file (params.yaml); its section `serve` is read.
"""

import os
from pathlib import Path

from cowest import environment

# Before bentoml is imported, since it reads then whether it may phone home.
environment.settle()

import bentoml  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402
from starlette.responses import JSONResponse  # noqa: E402

from cowest.config import enter, load, parse, section  # noqa: E402
from cowest.errors import CoWestError  # noqa: E402
from cowest.online.desk import Ask, Desk  # noqa: E402
from cowest.online.live import Answer, ServeConfig  # noqa: E402


@bentoml.service(name="cowest", traffic={"timeout": 300, "max_concurrency": 32})
class CoWest:
    """A small policy drafts, a strong model refines."""

    def __init__(self) -> None:
        # The project may be mounted anywhere, and its settings name files beside them.
        params = enter(Path(os.environ.get("COWEST_PARAMS") or "params.yaml"))
        self.desk = Desk(
            parse(ServeConfig, section(load(params), "serve", str(params)), f"{params}: serve")
        )

    @bentoml.api
    def ask(self, asked: Ask, /) -> Answer:
        """One question: `question` in words, or `messages` that end with one."""
        live = self.desk.live()
        if live is None:
            # BentoML sends a response of ours as it is.
            return _refused(503, self.desk.reason())  # type: ignore[return-value]
        try:
            return live.answer(asked.prompt)
        except CoWestError as error:
            return _refused(502, str(error))  # type: ignore[return-value]

    async def __is_ready__(self) -> bool:
        if self.desk.live() is None:
            raise HTTPException(503, self.desk.reason())
        return True

    @bentoml.on_shutdown
    def close(self) -> None:
        self.desk.close()


def _refused(status: int, reason: str) -> JSONResponse:
    """A response with its reason, so that a client can tell whether to ask again."""
    # BentoML masks the message of an exception with a status of 500 and above.
    return JSONResponse({"error": reason}, status_code=status)
