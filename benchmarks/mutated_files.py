"""Five thousand damaged files: each is read as a strict reader reads it, or refused in one line.

    python benchmarks/mutated_files.py -o benchmarks/results [--count 5000] [--seed 0]

Valid LAMMPS data files, LAMMPS dumps, extended XYZ, CIF, POSCAR and study files are generated here and then damaged:
words replaced, dropped and doubled, lines swapped and lost, digits changed, bytes inserted, ends cut off. mdsens reads
each of them. What it accepts is compared with the readers of `strict_readers.py`, which follow the formats' manuals to
the letter and share nothing with mdsens or ASE. What it refuses goes through the command, too, which must say so in
one line (a study file: one line for each fault) and end with exit code 2.

An outcome is `agrees` (both read the same), `refused`, or a fault: `lenient` (the strict reader refuses), `differs`,
`crash` (another exception, another exit code, more than one line), `slow` (more than 5 s of processor time) or `memory`
(more than ten times the file and 8 MiB). `too strict` is a file that only mdsens refuses; no fault, but counted.

Writes mutated_files.json and mutated_files.md.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

import mdsens
import report
from commands import call
from mdsens.studies.study import read_study
from strict_readers import READERS, Refused

SECONDS = 5.0
FACTOR, FLOOR = 10, 8 * 2**20
"""The memory that a file may take: so many times its size, and so many bytes."""

FAULTS = ("lenient", "differs", "crash", "slow", "memory")
OUTCOMES = ("agrees", "refused", "too strict", *FAULTS)

ODD = (
    *("", "nan", "inf", "-inf", "1e999", "-1", "0", "1", "2", "0.0", "1e-320", "é", "\x00", "T", "F", '"', "'", "="),
    *("[[", "{}", "#", "!", ";", "_", "1_0", "0x10", "１", "١", "1.5.2", "--1", "+", "1d0", "99999999999", "1e308"),
    *("999999999999999999999999", "\u00a0", "\u2028", "\ufeff", "\r", "None", "true", "1,5", "(1)", "3/0", "*"),
)


# ---------------------------------------------------------------------------------------------------------------------
# Valid files
# ---------------------------------------------------------------------------------------------------------------------


def numbers(rng: random.Random, n: int, d: int, low: float = 0.0, high: float = 1.0) -> list[list[float]]:
    return [[round(rng.uniform(low, high), 6) for _ in range(d)] for _ in range(n)]


def rows_of(*columns: object) -> str:
    """Lines of words, from columns that are lists, or lists of lists."""
    parts = [[cell if isinstance(cell, list) else [cell] for cell in column] for column in columns]
    return "\n".join(" ".join(str(word) for cell in row for word in cell) for row in zip(*parts, strict=True))


def lammps_data(rng: random.Random) -> str:
    n, style = rng.randint(2, 6), rng.choice(["atomic", "sphere", "charge", "full"])
    x, ids, types = numbers(rng, n, 3, 0, 5), list(range(1, n + 1)), [rng.randint(1, 2) for _ in range(n)]
    types[0] = 1
    charges = [round(rng.uniform(-1, 1), 3) for _ in ids]
    sizes = [round(rng.uniform(0.5, 1.5), 3) for _ in ids]
    ones = [1] * n
    columns = {
        "atomic": (ids, types, x),
        "sphere": (ids, types, sizes, ones, x),
        "charge": (ids, types, charges, x),
        "full": (ids, ones, types, charges, x),
    }[style]
    tilt = "0.5 0.25 -0.5 xy xz yz\n" if rng.random() < 0.3 else ""
    masses = "\nMasses\n\n1 1.0\n2 2.5\n" if rng.random() < 0.5 else ""
    velocities = f"\nVelocities\n\n{rows_of(ids, numbers(rng, n, 3))}\n" if rng.random() < 0.3 else ""
    return (
        f"a comment\n\n{n} atoms\n2 atom types\n\n0.0 5.0 xlo xhi\n-1.0 4.0 ylo yhi\n0.0 6.0 zlo zhi\n{tilt}"
        f"{masses}\nAtoms # {style}\n\n{rows_of(*columns)}\n{velocities}"
    )


def lammps_dump(rng: random.Random) -> str:
    n, tilted, scaled = rng.randint(2, 6), rng.random() < 0.3, rng.random() < 0.4
    bounds = ("0.0 5.5 0.5\n0.0 5.0 0.0\n0.0 6.0 0.0" if tilted else "0.0 5.0\n0.0 5.0\n0.0 6.0") + "\n"
    words = ("xy xz yz " if tilted else "") + rng.choice(["pp pp pp", "pp pp pp", "pp pp ff", "ff pp ss"])
    names = "xs ys zs" if scaled else rng.choice(["x y z", "xu yu zu"])
    charge = rng.random() < 0.3

    def frame(step: int) -> str:
        ids = list(range(1, n + 1))
        rng.shuffle(ids)
        columns = [ids, [1 + each % 2 for each in ids], numbers(rng, n, 3, 0, 1 if scaled else 5)]
        columns.append([round(rng.uniform(0.3, 0.8), 3) for _ in ids])
        more = " q" if charge else ""
        if charge:
            columns.append([0.5] * n)
        return (
            f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{n}\nITEM: BOX BOUNDS {words}\n{bounds}"
            f"ITEM: ATOMS id type {names} radius{more}\n{rows_of(*columns)}\n"
        )

    return "".join(frame(100 * k) for k in range(rng.randint(1, 2)))


def extended_xyz(rng: random.Random) -> str:
    n, periodic, masked, atoms = rng.randint(2, 6), rng.random() < 0.7, rng.random() < 0.3, rng.random() < 0.5

    def frame() -> str:
        header = 'Lattice="5.0 0.0 0.0 0.5 5.0 0.0 0.0 0.25 6.0" ' if periodic else ""
        pbc = rng.choice(["T T T", "T T T", "T T F", "F T F"]) if periodic else "F F F"
        names, columns = "species:S:1:pos:R:3", [["Si", "C", "Si", "O", "H", "C"][:n], numbers(rng, n, 3, 0, 5)]
        if not atoms:
            names += ":species_id:I:1"
            columns.append([k % 2 for k in range(n)])
        names += ":diameters:R:1"
        columns.append([round(rng.uniform(0.5, 1.5), 3) for _ in range(n)])
        if masked:
            names += ":move_mask:L:1"
            columns.append(["T"] * (n - 1) + ["F"])
        return f'{n}\n{header}Properties={names} pbc="{pbc}"\n{rows_of(*columns)}\n'

    return "".join(frame() for _ in range(rng.randint(1, 2)))


def cif(rng: random.Random) -> str:
    n = rng.randint(1, 4)
    operations = rng.choice([["x,y,z"], ["x,y,z", "-x,-y,-z"]])
    listed = "\n".join(f"'{each}'" for each in operations)
    group = {1: "P 1", 2: "P -1"}[len(operations)]
    places = rows_of([f"Si{k}" for k in range(n)], ["Si"] * n, numbers(rng, n, 3, 0.05, 0.45))
    return (
        "data_crystal\n_cell_length_a 5.1\n_cell_length_b 5.2\n_cell_length_c 6.0\n_cell_angle_alpha 90.0\n"
        f"_cell_angle_beta 95.0\n_cell_angle_gamma 100.0\n_symmetry_space_group_name_H-M '{group}'\n"
        f"loop_\n_symmetry_equiv_pos_as_xyz\n{listed}\n\nloop_\n_atom_site_label\n_atom_site_type_symbol\n"
        f"_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n{places}\n"
    )


def poscar(rng: random.Random) -> str:
    counts, direct, selective = [rng.randint(1, 3), rng.randint(1, 2)], rng.random() < 0.5, rng.random() < 0.4
    n = sum(counts)
    flags = [rng.choice(["T T T", "F F F"]) for _ in range(n)]
    flags[0] = "F F F"
    columns = (numbers(rng, n, 3, 0, 1 if direct else 5), flags) if selective else (numbers(rng, n, 3, 0, 1),)
    return (
        f"Si C\n{rng.choice(['1.0', '1.1', '2.5'])}\n5.0 0.0 0.0\n0.5 5.0 0.0\n0.0 0.25 6.0\nSi C\n"
        f"{counts[0]} {counts[1]}\n{'Selective dynamics' + chr(10) if selective else ''}"
        f"{'Direct' if direct else 'Cartesian'}\n{rows_of(*columns)}\n"
    )


def study(rng: random.Random) -> str:
    sweep = rng.choice(
        [
            'method = "grid"\n[sweep.parameters]\npacking_fraction = [0.85, 0.95]\nepsilon = [1.0, 2.0]\n',
            'method = "sobol"\nsamples = 8\nseed = 3\n[sweep.parameters]\nepsilon = {low = 0.5, high = 1.0}\n',
            "[sweep.parameters]\npacking_fraction = {low = 0.85, high = 0.95, count = 3}\n",
        ]
    )
    return (
        f'name = "study-1"\nseeds = {rng.choice(["4", "[1, 2, 5]"])}\n\n[system]\nn = 32\ndim = 2\n'
        'diameters = [1.0, 0.6]\npacking_fraction = 0.95\n\n[potential]\nname = "soft-sphere"\nepsilon = 1.0\n'
        "alpha = 2.0\n\n[relaxation]\ntolerance = 1e-10\nmax_steps = 5000\n\n"
        f'[compute]\nresponse = ["species-diameter:1"]\nproperties = ["energy", "pressure"]\n\n[sweep]\n{sweep}'
    )


@dataclass(frozen=True)
class Kind:
    """A format: how to make a valid file, its name on disk, and whether its particles always have sizes."""

    make: object
    name: str
    sized: bool = True


KINDS = {
    "LAMMPS data": Kind(lammps_data, "{k}.data", sized=False),
    "LAMMPS dump": Kind(lammps_dump, "{k}.dump"),
    "extended XYZ": Kind(extended_xyz, "{k}.extxyz"),
    "CIF": Kind(cif, "{k}.cif", sized=False),
    "POSCAR": Kind(poscar, "POSCAR-{k}", sized=False),
    "study": Kind(study, "{k}.toml"),
}


# ---------------------------------------------------------------------------------------------------------------------
# Damage
# ---------------------------------------------------------------------------------------------------------------------


def damaged(text: str, rng: random.Random) -> bytes:
    """The text after one to three mutations, which may leave it valid."""
    for _ in range(rng.randint(1, 3)):
        text = rng.choice((_word, _word, _line, _character, _digit, _end))(text, rng)
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        place = rng.randrange(len(content) + 1)
        content = content[:place] + bytes([rng.randrange(256)]) + content[place:]
    return content


def _word(text: str, rng: random.Random) -> str:
    """A word is replaced, dropped, doubled, or exchanged for another."""
    found = [match.span() for match in re.finditer(r"[^\s\"=\[\],]+", text)]
    if not found:
        return text
    (a, b), (c, d) = rng.choice(found), rng.choice(found)
    new = rng.choice([rng.choice(ODD), rng.choice(ODD), "", f"{text[a:b]} {text[a:b]}", text[c:d]])
    return text[:a] + new + text[b:]


def _line(text: str, rng: random.Random) -> str:
    """A line is dropped, doubled, exchanged for another, or broken in two."""
    lines = text.split("\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[a]
        case 1:
            lines.insert(b, lines[a])
        case 2:
            lines[a], lines[b] = lines[b], lines[a]
        case 3:
            lines[a] = lines[a].replace(" ", "\n", 1)
    return "\n".join(lines)


def _character(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice(["", chr(rng.randrange(32, 127)), rng.choice(ODD)]) + text[place + 1 :]


def _digit(text: str, rng: random.Random) -> str:
    """A digit, a sign or a point is another one."""
    places = [match.start() for match in re.finditer(r"[\d.\-]", text)]
    place = rng.choice(places) if places else 0
    return text[:place] + rng.choice("0123456789.-e") + text[place + 1 :]


def _end(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.5 else text


# ---------------------------------------------------------------------------------------------------------------------
# Verdicts
# ---------------------------------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """Not an Exception, so that nothing catches it on the way."""


@contextlib.contextmanager
def alarm(seconds: float):
    def ring(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def read(name: str, path: Path) -> object:
    """What mdsens reads: a System, or a Study."""
    if name == "study":
        return read_study(path)
    try:
        return mdsens.read(path)
    except mdsens.InvalidInput as error:
        if KINDS[name].sized or "holds no diameters" not in str(error):
            raise
        return mdsens.read(path, diameters=1.0)


def arguments(name: str, path: Path) -> list[str]:
    """The command that reads the file first of all."""
    if name == "study":
        return ["run", str(path), "--dry-run"]
    return ["certify", str(path)]


def examine(name: str, path: Path) -> tuple[str, str]:
    """The outcome for one file, and what there is to say about it."""
    size = path.stat().st_size
    tracemalloc.reset_peak()
    before, found, reason = tracemalloc.get_traced_memory()[0], None, ""
    try:
        with alarm(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read(name, path)
    except mdsens.InvalidInput as error:
        reason = str(error)
    except TooSlow:
        return "slow", f"more than {SECONDS:g} s"
    except Exception as error:
        return "crash", f"{type(error).__name__}: {error}"
    used = tracemalloc.get_traced_memory()[1] - before
    if used > FACTOR * size + FLOOR:
        return "memory", f"{used / 2**20:.0f} MiB for {size} bytes"
    try:
        with alarm(SECONDS):
            expected = READERS[name](path.read_bytes())
    except Refused as error:
        return ("lenient", f"strict: {error}") if found is not None else refused(name, path, reason)
    if found is None:
        outcome, said = refused(name, path, reason)
        return ("too strict", said) if outcome == "refused" else (outcome, said)
    difference = expected.difference(found)
    return ("differs", difference) if difference else ("agrees", "")


def refused(name: str, path: Path, reason: str) -> tuple[str, str]:
    """Whether the command says so in one line, or one for each fault of a study file, and ends with exit code 2."""
    try:
        with alarm(SECONDS):
            code, out, err = call(*arguments(name, path), folder=path.parent)
            if "holds no diameters" in err and not KINDS[name].sized:
                code, out, err = call(*arguments(name, path), "--diameters", "1.0", folder=path.parent)
    except TooSlow:
        return "slow", f"the command, more than {SECONDS:g} s"
    except BaseException as error:
        return "crash", f"the command: {type(error).__name__}: {error}"
    lines = err.strip().splitlines()
    of_faults = name == "study" and all(line.startswith("  ") for line in lines[1:])
    if code != 2 or out or not lines or not lines[0].startswith("mdsens: ") or (len(lines) > 1 and not of_faults):
        return "crash", f"exit code {code}: {(out + err)[:200]!r}"
    return "refused", reason


def campaign(
    numbers: Iterable[int], seed: int, folder: Path, keep: Path | None = None, kinds: tuple[str, ...] = tuple(KINDS)
) -> list[dict]:
    """The outcomes of the files of these numbers, whose formats take turns."""
    results = []
    tracemalloc.start()
    for k in numbers:
        name = kinds[k % len(kinds)]
        rng = random.Random(f"{seed} {k}")
        path = folder / KINDS[name].name.format(k=k)
        path.write_bytes(damaged(KINDS[name].make(rng), rng))
        outcome, said = examine(name, path)
        results.append({"k": k, "format": name, "outcome": outcome, "said": said.replace(str(folder), "")})
        if keep is not None and outcome in FAULTS:
            (keep / path.name).write_bytes(path.read_bytes())
        path.unlink()
    tracemalloc.stop()
    return results


def undamaged(count: int, seed: int, folder: Path) -> None:
    """**Raises** `AssertionError` unless the files are read alike before they are damaged."""
    for k in range(count):
        for name, kind in KINDS.items():
            path = folder / kind.name.format(k=k)
            path.write_text(kind.make(random.Random(f"{seed} {k}")))
            outcome, said = examine(name, path)
            assert outcome == "agrees", f"{name}: {outcome}: {said}\n{path.read_text()}"
            path.unlink()


def table(results: list[dict]) -> str:
    lines = ["| format | files | " + " | ".join(OUTCOMES) + " |", "|---" * (2 + len(OUTCOMES)) + "|"]
    for name in [*KINDS, "all"]:
        counts = collections.Counter(r["outcome"] for r in results if name in (r["format"], "all"))
        row = [name, counts.total(), *(counts[each] for each in OUTCOMES)]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    faults = [r for r in results if r["outcome"] in FAULTS]
    lines += ["", *(f"- {r['format']} {r['k']}, {r['outcome']}: {r['said'][:150]!r}" for r in faults[:50])]
    return "\n".join(lines).rstrip() + "\n"


def _prepare(seed: int) -> None:
    """Read valid files first, so that what is imported then counts for none of the others."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    jax.config.update("jax_enable_x64", True)
    np.seterr(all="ignore")
    with tempfile.TemporaryDirectory() as folder:
        undamaged(5, seed, Path(folder))
        (Path(folder) / "empty.extxyz").touch()
        refused("extended XYZ", Path(folder) / "empty.extxyz", "")


