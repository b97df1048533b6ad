"""A sample of benchmarks/outside.py: the kinds that nothing gets past today."""

import pytest

import outside


@pytest.mark.parametrize("kind", [outside.files, outside.cutoffs, outside.kinked], ids=lambda kind: kind.__name__)
def test_what_is_faulty_is_right_or_refused_and_its_twin_is_accepted(kind):
    results = [outside.examine(case) for case in kind()]
    assert [r for r in results if outside.is_bad(r)] == []
    assert any(r["outcome"] == "refused" for r in results if r["faulty"])
