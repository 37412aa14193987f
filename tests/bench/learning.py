#!/usr/bin/env python3
"""The table of results/README.md: every held-out toy learned by `zoodip train` on two ranks, judged by PyTorch on 60 fixed
draws, beside the numbers of the same algorithm and of gradients in PyTorch (dataset/toybox/losses.json).

    .venv/bin/python tests/bench/learning.py
    .venv/bin/python tests/bench/learning.py --only star3 car7 --steps 500 1000
    .venv/bin/python tests/bench/learning.py --pictures bear5 duck6 heart4      copies their grids into results/
    .venv/bin/python tests/bench/learning.py --lanes 2000                       differences beside tangents
    .venv/bin/python tests/bench/learning.py --fast 500 1000 2000               Gauss-Newton steps, sixteen toys
    .venv/bin/python tests/bench/learning.py --fast 1000 --tangents 8           the same with tangents in 8 bits

With --lanes each toy is learned once for every derivative, n and seed, in LANES lanes: LANES / (n + 1) steps. A derivative and
an n make a queue on one rank and one thread; a queue for each core runs at a time. What is learned stays in build/bench-learning,
so that a second start goes on where the first was stopped.
"""
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arguments import arguments  # noqa: E402
from conftest import ROOT, TOYBOX, metrics, program, recipe, run  # noqa: E402
from judge import SUBJECTS, Judge, draw_unseen_toy, learn, loss_of_gradients, share_of_gain  # noqa: E402
from paper import FAST  # noqa: E402
from toys import sixteen  # noqa: E402

FOLDER = ROOT / "build" / "bench-learning"


def toys(only):
    return only or sorted(p.name for p in SUBJECTS.iterdir() if p.is_dir())


# -------------------------------------------------------------------------------- zoodip train


def measure_subject(name, folder, steps, output):
    """A row: start, gradients and the loss after each of `steps`."""
    judge = Judge(folder)
    known = json.loads((TOYBOX / "losses.json").read_text()).get(name, {})
    every = steps[0]
    run = learn(folder, output, optim__steps=steps[-1], output__save_every=every)
    losses = [judge.of(run / f"learned_embeds-steps-{s}.safetensors") for s in steps]
    seconds = sum(m["seconds"] for m in metrics(run))
    return dict(name=name, start=judge.start, nearest=known.get("nearest"), gradients=known.get("backprop") or judge.of_gradients(),
                losses=losses, seconds=seconds, run=run)


def print_table(rows, steps):
    head = ["subject", "toy", "nearest name", "gradients"] + [f"zoodip {s:,}" for s in steps] + [f"share at {s:,}" for s in steps]
    print("| " + " | ".join(head) + " | seconds |")
    print("|" + " --- |" * (len(head) + 1))
    shares = [[share_of_gain(r["start"], loss, r["gradients"]) for loss in r["losses"]] for r in rows]

    def number(x):
        return "" if x is None else f"{x:.5f}"

    for r, share in zip(rows, shares):
        cells = [r["name"], *map(number, [r["start"], r["nearest"], r["gradients"], *r["losses"]]), *(f"{s:.0%}" for s in share)]
        print("| " + " | ".join(cells) + f" | {r['seconds']:.0f} |")
    mean = [sum(column) / len(rows) for column in zip(*shares)]
    print("| mean |" + " |" * (3 + len(steps)) + " " + " | ".join(f"{m:.0%}" for m in mean) + " | |")


def measure_train(a):
    rows = []
    with tempfile.TemporaryDirectory(dir=ROOT / "results") as made:
        made = Path(made)
        subjects = {n: SUBJECTS / n for n in toys(a.only)}
        subjects |= {f"seed {s}": draw_unseen_toy(made / f"new{s}", s) for s in a.unseen}
        for name, folder in subjects.items():
            rows.append(measure_subject(name, folder, a.steps, made / name.replace(" ", "")))
            print(f"{name}: {rows[-1]['start']:.5f} -> {rows[-1]['losses'][-1]:.5f}", file=sys.stderr, flush=True)
            if name in a.pictures:
                shutil.copy(rows[-1]["run"] / "grid.png", ROOT / "results" / f"learned-{name}.png")
    print_table(rows, a.steps)


# -------------------------------------------------------------------------------- differences beside tangents


def learn_queue(name, jobs, steps, **changes):
    """Learns what jobs [(toy's folder, seed)] have not yet learned with these changes to the recipe; the folder of the queue's results."""
    output = FOLDER / name
    defaults = recipe(output, optim__steps=steps, output__save_every=steps // 4, output__prompts=[], **changes)
    jobs = [{"name": f"{toy.name}-{seed}", "seed": seed, "data": {"images": str(toy), "captions": str(toy.parent / "cc.json")}} for toy, seed in jobs]
    path = output.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"defaults": defaults, "jobs": jobs}))
    run(program("zoodip"), "run", path, *["--resume"] * output.exists(), timeout=None)
    print(f"{name}: learned", file=sys.stderr, flush=True)
    return output


def words(run_folder, steps):
    """The words after a quarter, half and all of the steps, the last one even if an earlier one was better."""
    quarter = steps // 4
    return [run_folder / f"learned_embeds-{part}.safetensors" for part in (f"steps-{quarter}", f"steps-{2 * quarter}", "last")]


