import matplotlib as mpl
import numpy as np
import pytest
from scipy.optimize import fsolve

import mdsens
from mdsens import plotting
from samples import jammed, reference_of

SMALL = "species-diameter:1"


def brute_force(rest, to, steps):
    """The reference, relaxed again after each of many small steps: its last configuration, and all contact changes."""
    here, small = reference_of(rest).backbone(), np.asarray(rest.system.species) == 1
    start, changes = here.diameters[small][0], []
    for k in range(1, steps + 1):
        D = np.where(small, start + (to - start) * k / steps, here.diameters)
        there = here.changed(diameters=D).relaxed()
        changes += [(k / steps, pair) for pair in sorted(here.network ^ there.network)]
        here = there
    return here, changes


def test_a_path_has_the_contact_changes_that_small_steps_have_and_ends_where_they_end():
    rest, to, steps = jammed(seed=0, n=32), 0.634, 400
    expected, changes = brute_force(rest, to, steps)
    reports = []
    path = mdsens.follow(rest, SMALL, to, progress=lambda s, events: reports.append((s, events)))
    assert path.ended is None and path.fractions[-1] == 1.0
    np.testing.assert_allclose(path.positions[-1], expected.x, atol=1e-8)
    assert path.energies[-1] == pytest.approx(expected.energy(), rel=1e-10)
    ours = [(e.fraction, pair) for e in path.events for pair in sorted((*e.opened, *e.closed))]
    assert len(ours) >= 2
    assert sorted(pair for _, pair in ours) == sorted(pair for _, pair in changes)
    np.testing.assert_allclose([s for s, _ in ours], [s for s, _ in changes], atol=1.0 / steps)
    assert not any(event.rearrangement for event in path.events)
    assert [s for s, _ in reports] == sorted(s for s, _ in reports) and reports[-1][1] == len(path.events)


def test_every_point_of_a_path_is_at_rest_and_its_response_is_the_slope():
    rest = jammed(seed=0, n=32)
    path = mdsens.follow(rest, SMALL, 0.603, points=20)
    small = np.asarray(rest.system.species) == 1
    assert len(path.values) == len(path.positions) == len(path.energies) >= 21
    for value, x in zip(path.values, path.positions, strict=True):
        there = reference_of(rest).changed(diameters=np.where(small, value, 1.0), positions=x)
        assert np.abs(there.gradient()).max() <= 1e-12
    quiet = [
        k for k in range(1, 21) if not any(path.fractions[k - 1] < e.fraction <= path.fractions[k] for e in path.events)
    ]
    for k in quiet[:5]:
        step = path.fractions[k] - path.fractions[k - 1]
        slope = (path.positions[k] - path.positions[k - 1]) / step
        mean = 0.5 * (path.responses[k] + path.responses[k - 1])
        np.testing.assert_allclose(slope, mean, atol=1e-3 * np.abs(mean).max())


def test_a_path_without_rearrangements_is_reversible():
    rest = jammed(seed=0, n=32)
    there = mdsens.follow(rest, SMALL, 0.625)
    back = mdsens.follow(there.last, SMALL, 0.6)
    np.testing.assert_allclose(back.positions[-1], rest.positions, atol=1e-9)
    assert len(back.events) == len(there.events) >= 1


@pytest.mark.slow
def test_a_path_that_unjams_ends_and_says_why():
    system = jammed(seed=3, n=32, packing_fraction=0.86).system
    nearly = system.replace(diameters=np.where(np.asarray(system.species) == 1, 0.579, 1.0))
    path = mdsens.follow(mdsens.Relaxation(tolerance=1e-12)(mdsens.SoftSphere(), nearly), SMALL, 0.56)
    assert "no contacts constrain the particles" in path.ended and 0.0 < path.fractions[-1] < 1.0
    assert "ended at" in str(path) and path.energies[-1] < path.energies[0]
    assert path.events, "contacts open on the way"


def test_all_diameters_may_be_followed_at_once():
    rest = jammed(seed=0, n=32)
    goal = np.asarray(rest.system.diameters) * (1 + 1e-3 * np.random.default_rng(0).normal(size=32))
    path = mdsens.follow(rest, "diameters", goal, points=2)
    expected = reference_of(rest).changed(diameters=goal).relaxed()
    np.testing.assert_allclose(path.positions[-1], expected.x, atol=1e-7)
    assert path.values.shape == (len(path.fractions), 32)


