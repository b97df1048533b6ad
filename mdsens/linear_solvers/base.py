"""The base of the linear solvers of mdsens, in lineax's form."""

from __future__ import annotations

from typing import Any

import lineax as lx


class SymmetricSolver(lx.AbstractLinearSolver):
    """The base for solvers of real symmetric systems, which are their own transpose and may be singular."""

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def assume_full_rank(self) -> bool:
        return False
