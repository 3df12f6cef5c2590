from kfp.dsl import Artifact, Dataset, Input, Output

from cowest_components import component


@component
def collect_trials(
    trial_parts: Input[list[Dataset]],
    agreement_parts: Input[list[Dataset]],
    probe_parts: Input[list[Dataset]],
    params: Input[Artifact],
    trials: Output[Dataset],
    agreement: Output[Dataset],
    probe: Output[Dataset],
):
    """Joins the trials of all shards, and judges how many rows failed.

    Args:
        trial_parts: The trials of each shard.
        agreement_parts: The comparisons of each shard.
        probe_parts: The general questions of each shard.
        params: params.yaml, which holds max_failed.

    Returns:
        trials: The trials of all held-out queries, in their order.
        agreement: The judged policy compared with its other forms.
        probe: Answers to general questions.
    """
    from cowest import steps

    def named(parts):
        return [(part.metadata["shard"], part.path) for part in parts]

    steps.collect_trials(
        (named(trial_parts), trials.path),
        (named(agreement_parts), agreement.path),
        (named(probe_parts), probe.path),
        params.path,
    )
