"""Long work tells how far it is: to a callback, or to a bar where somebody looks."""

import numpy as np
import pytest

import mdsens
from conftest import jammed
from mdsens import progress


class Bar:
    """In place of a bar on a screen."""

    def __init__(self, task):
        self.task, self.seen, self.closed = task, [], False

    def show(self, fraction, what):
        self.seen.append((fraction, what))

    def close(self):
        self.closed = True


@pytest.fixture
def rest():
    return jammed(n=32)


@pytest.fixture
def bars(rest, monkeypatch):
    """Those opened from here on."""
    monkeypatch.setattr(progress._Bars, "wanted", True)
    made = []

    def bar_for(task):
        made.append(Bar(task))
        return made[-1]

    monkeypatch.setattr(progress, "_bar_for", bar_for)
    return made


def test_a_relaxation_shows_how_far_the_force_has_come_down(bars, rest):
    shaken = rest.system.replace(positions=rest.positions + 0.01 * np.sin(np.arange(64.0)).reshape(32, 2))
    mdsens.Relaxation(tolerance=1e-10)(mdsens.SoftSphere(), shaken)
    (bar,) = bars
    fractions = [fraction for fraction, _ in bar.seen]
    assert bar.task == "relaxing" and bar.closed
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_of_work_within_work_there_is_one_bar(bars, rest):
    mdsens.follow(rest, "species-diameter:1", 0.6005)
    assert [bar.task for bar in bars] == ["following"]
    mdsens.fit(rest.potential, mdsens.Target(rest.system), ["species-diameter:1"], start={"species-diameter:1": 0.61})
    assert [bar.task for bar in bars] == ["following", "fitting"] and all(bar.closed for bar in bars)


def test_who_asks_for_the_numbers_gets_these_and_no_bar(bars, rest):
    told = []
    mdsens.sensitivity(rest, "diameters", progress=lambda done, all: told.append((done, all)))
    assert told[-1] == (32, 32) and not bars


def test_no_bar_is_left_open_by_an_error(bars):
    below = mdsens.random_packing(32, packing_fraction=0.98, seed=0)
    for _ in range(2):
        with pytest.raises(mdsens.NotConverged):
            mdsens.Relaxation(tolerance=1e-10, max_steps=3)(mdsens.SoftSphere(), below)
    assert len(bars) == 2 and all(bar.closed for bar in bars)


def test_bars_can_be_turned_off(bars, rest):
    mdsens.progress_bars(False)
    try:
        mdsens.sensitivity(rest, "epsilon")
    finally:
        mdsens.progress_bars(True)
    assert not bars


def test_where_nobody_looks_there_is_no_bar():
    assert progress._bar_for("relaxing") is None


def test_the_way_of_a_force_is_logarithmic():
    falling = progress.Falling(1e-10)
    found = [falling(0, force)[0] for force in (1.0, 1e-5, 1e-4, 1e-12)]
    np.testing.assert_allclose(found, [0.0, 0.5, 0.5, 1.0])


def test_what_is_no_function_is_refused_with_the_switch_for_bars(rest):
    with pytest.raises(mdsens.InvalidInput, match=r"progress_bars\(False\)"):
        mdsens.Relaxation(progress=False)(rest.potential, rest.system)
