"""The paper's way to learn at toybox's size, whatever configs/toybox.json recommends: what most tests and measurements learn by.
FAST is the other way. Needs no Python package."""
import copy
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAPER = {"zo": {"n": 2, "tau": 16, "nu": 0.001}, "optim": {"steps": 1000, "lr": 0.03}}
RECOMMENDED = json.loads((ROOT / "configs" / "toybox.json").read_text())
EVERY = {"save_every": 250, "checkpoint_every": 100, "validate_every": 0}
# What changes the paper's recipe into the one that configs/toybox.json recommends, for any number of steps; slopes by tangents.
FAST = {f"{group}__{key}": value for group in ("zo", "optim") for key, value in RECOMMENDED[group].items() if key != "steps"} | {"zo__derivative": "tangent"}


def nested(changes, out=None):
    """Keys with dots as double underscores, zo__n=1, as groups: {"zo": {"n": 1}}; into `out` if given."""
    out = {} if out is None else out
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            out.setdefault(group, {})[name] = value
        else:
            out[group] = value
    return out


def recipe(output, **changes):
    """The paper's recipe for a subject of toybox, with keys changed (dots as double underscores: zo__n=1), as a dict."""
    config = copy.deepcopy(RECOMMENDED | PAPER)
    config["data"]["images"] = "dataset/toybox/subjects/bear5"
    config["output"] |= {**EVERY, "dir": str(output)}
    return nested(changes, config)
