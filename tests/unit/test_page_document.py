"""The page as text: it holds all that it needs, and its policy forbids all else."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

from starlette.requests import Request

from cowest.online import page

WEB = Path(page.__file__).parent / "web"
SCRIPT = "".join((WEB / name).read_text(encoding="utf-8") for name in page.SCRIPTS)


class Read(HTMLParser):
    """A document's elements with their attributes, and the texts of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("", {}))

    def handle_data(self, data: str) -> None:
        tag = self.elements[-1][0] if self.elements else ""
        if tag in ("style", "script"):
            self.inside[tag] = self.inside.get(tag, "") + data


RESPONSE = page.page(Request({"type": "http"}))
HTML = bytes(RESPONSE.body).decode()
POLICY = RESPONSE.headers["content-security-policy"]


def test_the_policy_names_the_style_and_the_script_to_the_letter() -> None:
    read = Read(HTML)
    for tag in ("style", "script"):
        digest = hashlib.sha256(read.inside[tag].encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in POLICY
    assert "unsafe" not in POLICY and "*" not in POLICY and "http" not in POLICY
    for rule in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert rule in POLICY.split("; ")
    assert read.inside["style"].startswith(":root {") and SCRIPT in read.inside["script"]


def test_the_document_loads_nothing() -> None:
    for tag, attributes in Read(HTML).elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), attributes
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert set(re.findall(r"\w+://[^\s'\"]+", HTML)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in HTML and "@import" not in HTML


def test_texts_become_no_html() -> None:
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment"
    assert not re.search(ways + r"|setHTML|\beval\b|new Function|import\(|srcdoc", SCRIPT)
    assert "localStorage" not in SCRIPT and "document.cookie" not in SCRIPT


def test_what_the_script_looks_for_is_there_once() -> None:
    ids = [found["id"] for _, found in Read(HTML).elements if "id" in found]
    assert len(ids) == len(set(ids))
    named = set(re.findall(r"\bat\(\"([a-z-]+)\"\)|new Panel\(\"([a-z-]+)\"\)", SCRIPT))
    assert named and {one or other for one, other in named} <= set(ids)


def test_each_field_and_button_has_a_name() -> None:
    read = Read(HTML)
    labelled = {found.get("for") for tag, found in read.elements if tag == "label"}
    for tag, found in read.elements:
        if tag in ("textarea", "input") and found.get("type") != "checkbox":
            assert found["id"] in labelled
        if tag == "button":
            assert found.get("type") in ("button", "submit")
        for name in ("aria-labelledby", "aria-describedby", "aria-controls"):
            assert name not in found or f'id="{found[name]}"' in HTML
