"""End the hold on promotions.

cowest release --why "invoices are moved"

The next turn that passes its gates is promoted again. Versions that waited stay as they are:
`cowest status` names them, and `cowest approve` promotes one.
"""

from cowest.commands.acting import add_why, entered, opened, parser_of
from cowest.registry.acts import release
from cowest.registry.log import waiting


def main(argv: list[str]) -> int:
    """Enters the release. Raises RegistryError if promotions are not held."""
    parser = parser_of("release", __doc__)
    add_why(parser)
    given = parser.parse_args(argv)
    registry = opened(given.params)
    made, _ = entered(registry, release(registry.log(), given.why))
    print(f"promotions are held no longer (version {made.version} of the history)")
    for one in waiting(registry.log()):
        print(f'version {one.version} waits: `cowest approve {one.version} --why "..."`')
    return 0
