"""The page: whole, self-contained, escaped, the same for the same files, and in words where
something is missing.
"""

import json
import re
import sqlite3
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from cowest import evaluation, io, report, version
from cowest.gates import Gate, Rules
from cowest.ledger.account import Account
from cowest.ledger.claims import Budget, Spent
from cowest.ledger.schema import STEPS
from cowest.records import (
    Decision,
    Estimate,
    EvalReport,
    GateResult,
    Trial,
    Validation,
)
from cowest.report import contents, figures, left, words
from cowest.report.contents import Missing
from cowest.report_parts import Choices, Matches
from cowest.wear import Looks
from tests.factories import PROMPTS, make_feedback, make_trial, write_report
from tests.reports import NASTY, a_turn

pytestmark = pytest.mark.slow  # matplotlib draws each page anew


class Page(HTMLParser):
    """The tags, attributes, ids and text of a page; unclosed or crossed tags fail."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data


def decided(root: Path, **fields: object) -> None:
    (root / "turn.json").write_text('{"key": "abc", "champion": null}')
    values = {
        "turn": "abc",
        "version": 3,
        "promoted": True,
        "against": None,
        "champion": 3,
        "reason": "it is better",
    }
    io.write_document(root / "reports/decision.json", Decision.model_validate({**values, **fields}))


def rendered(root: Path, **more: object) -> str:
    return report.page(contents.gather(root), **more)  # type: ignore[arg-type]


def test_slices_and_worn_questions_are_shown(tmp_path: Path) -> None:
    root = a_turn(tmp_path, draft="refund")
    found = io.read_document(root / "reports/eval.json", EvalReport)
    io.write_document(root / "reports/eval.json", found.model_copy(update={"wear": 2.5}))
    page = rendered(root)
    assert '<th scope="row">refund</th><td>15</td>' in page
    worn = "A held-out query has taken part in 2.5 earlier decisions on average."
    assert worn in page
    # As where `compare.spend` is 0: all of its gates look at 95 %.
    assert "wider intervals" not in page
    scores = evaluation.gather(io.groups(root / "data/trials.jsonl", Trial))
    for spend, wider in ((0.0, False), (1.0, True)):
        rules = Rules(gates=(Gate(over="before"),), guards=False, spend=spend)
        said = words.context(evaluation.compare(scores, rules, wear=2.5))
        assert (f"{worn} Gates look at wider intervals for it." in said) == wider


def test_the_bars_of_gates_are_said_to_be_no_95_percent_intervals(html: str):
    assert "Bars are the intervals that the gates look at" in html
    assert "Bars are 95" not in html


def test_what_is_new_since_the_champion_is_shown(tmp_path: Path) -> None:
    root = a_turn(tmp_path)
    pinned = {
        "key": "abc",
        "champion": 4,
        "since": {
            "version": 4,
            "data": {"<b>.csv": "changed"},
            "settings": {"dpo.beta": ["0.1", "0.2"], "sft.start": [None, "champion"]},
            "code": False,
        },
    }
    (root / "turn.json").write_text(json.dumps(pinned))
    page = rendered(root)
    section = page[page.index('id="since"') : page.index('id="feedback"')]
    assert "&lt;b&gt;.csv" in section
    assert "<b>" not in section
    assert "dpo.beta" in section
    assert "0.2" in section
    assert ">the same<" in section, "the code"
    pinned["since"] = None
    (root / "turn.json").write_text(json.dumps(pinned))
    assert "pinned by an older CoWest" in rendered(root)


def test_the_cost_is_shown_against_the_budget(tmp_path: Path) -> None:
    root = a_turn(tmp_path)
    page = rendered(root, spent=Spent(usd=5.0, tokens=1234, budget=Budget(usd=20)))
    assert "25\N{NO-BREAK SPACE}% of the budget of US$ 20.00" in page
    assert 'value="0.25"' in page
    assert "no budget was set" in rendered(root, spent=Spent(usd=5.0, tokens=1, budget=Budget()))
    assert "no budget was set" not in rendered(root)


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = a_turn(tmp_path_factory.mktemp("turn"))
    decided(root)
    return root


@pytest.fixture(scope="module")
def html(turn: Path) -> str:
    return rendered(turn)


def test_the_page_says_first_what_alignment_did_and_whether_it_is_promoted(html: str):
    text = Page(html).text
    first = text.index("Alignment raised the collaboration's score from 0.333 to 1.000 (+0.667")
    assert (
        first
        < text.index("Promoted: version 3 is champion.")
        < text.index("it is better")
        < text.index("Systems on the held-out queries")
    )


def test_the_page_needs_nothing_from_outside_and_runs_nothing(html: str):
    page = Page(html)
    policy = next(
        attrs["content"]
        for tag, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
    }
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#")


def test_ids_are_unique_and_links_arrive(html: str):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    aims = {(attrs.get("href") or attrs.get("xlink:href") or "#")[1:] for _, attrs in page.tags} - {
        ""
    }
    assert aims <= set(page.ids)


def test_every_picture_has_a_title_and_a_description_and_no_colour_of_its_own(html: str):
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    # systems, differences, gates, gains, transitions; sft loss, dpo loss, margin, log-probabilities
    assert len(pictures) == 5 + 4
    for picture in pictures:
        assert 'role="img"' in picture
        assert re.search(r"<title [^>]*>.+</title><desc [^>]*>.+</desc>", picture)
        assert not re.search(r"#[0-9a-fA-F]{6}", picture)


def test_what_comes_from_data_shows_as_text(tmp_path: Path):
    page = Page(rendered(a_turn(tmp_path, draft=NASTY)))
    assert page.text.count(NASTY) >= 3
    assert "script" not in {tag for tag, _ in page.tags}
    assert "img" not in {tag for tag, _ in page.tags}


def test_equal_files_make_equal_pages(turn: Path, html: str):
    assert rendered(turn) == html


def test_an_empty_folder_makes_a_page_in_words(tmp_path: Path):
    text = Page(rendered(tmp_path)).text
    assert "No turn has run here." in text
    assert "Nothing is decided." in text
    assert text.count("no such file") >= 6
    assert "older CoWest" not in text
    assert "What is new: not shown. " in text
    assert text.count("none yet") == len(contents.VERSIONS)


def test_a_turn_that_was_cut_short_is_shown_as_far_as_it_came(tmp_path: Path):
    a_turn(tmp_path)
    (tmp_path / "reports/eval.json").unlink()
    text = Page(rendered(tmp_path)).text
    assert "This turn has no evaluation yet" in text
    assert "No turn has run here" not in text


def test_the_command_says_that_no_turn_has_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    from cowest.commands import report as command

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("a: [")
    assert command.main([]) == 0
    said = capsys.readouterr()
    assert said.out == "reports/index.html\n"
    assert "no turn has run here" in said.err
    assert "No turn has run here." in (tmp_path / "reports/index.html").read_text()


def test_a_broken_file_is_said_and_the_rest_is_read(tmp_path: Path):
    decided(a_turn(tmp_path))
    parts = {
        "report": "reports/eval.json",
        "gains": "data/feedback.jsonl",
        "examples": "data/trials.jsonl",
        "pairs": "data/pairs.jsonl",
        "turn": "turn.json",
    }
    for part, name in parts.items():
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text("{broken\n")
        found = contents.gather(tmp_path)
        assert [each for each in parts if isinstance(getattr(found, each), Missing)] == [part]
        assert name in getattr(found, part).why
        (tmp_path / name).write_text(whole)


def test_a_place_that_cannot_be_read_is_said(tmp_path: Path):
    a_turn(tmp_path)
    (tmp_path / "turn.json").mkdir()
    (tmp_path / "reports/eval.json").unlink()
    (tmp_path / "reports/eval.json").mkdir()
    text = Page(rendered(tmp_path)).text
    assert "turn.json can't be read: Is a directory" in text
    assert "eval.json can't be read: Is a directory" in text


def test_a_broken_curve_is_said(tmp_path: Path):
    a_turn(tmp_path)
    (tmp_path / "models/policy/curves.jsonl").write_text('{"step": 1, "loss": NaN}\nbroken\n')
    text = Page(rendered(tmp_path)).text
    assert "curves.jsonl:2 is not JSON" in text
    assert "Alignment loss" in text


def test_a_decision_of_another_turn_is_not_this_ones(tmp_path: Path):
    decided(a_turn(tmp_path), turn="another")
    text = Page(rendered(tmp_path)).text
    assert "Promoted" not in text
    assert "of another turn" in text


def test_a_refusal_says_why(tmp_path: Path):
    decided(a_turn(tmp_path, after=0.0), promoted=False, champion=None, reason="it is worse")
    text = Page(rendered(tmp_path)).text
    assert "Alignment lowered" in text
    assert "Not promoted: version 3. There is no champion." in text
    assert "it is worse" in text
    decided(tmp_path, promoted=False, champion=2, reason="it is worse")
    assert "Not promoted: version 3. Champion is version 2." in Page(rendered(tmp_path)).text


def test_each_gate_of_a_reason_has_its_line(tmp_path: Path):
    a_turn(tmp_path)
    report = io.read_document(tmp_path / "reports/eval.json", EvalReport)
    first, *_ = report.gates
    gates = []
    for name, reason in (("before", "+0.1; asked +0.2"), ("open", "fine"), ("served", "2 of 16")):
        gates.append(first.model_copy(update={"name": name, "reason": reason}))
    report = report.model_copy(update={"gates": tuple(gates)})
    why = "before: +0.1; asked +0.2; served: 2 of 16; aligned by the answers of another"
    assert words.by_gate(report, why) == [
        ("before passed", "+0.1; asked +0.2"),
        ("served passed", "2 of 16"),
        ("", "aligned by the answers of another"),
    ]
    assert words.by_gate(report, "promotions are held") == [("", "promotions are held")]
    assert words.by_gate(None, "it is worse") == [("", "it is worse")]


def test_no_difference_is_said_so(tmp_path: Path):
    a_turn(tmp_path)
    whole = io.read_document(tmp_path / "reports/eval.json", EvalReport)
    difference = whole.comparisons["after_minus_before"].model_copy(
        update={"low": -0.1, "high": 0.2, "mean": 0.05}
    )
    assert words.headline(
        whole.model_copy(update={"comparisons": {"after_minus_before": difference}})
    ).startswith("Alignment made no difference")


def test_the_first_sentence_is_of_the_queries_that_both_answered(tmp_path: Path):
    """A failed row of `before` would leave its mean to the queries that are easy."""
    rows = []
    for number in range(60):
        score = float(number % 2)
        lost = {"failed": "refine: timeout", "refinement": None, "score": None}
        rows.append(make_trial(number, score=min(1.0, score + 0.2)))
        more = lost if number < 20 and score == 0 else {}
        rows.append(make_trial(number, "before", **{"score": score, **more}))
    rules = Rules(gates=(), promote_everything=True, guards=False)
    io.write(tmp_path / "trials.jsonl", rows)
    write_report(tmp_path / "trials.jsonl", tmp_path / "eval.json", rules)
    found = io.read_document(tmp_path / "eval.json", EvalReport)
    said = words.headline(found)
    assert "from 0.600 to 0.680 (+0.080, " in said and "on 50 held-out queries" in said
    named = found.comparisons["after_minus_before"]
    near = {"low": -0.1, "high": 0.2}
    for ends, words_of in ((near, "0.600 before, 0.680 after"), ({"low": None}, "scored 0.680, ")):
        pair = {"after_minus_before": named.model_copy(update=ends)}
        assert words_of in words.headline(found.model_copy(update={"comparisons": pair}))
    # A report from before it was recorded.
    told = json.loads((tmp_path / "eval.json").read_text())
    del told["comparisons"]["after_minus_before"]["base_mean"]
    assert "(+0.080, " in words.headline(EvalReport.model_validate(told))


def test_gains_are_counted(turn: Path):
    found = contents.gains(turn / "data/feedback.jsonl")
    assert (found.queries, found.mixed, found.drafts) == (6, 6, 24)
    assert (found.helped, found.tied, found.hurt) == (12, 6, 6)
    assert found.bins[0] == found.bins[10] == found.bins[15] == found.bins[20] == 6
    assert found.mean == pytest.approx(0.125)


def test_the_page_says_whether_the_drafts_own_scores_would_have_done(tmp_path: Path, html: str):
    assert "Was it worth its calls?" not in Page(html).text, (
        "all its drafts say the same: nothing is compared"
    )
    root = a_turn(tmp_path)
    scores = (
        ("a fact", 1.0, 0.0),
        ("an answer", 0.0, 1.0),
        ("both", 1.0, 1.0),
        ("neither", 0.0, 0.0),
        ("nor", 0.0, 0.0),
    )
    rows = (
        make_feedback(1, sample=k, draft=draft, score=score, draft_score=own)
        for k, (draft, score, own) in enumerate(scores)
    )
    io.write(root / "data/feedback.jsonl", rows)
    text = Page(rendered(root)).text
    assert "Of the training queries, feedback decides 6 of 10 comparisons of two drafts" in text
    assert "33% of what feedback decides" in text
    # A margin that no difference reaches decides nothing, in pairs as on the page.
    (root / "params.yaml").write_text("pair:\n  rule: {min_margin: 1.5}\n")
    assert "Was it worth its calls?" not in Page(rendered(root)).text
    (root / "params.yaml").write_text("pair:\n  rule: {min_margin: much}\n")
    assert "feedback decides 6 of 10 comparisons" in Page(rendered(root)).text


def validated(root: Path, **fields: object) -> None:
    values = {
        "kind": "queries",
        "taken": 1200,
        "left": 1100,
        "aside": 100,
        "rules": (),
        "facts": {"a <b>": "1"},
        **fields,
    }
    found = Validation.model_validate(values)
    io.write_document(root / f"reports/{found.kind}.json", found)


def test_what_validate_found_is_on_the_page(tmp_path: Path):
    rule = {
        "name": "near",
        "says": f"no query {NASTY}",
        "mend": "",
        "severity": "aside",
        "met": False,
        "found": "not met by 100 of 1200 rows",
        "rows": 100,
    }
    validated(tmp_path, rules=[rule, {**rule, "met": True, "rows": 0}])
    shown = contents.gather(tmp_path).contracts["queries"]
    assert isinstance(shown, Validation) and shown.facts == {"a <b>": "1"}
    page = Page(rendered(tmp_path))
    assert "1\N{NARROW NO-BREAK SPACE}200" in page.text and "1 of 2" in page.text
    assert "not met by 100 of 1200 rows, set aside" in page.text
    assert "script" not in [tag for tag, _ in page.tags]
    assert "Feedback: not shown." in page.text and "pairs.json: no such file" in page.text


def test_findings_that_are_none_are_said(tmp_path: Path):
    (tmp_path / "reports").mkdir()
    for text, why in (
        ("<html>", "pairs.json is not a Validation: Invalid JSON"),
        ("{}", "pairs.json is not a Validation: kind: Field required"),
    ):
        (tmp_path / "reports/pairs.json").write_text(text)
        found = contents.gather(tmp_path).contracts["pairs"]
        assert isinstance(found, Missing) and why in found.why


def test_a_page_without_findings_beside_it_is_said_with_what_to_do(tmp_path: Path):
    validated(tmp_path)
    for kind in ("queries", "corpus"):
        (tmp_path / f"reports/{kind}.html").write_text("<html>")
    text = Page(rendered(tmp_path)).text
    assert "1\N{NARROW NO-BREAK SPACE}200" in text and "validate@queries" not in text
    assert (
        "Corpus: not shown. validate@corpus was not asked for its findings as JSON: add "
        "`--findings reports/corpus.json` to its command in dvc.yaml" in text
    )
    assert "Pairs: not shown." in text and "pairs.json: no such file" in text


def test_examples_are_of_each_kind_and_in_no_order_of_ours(tmp_path: Path):
    rows = []
    for number, (before, after) in enumerate(
        [(0.0, 1.0)] * 9 + [(1.0, 0.0)] * 2 + [(1.0, 1.0)] * 5
    ):
        rows += [
            make_trial(number, "before", score=before),
            make_trial(number, "after", score=after),
        ]
    rows += [
        make_trial(90, "before"),
        make_trial(90, "after", failed="refine: timeout", refinement=None, score=None),
    ]
    io.write(tmp_path / "trials.jsonl", rows)
    found = contents.examples(tmp_path / "trials.jsonl")
    assert found.counts == {"gained": 9, "lost": 2, "unchanged": 5}
    assert [example.kind for example in found.shown] == ["gained"] * 3 + ["lost"] * 2 + [
        "unchanged"
    ] * 2
    gained = [example.before.id for example in found.shown[:3]]
    assert gained == sorted(row.id for row in rows[:18:2])[:3]


def test_an_example_goes_by_the_mean_of_its_drafts_and_shows_the_first(tmp_path: Path):
    root = a_turn(tmp_path)
    rows = []
    scored = (
        ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]),
        ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1]),
        ([0.0], [1.0]),
    )
    for number, sides in enumerate(scored):
        for system, scores in zip(("before", "after"), sides, strict=True):
            for sample, score in enumerate(scores):
                rows.append(make_trial(number, system, sample=sample, score=score))
    io.write(root / "data/trials.jsonl", rows)
    found = contents.examples(root / "data/trials.jsonl")
    assert found.counts == {"gained": 2, "lost": 0, "unchanged": 1}
    (first,) = [one for one in found.shown if one.before.id == rows[0].id]
    assert (first.kind, first.means) == ("gained", (0.25, 0.5))
    assert (first.before.sample, first.after.sample) == (0, 0)
    text = Page(rendered(root)).text
    assert text.count("mean of all its drafts") == 2
    assert "mean of all its drafts: 0.250 before, 0.500 after" in text


def test_the_ledger_is_added_up(turn: Path):
    ledger = [
        Account("draft", 62.0, 2**30, 960, 0, 12345, 678, 0.0),
        Account("refine", 3.0, 2**29, 10, 5, 1, 2, 0.25),
    ]
    text = Page(rendered(turn, ledger=ledger)).text
    assert "1 min 05 s" in text
    assert "1.0 GiB" in text
    assert "0.2500" in text
    assert "12\N{NARROW NO-BREAK SPACE}346" in text
    assert "over all its runs; what was up to date is not listed" in text
    assert "the last runs of each stage in the store, whoever ran them" in text


def test_one_group_and_a_single_step_still_draw():
    alone = Estimate(mean=0.5, low=None, high=None, queries=3, groups=1, note="no interval")
    assert "<svg" in figures.systems({"before": alone})
    assert "<svg" in figures.curve(contents.Curve("dpo", "DPO loss", {"loss": [(1.0, 0.5)]}), "one")


def test_the_command_writes_the_page_of_the_folder(
    turn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    from cowest.commands import report as command

    monkeypatch.chdir(turn)
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    assert command.main(["--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert "Alignment raised" in (tmp_path / "page.html").read_text()
    assert isinstance(contents.gather(tmp_path).report, Missing)


def test_the_command_gives_an_older_call_store_no_new_tables(
    turn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    from cowest.commands import report as command

    place = tmp_path / "calls.sqlite"
    with closing(sqlite3.connect(place)) as db:
        db.executescript(STEPS[0])
    before = place.read_bytes()
    monkeypatch.chdir(turn)
    monkeypatch.setenv("COWEST_STORE", str(place))
    assert command.main(["--out", str(tmp_path / "page.html")]) == 0
    assert "was written by an older CoWest" in capsys.readouterr().err
    assert place.read_bytes() == before


def finished(root: Path, decided_on: str | None, key: str) -> Path:
    """A project in which a turn came to its end, and the last decision is on `decided_on`."""
    a_turn(root)
    judged = {}
    for system, name in (("before", "policy"), ("after", "challenger")):
        folder = root / "models" / name
        (folder / "adapter").mkdir()
        (folder / "adapter/weights").write_text(name)
        made = version.write(folder, base="tiny@1", prompts=PROMPTS, trained="t")
        judged[system] = made.digest
    (root / "models/champion").mkdir()
    version.write_none(root / "models/champion")
    for name in left.LINE:
        if not (root / name).exists():
            (root / name).touch()
    for kind in contents.CONTRACTS:
        validated(root, kind=kind)
    report = io.read_document(root / left.REPORT, EvalReport)
    told = report.model_copy(update={"versions": judged, "wear": 0.0})
    io.write_document(root / left.REPORT, told)
    io.write_document(root / "looks.json", Looks())
    if decided_on is not None:
        decided(root, turn=decided_on)
    (root / "turn.json").write_text(json.dumps({"key": key, "champion": None}))
    return root


def hidden(root: Path) -> set[str]:
    """The parts of the page that are said to be another turn's."""
    found = contents.gather(root)
    parts: dict[str, object] = {f"contract of {name}": one for name, one in found.contracts.items()}
    for name in ("report", "examples", "gains", "pairs", "raw"):
        parts[name] = getattr(found, name)
    parts |= dict(found.versions)
    shown = set()
    for name, one in parts.items():
        if isinstance(one, Missing) and "this turn has not come so far" in one.why:
            shown.add(name)
    return shown


