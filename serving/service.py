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
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402

from cowest.config import load, parse, section  # noqa: E402
from cowest.errors import CoWestError, RecordError  # noqa: E402
from cowest.online.desk import Desk, read  # noqa: E402
from cowest.online.live import ServeConfig  # noqa: E402
