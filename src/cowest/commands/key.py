"""Make a key for the service, and print it once.

cowest key --name alice

Prints the key, and the line for `serve.keys` of params.yaml. The line holds the key's SHA-256, from
which nobody finds the key: it may be committed. Nothing keeps the key itself.
"""

import argparse
import json

from cowest import config
from cowest.online.keys import KeyConfig, digest_of, new_key


def main(argv: list[str]) -> int:
    """Prints a new key and its line. Raises ConfigError for a name that can't be used."""
    parser = argparse.ArgumentParser(
        prog="cowest key",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", required=True, help="who asks with it: letters, digits, . _ -")
    parser.add_argument("--rate", type=int, default=60, help="requests per minute (60)")
    parser.add_argument("--usd", type=float, help="US dollars that it may spend a day")
    parser.add_argument("--tokens", type=int, help="tokens that it may use a day")
    given = parser.parse_args(argv)
    key = new_key()
    values = {"name": given.name, "sha256": digest_of(key), "rate": given.rate}
    budget = {name: getattr(given, name) for name in ("usd", "tokens")}
    budget = {name: most for name, most in budget.items() if most is not None}
    if budget:
        values["budget"] = budget
    config.parse(KeyConfig, values, "cowest key")
    print(f"{key}\n")
    print(f"is the key of {given.name}, shown this once. In params.yaml, section serve:\n")
    # JSON is YAML, and has the texts in quotes: to YAML, 64 digits may be a number.
    print(f"  keys:\n    - {json.dumps(values)}")
    return 0
