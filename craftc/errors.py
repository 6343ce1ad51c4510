"""Errors that a user can cause. The message is part of the product: one line with what, where, numbers, what to do."""


class CraftcError(Exception):
    """Base class of all errors of craftc; the command line prints `str(error)` and exits with `exit_code`."""

    exit_code = 2


class BadInput(CraftcError):
    """The input cannot be used (exit code 2): wrong file, budget, topology, loads or model."""


class Unsupported(CraftcError):
    """The input is sound, but craftc cannot handle it (exit code 2)."""


class Refused(CraftcError):
    """The honest answer is no (exit code 1): nothing fits, or a verification failed."""

    exit_code = 1


class Infeasible(Refused):
    """No plan fits (exit code 1); the message states the shortfall and the smallest budget or topology that works."""


class VerificationFailed(Refused):
    """A plan or a rewritten model is not what it must be (exit code 1); nothing was written."""


class RankFailed(CraftcError):
    """A run on several ranks broke (exit code 2): a rank raised, was killed, or did not answer in time."""


_LONGEST = 240


def one_line(error: BaseException) -> str:
    """Class and message of an error raised by other code, on one line of about 240 characters at most."""
    line = folded(f"{type(error).__name__}: {error}").rstrip(": ")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def folded(text: str) -> str:
    """`text` on one line, with single spaces for line breaks and margins."""
    return " ".join(text.split())
