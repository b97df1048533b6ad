"""Commands with arbitrary arguments: each succeeds, or explains what is wrong."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mdsens
from commands import call
from samples import settled


def many(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


WORDS = """
    relax sensitivity demo --wrt diameters box alpha epsilon species-diameter:7 -o IN OUT OUT.extxyz --set epsilon=1
    alpha=x = --epsilon --alpha 1e300 --tolerance 1e-6 -1 0 nan --max-steps 5 --potential soft-sphere yukawa --dim 3
    --precision single --diameters 1,0.6 1,,2 --linear-solver minres cg --help --version --thorough --one-sided .
"""


words = st.sampled_from([*WORDS.split(), ""])


@many(100)
@given(st.sampled_from(["relax", "certify", "sensitivity", "demo", ""]), st.lists(words, max_size=9))
def test_a_command_succeeds_or_explains_what_is_wrong(folder, command, arguments):
    mdsens.write(folder / "in.extxyz", settled(n=32))
    places = {"IN": folder / "in.extxyz", "OUT": folder / "out", "OUT.extxyz": folder / "out.extxyz"}
    arguments = [str(places.get(word, word)) for word in arguments]
    if command == "demo":  # takes seconds, and has a test of its own
        arguments.append("--no-such-option")
    code, out, err = call(command, *arguments, folder=folder)
    assert code in (0, 1, 2)
    assert (code == 0) != bool(err), err
    assert "Traceback" not in err and "nan" not in out.lower().split()
