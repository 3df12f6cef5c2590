"""The policy writes several drafts of each training query."""

from pydantic import Field

from cowest import collaboration, io, version
from cowest.config import Config, Sampling
from cowest.failures import Failures
from cowest.models import AnyProvider
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.prompts import expect_candidates
from cowest.records import Split


class DraftConfig(Config):
    """Settings of drafting."""

    policy: AnyProvider
    """The base model that the policy's adapter belongs to."""
    sampling: Sampling = Sampling(temperature=0.9, n=8, max_tokens=128)
    """Sampling of drafts. Several per query at a temperature above 0, since a pair needs two drafts
    that differ. Raise max_tokens if drafts are cut short."""
    candidates: Sampling | None = Field(default=None, exclude_if=lambda asked: asked is None)
    """Decoding of drafts by the other prompts that the version has for the policy
    (`prompts.candidates`): `n` by each, beside those of `sampling`. They are refined, scored and
    paired as all drafts are, so that the policy learns to write from its own prompt what helped.
    Null asks by its own prompt alone. Needs prompts that have `candidates`."""
    split: Split = "train"
    """Split whose queries are drafted."""
    max_failed: int | None = Field(default=0, ge=0)
    """Rows that may fail: with more, the stage fails at its end. null for any number. Failed rows
    stay in the data, and are left out of pairs and comparisons."""


def main(
    queries: In, policy: In, drafts: Out, config: DraftConfig, shard: io.Shard | None = None
) -> None:
    """Writes `sampling.n` drafts per query, and those of candidates, in the queries' order.

    Raises ConfigError for `candidates` without prompts for them.
    """
    trained = version.expect(policy)
    expect_candidates(config.candidates, trained.prompts, "draft")
    failures = Failures("draft")
    each = len(collaboration.candidate_names(trained.prompts, config.sampling, config.candidates))
    total = each * sum(1 for _ in io.queries(queries, config.split, shard))
    with config.policy.open(adapter=policy / "adapter") as model:
        rows = collaboration.draft(
            io.queries(queries, config.split, shard),
            model,
            trained.prompts,
            config.sampling,
            config.candidates,
        )
        io.write(drafts, failures.counted(watch(rows, "draft", total)))
    failures.judge(config.max_failed)