LATER = {"report", "examples", "models/challenger"}
OF_FEEDBACK = LATER | {"gains", "pairs", "contract of feedback", "contract of pairs"}


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("data/drafts.jsonl", OF_FEEDBACK),
        ("data/refinements.jsonl", OF_FEEDBACK),
        ("data/feedback.jsonl", LATER | {"pairs", "contract of pairs"}),
        ("data/trials.jsonl", {"report"}),
        ("reports/eval.json", set()),
    ],
)
@pytest.mark.parametrize("before", ["a" * 64, None], ids=["decided", "undecided"])
def test_what_lies_behind_a_stage_that_was_cut_short_is_another_turns(
    missing: str, expected: set[str], before: str | None, tmp_path: Path
) -> None:
    root = finished(tmp_path, before, "b" * 64)
    (root / missing).unlink()
    assert hidden(root) == expected
    found = contents.gather(root)
    assert ("data/pairs.jsonl" in [name for name, *_ in found.files]) == ("pairs" not in expected)
    if "models/challenger" in expected:
        assert found.aligned is None
        text = Page(report.page(found)).text
        assert "Alignment raised" not in text and "Aligned by" not in text
        assert ("the last that was decided is turn aaaaaaaa" in text) == (before is not None)
    # A decision on this very turn says that all of it is its own.
    decided(root, turn="b" * 64)
    (root / "turn.json").write_text(json.dumps({"key": "b" * 64}))
    assert hidden(root) == set()