def test_a_goal_of_another_shape_is_refused():
    with pytest.raises(mdsens.InvalidInput, match="shape"):
        mdsens.follow(jammed(seed=0, n=32), "diameters", 0.7)
    with pytest.raises(mdsens.InvalidInput, match="finite"):
        mdsens.follow(jammed(seed=0, n=32), SMALL, np.nan)


def test_a_path_is_drawn_with_its_events():
    path = mdsens.follow(jammed(seed=0, n=32), SMALL, 0.625)
    figure = plotting.draw_path(path)
    energy, response = figure.axes
    assert isinstance(figure, mpl.figure.Figure)
    assert len(energy.lines[0].get_xdata()) == len(path.fractions)
    assert response.get_xlabel() == SMALL


def test_an_equilibrium_of_a_path_is_where_it_was_found():
    rest = jammed(n=32)
    path = mdsens.follow(rest, "species-diameter:1", 0.605, points=4)
    there = path.equilibrium(2)
    assert float(there.energy) == pytest.approx(path.energies[2], rel=1e-9)
    np.testing.assert_allclose(there.positions, path.positions[2], atol=1e-8)


def test_a_jump_without_a_contact_change_is_located_and_named():
    """A Lennard-Jones particle pulled off another by a soft tether, where φ'' = -k: the two part at once."""
    k, start, end = 2.0, 1.3, 3.0
    system = mdsens.System([[0.0, 0.0], [1.15, 0.0]], None, 1.0, fixed=[True, False])
    pair = mdsens.LennardJones(onset=3.0, range=4.0)
    rest = mdsens.Relaxation(tolerance=1e-10)(pair + mdsens.Tethers([[start, 0.0]], stiffness=k, particles=[1]), system)
    path = mdsens.follow(rest, "tethers.anchors", [[end, 0.0]])
    r = np.linspace(1.12, 1.5, 2_000_001)
    slope, curvature = 24 * (r**-7 - 2 * r**-13), 24 * (26 * r**-14 - 7 * r**-8)
    at = np.argmax(curvature < -k)
    expected = (r[at] + slope[at] / k - start) / (end - start)
    (event,) = path.events
    assert event.rearrangement and not event.opened and not event.closed
    assert event.fraction == pytest.approx(expected, abs=1e-4)
    assert path.ended is None and path.fractions[-1] == 1.0


@pytest.mark.parametrize(("start", "end"), [(0.9, 1.2), (1.2, 0.9)])
def test_a_particle_in_soft_hertzian_contacts_is_followed_into_its_cage_and_out_of_it(start, end):
    """At an overlap of 1e-7 diameters they bear less than the residual forces: the path goes on a little beyond. The
    cage is a circle of radius 1 about a particle of diameter 1, and nothing else responds.
    """
    angles = np.pi * np.array([0.5, 7 / 6, 11 / 6]) + np.array([0.0, 0.1, 0.0])
    cage = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    positions, fixed = np.concatenate([cage, [[0.02, -0.01], [9.0, 9.0]]]), [True] * 3 + [False] * 2
    system = mdsens.System(positions, None, [1.0, 1.0, 1.0, start, 1.0], species=[0, 0, 0, 1, 0], fixed=fixed)
    potential = mdsens.SoftSphere(alpha=2.5) + mdsens.Tethers([[9.0, 9.0]], stiffness=1.0, particles=[4])
    path = mdsens.follow(mdsens.Relaxation()(potential, system), SMALL, end)
    (event,) = path.events
    assert path.ended is None and len(event.closed if end > start else event.opened) == 3
    assert float(path.value_at(event.fraction)) == pytest.approx(1.0, abs=1e-4)

    def slope(x):
        apart = x - cage
        r = np.linalg.norm(apart, axis=1)
        return -((1.0 - r / 1.1) ** 1.5 / 1.1 / r) @ apart

    caged = path.positions[-1 if end > start else 0, 3]
    np.testing.assert_allclose(caged, fsolve(slope, np.zeros(2), xtol=1e-10), atol=1e-8)
