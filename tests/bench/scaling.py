#!/usr/bin/env python3
"""How training scales with ranks: strong scaling on the available cores, what a step costs besides its evaluations on 1 to 64
ranks, a model of that cost, what the model predicts for GPUs (a prediction, not a measurement), and the gain from letting lanes
follow the ranks' speed.

    .venv/bin/python tests/bench/scaling.py everything, and results/scaling.png (about five minutes on 2 cores) .venv/bin/python
    tests/bench/scaling.py overhead predict --repeat 5

The cost besides evaluations: each rank's networks are replaced by a sleep as long as the largest share's, 20 ms in all
(tests/helpers/pace.c); what a step takes beyond these 20 ms is ours, waking up included. Sums and broadcasts take rounds, one for
each doubling of the ranks. If there are more ranks than cores, they queue for a core in each round: the model has a term for
that, which vanishes on a machine with a core for every rank.
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from math import ceil, log2
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import roofline  # noqa: E402
from arguments import arguments  # noqa: E402
from conftest import ROOT, metrics, mpirun, program, run, write_recipe  # noqa: E402

CORES = len(os.sched_getaffinity(0))
RANKS = [1, 2, 4, 8, 16, 32, 64]
SLEEP = 0.02
DIRECTIONS = 8

# NCCL's own model for a small message, in microseconds (NVIDIA/nccl, src/graph/tuning.cc, protocol LL): a start, and a hop over
# NVLink or over the network. A sum goes up and down a tree, a broadcast around a ring.
TREE = dict(base=4.4, nvlink=0.52, network=5.0, nvlink_of_many=1.8)
RING = dict(base=3.6, nvlink=0.47, network=2.7)
OF_THE_LIMIT = 0.62  # fraction of the roofline: 250 evaluations/s at n = 16, the aim, which no GPU has reached yet


def table(*head):
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


# -------------------------------------------------------------------------------- strong scaling


def evaluations_per_second(config, ranks, threads, evaluations):
    done = mpirun(ranks, program("zoodip"), "bench", config, "--evaluations", evaluations, threads=threads)
    return json.loads(done.stdout.splitlines()[-1])["evaluations_per_second"]


def strong(a, folder):
    """Toybox, 8 lanes a step."""
    config, _ = write_recipe(folder, zo__n=7, output__prompts=[])
    sizes = [1 << k for k in range(CORES.bit_length()) if 1 << k <= CORES]
    shapes = [(1, t) for t in sizes] + [(r, CORES // r) for r in sizes[1:]]
    rates = {shape: [] for shape in shapes}
    for _ in range(a.repeat):  # alternating, so that a busy moment does not hit only one shape
        for shape in shapes:
            rates[shape].append(evaluations_per_second(config, *shape, a.evaluations))
    base = statistics.median(rates[1, 1])
    table("ranks", "threads each", "evaluations/s", "speed-up", "of the ideal")
    for (ranks, threads), found in rates.items():
        rate = statistics.median(found)
        row(ranks, threads, f"{rate:.1f}", f"{rate / base:.2f}", f"{100 * rate / base / (ranks * threads):.0f} %")
    print()


# -------------------------------------------------------------------------------- besides the evaluations


def pace(config, ranks, steps, seconds, *factors):
    return json.loads(mpirun(ranks, program("tests/pace"), config, steps, seconds, *factors).stdout.splitlines()[-1])


def overheads(a, folder):
    """{ranks: seconds per step besides its sleep}: the median step of the median run."""
    config, _ = write_recipe(folder, zo__n=DIRECTIONS, output__prompts=[])
    found = {ranks: [] for ranks in RANKS}
    for _ in range(a.repeat):
        for ranks in RANKS:
            share = ceil((DIRECTIONS + 1) / ranks)
            found[ranks].append(pace(config, ranks, a.steps, SLEEP / share)["median"] - SLEEP)
    return {ranks: statistics.median(values) for ranks, values in found.items()}


def messages_of_a_rank(config, ranks, folder):
    """The most messages that a rank sends in a step, by Open MPI's own count; at most that many can depend on one another."""
    counts = []
    for steps in (8, 24):
        prefix = folder / f"sent-{ranks}-{steps}"
        settings = dict(pml_monitoring_enable=2, pml_monitoring_enable_output=3, pml_monitoring_filename=prefix)
        mpirun(ranks, program("tests/pace"), config, steps, 0.001, env={f"OMPI_MCA_{k}": str(v) for k, v in settings.items()})
        counts.append([sum(int(n) for n in re.findall(r"^[EI]\t.*?(\d+) msgs sent", path.read_text(), re.M))
                       for path in sorted(folder.glob(f"{prefix.name}.*.prof"))])
    return max((late - early) / 16 for early, late in zip(*counts)) if counts[0] else 0


