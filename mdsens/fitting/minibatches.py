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
from .damped import Limits, Vector
from .problem import Comparison, Problem


@dataclasses.dataclass(frozen=True)
class Minibatches:
    """How a fit descends on a few targets at a time.

    A step takes one relaxation and one linear solve for each of its targets, however many parameters there are, and no
    Jacobian: this is for many packings, or thousands of parameters.

    **Arguments:**

    - `size`: the number of targets in a batch.
    - `epochs`: the number of passes through all targets.
    - `rate`: the first step length of Adam, as a relative change of the parameters; it falls to zero by a cosine.
    - `optimizer`: any of optax, which steps relative changes of the parameters; Adam if None.
    - `seed`: that of the order of the targets.

    **Raises:**

    - `InvalidInput` for numbers that are not positive.

    **Reference:**

    - Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015.
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
        """The number of steps of a fit to so many targets."""
        return self.epochs * self._batches_per_epoch(targets)

    def orders(self, targets: int) -> Iterator[list[np.ndarray]]:
        """The batches of every epoch, each epoch in its own random order."""
        random = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            yield np.array_split(random.permutation(targets), self._batches_per_epoch(targets))

    def _batches_per_epoch(self, targets: int) -> int:
        return -(-targets // self.size)


@dataclasses.dataclass
class BatchDescent:
    """Where a descent in batches ended, and how often the contacts of a packing had changed since its last batch."""

    vector: Vector
    contact_changes: int = 0


def descend(
    batches: Minibatches,
    problems: list[Problem],
    start: Vector,
    scale: Vector,
    limits: Limits,
    prior: Float[np.ndarray, "k 2"],
    contacts_of: Callable[[Comparison], Any],
    report: Callable[[float, Vector], None],
) -> BatchDescent:
    """Minimizes the sum over targets of half their squared residuals.

    A target without an equilibrium, or with a response that cannot be trusted, is left out of a step. If this holds for
    all targets of a batch, half the last step is taken back.

    **Arguments:**

    - `problems`: one for each target.
    - `prior` [k, 2]: mean and standard deviation of each parameter; NaN without one.
    - `contacts_of`: the contacts of the equilibria of a comparison.
    - `report`: called with the loss of every epoch, summed over its batches, and the parameters.
    """
    step, state = _optimizer(batches, len(problems), start / scale, (limits[0] / scale, limits[1] / scale))
    end, before, last_contacts = BatchDescent(start), start, dict[int, Any]()
    for order in batches.orders(len(problems)):
        losses: list[float] = []
        for batch in order:
            found = {k: each for k in batch if (each := _evaluate(problems[k], end.vector)) is not None}
            if not found:
                end.vector = 0.5 * (end.vector + before)
                continue
            contacts = {k: contacts_of(comparison) for k, (comparison, _, _) in found.items()}
            end.contact_changes += any(last_contacts.get(k, contacts[k]) != contacts[k] for k in contacts)
            last_contacts |= contacts
            losses.append(float(np.mean([loss for _, loss, _ in found.values()])) * len(problems))
            gradient = np.mean([gradient for *_, gradient in found.values()], axis=0) * len(problems)
            gradient = gradient + _gradient_of_prior(prior, end.vector)
            relative, state = step(gradient * scale, state, end.vector / scale)
            before, end.vector = end.vector, np.asarray(relative) * scale
        report(float(np.mean(losses)) if losses else np.inf, end.vector)
    return end


def _optimizer(batches: Minibatches, targets: int, start: Vector, limits: Limits) -> tuple[Any, Any]:
    """A compiled step within bounds, and the state it begins with."""
    schedule = optax.cosine_decay_schedule(batches.rate, batches.steps(targets))
    optimizer = batches.optimizer or optax.adam(schedule)

    @jax.jit
    def step(gradient: Any, state: Any, relative: Any) -> tuple[Any, Any]:
        change, state = optimizer.update(gradient, state, relative)
        return jnp.clip(optax.apply_updates(relative, change), *limits), state

    return step, optimizer.init(jnp.asarray(start))


def _evaluate(problem: Problem, vector: Vector) -> tuple[Comparison, float, Vector] | None:
    """The comparison with a target, its loss and the gradient; None without an equilibrium or a response to trust."""
    comparison = problem.compare(vector)
    gradient = None if comparison is None else problem.gradient(vector)
    if comparison is None or gradient is None or not np.isfinite(gradient).all():
        return None
    residuals = problem.residuals(comparison)
    return comparison, 0.5 * float(residuals @ residuals), gradient


def _gradient_of_prior(prior: Float[np.ndarray, "k 2"], vector: Vector) -> Vector:
    return np.where(np.isfinite(prior[:, 1]), (vector - prior[:, 0]) / prior[:, 1] ** 2, 0.0)
