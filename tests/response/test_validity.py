import jax.numpy as jnp
import numpy as np
import pytest

import mdsens
from samples import RELAX, jammed, just_touching, reference_of

SMALL = "species-diameter:1"


def contacts_at(rest, small, step):
    """The contacts, by the reference, after a step of the diameters of the small particles."""
    D = rest.system.diameters + step * small
    moved = RELAX(rest.potential, rest.system.replace(diameters=D))
    return reference_of(moved).backbone().network


@pytest.mark.slow
def test_the_first_change_of_contacts_is_the_one_predicted():
    right = 0
    for seed in range(12):
        rest = jammed(seed)
        network, small = reference_of(rest).backbone().network, np.asarray(rest.system.species) == 1
        interval = mdsens.validity(rest, SMALL)
        change = interval.above if seed % 2 else interval.below
        inside, beyond = (contacts_at(rest, small, share * change.step) for share in (0.95, 1.05))
        right += inside == network and change.pair in (network ^ beyond)
    assert right >= 11, right


def test_the_interval_names_its_ends_and_the_pairs_that_open_or_close():
    rest = jammed(seed=0, n=32)
    here = reference_of(rest)
    interval = mdsens.validity(rest, SMALL)
    assert interval.lower == interval.below.step < 0 < interval.upper == interval.above.step
    for change in (interval.below, interval.above):
        assert change.opens == (change.pair in here.network)
    text = str(interval)
    assert f"{interval.above.pair[0]}-{interval.above.pair[1]}" in text and SMALL in text
    assert interval.as_dict()["above"] == {
        "step": interval.upper, "pair": list(interval.above.pair), "opens": interval.above.opens
    }  # fmt: skip


def test_the_opposite_direction_swaps_the_ends_and_half_the_direction_doubles_them():
    rest = jammed(seed=0, n=32)
    direction = np.random.default_rng(0).normal(size=32)
    one, other = mdsens.validity(rest, "diameters", direction), mdsens.validity(rest, "diameters", -0.5 * direction)
    assert other.upper == pytest.approx(-2 * one.lower) and other.lower == pytest.approx(-2 * one.upper)
    assert other.above.pair == one.below.pair


@pytest.mark.parametrize("name", ["box", "alpha"])
def test_intervals_of_the_box_and_of_a_parameter_of_the_potential(name):
    rest = jammed(seed=0, n=32)
    interval = mdsens.validity(rest, name)
    share, here = 1.05, reference_of(rest)
    for change in (interval.below, interval.above):
        step = share * change.step
        if name == "box":
            moved = here.changed(box=(1 + step) * here.box, positions=(1 + step) * here.x)
        else:
            moved = here.changed(alpha=here.alpha + step)
        assert change.pair in (moved.relaxed().network ^ here.network)


def test_the_interval_is_the_same_with_a_neighbor_list():
    rest = jammed(seed=0, n=32)
    listed = mdsens.Relaxation(tolerance=1e-12, neighbors=mdsens.NeighborList())(rest.potential, rest.system)
    all_pairs, by_list = mdsens.validity(rest, SMALL), mdsens.validity(listed, SMALL)
    assert by_list.above.pair == all_pairs.above.pair
    assert by_list.upper == pytest.approx(all_pairs.upper, rel=1e-6)


def test_there_is_no_interval_below_jamming():
    loose = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.random_packing(32, packing_fraction=0.4))
    with pytest.raises(mdsens.NotRigid):
        mdsens.validity(loose, "diameters")
    with pytest.raises(mdsens.InvalidInput, match="not zero"):
        mdsens.validity(jammed(seed=0, n=32), "diameters", jnp.zeros(32))


@pytest.mark.parametrize("side", [1, -1])
def test_each_side_of_a_touching_pair_has_its_own_response(side):
    """With the contact on the side where it closes, without it where it opens; against the pseudo-inverse."""
    rest, (i, j) = just_touching()
    here = reference_of(rest)
    responses = {}
    for closed in (True, False):
        sigma = here.all_sigma.copy()
        sigma[i, j] = sigma[j, i] = sigma[i, j] + (1e-12 if closed else -1e-12)
        there = here.changed(sigma=sigma)
        assert ((i, j) in there.network) == closed
        responses[closed] = -(there.inverse() @ there.gradient_by_alpha()).reshape(here.x.shape)
    apart = here.x[j] - here.x[i]
    apart -= np.round(apart @ np.linalg.inv(here.box)) @ here.box
    closes = {c: side * apart @ (u[j] - u[i]) < 0 for c, u in responses.items()}
    assert closes[True] == closes[False]
    ours = mdsens.sensitivity(rest, "alpha", side=side)
    assert ours.side == side
    expected = responses[closes[True]]
    np.testing.assert_allclose(ours.response, expected, atol=1e-6 * np.abs(expected).max())


