"""Long computations report their progress to a callback, or to a bar in a terminal or notebook."""

import numpy as np
import pytest

import mdsens
from mdsens.runtime import progress
from samples import jammed


class Bar:
    """Records what a bar would show."""

    def __init__(self, task):
        self.task, self.shown, self.closed = task, [], False

    def show(self, fraction, text):
        self.shown.append((fraction, text))

    def close(self):
        self.closed = True


@pytest.fixture
def rest():
    return jammed(n=32)


@pytest.fixture
def bars(rest, monkeypatch):
    """The bars that a test opens."""
    monkeypatch.setattr(progress._Bars, "wanted", True)
    made = []

    def bar_for(task):
        made.append(Bar(task))
        return made[-1]

    monkeypatch.setattr(progress, "_bar_for", bar_for)
    return made


def test_a_relaxation_shows_how_far_the_force_has_fallen(bars, rest):
    shaken = rest.system.replace(positions=rest.positions + 0.01 * np.sin(np.arange(64.0)).reshape(32, 2))
    mdsens.Relaxation(tolerance=1e-10)(mdsens.SoftSphere(), shaken)
    (bar,) = bars
    fractions = [fraction for fraction, _ in bar.shown]
    assert bar.task == "relaxing" and bar.closed
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_nested_computations_share_one_bar(bars, rest):
    mdsens.follow(rest, "species-diameter:1", 0.6005)
    assert [bar.task for bar in bars] == ["following"]
    mdsens.fit(rest.potential, mdsens.Target(rest.system), ["species-diameter:1"], start={"species-diameter:1": 0.61})
    assert [bar.task for bar in bars] == ["following", "fitting"] and all(bar.closed for bar in bars)


def test_a_callback_replaces_the_bar(bars, rest):
    reports = []
    mdsens.sensitivity(rest, "diameters", progress=lambda done, all: reports.append((done, all)))
    assert reports[-1] == (32, 32) and not bars


def test_an_error_closes_the_bar(bars):
    start = mdsens.random_packing(32, packing_fraction=0.98, seed=0)
    for _ in range(2):
        with pytest.raises(mdsens.NotConverged):
            mdsens.Relaxation(tolerance=1e-10, max_steps=3)(mdsens.SoftSphere(), start)
    assert len(bars) == 2 and all(bar.closed for bar in bars)


def test_bars_can_be_turned_off(bars, rest):
    mdsens.progress_bars(False)
    try:
        mdsens.sensitivity(rest, "epsilon")
    finally:
        mdsens.progress_bars(True)
    assert not bars


def test_there_is_no_bar_without_a_terminal_or_notebook():
    assert progress._bar_for("relaxing") is None


def test_progress_of_a_falling_force_is_logarithmic():
    falling = progress.Falling(1e-10)
    found = [falling(0, force)[0] for force in (1.0, 1e-5, 1e-4, 1e-12)]
    np.testing.assert_allclose(found, [0.0, 0.5, 0.5, 1.0])


def test_a_callback_that_is_not_callable_is_refused_and_the_switch_is_named(rest):
    with pytest.raises(mdsens.InvalidInput, match=r"progress_bars\(False\)"):
        mdsens.Relaxation(progress=False)(rest.potential, rest.system)
