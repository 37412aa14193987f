#!/usr/bin/env python3
"""The table of results/README.md: every held-out toy learned by `zoodip train` on two ranks, judged by PyTorch on 60 fixed
draws, beside the numbers of the same algorithm and of gradients in PyTorch (dataset/toybox/losses.json).

    .venv/bin/python tests/bench/learning.py
    .venv/bin/python tests/bench/learning.py --only star3 car7 --steps 500 1000
    .venv/bin/python tests/bench/learning.py --pictures bear5 duck6 heart4      copies their grids into results/
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arguments import arguments  # noqa: E402
from conftest import ROOT, TOYBOX, metrics  # noqa: E402
from judge import SUBJECTS, Judge, draw_unseen_toy, learn, share_of_gain  # noqa: E402


def measure_subject(name, folder, steps, output):
    """A row: start, gradients and the loss after each of `steps`."""
    judge = Judge(folder)
    known = json.loads((TOYBOX / "losses.json").read_text()).get(name, {})
    every = steps[0]
    run = learn(folder, output, optim__steps=steps[-1], output__save_every=every)
    losses = [judge.of(run / f"learned_embeds-steps-{s}.safetensors") for s in steps[:-1]] + [judge.of(run / "learned_embeds.safetensors")]
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


def main():
    p = arguments("Measure what zoodip learns.", __doc__)
    p.add_argument("--only", nargs="*", help="these subjects")
    p.add_argument("--steps", type=int, nargs="*", default=[750, 1500], help="multiples of the first")
    p.add_argument("--unseen", type=int, nargs="*", default=[], metavar="SEED", help="also toys drawn from these seeds")
    p.add_argument("--pictures", nargs="*", default=[], metavar="SUBJECT", help="copy these subjects' grids into results/")
    a = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=ROOT / "results") as made:
        made = Path(made)
        subjects = {n: SUBJECTS / n for n in a.only or sorted(p.name for p in SUBJECTS.iterdir() if p.is_dir())}
        subjects |= {f"seed {s}": draw_unseen_toy(made / f"new{s}", s) for s in a.unseen}
        for name, folder in subjects.items():
            rows.append(measure_subject(name, folder, a.steps, made / name.replace(" ", "")))
            print(f"{name}: {rows[-1]['start']:.5f} -> {rows[-1]['losses'][-1]:.5f}", file=sys.stderr, flush=True)
            if name in a.pictures:
                shutil.copy(rows[-1]["run"] / "grid.png", ROOT / "results" / f"learned-{name}.png")
    print_table(rows, a.steps)


if __name__ == "__main__":
    main()