def test_one_side_of_a_parameter_with_many_components_is_refused():
    with pytest.raises(mdsens.InvalidInput, match="one number"):
        mdsens.sensitivity(jammed(seed=0, n=32), "diameters", side=1)


def test_the_ends_of_an_interval_as_values():
    found = mdsens.validity(jammed(n=32), "species-diameter:1")
    low, high = found.values
    assert low == 0.6 + found.lower and high == 0.6 + found.upper and f"{float(high):.8g}" in str(found)


def test_a_parameter_to_which_nothing_responds_changes_no_contact(compilations):
    rest = jammed(n=32)
    mdsens.validity(rest, "epsilon")
    with compilations as counted:
        found = mdsens.validity(rest, "epsilon")
    assert found.below is None and found.above is None and counted.count == 0


def test_a_response_that_cannot_be_trusted_has_no_interval_and_no_path():
    rest = jammed(seed=0, n=32)
    hasty = mdsens.Relaxation(tolerance=1e-12, linear_solver=mdsens.linear_solvers.minres(max_steps=3))
    poor = hasty(rest.potential, rest.system)
    for ask in (lambda: mdsens.validity(poor, SMALL), lambda: mdsens.follow(poor, SMALL, 0.61)):
        with pytest.raises(mdsens.SolveFailed, match="the response to species-diameter:1"):
            ask()


def kob_andersen(n=60):
    """A glass former whose pairs a switch takes smoothly to zero."""
    system = mdsens.random_packing(n, 2, diameters=(1.0, 0.88), packing_fraction=0.9, seed=1)
    epsilon, sigma = [[1.0, 1.5], [1.5, 0.5]], [[1.0, 0.8], [0.8, 0.88]]
    potential = mdsens.LennardJones(epsilon=epsilon, sigma=sigma, onset=1.2, range=1.6)
    return mdsens.Relaxation(tolerance=1e-10)(potential, system)


class Spring(mdsens.PairPotential):
    """A spring between all particles closer than 1.6 σ, whose stiffness jumps there but not its force."""

    def pair_energy(self, r, sigma):
        return 0.5 * (r / sigma - 1.6) ** 2

    def cutoff(self, sigma):
        return 1.6 * sigma


def test_pairs_that_a_switch_takes_to_zero_open_and_close_nothing():
    rest = kob_andersen()
    found = mdsens.validity(rest, "epsilon")
    assert found.below is None and found.above is None and found.upper == np.inf and found.lower == -np.inf
    assert rest.certificate.contact_number is None and rest.certificate.force_scale > 0.0
    path = mdsens.follow(rest, "epsilon", 1.02 * np.asarray(rest.potential.epsilon), points=2)
    assert path.ended is None and not path.events
    there = mdsens.Relaxation(tolerance=1e-10)(path.last.potential, rest.system)
    np.testing.assert_allclose(path.positions[-1], there.positions, atol=1e-7)


def test_a_prediction_across_a_smooth_cutoff_is_valid_and_right():
    rest = kob_andersen()
    model = mdsens.uncertainty.predict(rest, "epsilon", order=2)
    values = model.values * np.array([1.002, 1.0, 0.998])
    found = model(values)
    there = mdsens.Relaxation(tolerance=1e-10)(
        model.parameters.apply(values, rest.potential, rest.system)[0], rest.system
    )
    assert int(found.contact_changes) == 0 and bool(found.valid)
    assert float(found.energy) == pytest.approx(float(there.energy), rel=1e-7)


def test_stiffness_that_jumps_is_a_contact_whether_or_not_particles_touch():
    rest = mdsens.Relaxation(tolerance=1e-10)(Spring(), mdsens.random_packing(32, 2, packing_fraction=0.9, seed=0))
    separation = rest.system.positions[:, None] - rest.system.positions
    box = np.asarray(rest.system.box)
    separation -= np.round(separation @ np.linalg.inv(box)) @ box
    within = np.linalg.norm(separation, axis=-1) < 1.6 * 0.5 * (rest.system.diameters[:, None] + rest.system.diameters)
    assert rest.certificate.contact_number == pytest.approx((within.sum() - 32) / 32)
    assert mdsens.validity(rest, "diameters").above is not None
