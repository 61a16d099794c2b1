"""What the interpreter refuses."""

from edgepack.errors import InputError


class MilError(InputError):
    """A package, operation or input the interpreter does not know; the message names it."""


class KernelError(MilError):
    """An operation the interpreter knows broke off, or gave another shape than the package declares: a fault of one of the two."""
