"""How good a learned word is, judged by PyTorch alone: dataset/toybox/make/measure.py's validation (60 fixed draws of
picture, noise and timestep, on diffusers' and transformers' modules), and the words that it compares with."""
import functools
import json
import random
import sys
from pathlib import Path

from safetensors.torch import load_file

from conftest import TOYBOX, mpirun, program, write_recipe

sys.path.insert(0, str(TOYBOX / "make"))
import measure  # noqa: E402
import world  # noqa: E402

SUBJECTS = TOYBOX / "subjects"


@functools.cache
def model():
    return measure.Model(str(TOYBOX / "model"))


class Judge:
    """A subject's folder, with its captions in ../cc.json."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.validation = measure.Validation(model(), str(folder))
        self.start = self.validation.loss(model().word("toy"))

    def of(self, file):
        """Validation loss of a learned_embeds.safetensors."""
        return self.validation.loss(load_file(file)[measure.PLACEHOLDER][0])

    def of_gradients(self, steps=250):
        """The loss of the word that autograd and Adam learn."""
        return self.validation.loss(measure.backprop(model(), str(self.folder), lr=3e-2, steps=steps))


def loss_of_gradients(judge, cache):
    """Of one of toybox's subjects as dataset/toybox/losses.json has it; of another toy found once, and kept in the folder `cache`."""
    name, file = judge.folder.name, cache / "gradients.json"
    known = {toy: row["backprop"] for toy, row in json.loads((TOYBOX / "losses.json").read_text()).items()}
    known |= json.loads(file.read_text()) if file.exists() else {}
    if name not in known:
        known[name] = judge.of_gradients()
        file.write_text(json.dumps(known))
    return known[name]


def learn(folder, output, ranks=2, **changes):
    """Trains the paper's recipe on a subject; returns the run's folder."""
    config, run_folder = write_recipe(output, data__images=str(folder), data__captions=str(folder.parent / "cc.json"), **changes)
    mpirun(ranks, program("zoodip"), "train", config)
    return run_folder


def share_of_gain(start, learned, gradients):
    """The learned word's gain over the start, as a fraction of what gradients gain."""
    return (start - learned) / (start - gradients)


def draw_unseen_toy(folder, seed):
    """A toy that is neither one of the 320 nor near one of them or a subject: photos in FOLDER/toy, captions beside it."""
    rng = random.Random(seed)
    known = [*world.named_toys().values(), *world.subject_toys().values()]
    while min(world.distance(toy := world.random_toy(rng), other) for other in known) <= world.APART:
        pass
    (folder / "toy").mkdir(parents=True)
    captions = {}
    for i, background in enumerate(rng.sample(world.BACKGROUNDS, 5)):
        world.draw(toy, background, rng).save(folder / "toy" / f"{i:02}.png")
        captions[f"{i:02}.png"] = "a photo of a {} on " + background
    (folder / "cc.json").write_text(json.dumps({"toy": captions}))
    return folder / "toy"
