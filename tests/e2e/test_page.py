"""The service's page in a real browser, over a real server and scripted models."""

import asyncio
import itertools
import json
import random
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.online.keys import digest_of, new_key
from cowest.protocols import Completion, Request, Served
from tests.browser import Browser, Tab, addresses
from tests.serving import Faulty, Running, busy, down, dropped, running, stuck

pytestmark = pytest.mark.slow

DRAFT = "It is made in Bergen , by three people ."
ANSWER = "It is made in Oslo , by three kind people , since 1931 ."
ALONE = "I know of no such fan ."
HOSTILE = "<img/src=x/onerror=owned()> </script><script>owned()</script> &amp; \u202e <b>"
POLICY = ScriptedConfig(
    rules=(
        ScriptRule(match="no draft", failed="it has no words for it"),
        ScriptRule(match="hostile", replies=(f"draft {HOSTILE}",)),
        ScriptRule(match="", replies=(DRAFT,)),
    )
)
STRONG = ScriptedConfig(
    rules=(
        ScriptRule(match="hostile", replies=(f"answer {HOSTILE}",)),
        ScriptRule(match="^Notes", replies=(ANSWER,)),
        ScriptRule(match="", replies=(ALONE,)),
    )
)
ENDED = "!document.getElementById('ask').hidden"
WIDER = """(() => {
  const wide = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
  const range = document.createRange();
  for (const one of document.querySelectorAll("body *")) {
    if (!one.checkVisibility() || one.closest(".unseen, script, textarea")) continue;
    const right = one.parentElement.getBoundingClientRect().right + 1;
    const boxes = [one.getBoundingClientRect()];
    for (const node of one.childNodes) {
      range.selectNode(node);
      if (node.nodeType === Node.TEXT_NODE) boxes.push(range.getBoundingClientRect());
    }
    if (boxes.some((box) => box.right > right)) wide.push(`${one.tagName} ${one.id}`);
  }
  return wide;
})()"""
"""Finds elements that stand out of the page, or of their own box, where they may be cut off."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests; it asked nothing of any other host."""
    browser = Browser(tmp_path_factory.mktemp("browser"))
    try:
        yield browser
    finally:
        browser.close()
    asked = addresses(browser.log)
    assert any(one.endswith("/v1/models") for one in asked)
    assert not [one for one in asked if not one.startswith("http://127.0.0.1:")], asked


@pytest.fixture(scope="module")
def model() -> Faulty:
    return Faulty(STRONG, "strong")


