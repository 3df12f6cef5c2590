"""Hold promotions, until `cowest release`.

cowest hold --why "invoices are being moved"

Turns run as before, and a challenger that no gate stops is left waiting. After the release it can
be approved, as long as the champion that it was judged against is champion. `cowest rollback` works
during a hold. A CoWest from before holds were there knows none, and promotes.
"""

from cowest.commands.acting import add_why, entered, opened, parser_of
from cowest.registry.acts import hold


def main(argv: list[str]) -> int:
    """Enters the hold. Raises RegistryError if promotions are held already."""
    parser = parser_of("hold", __doc__)
    add_why(parser)
    given = parser.parse_args(argv)
    registry = opened(given.params)
    made, champion = entered(registry, hold(registry.log(), given.why))
    print(f"promotions are held by version {made.version}, until `cowest release`")
    if champion != made.against:
        print(f"meanwhile version {champion} became champion")
    return 0
