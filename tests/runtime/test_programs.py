"""How many programs are compiled for a first result: compile time is most of what a user waits for."""

import json
import subprocess
import sys

import pytest

import mdsens
from mdsens import linearization
from mdsens.cli import main

COUNT = """
import json
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import mdsens

names, counts = [], {}

def listen(event, _seconds, **about):
    if event.endswith("backend_compile_duration"):
        names.append(about.get("fun_name", "?"))

jax.monitoring.register_event_duration_secs_listener(listen)

def count(what, function):
    names.clear()
    jax.block_until_ready(function())
    counts[what] = list(names)

system = mdsens.random_packing(n=256, dim=2, diameters=(1.0, 0.6), packing_fraction=0.98, seed=0)
potential, relax = mdsens.SoftSphere(), mdsens.Relaxation(tolerance=1e-10)
of_jax = lambda D: D[:, None] * jnp.ones((1, 2))  # its programs make the basis and put the columns together
jax.block_until_ready(jax.jacfwd(of_jax)(system.diameters))
count("making a system", lambda: mdsens.random_packing(n=256, seed=1).positions)
count("relax", lambda: relax(potential, system).positions)
move = lambda D: relax(potential, system.replace(diameters=D)).positions
count("jacfwd", lambda: jax.jacfwd(move)(system.diameters))
eq = relax(potential, system)
count("certificate", lambda: str(eq.certificate) and 0)
count("again", lambda: relax(potential, mdsens.random_packing(n=256, seed=0)).positions)
relaxed = mdsens.Relaxation(mdsens.FIRE(dt_max=0.4), tolerance=1e-9, max_steps=50_000)
count("other numbers", lambda: relaxed(potential, system).positions)
count("other stiffness", lambda: relax(mdsens.SoftSphere(epsilon=2.0), system).positions)
print(json.dumps(counts))
"""


@pytest.fixture(scope="module")
def programs():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_first_relaxation_with_a_neighbor_list_compiles_few_programs(programs):
    assert programs["making a system"] == []
    assert len(programs["relax"]) <= 8, programs["relax"]


def test_a_first_jacobian_compiles_four_more_at_most(programs):
    assert len(programs["jacfwd"]) <= 4, programs["jacfwd"]


def test_a_certificate_compiles_one_at_most(programs):
    assert len(programs["certificate"]) <= 1, programs["certificate"]


def test_numbers_that_a_user_varies_compile_nothing(programs):
    assert programs["again"] == programs["other numbers"] == programs["other stiffness"] == []


def test_the_command_sensitivity_linearizes_once(tmp_path, monkeypatch):
    """Certificate, response and range of validity of one equilibrium share its linearization."""
    rest = mdsens.Relaxation()(mdsens.SoftSphere(), mdsens.random_packing(n=32, seed=0))
    mdsens.write(tmp_path / "in.extxyz", rest)
    positions, linearize = [], linearization.linearize

    def counted(configuration, *args):
        positions.append(tuple(configuration.system.positions[0].tolist()))
        return linearize(configuration, *args)

    for module in ("relaxation.rule", "relaxation.relaxation", "response.nearby"):
        monkeypatch.setattr(f"mdsens.{module}.linearize", counted)
    command = ["sensitivity", str(tmp_path / "in.extxyz"), "--wrt", "species-diameter:1", "-o", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["mdsens", *command])
    monkeypatch.setattr("mdsens.runtime.compiled.keep_compiled", lambda: None)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    first = positions[0]
    assert positions.count(first) == 1, (
        "the equilibrium itself is linearized once; those on the way to the ends each once"
    )
