"""Errors a user can cause: the command line prints their message without a traceback.

A message says what was found (with the value), what was expected, and what to do about it.
"""


class UserError(ValueError):
    """Bad input or a refused action; the command line exits with code 1."""


class UsageError(UserError):
    """A command or configuration that contradicts itself; the command line exits with code 2."""
