"""Great Expectations judges a narrow frame.

It calls nobody: its analytics are off, and its own pages, which load files from elsewhere, are not
made.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from cowest.expectations.rules import JudgedRule, Rule

SEVERITIES = {"fail": "critical", "aside": "warning", "note": "info"}
"""Our severities by their names in Great Expectations."""
LATER = ("altair", "scipy.stats")
"""Modules that it imports for pages and rules that are not used here."""
ABSENT = ("boto3", "botocore", "google", "pyspark")
"""Modules of clouds and clusters. It does without those that are not installed."""


def judge(frame: Any, rules: Sequence[Rule]) -> list[JudgedRule]:
    """Judges rules about rows on a frame. Returns the results in the order of the rules."""
    results = _validated(frame, rules)
    return [_of_rows(result, rule) for result, rule in zip(results, rules, strict=True)]


def judge_whole(values: Mapping[str, float | None], rules: Sequence[Rule]) -> list[JudgedRule]:
    """Judges rules about all rows together on numbers counted of them.

    A number that is None is not known, and its rule is met.
    """
    import pandas

    columns = {rule.column: [values[rule.column]] for rule in rules}
    results = _validated(pandas.DataFrame(columns, dtype="float64"), rules)
    judged = []
    for result, rule in zip(results, rules, strict=True):
        value = values[rule.column]
        found = "not known here" if value is None else rule.shown.format(value)
        judged.append(JudgedRule(rule, bool(result.success), (), found))
    return judged


def _validated(frame: Any, rules: Sequence[Rule]) -> list[Any]:
    """Raises RuntimeError for an error of the engine: it says nothing about the data."""
    if not rules:
        return []
    with _lean_import():
        import great_expectations
        from great_expectations.data_context.types.base import ProgressBarsConfig
    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset(name="rows")
    definition = asset.add_batch_definition_whole_dataframe("all")
    batch = definition.get_batch({"dataframe": _comparable(frame, rules)})
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
    # Results come in an order of the engine's own.
    found = {result.expectation_config.meta["rule"]: result for result in outcome.results}
    for place, rule in enumerate(rules):
        _refuse_errors(found[place], rule)
    return [found[place] for place in range(len(rules))]


class _Later(ModuleType):
    """Stands for a module that is imported when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        # Libraries that look through all modules ask for these, and nothing is to load for them.
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _lean_import() -> Iterator[None]:
    """Has Great Expectations load without what is not used of it: 6.3 CPU seconds become 3.5.

    Each `validate` is a process of its own, and a turn has four. What is there already stays.
    """
    stand_ins: dict[str, ModuleType | None] = {name: _Later(name) for name in LATER}
    stand_ins |= dict.fromkeys(ABSENT)
    put = {name: found for name, found in stand_ins.items() if name not in sys.modules}
    if "great_expectations" in sys.modules:
        put = {}
    # None makes an import fail as if the module was not installed.
    sys.modules.update(put)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, found in put.items():
            if name in sys.modules and sys.modules[name] is found:
                del sys.modules[name]


def _comparable(frame: Any, rules: Sequence[Rule]) -> Any:
    """The columns that the rules need, as numbers of 64 bits."""
    # The engine compares numbers of 64 bits as whole columns, and others one by one in Python. A
    # column that is missing is left for the engine to name.
    types = {}
    for rule in rules:
        if rule.column in frame:
            is_float = frame[rule.column].dtype.kind == "f"
            types[rule.column] = "float64" if is_float else "int64"
    return frame[list(types)].astype(types)


def _refuse_errors(result: Any, rule: Rule) -> None:
    # The flag is at the top, or one level down under the name of each metric that failed.
    below = [value for value in result.exception_info.values() if isinstance(value, dict)]
    for error in (result.exception_info, *below):
        if error.get("raised_exception"):
            raise RuntimeError(
                f"Great Expectations could not judge that {rule.says}: "
                f"{error.get('exception_message')}"
            )


def _of_rows(result: Any, rule: Rule) -> JudgedRule:
    rows = tuple(sorted(int(row) for row in result.result.get("unexpected_index_list") or ()))
    total = result.result["element_count"]
    found = f"met by all {total} rows"
    if not result.success:
        found = f"not met by {len(rows)} of {total} rows"
    return JudgedRule(rule, bool(result.success), rows, found)
