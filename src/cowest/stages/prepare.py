"""Raw rows, as published, become queries and the corpus that specialises the policy."""

from cowest import io
from cowest.config import Config
from cowest.domains import DomainName, domain
from cowest.ports import In, Out
from cowest.progress import watch


class PrepareConfig(Config):
    """Which data set it is."""

    domain: DomainName
    """One of `cowest.domains`."""


def main(raw: In, queries: Out, corpus: Out, config: PrepareConfig) -> None:
    """Writes every query of every split, and every demonstration."""
    source = domain(config.domain)
    io.write(queries, watch(source.load(raw), "prepare queries"))
    io.write(corpus, watch(source.corpus(raw), "prepare corpus"))
