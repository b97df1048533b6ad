"""What mdsens refuses, one class a reason. Every message says what happened and what to do next."""


class MdsensError(Exception):
    """The base of every error that mdsens raises on purpose."""


class InvalidInput(MdsensError, ValueError):
    """The system, the file or an option cannot be what was meant."""


class NotConverged(MdsensError, RuntimeError):
    """The minimizer stopped before the forces fell below the tolerance."""


class NeighborOverflow(MdsensError, RuntimeError):
    """More pairs than a neighbor list of fixed capacity can hold."""


class SolveFailed(MdsensError, RuntimeError):
    """The linear solve behind a derivative left a residual too large to trust."""
