import matplotlib as mpl
import numpy as np
import pytest

import mdsens
from mdsens import plotting
from samples import jammed, jammed_with_rattlers

mpl.use("Agg")


def test_every_image_that_reaches_into_the_cell_is_drawn_to_scale():
    system = mdsens.System([[0.2, 5.0], [5.0, 5.0], [0.1, 0.1]], 10.0, [1.0, 2.0, 1.0])
    (particles,) = plotting.draw(system).collections
    points = np.asarray(particles.get_offsets())
    assert len(points) == 2 + 1 + 4  # one at an edge, one inside, one at a corner
    assert any(np.allclose(point, [10.2, 5.0]) for point in points)
    np.testing.assert_allclose(sorted(particles.get_widths()), [1.0] * 6 + [2.0])


@pytest.mark.parametrize("wrt", ["species-diameter:1", "box", "diameters"])
def test_there_is_an_arrow_for_every_particle_that_moves(wrt, tmp_path):
    rest = jammed(seed=0, n=32)
    response = mdsens.sensitivity(rest, wrt)
    arrows, meaning = plotting.arrows_of(rest.system, response)
    assert arrows.shape == (32, 2) and meaning
    ax = plotting.draw_sensitivity(rest.system, response)
    drawn = sum(len(c.get_offsets()) for c in ax.collections if isinstance(c, mpl.quiver.Quiver))
    assert drawn == np.sum(np.linalg.norm(arrows, axis=1) > 1e-9 * np.linalg.norm(arrows, axis=1).max())
    plotting.save_sensitivity(tmp_path / "out.png", rest.system, response)
    image = mpl.image.imread(tmp_path / "out.png")
    assert image.shape[0] > 800 and image.std() > 0.05


def test_a_response_of_zero_is_drawn_without_arrows():
    rest = jammed(seed=0, n=32)
    still = mdsens.Sensitivity("epsilon", np.array(1.0), np.zeros((32, 2)), 0.0, 0.0)
    ax = plotting.draw_sensitivity(rest.system, still)
    assert not [c for c in ax.collections if isinstance(c, mpl.quiver.Quiver)]


def test_the_arrows_for_the_box_are_the_non_affine_part():
    """A triangular crystal follows a dilation affinely: no arrows are left."""
    a = 0.95
    cell = np.array([[a, 0.0], [0.0, a * np.sqrt(3)]])
    points = np.concatenate(
        [(np.stack(np.meshgrid(range(4), range(3)), -1).reshape(-1, 2) + s) @ cell for s in (0, 0.5)]
    )
    crystal = mdsens.System(points + 0.1, cell * np.array([[4.0], [3.0]]), 1.0)
    rest = mdsens.Relaxation()(mdsens.SoftSphere(), crystal)
    arrows, _ = plotting.arrows_of(rest.system, mdsens.sensitivity(rest, "box"))
    np.testing.assert_allclose(arrows, 0.0, atol=1e-10)


def test_rattlers_of_an_equilibrium_are_dotted():
    rest = jammed_with_rattlers(n=32)
    drawn = plotting.draw(rest).collections[0]
    dotted = sum(dash is not None for _, dash in drawn.get_linestyles())
    assert dotted >= len(rest.certificate.rattlers)
    assert not any(dash is not None for _, dash in plotting.draw(rest.system).collections[0].get_linestyles())


def test_a_view_is_saved_as_html_only(tmp_path):
    page = plotting.view(mdsens.random_packing(4))
    with pytest.raises(mdsens.InvalidInput, match=r"save it as \.html"):
        page.save(tmp_path / "view.png")
    page.save(tmp_path / "view.html")
    assert (tmp_path / "view.html").read_text().startswith("<!")


def test_a_channel_is_drawn_with_the_faces_and_images_that_it_has():
    """Two lines where it repeats, as long as the particles reach, and no image beyond the walls."""
    system = mdsens.System([[0.2, 5.0], [5.0, -4.0], [9.9, 0.1]], [10.0, 0.0], 1.0, periodic=(True, False))
    ax = plotting.draw(system)
    points = np.asarray(ax.collections[0].get_offsets())
    assert len(points) == 5 and any(np.allclose(point, [10.2, 5.0]) for point in points)
    faces = np.sort([line.get_xydata() for line in ax.lines], axis=1)
    np.testing.assert_allclose(sorted(faces[:, 0, 0]), [0.0, 10.0])
    assert (faces[:, 0] == faces[:, 1])[:, 0].all() and np.allclose(faces[:, :, 1], [-4.5, 5.5])
    assert ax.get_ylim()[1] > 5.5 and np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()


def test_bonds_through_the_face_of_a_channel_are_drawn_on_both_sides():
    from mdsens.plotting.parts import draw_parts

    system = mdsens.System([[0.2, 5.0], [9.5, 5.5], [8.5, 3.0]], [10.0, 10.0], 1.0, periodic=(True, False))
    rest = mdsens.at_rest(mdsens.Bonds([[0, 1], [1, 2]], [1.0, 0.0], 1.0), system, throw=False)
    ax = plotting.draw(system)
    draw_parts(rest.potential, rest.system, ax)
    (lines,) = (c for c in ax.collections if isinstance(c, mpl.collections.LineCollection))
    assert len(lines.get_segments()) == 2
    open_ = rest.system.replace(positions=rest.positions.at[0, 0].add(10.0), box=None)
    free = mdsens.at_rest(mdsens.Bonds([[0, 1], [1, 2]], [1.0, 0.0], 1.0), open_, throw=False)
    draw_parts(free.potential, free.system, ax := plotting.draw(open_))
    (lines,) = (c for c in ax.collections if isinstance(c, mpl.collections.LineCollection))
    assert len(lines.get_segments()) == 1


@pytest.mark.parametrize(
    ("periodic", "count"), [((True, True, True), 12), ((True, True, False), 12), ((False, True, False), 8)]
)
def test_the_edges_of_a_slab_in_space_are_those_of_its_faces(periodic, count):
    system = mdsens.System(
        np.random.default_rng(0).uniform(0, 3, (20, 3)), [3.0, 4.0, 0.0 if count < 12 else 5.0], 1.0, periodic=periodic
    )
    drawn = plotting.view(system)
    assert np.isfinite(np.array(scene_of(drawn)["edges"])).all() and len(scene_of(drawn)["edges"]) == count
    assert ("φ" in scene_of(drawn)["about"]) == all(periodic)


def scene_of(drawn):
    from mdsens.plotting.viewer import _scene

    return _scene(drawn.packing, None, None)
