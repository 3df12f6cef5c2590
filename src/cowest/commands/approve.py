"""Promote a version that waits for approval.

cowest status                              which versions wait, and what they were judged by
cowest approve 7 --why "read 20 answers"   version 7 becomes champion, under a new number

A version waits if no gate stopped it and `register.require_approval` is true, or if promotions were
held (`cowest hold`). It can be approved while the champion that it was judged against is champion,
or another version with the same files; later it would be a promotion that nothing was judged for.
"""

from cowest.commands.acting import (
    CHAMPION_TAKES_EFFECT,
    add_why,
    entered,
    opened,
    parser_of,
)
from cowest.registry.acts import approval


def main(argv: list[str]) -> int:
    """Enters the approval. Raises RegistryError if the version does not wait, or comes too late."""
    parser = parser_of("approve", __doc__)
    parser.add_argument("version", type=int, metavar="VERSION", help="the version that waits")
    add_why(parser)
    given = parser.parse_args(argv)
    registry = opened(given.params)
    entry = approval(registry.log(), given.version, given.why)
    made, champion = entered(registry, entry)
    print(f"version {made.version} is champion: version {made.of} was approved")
    if champion != made.version:
        print(f"meanwhile version {champion} became champion")
    print(CHAMPION_TAKES_EFFECT)
    return 0
