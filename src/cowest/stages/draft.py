"""The policy drafts: several drafts of each training query."""

from cowest import collaboration, io, version
from cowest.config import Config, Sampling
from cowest.models import AnyProvider
from cowest.ports import In, Out
from cowest.progress import watch
from cowest.records import Split


class DraftConfig(Config):
    """What drafts, and how."""

    policy: AnyProvider
    """The base that the policy's adapter belongs to."""
    sampling: Sampling = Sampling(temperature=0.9, n=8, max_tokens=128)
    """Several samples at a temperature: a pair needs two drafts that differ."""
    split: Split = "train"
    """Whose queries are drafted."""


def main(queries: In, policy: In, drafts: Out, config: DraftConfig, shard: io.Shard | None = None) -> None:
    """Writes `sampling.n` drafts a query, adjacent, in the queries' order."""
    trained = version.expect(policy)
    total = config.sampling.n * sum(1 for _ in io.queries(queries, config.split, shard))
    with config.policy.open(adapter=policy / "adapter") as model:
        rows = collaboration.draft(io.queries(queries, config.split, shard), model, trained.prompts, config.sampling)
        io.write(drafts, watch(rows, "draft", total))
