from typing import NamedTuple

from kfp.dsl import Dataset, Input, Metrics, Output

from cowest_components import component


@component
def compare(trials: Input[Dataset], report: Output[Metrics], config: dict) -> NamedTuple(
    "Gate", [("passed", bool)]
):
    """Intervals and gates; the output `passed` is true if no gate failed."""
    from pathlib import Path

    from cowest.io import read_document
    from cowest.records import EvalReport
    from cowest.stages import run

    run("compare", config, trials=trials.path, report=report.path)
    return (read_document(Path(report.path), EvalReport).passed,)
