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
from .problem import Problem

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
        return self.epochs * -(-targets // self.size)

    def orders(self, targets: int) -> Iterator[list[np.ndarray]]:
        """For every epoch the batches, in an order of its own."""
        random = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            yield np.array_split(random.permutation(targets), -(-targets // self.size))


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
    contacts: Callable[[Problem, Vector], Any],
    note: Callable[[float, Vector], None],
) -> Descent:
    """Σ over targets of half their squared residuals made small, with `problems` of one target each.

    A target without an equilibrium, or whose response cannot be trusted, is left out of a step; where all of a batch
    are, half the last step is taken back. `note` is told the loss of every epoch, as its batches were met.
    """
    step, state = _optimizer(batches, len(problems), start / scale, (limits[0] / scale, limits[1] / scale))
    end, before, seen = Descent(start), start, dict[int, Any]()
    for order in batches.orders(len(problems)):
        met = []
        for batch in order:
            found = {k: _loss_and_slope(problems[k], end.vector) for k in batch}
            losses, slopes = (np.array(part) for part in zip(*found.values(), strict=True))
            sound = np.isfinite(slopes).all(axis=1)
            if not sound.any():
                end.vector = 0.5 * (end.vector + before)
                continue
            now = {k: contacts(problems[k], end.vector) for k in batch[sound]}
            end.contact_changes += any(seen.get(k, now[k]) != now[k] for k in now)
            seen |= now
            met.append(losses[sound].mean() * len(problems))
            slope = slopes[sound].mean(axis=0) * len(problems) + _pull_of(prior, end.vector)
            relative, state = step(slope * scale, state, end.vector / scale)
            before, end.vector = end.vector, np.asarray(relative) * scale
        note(float(np.mean(met)) if met else np.inf, end.vector)
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


def _loss_and_slope(problem: Problem, vector: Vector) -> tuple[float, Vector]:
    """NaN where there is no equilibrium."""
    look = problem.look(vector)
    if look is None:
        return np.nan, np.full(vector.shape, np.nan)
    rows = look.rows * look.share * problem.weights
    return 0.5 * float(rows @ rows), problem.pulled(vector)


def _pull_of(prior: Float[np.ndarray, "k 2"], vector: Vector) -> Vector:
    return np.where(np.isfinite(prior[:, 1]), (vector - prior[:, 0]) / prior[:, 1] ** 2, 0.0)
