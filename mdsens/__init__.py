"""mdsens: the sensitivity analysis of particle systems at rest, through ∇E = 0.

Names are loaded when first used, so that `import mdsens` and `mdsens --help` are immediate.
"""

import importlib
import sys
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "AllPairs": "neighbors",
    "Angles": "potentials",
    "Bonds": "potentials",
    "Certificate": "relaxation",
    "Configuration": "landscape.configuration",
    "CylindricalWall": "potentials",
    "Design": "inverse_design",
    "Equilibrium": "relaxation",
    "Event": "response",
    "FIRE": "minimizers",
    "Fit": "fitting",
    "GradientDescent": "minimizers",
    "Gravity": "potentials",
    "Independence": "inverse_design",
    "InvalidInput": "errors",
    "JaxMD": "potentials",
    "Jamming": "preparation",
    "JaxMDMinimizer": "minimizers",
    "LennardJones": "potentials",
    "Load": "potentials",
    "LocalPotential": "potentials",
    "MdsensError": "errors",
    "Minibatches": "fitting",
    "Morse": "potentials",
    "NeighborList": "neighbors",
    "NeighborOverflow": "errors",
    "Newton": "minimizers",
    "NotAMinimum": "errors",
    "NotConverged": "errors",
    "NotDifferentiable": "errors",
    "NotRigid": "errors",
    "PairPotential": "potentials",
    "Path": "response",
    "PlanarWall": "potentials",
    "Potential": "potentials",
    "Relaxation": "relaxation",
    "ResponseField": "response",
    "Sensitivity": "response",
    "SoftSphere": "potentials",
    "SolveFailed": "errors",
    "Status": "errors",
    "StillingerWeber": "potentials",
    "StudyResults": "studies",
    "Sum": "potentials",
    "System": "system",
    "Target": "fitting",
    "Tethers": "potentials",
    "Unrolled": "relaxation",
    "Validity": "response",
    "Yukawa": "potentials",
    "at_rest": "relaxation",
    "calculator": "ase_calculator",
    "design": "inverse_design",
    "fit": "fitting",
    "follow": "response",
    "from_ase": "io",
    "independence": "inverse_design",
    "jam": "preparation",
    "keep_compiled": "runtime.compiled",
    "load_study": "studies",
    "network": "preparation",
    "progress_bars": "runtime.progress",
    "prune": "inverse_design",
    "random_packing": "preparation",
    "read": "io",
    "read_topology": "io",
    "relax_ensemble": "relaxation",
    "response_field": "response",
    "sensitivity": "response",
    "to_ase": "io",
    "validity": "response",
    "write": "io",
    "write_topology": "io",
}
"""The module that each public name is loaded from."""

_PUBLIC_MODULES = (
    "errors",
    "implicit",
    "linear_solvers",
    "minimizers",
    "plotting",
    "potentials",
    "properties",
    "studies",
    "uncertainty",
)

__all__ = [*_MODULE_OF, *_PUBLIC_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    elif name in _PUBLIC_MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'mdsens' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _show_in_notebooks() -> None:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        importlib.import_module(".plotting.notebook", __name__).show_in_notebooks(shell)


_show_in_notebooks()
