"""The report in a real browser: it draws, runs nothing, complains of nothing, and reaches for
nothing.
"""

import subprocess
from pathlib import Path

import pytest

from cowest import report
from tests.browser import FLAGS, addresses, binary
from tests.reports import NASTY, a_turn

TALKING = ["--enable-logging=stderr", "--v=0", "--window-size=1200,3000"]


@pytest.fixture
def browser() -> str:
    return binary()


def test_the_page_draws_and_runs_nothing(browser: str, tmp_path: Path) -> None:
    report.write(tmp_path / "index.html", a_turn(tmp_path / "turn", draft=NASTY))
    log = tmp_path / "net.json"
    command = [
        browser,
        *FLAGS,
        *TALKING,
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
    asked = addresses(log)
    assert not [one for one in asked if one.startswith(("http://", "https://"))], asked
    title = subprocess.run(
        [
            browser,
            *FLAGS,
            *TALKING,
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
