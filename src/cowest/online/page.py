"""`GET /`: the page on which a person asks, watches draft and answer, and gives a verdict.

It is one document with its style and script inside, so that all parts are of one version and under
one path. It loads nothing from other hosts, and its content security policy makes the browser
enforce that.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

SCRIPTS = ("words.js", "service.js", "page.js")
"""The parts of the script, in their order."""
ICON = "data:"
"""The page's icon stands in the page."""


def page(_: Request) -> Response:
    """Returns the page."""
    document, policy = _made()
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
    }
    return Response(document, 200, headers, "text/html; charset=utf-8")


@cache
def _made() -> tuple[bytes, str]:
    """The document, and the policy under which a browser shows it."""
    web = files("cowest.online") / "web"
    palette = files("cowest.report") / "palette.css"
    style = palette.read_text(encoding="utf-8") + (web / "page.css").read_text(encoding="utf-8")
    script = '"use strict";\n'
    for name in SCRIPTS:
        script += (web / name).read_text(encoding="utf-8")
    document = (web / "page.html").read_text(encoding="utf-8")
    document = document.replace("{style}", style).replace("{script}", script)
    rules = (
        "default-src 'none'",
        # Nothing runs and nothing is styled but what we wrote, to the letter.
        f"script-src '{_digest(script)}'",
        f"style-src '{_digest(style)}'",
        "connect-src 'self'",
        f"img-src {ICON}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # A text that a model wrote can't become HTML, not even by a slip of ours.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return document.encode(), "; ".join(rules)


def _digest(text: str) -> str:
    """The SHA-256 of a text as a policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
