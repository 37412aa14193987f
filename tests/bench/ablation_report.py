#!/usr/bin/env python3
"""Table and plots of the runs in results/ablation.jsonl, which tests/bench/ablation.py learns: whatever is there, balanced or not.

    .venv/bin/python tests/bench/ablation_report.py
    .venv/bin/python tests/bench/ablation_report.py --plots     also results/ablation.png and results/ablation-lanes.png

A share is the gain of a learned word over the start as a fraction of what gradients gain. The standard error is one over toys, each
the mean of its seeds. A setting is set against the base in pairs of the same toy and seed.
"""
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from arguments import arguments  # noqa: E402
from conftest import ROOT  # noqa: E402
from paper import FAST  # noqa: E402

LANES = 2000
RUNS = ROOT / "results" / "ablation.jsonl"
ALL_TIMESTEPS = [0, 1000]

BASE = dict(zo__n=2, zo__derivative="difference", output__validate_every=0)  # in paper.py's PAPER; looks by the rule
# name: (what it says in the table, what differs from the base); the most telling first.
SUBSPACE_OFF = dict(zo__tau=2)  # two rows have one direction, which is signal
TIMESTEPS_OFF = dict(zo__timesteps=ALL_TIMESTEPS)
TANGENT = dict(zo__derivative="tangent")
TEXT = TANGENT | dict(zo__n=16, zo__directions="text", zo__rank=16, optim__lr=0.1, optim__schedule="warmup_stable_decay")
SETTINGS = {
    "base": ("the base", {}),
    "both-off": ("no subspace, all timesteps", SUBSPACE_OFF | TIMESTEPS_OFF),
    "subspace-off": ("no subspace", SUBSPACE_OFF),
    "timesteps-off": ("all timesteps", TIMESTEPS_OFF),
    "text": ("the text's 16 directions", TEXT),
    "text-subspace-off": ("the same, no subspace", TEXT | SUBSPACE_OFF),
    "gauss-newton": ("Gauss-Newton along them", FAST),
    "even": ("even timesteps", dict(zo__timestep_order="even")),
    "n-8": ("n = 8", dict(zo__n=8)),
    "n-1": ("n = 1", dict(zo__n=1)),
    "fp32": ("32-bit weights", dict(quant__bits=32)),
    "tangent-2": ("tangents, n = 2", TANGENT),
    "tangent-8": ("tangents, n = 8", TANGENT | dict(zo__n=8)),
    "tangent-1": ("tangents, n = 1", TANGENT | dict(zo__n=1)),
    "n-4": ("n = 4", dict(zo__n=4)),
    "tangent-4": ("tangents, n = 4", TANGENT | dict(zo__n=4)),
}
SHOWN = ["base", "subspace-off", "timesteps-off", "both-off", "even", "n-1", "n-4", "n-8", "tangent-1", "tangent-2", "tangent-4", "tangent-8", "fp32",
         "text", "text-subspace-off", "gauss-newton"]


def changes(setting):
    """What the setting sets in the recipe."""
    return BASE | SETTINGS[setting][1]


def steps(setting):
    return LANES // (changes(setting)["zo__n"] + 1)


def measured():
    """{setting: {(toy, seed): line}} of the runs so far."""
    found = {setting: {} for setting in SETTINGS}
    for line in RUNS.read_text().splitlines() if RUNS.exists() else []:
        run = json.loads(line)
        found[run["setting"]][run["toy"], run["seed"]] = run
    return found


def shares(run):
    """After a quarter, half and all of the lanes."""
    start, *learned = run["losses"]
    return (start - np.array(learned)) / (start - run["gradients"])


def means(values, part):
    """{toy: mean} of {(toy, seed): number} with part 0, {seed: mean} with part 1."""
    return {name: np.mean([v for key, v in values.items() if key[part] == name]) for name in sorted({key[part] for key in values})}


def over_toys(values):
    """Mean and standard error over toys, a toy being the mean of its seeds."""
    toys = list(means(values, 0).values())
    return np.mean(toys), np.std(toys, ddof=1) / len(toys)**0.5 if len(toys) > 1 else np.nan


# -------------------------------------------------------------------------------- table


def against(runs, base):
    """In points of share, over the toys and seeds that both have."""
    pairs = {key: 100 * (shares(runs[key])[-1] - shares(base[key])[-1]) for key in runs.keys() & base.keys()}
    return "{:+.1f} ± {:.1f}".format(*over_toys(pairs)) if pairs and runs is not base else ""


def cells(runs, base):
    """A setting's row after its name and steps."""
    learned = np.array([shares(run) for run in runs.values()])
    last = {key: share for key, share in zip(runs, 100 * learned[:, -1])}
    toys, fall = means(last, 0), np.mean([run["anywhere"][1] / run["anywhere"][0] - 1 for run in runs.values()])
    worst = min(toys, key=toys.get)
    return [len(runs), *(f"{100 * share:.1f} %" for share in learned.mean(0)), f"{over_toys(last)[1]:.1f}", f"{np.std(list(last.values())):.0f}",
            ", ".join(f"{share:.0f}" for share in means(last, 1).values()), f"{toys[worst]:.0f} % ({worst})", against(runs, base), f"{100 * fall:+.1f} %"]


