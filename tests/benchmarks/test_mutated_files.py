"""A sample of benchmarks/mutated_files.py: damaged files are read as a strict reader reads them, or refused."""

import collections

from mutated_files import FAULTS, KINDS, campaign, undamaged


def test_valid_files_are_read_as_a_strict_reader_reads_them(tmp_path):
    undamaged(4, 7, tmp_path)


def test_damaged_files_are_refused_or_read_alike(tmp_path):
    results = campaign(range(240), 7, tmp_path)
    assert [r for r in results if r["outcome"] in FAULTS] == []
    for name in KINDS:
        outcomes = collections.Counter(r["outcome"] for r in results if r["format"] == name)
        assert outcomes["refused"] > 10 and outcomes["agrees"] > 1, (name, outcomes)
