"""The soft-sphere equilibrium and its response written again, in plain NumPy and by hand.

What mdsens is checked against: nothing here comes from mdsens or JAX.
φ(r) = ε/α (1 - r/σ)^α, σ = (D_i + D_j)/2; ε and α are numbers, or matrices [n, n] with one for each
pair of particles.
"""

import numpy as np


class SoftSpheres:
    """A configuration: its contacts, energy, gradient, Hessian, and responses by pseudo-inverse."""

    def __init__(self, positions, box, diameters, epsilon=1.0, alpha=2.0):
        self.x, self.box = np.asarray(positions, float), np.asarray(box, float)
        self.diameters, self.epsilon, self.alpha = np.asarray(diameters, float), epsilon, alpha
        self.n, self.d = self.x.shape
        i, j = np.triu_indices(self.n, 1)
        separation = self.x[j] - self.x[i]
        separation -= np.round(separation @ np.linalg.inv(self.box)) @ self.box
        distance = np.linalg.norm(separation, axis=1)
        sigma = 0.5 * (self.diameters[i] + self.diameters[j])
        touch = distance < sigma
        self.i, self.j, self.r, self.sigma = i[touch], j[touch], distance[touch], sigma[touch]
        self.normal = separation[touch] / distance[touch, None]
        self.e, self.a = (
            np.broadcast_to(value, self.r.shape) if np.ndim(value) == 0 else np.asarray(value)[self.i, self.j]
            for value in (epsilon, alpha)
        )
        self.overlap = 1 - self.r / self.sigma

    def changed(self, **changes):
        fields = {name: getattr(self, name) for name in ("box", "diameters", "epsilon", "alpha")}
        return SoftSpheres(**({"positions": self.x} | fields | changes))

    @property
    def network(self):
        return set(zip(self.i.tolist(), self.j.tolist(), strict=True))

    def energy(self):
        return np.sum(self.e / self.a * self.overlap**self.a)

    def scatter(self, per_contact):
        """Σ over contacts: +v on j, -v on i; v [c, d, ...]."""
        out = np.zeros((self.n, *per_contact.shape[1:]))
        np.add.at(out, self.j, per_contact)
        np.add.at(out, self.i, -per_contact)
        return out

    def gradient(self):
        slope = -self.e / self.sigma * self.overlap ** (self.a - 1)
        return self.scatter(slope[:, None] * self.normal)

    def hessian(self):
        out = np.zeros((self.n, self.d, self.n, self.d))
        slope = -self.e / self.sigma * self.overlap ** (self.a - 1)
        curvature = self.e * (self.a - 1) / self.sigma**2 * self.overlap ** (self.a - 2)
        for c, (i, j) in enumerate(zip(self.i, self.j, strict=True)):
            along = np.outer(self.normal[c], self.normal[c])
            block = curvature[c] * along + slope[c] / self.r[c] * (np.eye(self.d) - along)
            out[i, :, i] += block
            out[j, :, j] += block
            out[i, :, j] -= block
            out[j, :, i] -= block
        return out.reshape(self.n * self.d, -1)

    def gradient_by_diameter(self):
        """∂(∇E)/∂D [nd, n]."""
        out = np.zeros((self.n, self.d, self.n))
        by_sigma = self.e / self.sigma**2 * self.overlap ** (self.a - 1)
        by_sigma -= self.e * (self.a - 1) / self.sigma * self.overlap ** (self.a - 2) * self.r / self.sigma**2
        for c, (i, j) in enumerate(zip(self.i, self.j, strict=True)):
            for k in (i, j):
                out[j, :, k] += 0.5 * by_sigma[c] * self.normal[c]
                out[i, :, k] -= 0.5 * by_sigma[c] * self.normal[c]
        return out.reshape(self.n * self.d, self.n)

    def inverse(self):
        return np.linalg.pinv(self.hessian(), rcond=1e-9, hermitian=True)

    def response_to_diameters(self):
        """∂x*/∂D = -H⁺ ∂(∇E)/∂D, array [n, d, n]."""
        return -(self.inverse() @ self.gradient_by_diameter()).reshape(self.n, self.d, self.n)

    def relaxed(self):
        """The minimum nearby, by Newton's method; each step of minimum norm."""
        here = self
        for _ in range(20):
            gradient = here.gradient()
            if np.abs(gradient).max() < 1e-14:
                break
            step = (here.inverse() @ gradient.ravel()).reshape(here.x.shape)
            here = here.changed(positions=here.x - step)
        assert np.abs(here.gradient()).max() < 1e-13, "the reference did not relax"
        return here


def central_difference(at_rest, changed, step):
    """(x*(θ + h) - x*(θ - h)) / 2h, where `changed(h)` are the arguments to change; contacts must stay."""
    ahead, behind = at_rest.changed(**changed(step)).relaxed(), at_rest.changed(**changed(-step)).relaxed()
    same_contacts(at_rest, ahead, behind)
    return (ahead.x - behind.x) / (2 * step)


class ContactChanged(Exception):
    """A finite difference went across the opening or closing of a contact: it measures no derivative."""


def same_contacts(at_rest, *others):
    if any(other.network != at_rest.network for other in others):
        raise ContactChanged