def test_what_is_not_there_is_left_of_nobody(tmp_path: Path) -> None:
    """A first turn that was cut short."""
    root = finished(tmp_path, None, "b" * 64)
    for name in ("data/feedback.jsonl", "data/trials.jsonl", left.REPORT):
        (root / name).unlink()
    assert hidden(root) == {"pairs", "contract of pairs", "models/challenger"}
    assert "left of another" not in str(contents.gather(root).report)


def test_a_turn_that_is_only_not_decided_is_shown(tmp_path: Path) -> None:
    """The registry failed at the end of it: what was compared is its own."""
    root = finished(tmp_path, "a" * 64, "b" * 64)
    assert hidden(root) == set()
    assert "Alignment raised" in Page(rendered(root)).text


@pytest.mark.parametrize("what", ["champion", "policy", "looks", "old"])
def test_a_turn_that_has_not_begun_shows_nothing_of_the_one_before(
    what: str, tmp_path: Path
) -> None:
    root = finished(tmp_path, "a" * 64, "b" * 64)
    if what == "champion":
        turn = {"key": "b" * 64, "champion": 3, "champion_digest": "c" * 64}
        (root / "turn.json").write_text(json.dumps(turn))
    if what == "policy":
        version.write(root / "models/policy", base="tiny@2", prompts=PROMPTS, trained="t")
    if what == "looks":
        # The decision on that turn has looked at the queries since.
        rows = io.read(root / "data/trials.jsonl", Trial)
        looks = Looks(decisions=1, uses={row.id: 1 for row in rows})
        io.write_document(root / "looks.json", looks)
    if what == "old":
        found = io.read_document(root / left.REPORT, EvalReport)
        io.write_document(root / left.REPORT, found.model_copy(update={"versions": {}}))
    assert hidden(root) >= OF_FEEDBACK
    assert "Alignment raised" not in Page(rendered(root)).text


