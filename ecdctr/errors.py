"""Errors that a user can act on: each message says what, where, expected, found and what to do."""


class EcdctrError(Exception):
    """A refusal with one clear sentence; the command line prints it without a traceback."""


class ConfigError(EcdctrError):
    """The configuration file cannot be used."""


class ContractError(EcdctrError):
    """Impressions break the data contract."""


class StoreError(EcdctrError):
    """The artifact store refuses, or lacks what was asked for."""


class TrainingError(EcdctrError):
    """Training cannot go on (for example, the loss is not a number)."""
