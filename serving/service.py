"""The champion and the strong model behind HTTP: `cowest.online`, mounted on BentoML.

    bentoml serve serving.service:CoWest --host 127.0.0.1 --port 3000      (make serve)
    curl localhost:3000/ask -H 'content-type: application/json' -d '{"question": "Which country makes the Phoenix fan?"}'
    bentoml build -f serving/bentofile.yaml                                (in the repository's root)

POST /ask answers with the answer, the draft behind it, and the version that drafted: 200; 400 for a body that asks nothing;
502 when a model gave no answer; 503 while none can be asked. GET /livez is 200 at once; GET /readyz only once both models
have answered, and 503 with the reason before. COWEST_PARAMS names the settings file (params.yaml), section `serve`.
"""

import os
from pathlib import Path

from cowest import environment

environment.settle()  # before bentoml is imported: it would phone home

import bentoml  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402
from starlette.responses import JSONResponse  # noqa: E402

from cowest.config import load, parse, section  # noqa: E402
from cowest.errors import CoWestError  # noqa: E402
from cowest.online.desk import Ask, Desk  # noqa: E402
from cowest.online.live import Answer, ServeConfig  # noqa: E402


@bentoml.service(name="cowest", traffic={"timeout": 300, "max_concurrency": 32})
class CoWest:
    """A small policy drafts, a strong model refines."""

    def __init__(self) -> None:
        params = Path(os.environ.get("COWEST_PARAMS") or "params.yaml")
        self.desk = Desk(
            parse(ServeConfig, section(load(params), "serve", str(params)), f"{params}: serve")
        )

    @bentoml.api
    def ask(self, asked: Ask, /) -> Answer:
        """One question: `question` in words, or `messages` that end with one."""
        live = self.desk.live()
        if live is None:
            return _refused(503, self.desk.reason())  # type: ignore[return-value] (BentoML sends a response of ours as it is)
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
    """BentoML masks what goes wrong with 500 and above; who asks is to know whether it is worth asking again."""
    return JSONResponse({"error": reason}, status_code=status)
