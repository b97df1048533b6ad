"""How results are displayed in notebooks; viewers and movies."""

import dataclasses
import types

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

import mdsens
from mdsens import plotting
from mdsens.plotting.notebook import SHOWN, show_in_notebooks
from samples import RELAX, jammed


@pytest.fixture(scope="module")
def shown():
    """The HTML that a notebook shows for an object."""
    shell = types.SimpleNamespace(display_formatter=DisplayFormatter())
    show_in_notebooks(shell)
    return lambda content: shell.display_formatter.format(content)[0].get("text/html")


def test_every_displayed_class_exists():
    for name in SHOWN:
        module, _, kind = name.rpartition(".")
        assert dataclasses.is_dataclass(getattr(__import__(module, fromlist=[kind]), kind))


def test_an_equilibrium_is_a_picture_and_its_certificate(shown):
    rest = jammed(n=32)
    page = shown(rest)
    assert "data:image/png" in page and "a minimum" in page and f"{float(rest.energy):.12g}" in page
    assert "0.98" in shown(rest.system) and "32, in 2D" in shown(rest.system)
    assert "zero modes" in shown(rest.certificate)


def test_an_unfinished_result_is_shown_as_not_at_rest(shown):
    unfinished = mdsens.Relaxation(max_steps=3, throw=False)(mdsens.SoftSphere(), mdsens.random_packing(32))
    assert "not at rest" in shown(unfinished) and "a minimum" not in shown(unfinished)


def test_three_dimensions_are_shown_in_a_viewer(shown, tmp_path):
    rest = jammed(n=32, dim=3, packing_fraction=0.75)
    assert "<iframe" in shown(rest)
    response = mdsens.sensitivity(rest, "epsilon")
    seen = plotting.view(rest, response)
    seen.save(tmp_path / "view.html")
    page = (tmp_path / "view.html").read_text()
    assert page.count('"about": "particle') == 32 and "http" not in page  # nothing from elsewhere
    bundle = seen._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}


def test_an_ensemble_is_described_in_one_line(shown):
    systems = [jammed(seed, n=32).system for seed in (0, 1)]
    many = mdsens.relax_ensemble(RELAX, mdsens.SoftSphere(), systems)
    assert (
        shown(many) is None and repr(many) == "Equilibrium(2 members of 32 particles, 2 of them at rest in a minimum)"
    )


def test_results_are_shown_as_they_are_printed(shown):
    rest = jammed(n=32)
    assert "no contact changes" in shown(mdsens.validity(rest, "species-diameter:1"))
    assert "Σ|∂x/∂θ|" in shown(mdsens.sensitivity(rest, "species-diameter:1"))


def test_a_path_is_a_movie_with_a_frame_for_every_equilibrium(tmp_path):
    rest = jammed(n=32)
    step = 0.5 * mdsens.validity(rest, "species-diameter:1").above.step
    path = mdsens.follow(rest, "species-diameter:1", 0.6 + step, points=5)
    movie = plotting.animate(path, tmp_path / "path.gif", exaggerate=5.0)
    with Image.open(movie.file) as image:
        assert image.n_frames == movie.frames == len(path.fractions)
        frames = []
        for k in (0, movie.frames - 1):
            image.seek(k)
            frames.append(np.asarray(image.convert("L"), dtype=float))
    assert np.abs(frames[0] - frames[1]).mean() > 0.5
    assert "data:image/gif" in movie._repr_html_()
    with pytest.raises(mdsens.InvalidInput, match=r"an \.mp4 needs ffmpeg"):
        plotting.animate(path, tmp_path / "path.avi")


def test_a_response_field_and_a_ranking_are_drawn():
    rest = jammed(n=32)
    field = mdsens.response_field(rest, mdsens.sensitivity(rest, "species-diameter:1"))
    figure = plotting.draw_field(rest.system, field)
    assert len(figure.axes) == 3 and figure._repr_png_()[:4] == b"\x89PNG"
    model = mdsens.uncertainty.predict(rest, ["epsilon", "species-diameter:1"], properties=["pressure"])
    table = mdsens.uncertainty.influence(model, {"epsilon": 0.1, "species-diameter:1": 1e-4}, of="pressure")
    assert len(plotting.draw_ranking(table).axes[0].patches) == 2


def test_representations_of_results_are_short():
    rest = jammed(0, 32)
    response = mdsens.sensitivity(rest, "species-diameter:1")
    model = mdsens.uncertainty.predict(rest, ["species-diameter:1", "alpha"], properties=["pressure"])
    drawn = mdsens.uncertainty.sample(model, {"species-diameter:1": 1e-5}, members=20)
    found = mdsens.fit(mdsens.SoftSphere(), rest.system, "species-diameter:1")
    path = mdsens.follow(rest, "species-diameter:1", 0.6001)
    for result, says in (
        (response, "response [32, 2]"),
        (model, "32 particles to order 1, and pressure"),
        (drawn, "20 sets of parameters"),
        (found, "converged"),
        (path, "equilibria"),
    ):
        assert says in repr(result) and len(repr(result)) < 1000
