"""Python's search for cycles of unused objects, in processes of our own."""

import atexit
import gc


def collect_rarely() -> None:
    """Search rarely, and not once more at the end of the process.

    Tracing makes so many objects that the search took a tenth of a short command, and the one at its end a twentieth.
    """
    gc.set_threshold(100_000, 50, 50)
    atexit.register(gc.freeze)
