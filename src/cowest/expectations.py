"""What each record kind must meet before it is used: suites of Great Expectations over narrow frames.

A frame has one row a record and holds lengths, counts and flags that were derived while the rows streamed by, never a text.
A rule is critical (it fails the turn) or a warning (it sets rows aside).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cowest.records import Message, PreferencePair, Query


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation, in words for people and in terms of Great Expectations."""

    says: str
    """What is expected, a full sentence without its stop."""
    mend: str
    """What to do when it is not met."""
    severity: Literal["critical", "warning"]
    expectation: str
    """A class of `great_expectations.expectations`."""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def on_rows(self) -> bool:
        """Whether it speaks of each row; the others speak of the whole, and are judged on what the warnings leave."""
        return self.expectation.startswith("ExpectColumnValues")


@dataclass(frozen=True, slots=True)
class Finding:
    """How a rule fared."""

    rule: Rule
    met: bool
    rows: tuple[int, ...]
    """Which rows don't meet it, counted from 0; empty for a rule about the whole."""
    found: str
    """What was found, in words."""


def query_rules(splits: Sequence[str], max_chars: int) -> list[Rule]:
    """The suite of `queries`; columns are those of `query_frame`."""
    return [
        _aside("a query comes once", "its first row is kept, the repetition is left out", "repeated", 0, 0),
        _aside(f"a prompt has 1 to {max_chars} characters", "shorten it, raise max_chars, or do without it", "chars", 1, max_chars),
        _fails("every query has a target", "give it a right answer", "targets", 1, None),
        _fails(
            "no group is in two splits",
            "what is learned of a group in training would be measured on it: put the whole group into one split",
            "group_splits", 1, 1,
        ),
        _fails(
            "no question is in two splits, whatever its case and spacing",
            "a held-out question must not be trained on: take it out of one of the splits",
            "prompt_splits", 1, 1,
        ),
        *(
            Rule(
                f"split {split!r} is not empty",
                f"put queries into {split!r}, or leave it out of `splits` if nothing needs it",
                "critical",
                "ExpectColumnDistinctValuesToContainSet",
                {"column": "split", "value_set": [split]},
            )
            for split in splits
        ),
    ]  # fmt: skip


def pair_rules(min_pairs: int, min_margin: float, max_length_ratio: float, max_pairs_per_query: int, max_chars: int) -> list[Rule]:
    """The suite of `pairs`; columns are those of `pair_frame`."""
    return [
        _aside("a pair comes once", "its first row is kept, the repetition is left out", "repeated", 0, 0),
        _aside("chosen and rejected differ, whatever their case and spacing", "such a pair teaches nothing", "same", 0, 0),
        _aside(f"the margin is {min_margin:g} or more", "the scores are too close to tell", "margin", min_margin, None),
        _aside("no side is empty", "an empty draft is nothing to prefer or to avoid", "least_chars", 1, None),
        _aside(f"a side has at most {max_chars} characters", "it would be cut in training", "chars", None, max_chars),
        _aside(
            f"no side is more than {max_length_ratio:g} times as long as the other",
            "DPO would learn length in place of help",
            "length_ratio", 1, max_length_ratio,
        ),
        _aside(
            f"a query gives at most {max_pairs_per_query} pairs",
            "one query would outweigh the others; its first pairs are kept",
            "nth_of_query", 1, max_pairs_per_query,
        ),
        Rule(
            "pairs come from the split 'train' alone",
            "a held-out query must not be trained on: does `pair` read the drafts of another split?",
            "critical",
            "ExpectColumnValuesToBeInSet",
            {"column": "split", "value_set": ["train"]},
        ),
        Rule(
            f"{min_pairs} pairs or more are left",
            "where all drafts of a query score alike there is nothing to prefer: draw more samples a query, raise the temperature, "
            "take a finer scorer or easier queries, or lower min_margin and min_pairs",
            "critical",
            "ExpectTableRowCountToBeBetween",
            {"min_value": min_pairs},
        ),
    ]  # fmt: skip


def _aside(says: str, mend: str, column: str, low: float | None, high: float | None) -> Rule:
    return Rule(says, mend, "warning", "ExpectColumnValuesToBeBetween", {"column": column, "min_value": low, "max_value": high})


def _fails(says: str, mend: str, column: str, low: float | None, high: float | None) -> Rule:
    return Rule(says, mend, "critical", "ExpectColumnValuesToBeBetween", {"column": column, "min_value": low, "max_value": high})


