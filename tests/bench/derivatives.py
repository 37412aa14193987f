#!/usr/bin/env python3
"""Differences beside tangents on one rank: lanes and slopes a core second, and the arena, on toybox and at Stable Diffusion 1.5's true
size (random weights, int8, 512 px). The steps of both are taken in turn by one process (build/tests/derivatives).

    .venv/bin/python tests/bench/derivatives.py                     all of it (about ten minutes on 2 cores)
    .venv/bin/python tests/bench/derivatives.py --only toybox
    .venv/bin/python tests/bench/derivatives.py --only sd15 --n 2 --rounds 5
    .venv/bin/python tests/bench/derivatives.py --tangents 8 --n 2 8         on integer units

An evaluation, or the derivative of one, is a lane: n + 1 of them make n slopes. Both are counted for each second of a core, the
processor's time in all threads, which other work on the machine changes less than the clock's; those of the best step. The ratio is
a tangent step's speed to that of the differences' step before it, the median over the steps. The random model's files are those of bench.py.
"""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import bench  # noqa: E402
from arguments import arguments  # noqa: E402
from conftest import environment, program, run, write_recipe  # noqa: E402


def toybox_config(folder, bits):
    return write_recipe(folder, output__prompts=[], quant__tangents=bits)[0]


def sd15_config(folder, bits):
    path = bench.write_config(folder, bench.write_model(bench.FOLDER / "model"), 3, 8, 512)
    config = json.loads(path.read_text())
    config["quant"]["tangents"] = bits
    path = folder / "derivatives.json"
    path.write_text(json.dumps(config))
    return path


# What is measured: its config, and rounds and n of the timed steps.
MODELS = {"toybox": (toybox_config, 40, [1, 2, 8]), "sd15": (sd15_config, 3, [2])}
ARENAS = [1, 2, 8, 16]


def measure(config, rounds, n, threads):
    """[(difference, tangent)] for each n."""
    done = subprocess.run([program("tests/derivatives"), config, str(rounds), *map(str, n)], stdout=subprocess.PIPE, text=True, check=True,
                          env=environment(threads))
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    print(done.stdout, file=sys.stderr, flush=True)
    return list(zip(rows[::2], rows[1::2]))


def arenas(config, n):
    """Bytes of a step's arena, by differences and by tangents."""
    shown = json.loads(run(program("zoodip"), "inspect", config, "--set", f"zo.n={n}", "--quiet").stdout)
    return [shown["step"]["arena_bytes"][kind] for kind in ("difference", "tangent")]


def rate(row, what):
    return row[what] / min(row["processor_seconds"])


def print_rates(model, rows):
    lanes, slopes = ([rate(row, what) for row in rows] for what in ("lanes", "slopes"))
    ratio = statistics.median(d / t for d, t in zip(*(row["processor_seconds"] for row in rows)))
    print(f"| {model} | {rows[0]['n']} | {lanes[0]:.3g} | {lanes[1]:.3g} | {slopes[0]:.3g} | {slopes[1]:.3g} | {ratio:.2f} |", flush=True)


def main():
    p = arguments("Measure differences beside tangents.", __doc__)
    p.add_argument("--only", choices=MODELS, nargs="*", default=list(MODELS))
    p.add_argument("--n", type=int, nargs="*", help="of the steps that are timed")
    p.add_argument("--rounds", type=int, help="steps of each kind")
    p.add_argument("--tangents", type=int, choices=[32, 8], default=32, help="bits in which tangents are multiplied")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    a = p.parse_args()
    bench.FOLDER.mkdir(parents=True, exist_ok=True)
    configs = {model: MODELS[model][0](bench.FOLDER, a.tangents) for model in a.only}
    print("| model | n | lanes a core second: differences | tangents | slopes: differences | tangents | ratio |\n|" + " --- |" * 7)
    for model, config in configs.items():
        for rows in measure(config, a.rounds or MODELS[model][1], a.n or MODELS[model][2], a.threads):
            print_rates(model, rows)
    print("\n| model | n | n + 1 lanes of differences | a picture and n tangents | tangents : differences |\n|" + " --- |" * 5)
    for model, config in configs.items():
        for n in ARENAS:
            lanes, tangents = arenas(config, n)
            print(f"| {model} | {n} | {lanes / 1e6:,.1f} MB | {tangents / 1e6:,.1f} MB | {100 * tangents / lanes:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
