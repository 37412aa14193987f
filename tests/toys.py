"""Sixteen toys that no model of toybox was trained on: its eight subjects, and eight more that were never used to choose a recipe."""
import functools
import itertools
import json
import random
import shutil
import sys
from pathlib import Path

from conftest import TOYBOX

sys.path.insert(0, str(TOYBOX / "make"))
import world  # noqa: E402


@functools.cache
def eight_more():
    """{name: toy}, one of each shape: the first seed of world.subject_toys() whose toys are none of the subjects nor near one."""
    subjects = world.subject_toys().values()
    for seed in itertools.count(1000):
        toys = world.subject_toys(seed).values()
        if min(world.distance(toy, subject) for toy in toys for subject in subjects) > world.APART:
            return {f"{toy['shape']}{9 + i}": toy for i, toy in enumerate(toys)}


def sixteen(folder):
    """Writes photos to FOLDER/NAME and captions to FOLDER/cc.json; returns the sixteen names, toybox's own eight first."""
    folder, own = Path(folder), TOYBOX / "subjects"
    captions = json.loads((own / "cc.json").read_text())
    for name in captions:
        shutil.copytree(own / name, folder / name, dirs_exist_ok=True)
    for i, (name, toy) in enumerate(eight_more().items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        rng, captions[name] = random.Random(9000 + i), {}
        for k, background in enumerate(rng.sample(world.BACKGROUNDS, 5)):
            world.draw(toy, background, rng).save(folder / name / f"{k:02}.png")
            captions[name][f"{k:02}.png"] = "a photo of a {} on " + background
    (folder / "cc.json").write_text(json.dumps(captions, indent=2))
    return list(captions)