def terms(ranks, cores):
    rounds = log2(ranks)
    return [1, rounds, rounds * max(0, ranks / cores - 1)]


def fit(measured, cores):
    """Seconds = alone + log2(ranks) * (round + turn * (ranks a core - 1)), with the least relative errors."""
    rows = [[term / seconds for term in terms(ranks, cores)] for ranks, seconds in measured.items()]
    return np.linalg.lstsq(np.array(rows), np.ones(len(rows)), rcond=None)[0]


def overhead(a, folder):
    measured = overheads(a, folder)
    model = fit(measured, CORES)
    config, _ = write_recipe(folder, zo__n=DIRECTIONS, output__prompts=[])
    table("ranks", "ms a step besides the evaluations", "model", "model with a core for every rank", "most messages a rank sends in a step")
    for ranks, seconds in measured.items():
        t = terms(ranks, CORES)
        row(ranks, f"{1e3 * seconds:.2f}", f"{1e3 * np.dot(model, t):.2f}", f"{1e3 * np.dot(model[:2], t[:2]):.2f}",
            f"{messages_of_a_rank(config, ranks, folder):.0f}")
    print(f"\nModel: {1e3 * model[0]:.3f} ms alone; each doubling of the ranks adds a round of {1e3 * model[1]:.3f} ms, and of {1e3 * model[2]:.3f} ms "
          f"more for each rank a core beyond the first; {CORES} cores.\n")
    draw(measured, model, ROOT / "results" / "scaling.png")


def draw(measured, model, path):
    """Milliseconds over ranks, both axes in doublings."""
    width, height, left, bottom = 720, 440, 70, 50
    low, high = -4, ceil(log2(1e3 * max(measured.values())))
    image = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(15)

    def place(ranks, seconds):
        x = left + log2(ranks) / log2(RANKS[-1]) * (width - left - 30)
        y = height - bottom - (log2(1e3 * seconds) - low) / (high - low) * (height - bottom - 30)
        return x, y
    for power in range(low, high + 1):
        _, y = place(1, 2**power / 1e3)
        pen.line([(left, y), (width - 30, y)], fill="#e4e4e4")
        pen.text((left - 8, y), f"{2.0**power:g}", fill="black", font=font, anchor="rm")
    for ranks in RANKS:
        x, y = place(ranks, 2**low / 1e3)
        pen.text((x, y + 8), str(ranks), fill="black", font=font, anchor="mt")
    smooth = [2 ** (k / 20) for k in range(20 * int(log2(RANKS[-1])) + 1)]
    pen.line([place(r, np.dot(model[:2], terms(r, CORES)[:2])) for r in smooth], fill="#2a9d4a", width=2)
    pen.line([place(r, np.dot(model, terms(r, CORES))) for r in smooth], fill="#888888", width=2)
    for ranks, seconds in measured.items():
        x, y = place(ranks, seconds)
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill="#1f5fbf")
    for k, (text, colour) in enumerate([("measured", "#1f5fbf"), (f"model on {CORES} cores", "#888888"),
                                        ("model with a core for every rank", "#2a9d4a")]):
        pen.text((left + 14, 34 + 20 * k), text, fill=colour, font=font)
    pen.text((left, 10), "ms a step besides the evaluations", fill="black", font=font)
    pen.text((width - 30, height - 10), "ranks", fill="black", font=font, anchor="rb")
    image.save(path)


# -------------------------------------------------------------------------------- ranks of different speed


