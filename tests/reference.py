"""The soft-sphere response written again, in plain NumPy and by hand: what mdsens is checked against.

Nothing here comes from mdsens or JAX. φ(r) = ε/α (1 - r/σ)^α, σ = (D_i + D_j)/2.
"""

import numpy as np


def contacts(positions, box, diameters):
    """Indices i < j, unit vectors from i to j, distances and σ of the overlapping pairs."""
    i, j = np.triu_indices(len(positions), 1)
    separation = positions[j] - positions[i]
    separation -= np.round(separation @ np.linalg.inv(box)) @ box
    distance = np.linalg.norm(separation, axis=1)
    sigma = 0.5 * (diameters[i] + diameters[j])
    touching = distance < sigma
    normal = separation[touching] / distance[touching, None]
    return i[touching], j[touching], normal, distance[touching], sigma[touching]


def energy(positions, box, diameters, epsilon, alpha):
    _, _, _, r, sigma = contacts(positions, box, diameters)
    return np.sum(epsilon / alpha * (1 - r / sigma) ** alpha)


def gradient(positions, box, diameters, epsilon, alpha):
    i, j, normal, r, sigma = contacts(positions, box, diameters)
    slope = (-epsilon / sigma * (1 - r / sigma) ** (alpha - 1))[:, None] * normal
    out = np.zeros_like(positions)
    np.add.at(out, j, slope)
    np.add.at(out, i, -slope)
    return out


def hessian(positions, box, diameters, epsilon, alpha):
    """∂²E/∂x² as a matrix [nd, nd]."""
    n, d = positions.shape
    out = np.zeros((n, d, n, d))
    for i, j, normal, r, sigma in zip(*contacts(positions, box, diameters), strict=True):
        overlap = 1 - r / sigma
        slope = -epsilon / sigma * overlap ** (alpha - 1)
        curvature = epsilon * (alpha - 1) / sigma**2 * overlap ** (alpha - 2)
        block = curvature * np.outer(normal, normal) + slope / r * (np.eye(d) - np.outer(normal, normal))
        out[i, :, i] += block
        out[j, :, j] += block
        out[i, :, j] -= block
        out[j, :, i] -= block
    return out.reshape(n * d, n * d)


def gradient_by_diameter(positions, box, diameters, epsilon, alpha):
    """∂(∇E)/∂D as a matrix [nd, n]."""
    n, d = positions.shape
    out = np.zeros((n, d, n))
    for i, j, normal, r, sigma in zip(*contacts(positions, box, diameters), strict=True):
        overlap = 1 - r / sigma
        # slope = -ε/σ overlap^(α-1), and ∂overlap/∂σ = r/σ²
        by_sigma = (
            epsilon / sigma**2 * overlap ** (alpha - 1)
            - epsilon * (alpha - 1) / sigma * overlap ** (alpha - 2) * r / sigma**2
        )
        for k in (i, j):
            out[j, :, k] += 0.5 * by_sigma * normal
            out[i, :, k] -= 0.5 * by_sigma * normal
    return out.reshape(n * d, n)


def response_to_diameters(positions, box, diameters, epsilon=1.0, alpha=2.0):
    """∂x*/∂D = -H⁺ ∂(∇E)/∂D, array [n, d, n]; H⁺ the pseudo-inverse."""
    n, d = positions.shape
    args = (positions, box, diameters, epsilon, alpha)
    inverse = np.linalg.pinv(hessian(*args), rcond=1e-9, hermitian=True)
    return -(inverse @ gradient_by_diameter(*args)).reshape(n, d, n)