def learn_derivative(a, derivative, n):
    """Every toy and seed with one derivative and n."""
    jobs = [(SUBJECTS / toy, seed) for seed, toy in product(a.seeds, toys(a.only))]
    return learn_queue(f"{derivative}-{n}-{a.lanes}", jobs, a.lanes // (n + 1), zo__derivative=derivative, zo__n=n)


def shares(a, folder, n, judges):
    """Shares of the gradients' gain [toys, seeds, a quarter, half and all of the lanes]."""
    known, steps = json.loads((TOYBOX / "losses.json").read_text()), a.lanes // (n + 1)
    return np.array([[[share_of_gain(judges[toy].start, judges[toy].of(word), known[toy]["backprop"])
                       for word in words(folder / f"{toy}-{seed}", steps)] for seed in a.seeds] for toy in judges])


def print_shares(found, derivative, n, steps, names):
    """found: as shares() returns it. The worst toy is one of the means over the seeds."""
    last = found[:, :, 2]
    toys, error = last.mean(1), last.std(ddof=1) / last.size**0.5
    seeds = ", ".join(f"{100 * share:.0f}" for share in last.mean(0))
    cells = [f"{share:.1%}" for share in found.mean((0, 1))]
    print(f"| {derivative} | {n} | {steps:,} | " + " | ".join(cells) + f" | {error:.1%} | {seeds} | {toys.min():.0%} ({names[toys.argmin()]}) | "
          f"{last.min():.0%} |", flush=True)


def compare_derivatives(a):
    torch.set_num_threads(1)  # queues learn on the others
    judges = {toy: Judge(SUBJECTS / toy) for toy in toys(a.only)}
    settings = list(product(a.n, a.derivatives))
    print("| slopes by | n | steps | share after a quarter | after half | after all | standard error | seed by seed, % | worst toy | worst run |\n|"
          + " --- |" * 10, flush=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for (n, derivative), folder in zip(settings, pool.map(lambda s: learn_derivative(a, s[1], s[0]), settings)):
            print_shares(shares(a, folder, n, judges), derivative, n, a.lanes // (n + 1), list(judges))


# -------------------------------------------------------------------------------- Gauss-Newton steps

def measure_fast(a):
    """A line for each number of lanes and seed: shares of the last words, and the mean of the best ones by the runs' own looks."""
    torch.set_num_threads(1)
    folder, known = FOLDER / "fast-toys", toys(None)
    names = [name for name in sixteen(folder) if not a.only or name in a.only]
    judges = {name: Judge(folder / name) for name in names}
    gradients = {name: loss_of_gradients(judge, FOLDER) for name, judge in judges.items()}
    print("| lanes | seed | toybox's eight | eight more | all, the best words | worst toy | toy by toy, % |\n|" + " --- |" * 7, flush=True)

    def learn(run):
        lanes, seed = run
        queue = f"fast-{lanes}-{seed}" + ("-eight" if a.tangents == 8 else "")
        changes = dict(FAST, quant__tangents=a.tangents)
        return learn_queue(queue, [(folder / name, seed) for name in names], lanes // (FAST["zo__n"] + 1), **changes)

    runs = list(product(a.fast, a.seeds))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for (lanes, seed), found in zip(runs, pool.map(learn, runs)):
            last, best = ({name: share_of_gain(judges[name].start, judges[name].of(found / f"{name}-{seed}" / file), gradients[name])
                           for name in names} for file in ("learned_embeds-last.safetensors", "learned_embeds.safetensors"))
            halves = [[last[name] for name in names if (name in known) == own] for own in (True, False)]
            means = [f"{np.mean(half):.1%}" if half else "" for half in [*halves, list(best.values())]]
            worst = min(names, key=last.get)
            print(f"| {lanes:,} | {seed} | " + " | ".join(means) + f" | {last[worst]:.0%} ({worst}) | "
                  + ", ".join(f"{name} {100 * last[name]:.0f}" for name in names) + " |", flush=True)


def main():
    p = arguments("Measure what zoodip learns.", __doc__)
    p.add_argument("--only", nargs="*", help="these subjects")
    p.add_argument("--steps", type=int, nargs="*", default=[750, 1500], help="multiples of the first")
    p.add_argument("--unseen", type=int, nargs="*", default=[], metavar="SEED", help="also toys drawn from these seeds")
    p.add_argument("--pictures", nargs="*", default=[], metavar="SUBJECT", help="copy these subjects' grids into results/")
    p.add_argument("--lanes", type=int, help="compare derivatives at so many lanes instead")
    p.add_argument("--fast", type=int, nargs="*", metavar="LANES", help="learn sixteen toys in so many lanes by Gauss-Newton steps instead")
    p.add_argument("--tangents", type=int, choices=[32, 8], default=32, help="with --fast: bits in which tangents are multiplied")
    p.add_argument("--derivatives", nargs="*", default=["difference", "tangent"], help="of those")
    p.add_argument("--n", type=int, nargs="*", default=[1, 2, 8], help="directions a step")
    p.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    a = p.parse_args()
    if a.fast:
        measure_fast(a)
    elif a.lanes:
        compare_derivatives(a)
    else:
        measure_train(a)


if __name__ == "__main__":
    main()
