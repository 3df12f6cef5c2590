"""Make an earlier champion champion again, in seconds.

cowest rollback --why "worse on invoices since Monday"      back to the champion before
cowest rollback --to 3 --why "the last that knew invoices"  back to version 3

The files of that version are entered as a new version, with a number of its own: nothing is
deleted, and a turn that was judged against what is removed comes too late. A turn that makes the
same files again is refused; new data make another version, which can be promoted.
`cowest rollback --to` with the version removed brings it back.
"""

from cowest.commands.acting import (
    CHAMPION_TAKES_EFFECT,
    add_why,
    entered,
    opened,
    parser_of,
)
from cowest.registry.acts import rollback


def main(argv: list[str]) -> int:
    """Enters the rollback. Raises RegistryError if there is nothing to go back to."""
    parser = parser_of("rollback", __doc__)
    parser.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="a version that was champion (the one before, if it is left out)",
    )
    add_why(parser)
    given = parser.parse_args(argv)
    registry = opened(given.params)
    entry = rollback(registry.log(), given.to, given.why)
    made, champion = entered(registry, entry)
    print(
        f"version {made.version} is champion: it has the files of version {made.of}; "
        f"version {made.against} was rolled back"
    )
    if champion != made.version:
        print(f"meanwhile version {champion} became champion")
    print(CHAMPION_TAKES_EFFECT)
    return 0
