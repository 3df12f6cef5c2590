"""Great Expectations judges a narrow frame.

It calls nobody: its analytics are off, and its own pages, which load from elsewhere, are not made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cowest.expectations.rules import Finding, Rule

SEVERITIES = {"fail": "critical", "aside": "warning", "note": "info"}
"""Ours, in Great Expectations' words."""


def judge(frame: Any, rules: Sequence[Rule]) -> list[Finding]:
    """How each rule about rows fares on a frame, in the rules' order."""
    results = _validated(frame, rules)
    return [_of_rows(result, rule) for result, rule in zip(results, rules, strict=True)]


def judge_whole(values: Mapping[str, float | None], rules: Sequence[Rule]) -> list[Finding]:
    """How each rule about the whole fares on numbers that were counted of it; one that is None says nothing, and is met."""
    import pandas

    frame = pandas.DataFrame(
        {rule.column: [values[rule.column]] for rule in rules}, dtype="float64"
    )
    results = _validated(frame, rules)
    return [
        Finding(rule, bool(result.success), (), _shown(rule, values[rule.column]))
        for result, rule in zip(results, rules, strict=True)
    ]


def _validated(frame: Any, rules: Sequence[Rule]) -> list[Any]:
    """An error of the engine itself is raised: it says nothing of the data."""
    import great_expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    if not rules:
        return []
    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    # numbers of 64 bits are compared as columns, others one by one in Python
    names = [name for name in dict.fromkeys(rule.column for rule in rules) if name in frame]
    frame = frame[names].astype(
        {name: "float64" if frame[name].dtype.kind == "f" else "int64" for name in names}
    )
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset(name="rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = great_expectations.ExpectationSuite(name="suite")
    for place, rule in enumerate(rules):
        suite.add_expectation(
            great_expectations.expectations.ExpectColumnValuesToBeBetween(
                column=rule.column,
                min_value=rule.low,
                max_value=rule.high,
                severity=SEVERITIES[rule.severity],
                meta={"rule": place},
            )
        )
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    found = {result.expectation_config.meta["rule"]: result for result in outcome.results}
    for place, rule in enumerate(rules):
        _refuse_errors(found[place], rule)
    return [found[place] for place in range(len(rules))]


def _refuse_errors(result: Any, rule: Rule) -> None:
    # the flag is at the top, or one level down under the name of each metric that failed
    for error in (
        result.exception_info,
        *(value for value in result.exception_info.values() if isinstance(value, dict)),
    ):
        if error.get("raised_exception"):
            raise RuntimeError(
                f"Great Expectations could not judge that {rule.says}: {error.get('exception_message')}"
            )


def _of_rows(result: Any, rule: Rule) -> Finding:
    rows = tuple(sorted(int(row) for row in result.result.get("unexpected_index_list") or ()))
    total = result.result["element_count"]
    return Finding(
        rule,
        bool(result.success),
        rows,
        f"all {total} rows" if result.success else f"{len(rows)} of {total} rows don't",
    )


def _shown(rule: Rule, value: float | None) -> str:
    return "not known here" if value is None else rule.shown.format(value)
