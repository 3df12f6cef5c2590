from kfp.dsl import Artifact, Dataset, Output

from cowest_components import component


@component
def preflight(
    text: str,
    run: str,
    repository: str,
    revision: str,
    budget_usd: str,
    force: bool,
    params: Output[Artifact],
    raw: Output[Dataset],
    version: Output[Artifact],
) -> bool:
    """Lays out the data and finds all that is wrong, before anything is spent.

    Args:
        text: params.yaml, as it was when the pipeline was compiled.
        run: The id of the run.
        repository: Git repository of the data; empty: the folder where the step runs.
        revision: Revision of the data; empty: turn.rev of params.yaml.
        budget_usd: US dollars for the turn; empty: pin.budget of params.yaml.
        force: Decides the turn anew if it was decided before.

    Returns:
        params: params.yaml, as it holds in this run.
        raw: A folder with the raw data, verified.
        version: Path, revision and digests of the raw data.
        Output: True if the turn is open; False if it was decided before.
    """
    from pathlib import Path

    from cowest.steps.begin import RunInputs, begin

    given = RunInputs(run, repository, revision, budget_usd, force)
    return begin(text, given, Path(raw.path), Path(params.path), Path(version.path))
