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
