"""A sample of benchmarks/thousand.py: every answer is right, or refused."""

import pytest

from thousand import SOLVERS, examine

SAMPLE = {
    "5 spheres, 2D": (1, 87, 101, 123, 133),
    "12 spheres, 3D": (39, 47, 53, 61, 78),
    "clusters of 12, 2D": (26, 83, 112, 121),
}


@pytest.mark.slow
@pytest.mark.parametrize("numbers", SAMPLE.values(), ids=SAMPLE)
def test_no_answer_is_wrong(numbers):
    chosen = {name: SOLVERS[name] for name in ("dense", "minres")}
    answered = 0
    for k in numbers:
        found = examine(k, recipes=False, solvers=chosen)
        assert found["confirmed"] is not False, found
        for verdict in found["verdicts"].values():
            assert verdict == "right" or verdict.startswith("refused"), found
            answered += verdict == "right"
    assert answered
