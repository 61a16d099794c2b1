"""What the interpreter refuses."""

from edgepack.errors import InputError


class MilError(InputError):
    """A package, operation or input the interpreter does not know; the message names it."""
