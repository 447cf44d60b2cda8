"""What happens to a machine and not to a study: memory that is full, a device that fails.

torch's errors are known by name, because most verbs run without it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from crossflow.errors import CrossflowError

_KEPT = "what was finished is kept"
_CPU_IS_FULL = "DefaultCPUAllocator"  # torch names no kind of error for it


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Turn such a fault into the sentence that a person is told.

    Raises:
        CrossflowError: memory was full, or the device failed.
    """
    full = f"The machine's memory is full; {_KEPT}: run again where there is more."
    try:
        yield
    except MemoryError as error:
        raise CrossflowError(full) from error
    except RuntimeError as error:
        if _CPU_IS_FULL in str(error):
            raise CrossflowError(full) from error
        names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "torch"}
        if "OutOfMemoryError" in names:
            raise CrossflowError(
                f"The device's memory is full; {_KEPT}: free it of other programs, set a dtype of half the size, or "
                "take a device with more memory, and run again."
            ) from error
        if "AcceleratorError" in names:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise CrossflowError(f"The device failed ({reason}); {_KEPT}, run again.") from error
        raise
