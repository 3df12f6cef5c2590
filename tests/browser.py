"""A real headless Chromium: its flags, what it asked of the network, and pages that tests drive.

A page is driven by Chromium's own protocol over a WebSocket, one message at a time.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ITS_OWN = (
    "accounts.google.com",
    "clients2.google.com",
    "content-autofill.googleapis.com",
    "optimizationguide-pa.googleapis.com",
    "redirector.gvt1.com",  # a dictionary of its language, for what is typed
    "update.googleapis.com",
)
"""Hosts that the browser asks by itself, on whatever page."""
PATIENCE = 60.0
"""Seconds that a test waits for the browser."""
PHONE = 600
"""Pages below this width are a phone's, which is touched."""
CODES = {"Enter": 13, "Tab": 9, "Escape": 27, " ": 32}
"""Keys with their numbers."""
TEXTS = {"Enter": "\r", " ": " "}
"""The texts that those keys write."""


def binary() -> str:
    """The browser's path. Skips the test where there is none, and fails it in CI."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    if os.environ.get("CI"):
        pytest.fail("no Chromium: .ci/run installs it, so that CI never passes without this test")
    pytest.skip("no Chromium here: apt-get install chromium")


def addresses(log: Path) -> list[str]:
    """The addresses that pages asked for, of what the browser's network log holds."""
    kept = []
    for address in sorted(set(re.findall(r'"url":"([^"]+)"', log.read_text(errors="replace")))):
        if not any(f"//{host}/" in address for host in ITS_OWN):
            kept.append(address)
    return kept


class Browser:
    """A browser that runs until `close`."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "net.json"
        """The file of its network requests; whole once it is closed."""
        self.events: list[dict[str, Any]] = []
        """Events that it sent unasked."""
        self._number = 0
        profile = folder / "profile"
        own = [f"--user-data-dir={profile}", f"--log-net-log={self.log}"]
        command = [binary(), *FLAGS, *own, "--remote-debugging-port=0", "about:blank"]
        self._output = (folder / "stderr").open("wb")
        self._process = subprocess.Popen(command, stderr=self._output)
        self._loop = asyncio.new_event_loop()
        try:
            self._wait(self._connect(self._address(profile / "DevToolsActivePort")))
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _wait(self, what: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(what, PATIENCE))

    def _address(self, port: Path) -> str:
        """The address of its protocol, once it says it."""
        ends = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, ValueError):
                number, path = port.read_text().split()
                return f"ws://127.0.0.1:{number}{path}"
            assert time.monotonic() < ends and self._process.poll() is None
            time.sleep(0.02)

    async def _connect(self, address: str) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(address, max_msg_size=0)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of one command."""
        result: dict[str, Any] = self._wait(self._call(method, session, params))
        return result

    async def _call(self, method: str, session: str | None, params: dict[str, Any]) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        await self._socket.send_json(message)
        while True:
            found = json.loads((await self._socket.receive()).data)
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                return found["result"]
            self.events.append(found)

    @contextlib.contextmanager
    def page(
        self, address: str, width: int = 1200, height: int = 800, **media: str
    ) -> Iterator["Tab"]:
        """A page in a tab with a session of its own. media: `color_scheme="dark"` and the like.

        The page may complain of nothing.
        """
        context = self.call("Target.createBrowserContext")["browserContextId"]
        try:
            tab = Tab(self, context, width, height, media)
            tab.go(address)
            yield tab
            assert tab.complaints() == []
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)

    def close(self) -> None:
        """Ends the browser, which then writes its network log to the end."""
        try:
            self.call("Browser.close")
            self._process.wait(timeout=PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._wait(self._session.close())
            self._loop.close()
            self._output.close()


class Tab:
    """A page that is open."""

    def __init__(
        self, browser: Browser, context: str, width: int, height: int, media: dict[str, str]
    ) -> None:
        self._browser = browser
        made = browser.call("Target.createTarget", url="about:blank", browserContextId=context)
        found = browser.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        features = []
        for name, value in media.items():
            features.append({"name": f"prefers-{name.replace('_', '-')}", "value": value})
        self.call("Emulation.setEmulatedMedia", features=features)
        phone = width < PHONE
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def go(self, address: str) -> None:
        """Opens an address, and returns when the page is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        found = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in found, (expression, found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Waits until a JavaScript expression is true."""
        ends = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({expression})"):
            if time.monotonic() > ends:
                pytest.fail(f"never came true: {expression}; the page says:\n{self.text('body')}")
            time.sleep(0.01)

    def text(self, place: str) -> str:
        """Returns the text that a person sees of an element."""
        return str(self.run(f"document.querySelector({json.dumps(place)}).innerText"))

    def texts(self, place: str) -> list[str]:
        """The same of all elements in a place."""
        all_of = f"Array.from(document.querySelectorAll({json.dumps(place)}))"
        found: list[str] = self.run(f"{all_of}.map((one) => one.innerText)")
        return found

    def shown(self, place: str) -> bool:
        """True if a person sees an element."""
        return bool(self.run(f"document.querySelector({json.dumps(place)}).checkVisibility()"))

    def click(self, place: str) -> None:
        """Presses the mouse in the middle of an element, which nothing may lie upon."""
        where = self.run(
            f"(() => {{ const found = document.querySelector({json.dumps(place)});"
            "found.scrollIntoView({block: 'center'});"
            "const box = found.getBoundingClientRect();"
            "const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];"
            "return found.contains(document.elementFromPoint(x, y)) ? {x, y} : null })()"
        )
        assert where is not None, f"{place} can't be clicked"
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def write(self, text: str) -> None:
        """Writes into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Presses a key and lets it go."""
        held = {"key": key, "code": "Space" if key == " " else key}
        held |= {"modifiers": 8 if shift else 0, "windowsVirtualKeyCode": CODES[key]}
        text = {"text": TEXTS[key]} if key in TEXTS else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **held, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **held)

    def focused(self) -> str:
        """The id of the element that has the focus."""
        return str(self.run("document.activeElement.id"))

    def picture(self, path: Path) -> None:
        """Writes a picture of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def forgive(self) -> None:
        """Forgets what the browser complained of until now, since the test meant it."""
        self.run("1")
        self._browser.events.clear()

    def complaints(self) -> list[str]:
        """Errors, exceptions, and what the policy forbade, as the console has them.

        Requests that were refused are left out: a test may mean them.
        """
        self.run("1")  # what the browser had to say until now comes before this answer
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            params = event["params"]
            if event["method"] == "Log.entryAdded" and params["entry"]["source"] != "network":
                found.append(params["entry"]["text"])
            elif event["method"] == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(str(params["args"]))
        return found