def print_table(found):
    head = ["what differs", "steps", "runs", "share after a quarter", "half", "all", "± standard error", "spread of runs", "seed by seed, %",
            "worst toy", "against the base, points", "loss over all timesteps"]
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for setting in SHOWN:
        if found[setting]:
            row = [SETTINGS[setting][0], f"{steps(setting):,}", *cells(found[setting], found["base"])]
            print("| " + " | ".join(map(str, row)) + " |")


# -------------------------------------------------------------------------------- plots

COLOURS = ["#1f5fbf", "#c8553d", "#2a9d4a", "#8a4fbf", "#888888"]
FINE = 2  # drawn so many times as large, then made smaller, which smooths edges


class Canvas:
    """Places numbers of x and y within a frame, and saves in few colours."""

    def __init__(self, width, height, frame, x, y):
        self.size, self.frame, self.x, self.y = (width, height), frame, x, y
        self.image = Image.new("RGB", (width * FINE, height * FINE), "white")
        self.pen, self.font = ImageDraw.Draw(self.image), ImageFont.load_default(14 * FINE)

    def at(self, x, y):
        left, top, right, bottom = self.frame
        return (FINE * (left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (right - left)),
                FINE * (bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (bottom - top)))

    def line(self, points, colour, width=1):
        self.pen.line([self.at(*p) for p in points], fill=colour, width=width * FINE)

    def dot(self, x, y, radius, colour):
        x, y, radius = *self.at(x, y), radius * FINE
        self.pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)

    def text(self, x, y, text, anchor, dx=0, dy=0, colour="black"):
        x, y = self.at(x, y)
        self.pen.text((x + dx * FINE, y + dy * FINE), text, fill=colour, font=self.font, anchor=anchor)

    def save(self, path):
        self.image.resize(self.size, Image.Resampling.LANCZOS).quantize(64).save(path, optimize=True)


def draw_runs(found, path):
    """A row for each setting: every run a dot, the mean over toys a bar, its standard error a line."""
    shown = [setting for setting in SHOWN if found[setting]]
    last = {setting: {key: 100 * shares(run)[-1] for key, run in found[setting].items()} for setting in shown}
    low = min(0, 20 * np.floor(min(min(values.values()) for values in last.values()) / 20))
    high = max(100, max(max(values.values()) for values in last.values())) + 2
    c = Canvas(800, 28 * len(shown) + 60, (220, 20, 740, 28 * len(shown) + 20), (low, high), (len(shown) - 0.5, -0.5))
    for x in np.arange(low, 101, 20):
        c.line([(x, -0.5), (x, len(shown) - 0.5)], "#e4e4e4")
        c.text(x, len(shown) - 0.5, f"{x:.0f} %", "mt", dy=6)
    for row, setting in enumerate(shown):
        (mean, error), values = over_toys(last[setting]), last[setting]
        for k, (key, value) in enumerate(sorted(values.items())):
            c.dot(value, row + 0.5 * ((k + 0.5) / len(values) - 0.5), 2, "#9db9dc")
        c.line([(mean - error, row), (mean + error, row)], "black", 2)
        c.line([(mean, row - 0.3), (mean, row + 0.3)], "#c8553d", 3)
        c.text(low, row, SETTINGS[setting][0], "rm", dx=-10)
        c.text(high, row, f"{mean:.0f} %", "lm", dx=8)
    c.text(high, len(shown) - 0.5, "share of the gradients' gain", "rb", dy=36)
    c.save(path)


def draw_lanes(found, path):
    """Mean shares over lanes, a line for each setting."""
    shown = [setting for setting in ("base", "subspace-off", "timesteps-off", "n-8", "text") if found[setting]]
    c = Canvas(800, 400, (60, 20, 600, 350), (0, LANES), (0, 100))
    for y in range(0, 101, 20):
        c.line([(0, y), (LANES, y)], "#e4e4e4")
        c.text(0, y, f"{y} %", "rm", dx=-8)
    for x in (0, LANES // 4, LANES // 2, LANES):
        c.text(x, 0, f"{x:,}", "mt", dy=8)
    c.text(LANES, 0, "lanes", "lt", dx=26, dy=8)
    ends = {}
    for setting, colour in zip(shown, COLOURS):
        means = [100 * over_toys({key: shares(run)[k] for key, run in found[setting].items()})[0] for k in range(3)]
        points = list(zip([0, LANES // 4, LANES // 2, LANES], [0, *means]))
        c.line(points, colour, 2)
        for x, y in points[1:]:
            c.dot(x, y, 4, colour)
        ends[setting] = means[-1], colour
    y = 200
    for setting, (mean, colour) in sorted(ends.items(), key=lambda item: -item[1][0]):
        y = min(mean, y - 6)  # names below one another
        c.text(LANES, y, f"{SETTINGS[setting][0]}, {mean:.0f} %", "lm", dx=14, colour=colour)
    c.save(path)


def show(plots):
    found = measured()
    print_table(found)
    if plots:
        draw_runs(found, ROOT / "results" / "ablation.png")
        draw_lanes(found, ROOT / "results" / "ablation-lanes.png")


def main():
    p = arguments("Show the paper's ablation.", __doc__)
    p.add_argument("--plots", action="store_true", help="draw them, too")
    show(p.parse_args().plots)


if __name__ == "__main__":
    main()
