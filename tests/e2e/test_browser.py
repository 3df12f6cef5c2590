"""The report in a real browser: it draws, runs nothing, complains of nothing, and reaches for
nothing.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cowest import report
from tests.unit.test_report import NASTY, a_turn

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--window-size=1200,3000",
]

ITS_OWN = ("clients2.google.com", "update.googleapis.com", "accounts.google.com")
"""What the browser asks for by itself, on whatever page."""


@pytest.fixture
def browser() -> str:
    if BROWSER is None and os.environ.get("CI"):
        pytest.fail("no Chromium: .ci/run installs it, so that CI never passes without this test")
    if BROWSER is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return BROWSER


def test_the_page_draws_and_runs_nothing(browser: str, tmp_path: Path) -> None:
    report.write(tmp_path / "index.html", a_turn(tmp_path / "turn", draft=NASTY))
    log = tmp_path / "net.json"
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--log-net-log={log}",
        f"--screenshot={tmp_path / 'page.png'}",
    ]
    done = subprocess.run(
        [*command, (tmp_path / "index.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert (tmp_path / "page.png").stat().st_size > 50_000, (
        "the picture of the page is all but empty"
    )
    assert "http://" not in (asked := _asked(log)) and "https://" not in asked, asked
    title = subprocess.run(
        [
            browser,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "index.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "<title>owned" not in title and "<h1" in title


def _asked(log: Path) -> str:
    """The addresses that the page asked for, of what the browser's network log holds."""
    import re

    found = set(re.findall(r'"url":"([^"]+)"', log.read_text(errors="replace")))
    return " ".join(
        sorted(address for address in found if not any(f"//{host}/" in address for host in ITS_OWN))
    )