def query_frame(rows: Iterable[Query]) -> Any:
    """A pandas frame of queries: repeated, chars, targets (counts); split; group_splits, prompt_splits (in how many splits)."""
    import pandas

    columns: dict[str, list[Any]] = {name: [] for name in ("repeated", "chars", "targets", "split")}
    seen: Counter[bytes] = Counter()
    groups, prompts = _Splits(), _Splits()
    for row in rows:
        key = bytes.fromhex(row.id)
        columns["repeated"].append(seen[key])
        columns["chars"].append(_chars(row.prompt))
        columns["targets"].append(sum(bool(target.strip()) for target in row.targets))
        columns["split"].append(row.split)
        seen[key] += 1
        groups.add(row.group, row.split)
        prompts.add("\0".join([*(_plain(message.content) for message in row.prompt), *row.choices]), row.split)
    return pandas.DataFrame({**columns, "group_splits": groups.counts(), "prompt_splits": prompts.counts()})


def pair_frame(rows: Iterable[PreferencePair]) -> Any:
    """A pandas frame of pairs: repeated, same, chars, least_chars, nth_of_query (counts); margin; length_ratio (>= 1); split."""
    import pandas

    names = ("repeated", "same", "margin", "chars", "least_chars", "length_ratio", "nth_of_query", "split")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    seen: Counter[bytes] = Counter()
    queries: Counter[str] = Counter()
    for row in rows:
        key = bytes.fromhex(row.id)
        chosen, rejected = _chars(row.chosen), _chars(row.rejected)
        queries[row.query] += not seen[key]
        columns["repeated"].append(seen[key])
        columns["same"].append(int(_said(row.chosen) == _said(row.rejected)))
        columns["margin"].append(row.margin)
        columns["chars"].append(max(chosen, rejected))
        columns["least_chars"].append(min(chosen, rejected))
        columns["length_ratio"].append(max(chosen, rejected, 1) / max(min(chosen, rejected), 1))
        columns["nth_of_query"].append(queries[row.query])
        columns["split"].append(row.split)
        seen[key] += 1
    return pandas.DataFrame(columns)


class _Splits:
    """In how many splits each row's key lies; a key is kept as 8 bytes."""

    def __init__(self) -> None:
        self._keys: list[int] = []
        self._splits: dict[int, set[str]] = {}

    def add(self, key: str, split: str) -> None:
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        self._keys.append(number)
        self._splits.setdefault(number, set()).add(split)

    def counts(self) -> list[int]:
        return [len(self._splits[key]) for key in self._keys]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _said(messages: Iterable[Message]) -> list[str]:
    return [_plain(message.content) for message in messages]


def _chars(messages: Iterable[Message]) -> int:
    return sum(len(message.content.strip()) for message in messages)


def judge(frame: Any, rules: Sequence[Rule]) -> list[Finding]:
    """How each rule fares on a frame, in the rules' order. An error of the engine itself is raised: it says nothing of the data."""
    import great_expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset(name="rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = great_expectations.ExpectationSuite(name="suite")
    for number, rule in enumerate(rules):
        kind = getattr(great_expectations.expectations, rule.expectation)
        suite.add_expectation(kind(**rule.arguments, severity=rule.severity, meta={"rule": number}))
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    findings = {result.expectation_config.meta["rule"]: _finding(result, rules) for result in outcome.results}
    return [findings[number] for number in range(len(rules))]


def _finding(result: Any, rules: Sequence[Rule]) -> Finding:
    rule = rules[result.expectation_config.meta["rule"]]
    # the flag is at the top, or one level down under the name of each metric that failed
    errors = [result.exception_info, *(value for value in result.exception_info.values() if isinstance(value, dict))]
    for error in errors:
        if error.get("raised_exception"):
            raise RuntimeError(f"Great Expectations could not judge that {rule.says}: {error.get('exception_message')}")
    rows = tuple(sorted(int(row) for row in result.result.get("unexpected_index_list") or ()))
    if rule.on_rows:
        total = result.result["element_count"]
        found = f"all {total} rows" if result.success else f"{len(rows)} of {total} rows don't"
    else:
        observed = result.result.get("observed_value")
        found = f"there are {observed}" if isinstance(observed, int) else f"there are {'some' if result.success else 'none'}"
    return Finding(rule, bool(result.success), rows, found)
