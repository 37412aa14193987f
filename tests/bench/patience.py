#!/usr/bin/env python3
"""What patience saves and what it costs: sixteen toys learned in 4,500 lanes, and until optim.patience has run out.

    .venv/bin/python tests/bench/patience.py                           learns what is missing, then prints the table
    .venv/bin/python tests/bench/patience.py --only bear5 --settings 2,0.01 3,0.005

The recipe is the fast one; a setting is PATIENCE,MIN_GAIN. Each run is on one rank and one thread, one for each core at a time.
PyTorch judges the words (tests/judge.py), and a line for each run goes into results/patience.jsonl, so that a second start goes on
where the first was stopped; what is being learned lies in build/bench-learning/patience. Evaluations are lanes of steps and draws
of looks; those of the whole run are its lanes alone.
"""
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from arguments import arguments  # noqa: E402
from conftest import ROOT, metrics  # noqa: E402
from judge import Judge, loss_of_gradients, share_of_gain  # noqa: E402
from learning import FOLDER, learn_queue  # noqa: E402
from paper import FAST  # noqa: E402
from toys import sixteen  # noqa: E402

RUNS = ROOT / "results" / "patience.jsonl"
JUDGING = threading.Lock()  # one PyTorch model for all threads
LOOK_EVERY, DRAWS, WHOLE = 20, 30, "whole"
LANES = FAST["zo__n"] + 1
STEPS = 4500 // LANES  # of a run that is not ended
RECIPE = FAST | dict(optim__decay=40, output__validate_every=LOOK_EVERY)


def measured():
    """{(setting, toy): its line}"""
    lines = map(json.loads, RUNS.read_text().splitlines()) if RUNS.exists() else []
    return {(line["setting"], line["toy"]): line for line in lines}


def patience_of(setting):
    if setting == WHOLE:
        return {}
    patience, gain = setting.split(",")
    return dict(optim__patience=int(patience), optim__min_gain=float(gain))


def evaluations(setting, lines):
    looks = 0 if setting == WHOLE else 1 + sum("validation_loss" in line for line in lines)
    return lines[-1]["step"] * LANES + looks * DRAWS


def learn_toy(toy, settings, known):
    missing = [setting for setting in settings if (setting, toy.name) not in known]
    folders = [learn_queue(f"patience/{setting}/{toy.name}", [(toy, 0)], STEPS, **RECIPE, **patience_of(setting)) / f"{toy.name}-0"
               for setting in missing]
    if not missing:
        return
    with JUDGING, RUNS.open("a") as file:
        judge = Judge(toy)
        gradients = loss_of_gradients(judge, FOLDER)
        for setting, folder in zip(missing, folders):
            lines = metrics(folder)
            word = judge.of(folder / "learned_embeds.safetensors")
            file.write(json.dumps(dict(setting=setting, toy=toy.name, steps=lines[-1]["step"], evaluations=evaluations(setting, lines),
                                       share=round(share_of_gain(judge.start, word, gradients), 5))) + "\n")


def mean(numbers):
    return sum(numbers) / len(numbers)


def print_table(settings):
    known = measured()
    print("| patience | gain that counts | toys | steps, mean (most) | evaluations | saved | gain, mean (worst toy) | lost, mean | lost by a toy, most |")
    print("|" + " --- |" * 9)
    for setting in settings:
        toys = [toy for one, toy in known if one == setting and (WHOLE, toy) in known]
        if not toys:
            continue
        mine, whole = [known[setting, toy] for toy in toys], [known[WHOLE, toy] for toy in toys]
        steps, evals, shares = ([line[key] for line in mine] for key in ("steps", "evaluations", "share"))
        lost = [(b["share"] - a["share"]) / b["share"] for a, b in zip(mine, whole)]
        saved = 1 - mean(evals) / mean([line["evaluations"] for line in whole])
        head = "| off | | " if setting == WHOLE else f"| {setting.split(',')[0]} | {float(setting.split(',')[1]):.1%} | "
        print(head + f"{len(toys)} | {mean(steps):.0f} ({max(steps)}) | {mean(evals):,.0f} | {saved:.0%} | {mean(shares):.1%} ({min(shares):.1%}) | "
              f"{mean(lost):.1%} | {max(lost):.1%} |")


def main():
    p = arguments("Measure what patience saves.", __doc__)
    p.add_argument("--only", nargs="*", help="these toys")
    p.add_argument("--settings", nargs="*", default=["2,0.01"], metavar="PATIENCE,MIN_GAIN")
    a = p.parse_args()
    torch.set_num_threads(1)  # queues learn on the others
    folder, settings, known = FOLDER / "patience-toys", [WHOLE, *a.settings], measured()
    toys = [folder / name for name in sixteen(folder) if not a.only or name in a.only]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(lambda toy: learn_toy(toy, settings, known), toys):
            pass
    print_table(settings)


if __name__ == "__main__":
    main()
