#!/usr/bin/env python3
"""The paper's ablation on sixteen toys and three seeds: one factor of the recipe changed at a time, 2,000 lanes a run.

    .venv/bin/python tests/bench/ablation.py                           learns what is missing, then shows all (ablation_report.py)
    .venv/bin/python tests/bench/ablation.py --only base subspace-off  these settings

A queue of `zoodip run` learns eight toys with one seed in one setting, on one rank and one thread; a queue for each core runs at a
time, eight toys and a seed in all settings before the next. PyTorch judges each word (tests/judge.py) after a quarter, half and
all of the lanes, and a line for each run goes into results/ablation.jsonl, so that a second start goes on where the first was
stopped; what is being learned lies in build/bench-learning/ablation.
"""
import functools
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from ablation_report import ALL_TIMESTEPS, RUNS, SETTINGS, changes, measured, show, steps  # noqa: E402
from arguments import arguments  # noqa: E402
from judge import Judge, loss_of_gradients, measure, model  # noqa: E402
from learning import FOLDER, learn_queue, words  # noqa: E402
from toys import sixteen  # noqa: E402

JUDGING = threading.Lock()  # one PyTorch model for all threads


@functools.cache
def judges(toy):
    """The judge of a toy's folder, one whose draws have any timestep, and what gradients reach."""
    judge = Judge(toy)
    return judge, measure.Validation(model(), str(toy), timesteps=ALL_TIMESTEPS), loss_of_gradients(judge, FOLDER)


def judge_run(setting, toy, seed, files):
    """A run's line: losses of the start and of the words, and of the start and the last word over all timesteps."""
    judge, anywhere, gradients = judges(toy)
    ends = model().word("toy"), measure.load_file(files[-1])[measure.PLACEHOLDER][0]
    losses, over_all = [judge.start, *map(judge.of, files)], [anywhere.loss(e) for e in ends]
    return dict(setting=setting, toy=toy.name, seed=seed, gradients=round(gradients, 7), losses=[round(x, 7) for x in losses],
                anywhere=[round(x, 7) for x in over_all])


def learn_setting(setting, toys, seed):
    """One queue: the runs of one setting and seed that are missing."""
    known = measured()[setting]
    if not (missing := [toy for toy in toys if (toy.name, seed) not in known]):
        return
    folder = learn_queue(f"ablation/{setting}-{seed}-{toys[0].name}", [(toy, seed) for toy in missing], steps(setting), **changes(setting))
    with JUDGING:
        lines = [json.dumps(judge_run(setting, toy, seed, words(folder / f"{toy.name}-{seed}", steps(setting)))) for toy in missing]
        with RUNS.open("a") as file:
            file.writelines(line + "\n" for line in lines)


def learn_all(a):
    torch.set_num_threads(1)  # queues learn on the others
    folder = FOLDER / "ablation-toys"
    toys = [folder / name for name in sixteen(folder)]
    rounds = [(setting, half, seed) for seed, half, setting in product(a.seeds, (toys[:8], toys[8:]), a.only or SETTINGS)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(lambda one: learn_setting(*one), rounds):
            pass


def main():
    p = arguments("Remake the paper's ablation.", __doc__)
    p.add_argument("--only", nargs="*", choices=SETTINGS, metavar="SETTING", help=f"of {', '.join(SETTINGS)}")
    p.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    learn_all(p.parse_args())
    show(plots=True)


if __name__ == "__main__":
    main()