def _part(numbers: list[int], **options: Any) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        return campaign(numbers, folder=Path(folder), **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=None)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the files with which something is wrong")
    parser.add_argument("--again", action="store_true", help="only those that were no `agrees` or `refused` last time")
    parser.add_argument("--only", choices=list(KINDS), default=None)
    options = parser.parse_args()
    started, results = time.monotonic(), []
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    kinds = (options.only,) if options.only else tuple(KINDS)
    part = functools.partial(_part, seed=options.seed, keep=options.keep, kinds=kinds)
    numbers = list(range(options.count))
    if options.again:
        before = json.loads((options.output / "mutated_files.json").read_text())
        results = [r for r in before if r["outcome"] in ("agrees", "refused")]
        numbers = [r["k"] for r in before if r["outcome"] not in ("agrees", "refused")]
    parts = [numbers[k : k + 100] for k in range(0, len(numbers), 100)]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.jobs, initializer=_prepare, initargs=(options.seed,)) as pool:
        for found in pool.imap(part, parts):
            results += found
            for result in found:
                if result["outcome"] in FAULTS:
                    print(result, flush=True)
    results.sort(key=lambda r: r["k"])
    text = table(results)
    print(text)
    print(f"{time.monotonic() - started:.0f} s")
    if options.output:
        report.write(options.output, "mutated_files", results, f"{text}\nSeed {options.seed}.\n")
    sys.exit(any(r["outcome"] in FAULTS for r in results))


if __name__ == "__main__":
    main()
