"""What mdsens refuses, one class a reason. Every message says what happened and what to do next."""


class MdsensError(Exception):
    """The base of every error that mdsens raises on purpose."""


class InvalidInput(MdsensError, ValueError):
    """The system, the file or an option cannot be what was meant."""


class NotConverged(MdsensError, RuntimeError):
    """The minimizer stopped before the forces fell below the tolerance."""


class NotAMinimum(MdsensError, RuntimeError):
    """The forces vanish where the energy curves down: a saddle."""


class NotRigid(MdsensError, RuntimeError):
    """Nothing holds the particles, as below jamming: their positions respond to nothing in a defined way."""


class NotDifferentiable(MdsensError, RuntimeError):
    """Two particles are within rounding of touching: the response from one side is not that from the other."""


class NeighborOverflow(MdsensError, RuntimeError):
    """More pairs than a neighbor list of fixed capacity can hold."""


class SolveFailed(MdsensError, RuntimeError):
    """The linear solve behind a derivative left a residual too large to trust."""