def sleeping(a, folder):
    config, _ = write_recipe(folder, zo__n=DIRECTIONS, output__prompts=[])
    for ranks, slow in ((2, 1), (2, 2), (2, 4), (3, 2), (4, 2)):
        share, done = ceil((DIRECTIONS + 1) / ranks), pace(config, ranks, a.steps, 0.004, f"{ranks - 1}={slow}")
        equal = max(share, (DIRECTIONS + 1) // ranks * slow) * 0.004
        row(f"evaluations of 4 ms, {ranks} ranks" + (f", the last {slow} times as slow" if slow > 1 else ""), done["shares"],
            f"{1e3 * equal:.1f}", f"{1e3 * done['median']:.1f}", f"{equal / done['median']:.2f}")


def busy(folder):
    """Toybox on ranks bound to a core each, the first core shared with a busy loop."""
    config, output = write_recipe(folder, zo__n=DIRECTIONS, optim__steps=120, output__prompts=[])
    loop = subprocess.Popen(["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-c", "while True: pass"])
    try:
        run("mpirun", "--bind-to", "core", "-np", str(CORES), program("zoodip"), "train", config, threads=1)
    finally:
        loop.kill()
        loop.wait()
    seconds = [m["seconds"] for m in metrics(output)]
    equal, later = statistics.median(seconds[2:8]), statistics.median(seconds[20:])
    row(f"toybox, {CORES} ranks on a core each, one core shared with a busy loop", "", f"{1e3 * equal:.1f}", f"{1e3 * later:.1f}",
        f"{equal / later:.2f}")


def unequal(a, folder):
    table("what", "lanes of each rank", "ms a step with equal shares", "ms with shares by speed", "gain")
    sleeping(a, folder / "sleeping")
    if CORES > 1 and shutil.which("taskset"):
        busy(folder / "busy")
    print()


# -------------------------------------------------------------------------------- prediction


def messages(ranks, per_node):
    """Seconds of a step's sum and broadcast between GPUs, after NCCL's model."""
    if ranks == 1:
        return 0
    nodes, here = ceil(ranks / per_node), min(ranks, per_node)
    hop = TREE["nvlink"] * (TREE["nvlink_of_many"] if nodes > 1 else 1)
    total = TREE["base"] + 2 * ((here - 1) * hop + log2(nodes) * TREE["network"])
    broadcast = RING["base"] + ranks * RING["network" if nodes > 1 else "nvlink"]
    return 1e-6 * (total + broadcast)


def evaluation_seconds(lanes):
    """Seconds for so many lanes of Stable Diffusion 1.5 on one H100: the roofline, at the fraction of it that we aim for."""
    families = roofline.count(Namespace(bits=8, bandwidth=3.35, peak=800, at_once=32, size=512), lanes)
    return sum(work.seconds for work in families.values()) / OF_THE_LIMIT


def predict(a, folder):
    table("n", "lanes", "GPUs", "most lanes of a GPU", "ms of evaluations", "ms of messages", "steps/s", "speed-up", "of the ideal")
    for n in (8, 7, 64, 63):
        alone = evaluation_seconds(n + 1)
        for ranks in (1, 8, 64):
            share = ceil((n + 1) / ranks)
            work, talk = evaluation_seconds(share), messages(ranks, per_node=8)
            speed = alone / (work + talk)
            row(n, n + 1, ranks, share, f"{1e3 * work:.1f}", f"{1e3 * talk:.3f}", f"{1 / (work + talk):.1f}", f"{speed:.1f}",
                f"{100 * speed / ranks:.0f} %")
    print()


PARTS = dict(strong=strong, overhead=overhead, unequal=unequal, predict=predict)


def main():
    p = arguments("Measure how training scales.", __doc__)
    p.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when not given")
    p.add_argument("--repeat", type=int, default=3, help="runs of each measurement")
    p.add_argument("--steps", type=int, default=200, help="of a run besides the evaluations")
    p.add_argument("--evaluations", type=int, default=800, help="of a run of the strong scaling")
    a = p.parse_args()
    if unknown := set(a.parts) - set(PARTS):
        p.error(f"no such part: {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in a.parts or PARTS:
            print(f"**{name}**\n")
            PARTS[name](a, Path(folder) / name)


if __name__ == "__main__":
    main()
