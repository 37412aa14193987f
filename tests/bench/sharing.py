#!/usr/bin/env python3
"""How long a step takes with tangents beside differences, over ranks, directions (n) and pictures of a batch (B).

    .venv/bin/python tests/bench/sharing.py                                    all of it (about ten minutes on 2 cores)
    .venv/bin/python tests/bench/sharing.py compute --costs 0.777 0.777 0.879  a table from these costs, at once

Measured: toybox on one rank and on two, a thread each; steps of both kinds in turn in one process (tests/helpers/derivatives.c),
their medians. The seconds of a lane of differences, a primal and a tangent follow from one rank's medians by least squares, with a
constant for what a step costs besides.

Computed: from these three costs, or those given, by the program's own rule for shares (tests/helpers/share.c), for equal ranks that
do not disturb one another and exchange losses in no time. The unit is a lane of differences.
"""
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from arguments import arguments  # noqa: E402
from conftest import mpirun, program, run, write_recipe  # noqa: E402

BATCHES, MEASURED = (1, 2, 4), (1, 2, 4, 8)
DIRECTIONS, RANKS = (1, 2, 4, 8, 16, 64), (1, 2, 3, 4, 8, 16, 32, 64)
KINDS = ("difference", "tangent")


def table(*head):
    print("| " + " | ".join(map(str, head)) + " |\n|" + " --- |" * len(head))


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def slowest(cases):
    """The cost of the slowest share for each (pieces, group, gamma, ranks), in pieces."""
    text = "\n".join(" ".join(map(str, (*case, *[1] * case[-1]))) for case in cases)
    return [float(line.split()[0]) for line in run(program("tests/share"), stdin=text).stdout.splitlines()]


def computed(costs, grid):
    """{(kind, ranks, n, batch): seconds}"""
    difference, primal, tangent = costs
    found = slowest([((n + 1) * b, 0, 0, r) for r, n, b in grid] + [(n * b, n, primal / tangent, r) for r, n, b in grid])
    return {(kind, *case): cost * unit for kind, unit, costs_of in zip(KINDS, (difference, tangent), (found, found[len(grid):]))
            for case, cost in zip(grid, costs_of)}


def measured(a):
    """{(kind, ranks, n, batch): median seconds of a step}"""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for batch in BATCHES:
            config, _ = write_recipe(Path(folder) / str(batch), optim__batch_size=batch, output__prompts=[])
            for ranks in (1, 2):
                done = mpirun(ranks, program("tests/derivatives"), config, a.rounds, *MEASURED, threads=1)
                for line in map(json.loads, done.stdout.splitlines()):
                    found[line["derivative"], ranks, line["n"], batch] = statistics.median(line["seconds"])
    return found


def solve(times):
    """Seconds of a lane of differences, of a primal and of a tangent, and of a step without any."""
    rows, seconds = [], []
    for (kind, ranks, n, batch), t in times.items():
        if ranks == 1:
            lanes = [(n + 1) * batch, 0, 0] if kind == "difference" else [0, batch, n * batch]
            rows.append(np.array([*lanes, 1]) / t)  # relative errors
            seconds.append(1)
    return np.linalg.lstsq(np.array(rows), np.array(seconds), rcond=None)[0]


def show_measured(times, costs, rest):
    print(f"A lane of differences takes {1e3 * costs[0]:.2f} ms, a primal {1e3 * costs[1]:.2f} ms, a tangent {1e3 * costs[2]:.2f} ms; "
          f"a step without lanes {1e3 * rest:.2f} ms.\n")
    grid = [(r, n, b) for r in (1, 2) for b in BATCHES for n in MEASURED]
    expected = computed(costs, grid)
    table("ranks", "B", "n", "differences, ms", "tangents, ms", "measured ratio", "computed ratio")
    for r, n, b in grid:
        d, t = (times[kind, r, n, b] for kind in KINDS)
        row(r, b, n, f"{1e3 * d:.1f}", f"{1e3 * t:.1f}", f"{t / d:.2f}",
            f"{(expected['tangent', r, n, b] + rest) / (expected['difference', r, n, b] + rest):.2f}")
    print()


def show_computed(costs):
    print(f"A primal costs {costs[1] / costs[0]:.2f} lanes of differences, a tangent {costs[2] / costs[0]:.2f}.\n")
    grid = [(r, n, b) for b in BATCHES for n in DIRECTIONS for r in RANKS]
    times = computed([c / costs[0] for c in costs], grid)
    table("B", "n", *(f"{r} rank{'s' * (r > 1)}" for r in RANKS))
    for b in BATCHES:
        for n in DIRECTIONS:
            row(b, n, *(f"{times['tangent', r, n, b]:.1f} : {times['difference', r, n, b]:.0f}" for r in RANKS))
    print()


def main():
    parser = arguments("A step's time with tangents beside differences.", __doc__)
    parser.add_argument("what", nargs="?", default="all", choices=("all", "compute"))
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind, n and batch")
    parser.add_argument("--costs", type=float, nargs=3, metavar=("DIFFERENCE", "PRIMAL", "TANGENT"),
                        help="what a lane takes, in any unit, for the computed table")
    a = parser.parse_args()
    if a.what == "compute" and not a.costs:
        parser.error("compute needs --costs")
    costs = a.costs
    if a.what == "all":
        times = measured(a)
        *found, rest = solve(times)
        show_measured(times, found, rest)
        costs = costs or found
    show_computed(costs)


if __name__ == "__main__":
    main()
