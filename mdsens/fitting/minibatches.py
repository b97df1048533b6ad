"""Descent on a few packings at a time, for fits to many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from ..errors import InvalidInput
from .problem import Look, Problem

Vector = Float[np.ndarray, " k"]


@dataclasses.dataclass(frozen=True)
class Minibatches:
    """How a fit goes down on `size` targets at a time, in `epochs` passes through all of them.

    A step wants one relaxation and one linear solve for each of its targets, however many unknowns there are, and no
    Jacobian: for many packings, or thousands of unknowns. `optimizer`, any of optax, steps relative changes of the
    unknowns; if None Adam (Kingma and Ba, ICLR 2015) with steps of at first `rate`, which fall to nothing by a cosine.
    `seed` is that of the order of the targets.

    **Raises** `InvalidInput` for numbers that are not positive.
    """

    size: int = 8
    epochs: int = 20
    rate: float = 0.02
    optimizer: optax.GradientTransformation | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.size >= 1 and self.epochs >= 1 and 0.0 < self.rate < np.inf):
            raise InvalidInput(f"the size, the epochs and the rate of minibatches must be positive: {self}")

    def steps(self, targets: int) -> int:
        """Of a fit to so many targets."""
        return self.epochs * self._in_an_epoch(targets)

    def orders(self, targets: int) -> Iterator[list[np.ndarray]]:
        """For every epoch the batches, in an order of its own."""
        random = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            yield np.array_split(random.permutation(targets), self._in_an_epoch(targets))

    def _in_an_epoch(self, targets: int) -> int:
        return -(-targets // self.size)


@dataclasses.dataclass
class Descent:
    """What came of it: where it ended, and how often contacts had changed when a packing was met again."""

    vector: Vector
    contact_changes: int = 0


def descend(
    batches: Minibatches,
    problems: list[Problem],
    start: Vector,
    scale: Vector,
    limits: tuple[Vector, Vector],
    prior: Float[np.ndarray, "k 2"],
    contacts: Callable[[Look], Any],
    note: Callable[[float, Vector], None],
) -> Descent:
    """Σ over targets of half their squared residuals made small, with `problems` of one target each.

    A target without an equilibrium, or whose response cannot be trusted, is left out of a step; where all of a batch
    are, half the last step is taken back. `note` is told the loss of every epoch, as its batches were met.
    """
    step, state = _optimizer(batches, len(problems), start / scale, (limits[0] / scale, limits[1] / scale))
    end, before, seen = Descent(start), start, dict[int, Any]()
    for order in batches.orders(len(problems)):
        losses: list[float] = []
        for batch in order:
            found = {k: met for k in batch if (met := _met(problems[k], end.vector)) is not None}
            if not found:
                end.vector = 0.5 * (end.vector + before)
                continue
            now = {k: contacts(look) for k, (look, _, _) in found.items()}
            end.contact_changes += any(seen.get(k, now[k]) != now[k] for k in now)
            seen |= now
            losses.append(float(np.mean([loss for _, loss, _ in found.values()])) * len(problems))
            slope = np.mean([slope for *_, slope in found.values()], axis=0) * len(problems)
            slope = slope + _pull_of(prior, end.vector)
            relative, state = step(slope * scale, state, end.vector / scale)
            before, end.vector = end.vector, np.asarray(relative) * scale
        note(float(np.mean(losses)) if losses else np.inf, end.vector)
    return end


def _optimizer(batches: Minibatches, targets: int, start: Vector, limits: tuple[Vector, Vector]) -> tuple[Any, Any]:
    """A compiled step within bounds, and the state it begins with."""
    schedule = optax.cosine_decay_schedule(batches.rate, batches.steps(targets))
    optimizer = batches.optimizer or optax.adam(schedule)

    @jax.jit
    def step(slope: Any, state: Any, relative: Any) -> tuple[Any, Any]:
        change, state = optimizer.update(slope, state, relative)
        return jnp.clip(optax.apply_updates(relative, change), *limits), state

    return step, optimizer.init(jnp.asarray(start))


def _met(problem: Problem, vector: Vector) -> tuple[Look, float, Vector] | None:
    """A target with its loss and the slope of it; None without an equilibrium, or a response that can be trusted."""
    look = problem.look(vector)
    slope = None if look is None else problem.pulled(vector)
    if look is None or slope is None or not np.isfinite(slope).all():
        return None
    rows = problem.weighted(look)
    return look, 0.5 * float(rows @ rows), slope


def _pull_of(prior: Float[np.ndarray, "k 2"], vector: Vector) -> Vector:
    return np.where(np.isfinite(prior[:, 1]), (vector - prior[:, 0]) / prior[:, 1] ** 2, 0.0)
