"""What can go wrong, as one family: every failure names its cause and the next step, and carries its exit code.

Rooms subclass these (``CalibrationError(InputError)``). Anything else that escapes a step is a crash and is reported as one.
"""


class EdgepackError(Exception):
    """A failure a person can act on.

    Args:
        cause: what is wrong, naming the file, node or value.
        hint: what to do next.
    """

    exit_code = 3

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(f"{cause} -> next: {hint}")
        self.cause = cause
        self.hint = hint


class GateError(EdgepackError):
    """A budget or a check did not hold (exit code 1)."""

    exit_code = 1


class InputError(EdgepackError):
    """The user's model, data, file or option is unusable (exit code 2)."""

    exit_code = 2


class StepError(EdgepackError):
    """A step crashed, hung or ran out of memory (exit code 3)."""

    exit_code = 3


class DeviceError(EdgepackError):
    """A device cannot be reached (exit code 4)."""

    exit_code = 4


# How libraries say that memory ran out: Python and numpy, C++, then torch, onnxruntime and the system.
_NO_MEMORY = ("MemoryError", "bad_alloc", "allocate memory")


def is_out_of_memory(words: str) -> bool:
    """Whether the last words of a process or the text of an exception (as ``one_line`` gives it) say that memory ran out."""
    return any(said in words for said in _NO_MEMORY)


def is_out_of_space(words: str) -> bool:
    """The same of a full disk, in the words of the system."""
    return "No space left on device" in words or "Disk quota exceeded" in words


def one_line(error: BaseException) -> str:
    """Any exception as one line: its type and at most 200 characters of its message."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:200]}"
