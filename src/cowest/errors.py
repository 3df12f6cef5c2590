"""The errors that CoWest raises for anything that a user can mend.

    CoWestError
    ├── ConfigError      params.yaml or a flag: an unknown key, a wrong type, a rule broken
    ├── InputError       a file or folder given to a stage: missing, empty, not what it should be
    │   └── RecordError  one line of a record file, named `file:line`
    ├── ModelError       a model folder or adapter: missing, corrupt, or hostile
    ├── CallError        a provider that refuses all our calls: no key, no such model, out of reach
    ├── BudgetError      the turn's budget for calls is spent
    ├── StoreError       the call store can't be opened, read or written: full disk, damaged file
    ├── ContractError    data that is well formed and still unfit: no pairs, too many failed rows
    └── RegistryError    the registry can't be reached, or holds something impossible

A message says what is wrong, where, and what to do. A failed *row* is not an error: it stays in
the data with its reason.
"""


class CoWestError(Exception):
    """Base class. The command line prints the message without a stack trace and exits with 1."""


class ConfigError(CoWestError):
    """A setting is wrong."""


class InputError(CoWestError):
    """A file or folder given to a stage is missing or unfit."""


class RecordError(InputError):
    """One line of a record file is not a record of its kind."""


class ModelError(CoWestError):
    """A model folder is missing, corrupt, or holds what no model folder should."""


class CallError(CoWestError):
    """A provider refuses every call."""


class BudgetError(CoWestError):
    """The next call might cost more than is left of the turn's budget."""


class StoreError(CoWestError):
    """The call store can't be opened, read or written."""


class ContractError(CoWestError):
    """The data is well formed and still unfit for what comes next."""


class RegistryError(CoWestError):
    """The registry can't be reached, or holds something impossible."""
