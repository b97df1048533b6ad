"""Sums of potentials: `SoftSphere(…) + Bonds(…) + Load(…)`."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..errors import InvalidInput
from ..geometry import PairList
from ..runtime.compiled import compile_once
from ..system import System
from .base import Potential, Scalar
from .pair import PairPotential
from .terms import LocalTerms, Pairs


class Sum(Potential, derived=("energy", "gradient", "pair_terms", "local_terms")):
    """The sum of some potentials: `mdsens.SoftSphere() + mdsens.Bonds(pairs, stiffness=2.0)`.

    Each term keeps its parameters. By name they are `bonds.stiffness` and so on, after the class of the term: two of
    one class are `bonds` and `bonds_2`. The terms are attributes of these names, `potential.bonds.stiffness`, also of a
    gradient.

    **Arguments:**

    - `terms`: the potentials. Of several sums over pairs each keeps its own cutoffs and contacts; where one of them
      does not act by contact, only particles without any neighbor within a cutoff are rattlers.
    - `names`: of the terms; by default made from their classes.

    **Raises** `InvalidInput` for terms that are no potentials, and for names that do not suit.
    """

    terms: tuple[Potential, ...]
    names: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, *terms: Potential, names: tuple[str, ...] | None = None) -> None:
        flat: list[Any] = []
        given: list[str | None] = []
        for term in terms:
            flat += term.terms if isinstance(term, Sum) else (term,)
            given += term.names if isinstance(term, Sum) else (None,)
        wrong = [type(each).__name__ for each in flat if not isinstance(each, Potential)]
        if wrong or not flat:
            raise InvalidInput(f"a sum is one of potentials, not of {', '.join(wrong) or 'nothing'}")
        self.terms = tuple(flat)
        self.names = _names(flat, given) if names is None else tuple(names)
        suits = all(name.isidentifier() and not _is_taken(name) for name in self.names)
        if len(set(self.names)) != len(flat) or not suits:
            raise InvalidInput(
                f"{len(flat)} terms need as many different names that are no attributes of a potential, not "
                f"{', '.join(self.names)}"
            )

    def __getattr__(self, name: str) -> Any:
        names = self.__dict__.get("names", ())
        if name in names:
            return self.terms[names.index(name)]
        raise AttributeError(f"this sum has no term or attribute {name!r}; its terms are {', '.join(names)}")

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))

    def parts(self) -> tuple[Potential, ...]:
        return self.terms

    @property
    def is_verified(self) -> bool:
        return all(term.is_verified for term in self.terms)

    @property
    def pair_parts(self) -> tuple[PairPotential, ...]:
        """The terms that are sums over pairs within a cutoff."""
        return tuple(term for term in self.terms if isinstance(term, PairPotential))

    @property
    def listed(self) -> bool:  # type: ignore[override]
        """Whether no term needs more than the pairs within its reach, and one needs those."""
        return self.needs_pairs and all(term.listed or not term.needs_pairs for term in self.terms)

    @property
    def needs_pairs(self) -> bool:  # type: ignore[override]
        return any(term.needs_pairs for term in self.terms)

    @property
    def names_particles(self) -> bool:  # type: ignore[override]
        return any(term.names_particles for term in self.terms)

    @property
    def tied_to_space(self) -> bool:  # type: ignore[override]
        return any(term.tied_to_space for term in self.terms)

    @property
    def has_terms(self) -> bool:  # type: ignore[override]
        return all(term.has_terms for term in self.terms)

    @property
    def is_measured(self) -> bool:  # type: ignore[override]
        return any(term.is_measured for term in self.terms)

    @property
    def contact(self) -> bool:  # type: ignore[override]
        return bool(self.pair_parts) and all(term.contact for term in self.pair_parts)

    def energy(self, system: System, neighbors: PairList) -> Scalar:
        return _total(term.energy(system, neighbors) for term in self.terms)

    def gradient(self, system: System, neighbors: PairList) -> Float[Array, "n d"]:
        return _total(term.gradient(system, neighbors) for term in self.terms)

    def pair_terms(self, system: System, neighbors: PairList) -> Pairs | None:
        return (
            Pairs.joined([term.pair_terms(system, neighbors) for term in self.pair_parts]) if self.pair_parts else None
        )

    def local_terms(self, system: System) -> LocalTerms | None:
        return None

    def reach(self, system: System) -> Scalar:
        return functools.reduce(jnp.maximum, (term.reach(system) for term in self.terms))

    def cutoffs(self, system: System, i: Int[Array, " p"], j: Int[Array, " p"]) -> Float[Array, " p"]:
        return functools.reduce(jnp.maximum, (term.cutoffs(system, i, j) for term in self.terms))

    def typical_stiffness(self, system: System) -> Scalar:
        """The sum of those of the terms."""
        return _total(term.typical_stiffness(system) for term in self.terms)

    def length(self, system: System) -> Scalar:
        """That of the first sum over pairs, else of the first term that has one of its own, else the mean diameter."""
        own = (term for term in self.terms if type(term).length is not Potential.length)
        chosen = next(iter((*self.pair_parts, *own)), None)
        return super().length(system) if chosen is None else chosen.length(system)

    def jumps_at_cutoff(self, system: System) -> Bool[Array, ""]:
        return functools.reduce(jnp.logical_or, (term.jumps_at_cutoff(system) for term in self.terms))

    def covers(self, system: System) -> Bool[Array, ""]:
        return functools.reduce(jnp.logical_and, (term.covers(system) for term in self.terms))

    def check(self) -> None:
        for term in self.terms:
            term.check()

    def check_functions(self, system: System) -> None:
        for term in self.terms:
            term.check_functions(system)

    def check_for(self, system: System, cutoffs: np.ndarray) -> None:
        for term, own in zip(self.terms, _own_cutoffs(self.terms, system), strict=True):
            term.check_for(system, np.asarray(own))

    def keeps_images(self, system: System, start: System) -> Bool[Array, ""]:
        return functools.reduce(jnp.logical_and, (term.keeps_images(system, start) for term in self.terms))

    def prepared_for(self, system: System) -> Sum:
        return Sum(*(term.prepared_for(system) for term in self.terms), names=self.names)

    def parameter_names(self) -> list[str]:
        return self._of_terms(lambda term: term.parameter_names())

    def number_names(self) -> list[str]:
        return self._of_terms(lambda term: term.number_names())

    def get_parameter(self, name: str) -> Any:
        term, own = self._term_of(name)
        return term.get_parameter(own)

    def is_pair_matrix(self, name: str) -> bool:
        term, own = self._term_of(name)
        return term.is_pair_matrix(own)

    def _term_of(self, name: str) -> tuple[Potential, str]:
        term, _, own = name.partition(".")
        return self.terms[self.names.index(term)], own

    def _of_terms(self, names_of: Any) -> list[str]:
        return [f"{name}.{own}" for name, term in zip(self.names, self.terms, strict=True) for own in names_of(term)]


@compile_once
def _own_cutoffs(terms: tuple[Potential, ...], system: System) -> list[Float[Array, " n"]]:
    """Of each term, between each particle and its like."""
    each = jnp.arange(system.n)
    return [term.cutoffs(system, each, each) for term in terms]


def _names(terms: list[Potential], given: list[str | None]) -> tuple[str, ...]:
    """`soft_sphere`, `bonds`, `bonds_2`: after the classes, unless a name was given."""
    names: list[str] = []
    for term, name in zip(terms, given, strict=True):
        own = name or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(term).__name__).lower()
        own = f"{own}_term" if _is_taken(own) else own
        taken = {*names, *(each for each in given if each and each != name)}
        number = next(k for k in itertools.count(1) if (own if k == 1 else f"{own}_{k}") not in taken)
        names.append(own if number == 1 else f"{own}_{number}")
    return tuple(names)


def _is_taken(name: str) -> bool:
    """Whether a sum has an attribute of that name."""
    return hasattr(Sum, name) or name in ("terms", "names")


def _total(values: Any) -> Any:
    return functools.reduce(jnp.add, values)