@pytest.fixture(scope="module")
def server(model: Faulty, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    settings = {
        "degrade": ["strong_alone", "draft_alone"],
        "breaker": {"failures": 100},
        "log": {"folder": str(tmp_path_factory.mktemp("log")), "mask": False},
    }
    with running(Faulty(POLICY, "policy"), model, **settings) as server:
        yield server


@pytest.fixture
def strong(model: Faulty) -> Iterator[Faulty]:
    """The strong model, which a test may have do something else."""
    yield model
    model.does = None


@pytest.fixture
def tab(browser: Browser, server: Running) -> Iterator[Tab]:
    with browser.page(f"{server.base}/") as tab:
        yield tab


def ask(tab: Tab, question: str = "Where is it made?") -> None:
    tab.click("#question")
    tab.write(question)
    tab.press("Enter")


def asked(tab: Tab, question: str = "Where is it made?") -> None:
    """Asks, and waits for the end."""
    ask(tab, question)
    tab.wait(ENDED)


def word_by_word(
    *steps: threading.Event,
) -> Callable[[Request, Served], AsyncGenerator[str | Completion, None]]:
    """A model that gives no word, and then one half, before it is let."""

    async def does(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
        said = 0
        async with STRONG.open_async() as model, aclosing(model.stream(request, served)) as pieces:
            async for piece in pieces:
                gate = steps[0] if said == 0 else steps[1] if said == 8 else None
                while gate is not None and not gate.is_set():
                    await asyncio.sleep(0.005)
                said += 1
                yield piece

    return does


def test_the_draft_comes_and_then_the_answer_beside_it(tab: Tab, strong: Faulty) -> None:
    steps = threading.Event(), threading.Event()
    strong.does = word_by_word(*steps)
    try:
        ask(tab)
        tab.wait("document.querySelector('#draft .text').textContent.includes('Bergen')")
        assert (tab.text("#draft .text"), tab.text("#asked")) == (DRAFT, "Where is it made?")
        assert tab.text("#answer .text").startswith("Answering") and tab.texts("del") == []
        assert not tab.shown("#ask") and tab.shown("#stop") and not tab.shown("#actions")
        steps[0].set()
        tab.wait("document.querySelectorAll('#answer ins').length === 1")
        assert tab.texts("ins") == ["Oslo"] and tab.texts("del") == ["Bergen"]
        assert "1931" not in tab.text("#answer")
    finally:
        for step in steps:
            step.set()
    tab.wait(ENDED)
    assert tab.text("#answer .text") == ANSWER and tab.text("#draft .text") == DRAFT
    assert tab.texts("ins") == ["Oslo", "kind", ", since 1931"] and tab.texts("del") == ["Bergen"]
    assert tab.text("#draft .facts").startswith("scripted:")
    assert "tokens in, 10 out" in tab.text("#draft .facts")
    assert "first word after" in tab.text("#answer .facts")
    assert tab.text("#facts").startswith("Version 3 · no price known · ")
    assert tab.text("#progress") == "The answer is complete."
    assert not tab.shown("#trouble") and not tab.shown("#note") and not tab.shown("#alone")
    tab.click("#marks")
    assert "none" in tab.run("getComputedStyle(document.querySelector('ins')).textDecoration")


def test_the_strong_model_alone_beside_it(tab: Tab, server: Running) -> None:
    asked(tab)
    tab.click("#compare")
    tab.wait(f"{ENDED} && !document.getElementById('alone').hidden")
    assert (tab.text("#alone .text"), tab.text("#answer .text")) == (ALONE, ANSWER)
    assert "tokens in, 7 out" in tab.text("#alone .facts") and not tab.shown("#compare")
    assert [row.model for row in server.rows[-2:]] == ["cowest", "cowest/strong"]
    tab.click("#edit")
    assert tab.run("document.activeElement.value") == "Where is it made?"
    tab.press("Enter")
    tab.wait(f"{ENDED} && document.getElementById('alone').hidden")
    assert tab.text("#answer .text") == ANSWER


def verdicts(server: Running) -> list[dict[str, Any]]:
    """Returns the verdicts that the log has on the last answer."""
    found = []
    for path in server.config.log.folder.glob("verdicts*"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["id"] == server.rows[-1].id:
                found.append({name: row[name] for name in ("verdict", "better")})
    return found


def test_verdicts_and_a_better_answer(tab: Tab, server: Running) -> None:
    asked(tab)
    tab.click("#good")
    tab.wait("document.getElementById('said').textContent === 'Kept: good.'")
    tab.click("#bad")
    tab.wait("document.getElementById('said').textContent === 'Kept: bad.'")
    assert [tab.run(f"{one}.ariaPressed") for one in ("good", "bad")] == ["false", "true"]
    tab.click("#better")
    assert tab.focused() == "better-text"
    assert tab.run("document.activeElement.value") == ANSWER
    tab.press("Tab")
    tab.press("Enter")
    assert "is the answer as it is" in tab.text("#said")
    tab.click("#better-text")
    tab.run("document.activeElement.select()")
    tab.write("It is made in Oslo.\nBy two.")
    tab.press("Tab")
    tab.press("Enter")
    tab.wait("document.getElementById('said').textContent === 'Kept: your better answer.'")
    assert not tab.shown("#better-form") and tab.focused() == "better"
    better = "It is made in Oslo.\nBy two."
    assert verdicts(server) == [
        {"verdict": "good", "better": None},
        {"verdict": "bad", "better": None},
        {"verdict": "bad", "better": better},
    ]
    tab.click("#good")
    tab.wait("document.getElementById('said').textContent === 'Kept: good.'")
    assert verdicts(server)[-1] == {"verdict": "good", "better": None}
    asked(tab)
    assert tab.text("#said") == "" and tab.run("good.ariaPressed") == "false"


def test_what_models_write_is_text(tab: Tab) -> None:
    asked(tab, f"hostile {HOSTILE}")
    assert tab.text("#asked") == f"hostile {HOSTILE}"
    assert tab.text("#draft .text") == f"draft {HOSTILE}"
    assert tab.text("#answer .text") == f"answer {HOSTILE}"
    assert tab.run("document.querySelectorAll('img, b, script').length") == 1
    slip = "document.body.innerHTML = '<b>owned</b>'"
    assert tab.run(f"(() => {{ try {{ {slip} }} catch (error) {{ return error.name }} }})()")
    assert tab.run("document.querySelectorAll('b').length") == 0
    tab.forgive()


def test_keys_and_focus(tab: Tab, server: Running) -> None:
    rows = len(server.rows)
    tab.press("Tab")
    assert tab.focused() == "question"
    tab.press("Enter")
    tab.write("One")
    tab.press("Enter", shift=True)
    tab.write("two")
    assert tab.run("document.activeElement.value") == "One\ntwo" and len(server.rows) == rows
    tab.run(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown',"
        "{key: 'Enter', isComposing: true, cancelable: true, bubbles: true}))"
    )
    assert not tab.shown("#result")
    tab.press("Tab")
    assert tab.focused() == "ask"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert tab.run(outline) == "solid"
    tab.press(" ")
    tab.wait(f"document.getElementById('result').checkVisibility() && {ENDED}")
    assert tab.text("#asked") == "One\ntwo" and tab.focused() == "question"
    found = []
    for _ in range(7):
        tab.press("Tab")
        found.append(tab.focused())
    assert found == ["ask", "good", "bad", "better", "compare", "edit", "marks"]


@pytest.mark.parametrize("by", ["click", "Escape"])
def test_stop_ends_the_call(tab: Tab, server: Running, strong: Faulty, by: str) -> None:
    strong.does = stuck
    ended = strong.ended
    ask(tab)
    tab.wait("document.querySelector('#answer .text').textContent.startsWith('It is')")
    if by == "click":
        tab.click("#stop")
    else:
        tab.press("Escape")
    server.wait(lambda: strong.ended == ended + 1)
    tab.wait(ENDED)
    assert tab.text("#trouble p") == "Stopped." and tab.text("#answer .text").strip() == "It is"
    assert not tab.shown("#verdict") and tab.shown("#edit")
    strong.does = None
    tab.click("#again")
    tab.wait(f"{ENDED} && document.getElementById('trouble').hidden")
    assert tab.text("#answer .text") == ANSWER


def test_an_answer_without_a_draft(tab: Tab) -> None:
    asked(tab, "no draft here")
    assert tab.text("#draft .text") == "No draft: it has no words for it"
    assert "strong model alone" in tab.text("#note") and tab.text("#answer .text") == ALONE
    assert not tab.shown("#marking") and not tab.shown("#compare") and tab.shown("#verdict")
    asked(tab)
    assert not tab.shown("#note") and tab.text("#draft .text") == DRAFT


def test_a_strong_model_that_is_down_leaves_the_draft(tab: Tab, strong: Faulty) -> None:
    strong.does = down
    asked(tab)
    assert tab.text("#answer .text") == DRAFT and tab.texts("ins, del") == []
    assert "which nobody refined" in tab.text("#note")


def test_a_stream_that_breaks_says_so(tab: Tab, strong: Faulty) -> None:
    strong.does = dropped
    asked(tab)
    said = tab.text("#trouble p")
    assert said.startswith("The answer broke off: ") and "the connection broke" in said
    assert tab.text("#answer .text").strip() == "It is" and not tab.shown("#verdict")
    assert tab.text("#progress") != "The answer is complete."


def test_when_to_try_again(browser: Browser) -> None:
    strong = Faulty(STRONG, "strong")
    with running(Faulty(POLICY, "policy"), strong) as server, browser.page(server.base) as tab:
        asked(tab)
        tab.click("#good")
        tab.wait("document.getElementById('said').textContent.includes('log is off')")
        assert not tab.shown("#verdict") and tab.shown("#edit")
        strong.does = busy
        asked(tab)
        assert tab.text("#draft .text") == DRAFT and tab.text("#answer .text") == "No answer."
        assert tab.text("#trouble p").startswith("The strong model gave no answer: HTTP 429. Try")
        asked(tab, "no draft here")
        assert "again in 17 seconds" in tab.text("#trouble p")
        assert tab.text("#again").startswith("Try again (1")
        assert tab.run("document.getElementById('again').disabled")
        tab.run("trouble('Spent.', 7 * 24 * 3600, () => null)")
        assert tab.text("#trouble p").startswith("Spent. Try again after ")
        long = "x" * 100_001
        tab.run(f"begin('{long[:10]}'.repeat(10_001))")
        tab.wait(f"{ENDED} && document.body.innerText.includes('characters')")
        assert "serve.limits.characters" in tab.text("#trouble p") and not tab.shown("#again")


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Browser) -> None:
    mine, other = new_key(), new_key()
    keys = [
        {"name": "mine", "sha256": digest_of(mine)},
        {"name": "other", "sha256": digest_of(other), "rate": 2},
    ]
    opened = {"keys": keys, "open": ["page"]}
    with (
        running(Faulty(POLICY), Faulty(STRONG), **opened) as server,
        browser.page(server.base) as tab,
    ):
        tab.wait("document.getElementById('key-form').checkVisibility()")
        assert tab.focused() == "key" and "wrong" not in tab.text("#key-words")
        for given, said in (("sk-cowest-x", "The key is wrong"), ("x ü", "This is no key")):
            tab.click("#key")
            tab.run("document.activeElement.select()")
            tab.write(given)
            tab.press("Enter")
            tab.wait(f"document.getElementById('key-words').textContent.startsWith('{said}')")
        assert tab.run("sessionStorage.length") == 0
        asked(tab)
        assert tab.shown("#key-form") and not tab.shown("#result") and server.rows == []
        tab.write(mine)
        tab.press("Enter")
        # What waited for the key is done.
        tab.wait(f"document.getElementById('result').checkVisibility() && {ENDED}")
        assert tab.text("#answer .text") == ANSWER and server.rows[-1].purse == "mine"
        assert not tab.shown("#key-form") and tab.shown("#held") and tab.focused() == "question"
        stored = tab.run("[Object.values(sessionStorage), localStorage.length, document.cookie]")
        assert stored == [[mine], 0, ""] and mine not in tab.run("document.body.innerHTML")
        tab.go(f"{server.base}/?again")
        asked(tab)
        assert tab.text("#answer .text") == ANSWER and not tab.shown("#key-form")
        tab.click("#forget")
        assert tab.run("sessionStorage.length") == 0 and not tab.shown("#held")
        tab.click("#compare")
        tab.wait("document.getElementById('key-form').checkVisibility()")
        assert tab.text("#answer .text") == ANSWER
        tab.write(other)
        tab.press("Enter")
        tab.wait(f"document.getElementById('alone').checkVisibility() && {ENDED}")
        assert tab.text("#alone .text") == ALONE
        asked(tab)
        assert "of other. Try again in " in tab.text("#trouble p")


def test_a_service_that_is_gone(browser: Browser) -> None:
    with running(Faulty(POLICY), Faulty(STRONG)) as server:
        page = browser.page(server.base)
        tab = page.__enter__()
    asked(tab)
    assert tab.text("#trouble p") == "The service can't be reached." and tab.shown("#again")
    page.__exit__(None, None, None)


def test_the_policy_lets_nothing_go_elsewhere(tab: Tab) -> None:
    tab.run(
        """(async () => {
            const there = "http://127.0.0.1:9/";
            window.forbidden = [];
            document.addEventListener("securitypolicyviolation",
                (event) => forbidden.push([event.effectiveDirective, event.blockedURI]));
            await fetch(there).catch(() => null);
            for (const [tag, name] of [["img", "src"], ["iframe", "src"], ["link", "href"]]) {
                const made = document.createElement(tag);
                made.rel = "stylesheet";
                made[name] = there;
                document.body.append(made);
            }
            const form = document.createElement("form");
            form.action = there;
            document.body.append(form);
            form.submit();
        })()"""
    )
    tab.wait("forbidden.length >= 5")
    found = {directive: address for directive, address in tab.run("forbidden")}
    assert all(address.startswith("http://127.0.0.1:9") for address in found.values())
    kinds = {"connect-src", "form-action", "frame-src", "img-src", "style-src-elem"}
    assert set(found) == kinds
    tab.forgive()


def test_words_that_changed_are_the_fewest(tab: Tab) -> None:
    """Of what is marked, against the longest common subsequence as Python finds it."""
    draws = random.Random(1931)
    for _ in range(40):
        draft = [draws.choice("abcd,") for _ in range(draws.randrange(12))]
        answer = [draws.choice("abcd,") for _ in range(draws.randrange(12))]
        texts = json.dumps([" ".join(draft), "\n".join(answer)])
        grown, at_once = tab.run(
            f"""(() => {{
                const [draft, answer] = {texts};
                const grows = new Comparison(draft);
                for (let end = 0; end <= answer.length; end += 1) {{
                    grows.read(answer.slice(0, end));
                    grows.runs(false);
                }}
                const whole = new Comparison(draft);
                whole.read(answer);
                return [grows.runs(true), whole.runs(true)];
            }})()"""
        )
        assert grown == at_once
        kept = []
        for side, text in (("draft", " ".join(draft)), ("answer", "\n".join(answer))):
            assert "".join(run["text"] for run in grown[side]) == text
            kept.append([])
            for run in grown[side]:
                if not run["changed"]:
                    kept[-1] += run["text"].split()
        assert kept[0] == kept[1] and len(kept[0]) == longest(draft, answer)


def longest(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence."""
    if not one or not other:
        return 0
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, j in itertools.product(range(len(one)), range(len(other))):
        same = rows[i][j] + 1 if one[i] == other[j] else 0
        rows[i + 1][j + 1] = max(same, rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def test_texts_too_long_to_compare_are_shown_as_they_are(tab: Tab) -> None:
    found = tab.run(
        """(() => {
            const long = "word ".repeat(4000);
            const compared = new Comparison(long);
            compared.read("other " + long);
            return compared.runs(true).answer.map((run) => [run.text.length, run.changed]);
        })()"""
    )
    assert found == [[20_006, False]]


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_seen(
    browser: Browser, server: Running, width: int, scheme: str, tmp_path: Path
) -> None:
    media = {"color_scheme": scheme, "reduced_motion": "reduce"}
    with browser.page(f"{server.base}/", width, 800, **media) as tab:
        assert tab.run(WIDER) == []
        question = f"no draft {'w' * 300}"
        tab.run(f"begin('{question}')")
        tab.wait(ENDED)
        assert tab.shown("#note")
        tab.run(f"begin('{question.replace('no ', '')}')")
        tab.wait(ENDED)
        tab.click("#compare")
        tab.wait(f"{ENDED} && !document.getElementById('alone').hidden")
        tab.click("#better")
        tab.run("trouble('y'.repeat(300), 3, () => null)")
        tab.run("askForKey(new Failure('x'), null)")
        assert tab.run(WIDER) == []
        paper = tab.run("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(253, 253, 251)", "dark": "rgb(18, 24, 29)"}[scheme]
        tab.run("document.getElementById('draft').classList.add('waiting')")
        pulse = "getComputedStyle(document.querySelector('#draft .text'), '::after').animationName"
        assert tab.run(pulse) == "none"
        tab.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 20_000
        assert tab.run(CONTRAST) == []


CONTRAST = """(() => {
  const numbers = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
    .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (found) => {
    for (let one = found; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length === 3) return colour;
    }
  };
  const poor = [];
  for (const one of document.querySelectorAll("body *")) {
    const said = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!said || !one.checkVisibility() || one.disabled) continue;
    const [a, b] = [light(numbers(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${one.tagName} ${one.id}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()"""
"""The elements whose text stands out less from its ground than WCAG's level AA asks: 4.5 to 1."""
