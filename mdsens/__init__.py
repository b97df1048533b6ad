"""mdsens: how a particle system at rest responds to its parameters, from ∇E = 0.

Names are loaded when first used, so that `import mdsens` and `mdsens --help` are immediate.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AllPairs": "neighbors",
    "Certificate": "certificate",
    "Design": "inverse_design",
    "Equilibrium": "relaxation",
    "Event": "path",
    "FIRE": "minimizers",
    "Fit": "fitting",
    "GradientDescent": "minimizers",
    "Independence": "inverse_design",
    "InvalidInput": "errors",
    "JaxMD": "potentials",
    "Jamming": "jamming",
    "JaxMDMinimizer": "minimizers",
    "LennardJones": "potentials",
    "MdsensError": "errors",
    "Minibatches": "fitting",
    "Morse": "potentials",
    "NeighborList": "neighbors",
    "NeighborOverflow": "errors",
    "NotAMinimum": "errors",
    "NotConverged": "errors",
    "NotDifferentiable": "errors",
    "NotRigid": "errors",
    "PairPotential": "potentials",
    "Path": "path",
    "Potential": "potentials",
    "Relaxation": "relaxation",
    "Sensitivity": "response",
    "SoftSphere": "potentials",
    "SolveFailed": "errors",
    "StillingerWeber": "potentials",
    "StudyResults": "sweeps.results",
    "System": "system",
    "Target": "fitting",
    "Unrolled": "unrolled",
    "Validity": "interval",
    "Yukawa": "potentials",
    "design": "inverse_design",
    "fit": "fitting",
    "follow": "path",
    "from_ase": "io",
    "independence": "inverse_design",
    "jam": "jamming",
    "load_study": "sweeps.results",
    "progress_bars": "progress",
    "random_packing": "packings",
    "read": "io",
    "relax_ensemble": "ensemble",
    "sensitivity": "response",
    "to_ase": "io",
    "validity": "interval",
    "write": "io",
}
_ROOMS = ("errors", "implicit", "linear_solvers", "minimizers", "plotting", "potentials", "properties", "studies")

__all__ = [*_HOME, *_ROOMS]

if TYPE_CHECKING:
    from . import errors, implicit, linear_solvers, minimizers, plotting, potentials, properties, studies
    from .certificate import Certificate
    from .ensemble import relax_ensemble
    from .errors import (
        InvalidInput,
        MdsensError,
        NeighborOverflow,
        NotAMinimum,
        NotConverged,
        NotDifferentiable,
        NotRigid,
        SolveFailed,
    )
    from .fitting import Fit, Minibatches, Target, fit
    from .interval import Validity, validity
    from .inverse_design import Design, Independence, design, independence
    from .io import from_ase, read, to_ase, write
    from .jamming import Jamming, jam
    from .minimizers import FIRE, GradientDescent, JaxMDMinimizer
    from .neighbors import AllPairs, NeighborList
    from .packings import random_packing
    from .path import Event, Path, follow
    from .potentials import JaxMD, LennardJones, Morse, PairPotential, Potential, SoftSphere, StillingerWeber, Yukawa
    from .progress import progress_bars
    from .relaxation import Equilibrium, Relaxation
    from .response import Sensitivity, sensitivity
    from .sweeps.results import StudyResults, load_study
    from .system import System
    from .unrolled import Unrolled


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    elif name in _ROOMS:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'mdsens' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _shows_itself_in_notebooks() -> None:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        importlib.import_module(".notebook", __name__).show_in_notebooks(shell)


_shows_itself_in_notebooks()
