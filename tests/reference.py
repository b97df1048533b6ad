"""Equilibria of pair potentials and their response in plain NumPy: what mdsens is checked against.

Nothing here comes from mdsens or JAX. The box [k, d] holds the lattice vectors along which a cell is periodic.
σ = (D_i + D_j)/2 unless a matrix [n, n] is given, and φ(r) = g(r/σ). Parameters
are numbers, or matrices [n, n] with one number for each pair of particles. All periodic images count.
"""

import itertools

import numpy as np


class PairReference:
    """A configuration: its contacts, energy, gradient, Hessian, and responses by pseudo-inverse."""

    reach = 1.0
    contact = True

    def __init__(self, positions, box, diameters, epsilon=1.0, alpha=2.0, sigma=None, keep=None):
        self.x = np.asarray(positions, float)
        self.box = None if box is None else np.asarray(box, float)
        self.diameters, self.epsilon, self.alpha = np.asarray(diameters, float), epsilon, alpha
        self.all_sigma, self.keep = None if sigma is None else np.asarray(sigma, float), keep
        self.n, self.d = self.x.shape
        i, j, separation, image = self._images()
        distance = np.linalg.norm(separation, axis=1)
        sigma = 0.5 * (self.diameters[i] + self.diameters[j]) if sigma is None else self.all_sigma[i, j]
        touch = distance < self.reach * sigma
        if keep is not None:
            touch &= keep[i] & keep[j]
        self.i, self.j, self.r, self.sigma = i[touch], j[touch], distance[touch], sigma[touch]
        self.image = None if image is None else image[touch]
        self.normal = separation[touch] / distance[touch, None]
        self.e, self.a = (
            np.broadcast_to(value, self.r.shape) if np.ndim(value) == 0 else np.asarray(value)[self.i, self.j]
            for value in (epsilon, alpha)
        )
        self.u = self.r / self.sigma

    def _images(self):
        i, j = np.triu_indices(self.n, 1)
        separation = self.x[j] - self.x[i]
        if self.box is None:
            return i, j, separation, None
        inverse = np.linalg.pinv(self.box)
        separation -= np.round(separation @ inverse) @ self.box
        heights = 1 / np.linalg.norm(inverse, axis=0)
        if heights.min() >= 2 * self.reach * self.diameters.max():
            return i, j, separation, None
        around = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=len(self.box))))
        own = around[len(around) // 2 + 1 :]
        alone = np.arange(self.n)
        separation = np.concatenate(
            [
                np.repeat(separation, len(around), 0) + np.tile(around, (len(i), 1)) @ self.box,
                np.tile(own, (self.n, 1)) @ self.box,
            ]
        )
        i, j = (np.concatenate([np.repeat(k, len(around)), np.repeat(alone, len(own))]) for k in (i, j))
        return i, j, separation, np.arange(len(i))

    def changed(self, **changes):
        fields = {name: getattr(self, name) for name in ("box", "diameters", "epsilon", "alpha", "keep")}
        return type(self)(**({"positions": self.x, "sigma": self.all_sigma} | fields | changes))

    @property
    def network(self):
        """The pairs in contact; in a narrow cell with the image of each."""
        if self.image is not None:
            return set(zip(self.i.tolist(), self.j.tolist(), self.image.tolist(), strict=True))
        return set(zip(self.i.tolist(), self.j.tolist(), strict=True))

    def energy(self):
        return np.sum(self.g())

    def slope(self):
        """φ'(r)"""
        return self.g1() / self.sigma

    def scatter(self, per_contact):
        """Σ over contacts: +v on j, -v on i; v [c, d, ...]."""
        out = np.zeros((self.n, *per_contact.shape[1:]))
        np.add.at(out, self.j, per_contact)
        np.add.at(out, self.i, -per_contact)
        return out

    def gradient(self):
        return self.scatter(self.slope()[:, None] * self.normal)

    def stress(self):
        """(1/V) Σ φ' r rᵀ/r; tension is positive."""
        pull = (self.slope() * self.r)[:, None] * self.normal
        return pull.T @ self.normal / abs(np.linalg.det(self.box))

    def strained(self, strain):
        """At rest in a cell deformed by 1 + strain."""
        deformation = np.eye(self.d) + strain
        return self.changed(positions=self.x @ deformation, box=self.box @ deformation).relaxed()

    def hessian(self):
        out = np.zeros((self.n, self.d, self.n, self.d))
        along = self.normal[:, :, None] * self.normal[:, None, :]
        across = (self.slope() / self.r)[:, None, None] * (np.eye(self.d) - along)
        blocks = (self.g2() / self.sigma**2)[:, None, None] * along + across
        for a, b, sign in ((self.i, self.i, 1), (self.j, self.j, 1), (self.i, self.j, -1), (self.j, self.i, -1)):
            np.add.at(out.transpose(0, 2, 1, 3), (a, b), sign * blocks)
        return out.reshape(self.n * self.d, -1)

    def gradient_by_diameter(self):
        """∂(∇E)/∂D [nd, n]."""
        out = np.zeros((self.n, self.n, self.d))
        push = (0.5 * -(self.g1() + self.g2() * self.u) / self.sigma**2)[:, None] * self.normal
        for k in (self.i, self.j):
            np.add.at(out, (self.j, k), push)
            np.add.at(out, (self.i, k), -push)
        return out.transpose(0, 2, 1).reshape(self.n * self.d, self.n)

    def inverse(self, cut=1e-9):
        return np.linalg.pinv(self.hessian(), rcond=cut, hermitian=True)

    def response_to_diameters(self):
        """∂x*/∂D = -H⁺ ∂(∇E)/∂D, array [n, d, n]."""
        return -(self.inverse() @ self.gradient_by_diameter()).reshape(self.n, self.d, self.n)

    def relaxed(self):
        """The minimum nearby, by Newton's method; each step of minimum norm."""
        here = self
        for k in range(60):
            gradient = here.gradient()
            if np.abs(gradient).max() < 1e-14 * max(1.0, np.abs(here.slope()).max()):
                break
            step = (here.inverse() @ gradient.ravel()).reshape(here.x.shape)
            share = 1.0 if k < 15 else 0.6  # a full step may go to and fro between two contact networks
            here = here.changed(positions=here.x - share * step)
        assert np.abs(here.gradient()).max() < 1e-13 * max(1.0, np.abs(here.slope()).max()), (
            "the reference did not relax"
        )
        return here

    def constrained(self):
        """Which particles are no rattlers [n], by removing rattlers one after the other.

        A contact counts where its force is well above the residual forces. A particle needs d + 1 of them, or one whose
        force is far above.
        """
        force = np.abs(self.slope())
        residual = np.abs(self.gradient()).max() + 1e-15
        counts, strong = force > 30 * residual, force > 300 * residual
        spared = np.zeros(self.n, bool)
        spared[self.i[strong]] = spared[self.j[strong]] = True
        needed = self.d + 1
        if not self.contact:
            counts, needed, spared = np.ones(len(force), bool), 1, np.zeros(self.n, bool)
        kept = np.ones(self.n, bool)
        while True:
            alive = counts & kept[self.i] & kept[self.j]
            degree = np.bincount(self.i[alive], minlength=self.n) + np.bincount(self.j[alive], minlength=self.n)
            rattlers = kept & (degree < needed) & ~spared
            if not rattlers.any():
                return kept
            kept[np.flatnonzero(rattlers)[0]] = False

    def backbone(self):
        """The same without the contacts of rattlers."""
        return self.changed(keep=self.constrained())


class SoftSpheres(PairReference):
    """φ(r) = ε/α (1 - r/σ)^α."""

    @property
    def overlap(self):
        return 1 - self.u

    def g(self):
        return self.e / self.a * self.overlap**self.a

    def g1(self):
        return -self.e * self.overlap ** (self.a - 1)

    def g2(self):
        return self.e * (self.a - 1) * self.overlap ** (self.a - 2)

    def gradient_by_alpha(self):
        """∂(∇E)/∂α [nd], one α for all."""
        overlap = np.maximum(self.overlap, 1e-300)
        by_alpha = -self.e / self.sigma * overlap ** (self.a - 1) * np.log(overlap)
        return self.scatter(by_alpha[:, None] * self.normal).ravel()


class LennardJonesSpheres(PairReference):
    """φ(r) = 4ε [(σ/r)¹² - (σ/r)⁶] S(r/σ), S the quintic from 1 at 2 to 0 at 2.5."""

    reach = 2.5
    contact = False

    def _factors(self):
        u = self.u
        f = [4 * (u**-12 - u**-6), 4 * (-12 * u**-13 + 6 * u**-7), 4 * (156 * u**-14 - 42 * u**-8)]
        t = np.clip((u - 2.0) / 0.5, 0, 1)
        s = [
            1 - 10 * t**3 + 15 * t**4 - 6 * t**5,
            -30 * t**2 * (1 - t) ** 2 / 0.5,
            -60 * t * (1 - t) * (1 - 2 * t) / 0.25,
        ]
        return f, s

    def g(self):
        f, s = self._factors()
        return self.e * f[0] * s[0]

    def g1(self):
        f, s = self._factors()
        return self.e * (f[1] * s[0] + f[0] * s[1])

    def g2(self):
        f, s = self._factors()
        return self.e * (f[2] * s[0] + 2 * f[1] * s[1] + f[0] * s[2])


def central_difference(at_rest, changed, step):
    """(x*(θ + h) - x*(θ - h)) / 2h, where `changed(h)` are the arguments to change; contacts must not change."""
    ahead, behind = at_rest.changed(**changed(step)).relaxed(), at_rest.changed(**changed(-step)).relaxed()
    same_contacts(at_rest, ahead, behind)
    return (ahead.x - behind.x) / (2 * step)


class ContactChanged(Exception):
    """A contact opened or closed within a finite difference, which then is no approximation of a derivative."""


def same_contacts(at_rest, *others):
    if any(other.network != at_rest.network for other in others):
        raise ContactChanged
