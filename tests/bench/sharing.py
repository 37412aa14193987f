#!/usr/bin/env python3
"""How long a step takes with tangents beside differences, over ranks, directions (n) and pictures of a batch (B).

    .venv/bin/python tests/bench/sharing.py                             all of it (about ten minutes on 2 cores)
    .venv/bin/python tests/bench/sharing.py compute --costs 1 1.13      a table from these costs, at once

Measured: toybox on one rank and on two, a thread each. Steps of both kinds are taken in turn in one process
(tests/helpers/derivatives.c), so that both meet the machine in the same moments: medians of their times, and of the ratio of two
steps in a row. What a primal and a tangent cost beside a lane of differences follows from one rank's ratios by least squares.

Computed: from these costs, or those given, by the program's own rule for shares (tests/helpers/share.c), for equal ranks that do not
disturb one another and exchange losses in no time. The unit is a lane of differences.
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

BATCHES, DIRECTIONS, RANKS = (1, 2, 4, 16), (1, 8, 32), (1, 2, 3, 4, 8, 16, 32, 64)
MEASURED = {1: (1, 2, 8), 2: (2, 8), 4: (1, 8)}  # batch: n
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
    """{(ranks, n, batch): (a step's time with differences, with tangents)}, in lanes of differences."""
    primal, tangent = costs
    found = slowest([((n + 1) * b, 0, 0, r) for r, n, b in grid] + [(n * b, n, primal / tangent, r) for r, n, b in grid])
    return {case: (d, t * tangent) for case, d, t in zip(grid, found, found[len(grid):])}


def measured(a):
    """{(ranks, n, batch): (median seconds with differences, with tangents, median ratio)}"""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for batch, n in MEASURED.items():
            config, _ = write_recipe(Path(folder) / str(batch), optim__batch_size=batch, output__prompts=[])
            for ranks in (1, 2):
                done = mpirun(ranks, program("tests/derivatives"), config, a.rounds, *n, threads=1)
                lines = [json.loads(line) for line in done.stdout.splitlines()]
                for d, t in zip(lines[::2], lines[1::2], strict=True):
                    assert (d["derivative"], t["derivative"], d["n"]) == (*KINDS, t["n"])
                    ratios = [after / before for before, after in zip(d["seconds"], t["seconds"])]
                    found[ranks, t["n"], batch] = tuple(map(statistics.median, (d["seconds"], t["seconds"], ratios)))
    return found


def solve(times):
    """A primal's and a tangent's cost in lanes of differences: primal + n tangent = ratio (n + 1), on one rank."""
    rows = [(1 / (n + 1), n / (n + 1)) for ranks, n, _ in times if ranks == 1]
    return np.linalg.lstsq(np.array(rows), np.array([t[2] for (ranks, *_), t in times.items() if ranks == 1]), rcond=None)[0]


def show_measured(times, costs):
    expected = computed(costs, list(times))
    table("ranks", "B", "n", "differences, ms", "tangents, ms", "measured ratio", "computed ratio")
    for (r, n, b), (d, t, ratio) in sorted(times.items(), key=lambda item: (item[0][0], item[0][2], item[0][1])):
        row(r, b, n, f"{1e3 * d:.1f}", f"{1e3 * t:.1f}", f"{ratio:.2f}", f"{expected[r, n, b][1] / expected[r, n, b][0]:.2f}")
    print()


def show_computed(costs):
    print(f"A primal costs {costs[0]:.2f} lanes of differences, a tangent {costs[1]:.2f}.\n")
    grid = [(r, n, b) for b in BATCHES for n in DIRECTIONS for r in RANKS]
    times = computed(costs, grid)
    table("B", "n", *(f"{r} rank{'s' * (r > 1)}" for r in RANKS))
    for b in BATCHES:
        for n in DIRECTIONS:
            row(b, n, *(f"{times[r, n, b][1]:.1f} : {times[r, n, b][0]:.0f}" for r in RANKS))
    print()


def main():
    parser = arguments("A step's time with tangents beside differences.", __doc__)
    parser.add_argument("what", nargs="?", default="all", choices=("all", "compute"))
    parser.add_argument("--rounds", type=int, default=15, help="steps of each kind, n and batch")
    parser.add_argument("--costs", type=float, nargs=2, metavar=("PRIMAL", "TANGENT"),
                        help="in lanes of differences, for the computed table")
    a = parser.parse_args()
    if a.what == "compute" and not a.costs:
        parser.error("compute needs --costs")
    costs = a.costs
    if a.what == "all":
        times = measured(a)
        found = solve(times)
        show_measured(times, found)
        costs = costs or found
    show_computed(costs)


if __name__ == "__main__":
    main()
