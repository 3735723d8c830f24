"""The errors a user can meet: each says where, what, the numbers with units, and the fix."""


class TierlineError(Exception):
    """Something the user can mend; the command line prints the message alone and exits with code 2."""


class InputError(TierlineError):
    """A file, name or option that is not what it has to be: truncated, hostile, unknown, inconsistent."""


class UnknownArchitectureError(InputError):
    """A model of an architecture that whoever was asked to describe it does not know."""


class BudgetError(TierlineError):
    """A memory budget that cannot work, or that a run would outgrow."""


class UnknownRateError(TierlineError):
    """A rate or capacity that no source gives and that would have to be guessed."""


class FaultError(TierlineError):
    """A fault in the middle of a run: a read error, a short read, a file that changed."""