def test_how_choices_fell_is_shown_where_there_are_choices(tmp_path: Path, html: str):
    a_turn(tmp_path)
    whole = io.read_document(tmp_path / "reports/eval.json", EvalReport)
    counts = {"after": Choices(right=7, wrong=3, unparseable=2, macro_f1=0.625)}
    io.write_document(tmp_path / "reports/eval.json", whole.model_copy(update={"choices": counts}))
    page = rendered(tmp_path)
    assert "How the choices fell" in page and "<td>7</td><td>3</td><td>2</td><td>0.625</td>" in page
    assert "How the choices fell" not in html


def test_exact_match_and_token_f1_are_shown_where_one_of_them_decides(tmp_path: Path):
    a_turn(tmp_path)
    whole = io.read_document(tmp_path / "reports/eval.json", EvalReport)
    told = {"after": Matches(exact_match=0.25, token_f1=0.625, queries=12)}
    io.write_document(tmp_path / "reports/eval.json", whole.model_copy(update={"matches": told}))
    assert "<td>0.250</td><td>0.625</td><td>12</td>" in rendered(tmp_path)
    io.write_document(tmp_path / "reports/eval.json", whole.model_copy(update={"matches": {}}))
    assert "Exact match and token F1" not in rendered(tmp_path)


def test_a_gate_is_drawn_with_what_it_asks() -> None:
    wide = Estimate(mean=0.1, low=-0.1, high=0.3, queries=40, groups=20)
    gate = GateResult(
        name="after over <before>",
        of="after",
        over="before",
        at_least=0.0,
        value=-0.1,
        estimate=wide,
        passed=False,
        reason="so",
    )
    drawn = figures.gates([gate])
    assert drawn is not None
    assert "after over &lt;before&gt;: closed" in drawn
    assert "<before>" not in drawn
    assert "var(--warn)" in drawn
    axes = Figure().subplots()
    figures.draw_gate(axes, 0, gate.model_copy(update={"at_least": 0.05}), (-0.5, 0.5))
    drawn_at = [list(map(float, line.get_xdata())) for line in axes.lines]
    assert drawn_at == [[-0.5, 0.5], [0.05, 0.05], [-0.1, 0.3], [0.1]], "scale, asked, interval"
    (bad,) = axes.collections
    low, high = bad.get_paths()[0].get_extents().intervalx
    assert (low, high) == (-0.5, 0.05), "the side that is not good enough"
    absent = gate.model_copy(update={"estimate": None, "passed": None})
    assert figures.gates([absent]) is None


def test_a_gate_on_lengths_has_an_axis_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    near = Estimate(mean=0.1, low=-0.1, high=0.3, queries=40, groups=20)
    far = Estimate(mean=30.0, low=10.0, high=50.0, queries=40, groups=20)
    asked = {"of": "after", "passed": None, "reason": "so"}
    score = GateResult(
        name="score", over="before", at_least=0.0, value=-0.1, estimate=near, **asked
    )
    length = GateResult(
        name="length",
        over="before",
        metric="length",
        at_least=None,
        at_most=40.0,
        value=50.0,
        estimate=far,
        **asked,
    )
    made = []
    add_axes = Figure.add_axes

    def noting(figure: Figure, *given: Any, **more: Any) -> Any:
        made.append(add_axes(figure, *given, **more))
        return made[-1]

    monkeypatch.setattr(Figure, "add_axes", noting)
    drawn = figures.gates([length, score])
    assert drawn is not None and "length: does not apply; score: does not apply" in drawn
    scales = [one.get_xlim() for one in made]
    assert scales[0][1] < 1 < 40 < scales[1][1], "characters would squeeze the scores"
    lower, upper = (one.get_position() for one in reversed(made))
    assert lower.y1 < upper.y0, "one below the other"
