import json
import re

import jax
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver
from PIL import Image

import mdsens
from mdsens import plotting
from mdsens.plotting.style import UNLOADED
from samples import jammed

mpl.use("Agg")

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
FRAME = [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [1, 3]]


def drawn(potential, system, kind):
    return of_kind(plotting.draw(mdsens.Relaxation()(potential, system)), kind)


def of_kind(ax, kind):
    return [each for each in ax.collections + ax.patches if isinstance(each, kind)]


def square(**options):
    return mdsens.System(SQUARE, **options)


def frame(stiffness=1.0, diagonal=2**0.5):
    return mdsens.Bonds(FRAME, stiffness, np.array([1.0, 1.0, 1.0, 1.0, diagonal, diagonal]))


def test_a_bond_is_as_wide_as_it_is_stiff_and_not_drawn_without_stiffness():
    (bonds,) = drawn(frame(np.array([1.0, 4.0, 1.0, 1.0, 1.0, 0.0])), square(), LineCollection)
    assert len(bonds.get_segments()) == 5
    widths = np.array(bonds.get_linewidths())
    np.testing.assert_allclose(widths / widths[0], [1.0, 2.0, 1.0, 1.0, 1.0])


def test_bonds_are_red_where_they_pull_blue_where_they_push_and_gray_without_force():
    (unloaded,) = drawn(frame(), square(), LineCollection)
    np.testing.assert_allclose(unloaded.get_colors()[:, :3], [to_rgb(UNLOADED)] * 6)
    (loaded,) = drawn(frame(diagonal=1.3), square(), LineCollection)
    red, _, blue = loaded.get_colors()[:, :3].T
    assert (red[:4] < blue[:4]).all() and (red[4:] > blue[4:]).all()  # the short diagonals pull, the sides push


def test_bonds_of_a_network_without_forces_are_gray_in_single_precision_too():
    packing = jammed(seed=0, n=32)
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, packing.system)
    rest = mdsens.Relaxation(tolerance=1e-4)(mdsens.network(packing), single)
    (bonds,) = of_kind(plotting.draw(rest), LineCollection)
    assert rest.positions.dtype == np.float32
    np.testing.assert_allclose(bonds.get_colors()[:, :3], [to_rgb(UNLOADED)] * len(bonds.get_colors()), atol=1e-6)


def test_a_bond_across_a_face_of_the_cell_is_drawn_to_the_image_that_is_meant():
    system = mdsens.System([[0.5, 2.0], [3.5, 2.0], [2.0, 2.0]], 4.0)
    bonds = mdsens.Bonds([[0, 1], [1, 2], [2, 0]], 1.0, np.array([1.0, 1.5, 1.5]))
    (lines,) = drawn(bonds, system, LineCollection)
    segments = np.sort(np.array(lines.get_segments())[:, :, 0], axis=1)
    np.testing.assert_allclose(sorted(segments.tolist()), [[-0.5, 0.5], [0.5, 2.0], [2.0, 3.5], [3.5, 4.5]], atol=1e-9)
    assert lines.get_clip_path() is not None


def test_the_particles_of_a_network_are_small_dots_and_those_that_touch_are_to_scale():
    (nodes,) = drawn(frame(), square(), EllipseCollection)
    assert (nodes.get_widths() < 0.3).all()
    (disks,) = drawn(mdsens.SoftSphere() + frame(), square(), EllipseCollection)
    np.testing.assert_allclose(disks.get_widths(), 1.0)


def test_loads_are_arrows_on_the_particles_that_bear_them():
    force = np.array([[0.0, 0.0], [0.01, 0.0], [0.0, 0.02], [0.0, 0.0]])
    fixed = np.array([True, False, False, True])
    (arrows,) = drawn(frame() + mdsens.Load(force), square(fixed=fixed), Quiver)
    assert len(arrows.get_offsets()) == 2
    np.testing.assert_allclose(arrows.V[1] / arrows.U[0], 2.0)
    (down,) = drawn(frame() + mdsens.Gravity(0.01), square(fixed=fixed), Quiver)
    assert len(down.get_offsets()) == 1 and down.V[0] < 0.0


def test_tethers_lead_to_their_anchors():
    anchors = SQUARE[[0, 2]] + [[-0.5, 0.0], [0.5, 0.0]]
    lines = drawn(frame() + mdsens.Tethers(anchors, particles=[0, 2]), square(), LineCollection)
    tethers = np.array(lines[1].get_segments())
    np.testing.assert_allclose(tethers[:, 1], anchors, atol=1e-12)


@pytest.mark.parametrize(
    ("wall", "kind"),
    [
        (mdsens.PlanarWall([0.0, -0.4], [0.0, 1.0]), mpl.patches.Polygon),
        (mdsens.CylindricalWall(1.2, center=[0.5, 0.5]), mpl.patches.Circle),
    ],
)
def test_walls_are_hatched_and_within_the_picture(wall, kind):
    ax = plotting.draw(mdsens.Relaxation()(mdsens.SoftSphere() + wall, square()))
    assert len(of_kind(ax, kind)) == 1
    assert sum(patch.get_hatch() is not None for patch in ax.patches) == 1
    assert ax.get_ylim()[0] < -0.6


def test_what_has_no_drawing_is_left_out_also_in_three_dimensions():
    corner = mdsens.System([[0.0, 0.0, 0.0], [1.0, 0.0, 0.2], [0.0, 1.0, 0.4], [0.3, 0.3, 0.5]])
    bonds = mdsens.Bonds([[0, 1], [1, 2], [2, 0]], 1.0, 1.2) + mdsens.Angles([[0, 1, 2]], 1.0, 1.0)
    floor = mdsens.PlanarWall([0.0, 0.0, -0.5], [0.0, 0.0, 1.0])
    ax = plotting.draw(mdsens.Relaxation()(mdsens.SoftSphere() + bonds + floor, corner))
    assert [type(each) for each in ax.collections] == [EllipseCollection, LineCollection]
    assert not ax.patches


def test_movies_and_views_show_bonds_and_nodes(tmp_path):
    rest = mdsens.Relaxation()(frame(), square())
    page = plotting.view(rest).page
    scene = json.loads(re.search(r"scene = (\{.*\});", page)[1])
    assert len(scene["bonds"]) == len(frame().pairs)
    assert all(particle["d"] < 0.3 for particle in scene["particles"])
    assert not json.loads(re.search(r"scene = (\{.*\});", plotting.view(rest.system).page)[1])["bonds"]
    movie = plotting.animate([rest, rest], tmp_path / "frame.gif")
    plain = plotting.animate([rest.system, rest.system], tmp_path / "plain.gif")
    pictures = [np.asarray(Image.open(each.file).convert("L"), float) for each in (movie, plain)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 1.0
