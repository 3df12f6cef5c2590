from typing import NamedTuple

from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from cowest_components import component


@component
def compare(
    trials: Input[Dataset],
    policy: Input[Model],
    challenger: Input[Model],
    report: Output[Metrics],
    metrics: Output[Artifact],
    systems: Output[Artifact],
    sft: Output[Artifact],
    dpo: Output[Artifact],
    agreement: Input[Dataset],
    looks: Input[Artifact],
    config: dict,
) -> NamedTuple("Gate", [("passed", bool)]):
    """Intervals and gates; the output `passed` is true if no gate failed."""
    from pathlib import Path

    from cowest.io import read_document
    from cowest.records import EvalReport
    from cowest.stages import run

    run(
        "compare",
        config,
        trials=trials.path,
        policy=policy.path,
        challenger=challenger.path,
        report=report.path,
        metrics=metrics.path,
        systems=systems.path,
        sft=sft.path,
        dpo=dpo.path,
        agreement=agreement.path,
        looks=looks.path,
    )
    return (read_document(Path(report.path), EvalReport).passed,)
