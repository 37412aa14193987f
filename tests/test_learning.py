"""It learns: words of toys that the model has never seen, trained by `zoodip train` on two ranks by the paper's recipe, are
judged by PyTorch (tests/judge.py). What gradients reach is the measure; the same algorithm in PyTorch reaches 82 to 99 % of
their gain after 750 steps and 91 to 98 % after 1,500 (dataset/toybox/README.md)."""
import json

import numpy as np
import pytest
from safetensors import safe_open

from conftest import NIGHTLY, TOYBOX, metrics, slice_of
from judge import SUBJECTS, Judge, draw_unseen_toy, learn, share_of_gain

NEEDS = "peers"

# For the algorithm in PyTorch: the hardest, one in the middle, the easiest.
CHOSEN = ["bear5", "duck6", "ball1"]
KNOWN = json.loads((TOYBOX / "losses.json").read_text())
# The pictures at the end of a run are tested elsewhere: one prompt is enough.
RECIPE = dict(output__prompts=["a photo of a {} on the beach"], output__checkpoint_every=0, output__save_every=0)


TODAY = slice_of(CHOSEN, 3)
# A subject that is none of the table's, and the loss that 150 steps of gradients reach with it (Judge.of_gradients).
UNSEEN, GRADIENTS = 20261, 0.0248425


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """subject -> (the judge's loss of the start, of the learned word), and the run's folder."""
    verdicts = {}
    for name in TODAY:
        judge = Judge(SUBJECTS / name)
        folder = learn(SUBJECTS / name, tmp_path_factory.mktemp(name), **RECIPE)
        verdicts[name] = judge.start, judge.of(folder / "learned_embeds.safetensors"), folder
    return verdicts


def test_the_judge_measures_what_the_table_says():
    judge = Judge(SUBJECTS / "bear5")
    assert judge.start == pytest.approx(KNOWN["bear5"]["toy"], rel=1e-4)
    assert judge.of(TOYBOX / "learned" / "bear5.safetensors") == pytest.approx(KNOWN["bear5"]["zo_1500"], rel=1e-4)


@pytest.mark.parametrize("name", TODAY)
def test_a_word_gains_most_of_what_gradients_gain(learned, name):
    start, loss, _ = learned[name]
    assert share_of_gain(start, loss, KNOWN[name]["backprop"]) >= 0.75


@pytest.mark.skipif(TODAY != CHOSEN, reason="one of the subjects a day")
def test_on_average_nearly_all(learned):
    shares = [share_of_gain(start, loss, KNOWN[name]["backprop"]) for name, (start, loss, _) in learned.items()]
    assert np.mean(shares) >= 0.85, shares


@pytest.mark.parametrize("name", TODAY)
def test_a_word_is_better_than_the_nearest_name(learned, name):
    assert learned[name][1] < KNOWN[name]["nearest"]


def test_the_runs_own_validation_tells_the_same_story(learned):
    """Other draws and int8 weights, so other numbers; the gain must be the same."""
    for name, (start, loss, folder) in learned.items():
        seen = [m["validation_loss"] for m in metrics(folder) if "validation_loss" in m]
        assert seen[-1] / seen[0] < 1.02, f"{name} grew worse while it learned"
        with safe_open(folder / "learned_embeds.safetensors", "np") as file:
            assert file.metadata()["format"] == "pt" and file.get_slice("sks").get_shape() == [1, 96]


def test_a_toy_nobody_has_seen_is_learned_too(tmp_path):
    subject = draw_unseen_toy(tmp_path / "new", seed=UNSEEN)
    judge = Judge(subject)
    if NIGHTLY:
        assert judge.of_gradients(steps=150) == pytest.approx(GRADIENTS, rel=1e-3)
    folder = learn(subject, tmp_path, **RECIPE)
    share = share_of_gain(judge.start, judge.of(folder / "learned_embeds.safetensors"), GRADIENTS)
    assert share >= 0.75


def test_words_are_learned_with_weights_of_four_bits(tmp_path):
    """400 steps on a model in 4 bits; the word is judged on the model itself. Measured: 82 % of what gradients gain."""
    judge = Judge(SUBJECTS / "duck6")
    folder = learn(SUBJECTS / "duck6", tmp_path, **{**RECIPE, "output__prompts": []}, quant__bits=4, optim__steps=400)
    share = share_of_gain(judge.start, judge.of(folder / "learned_embeds.safetensors"), KNOWN["duck6"]["backprop"])
    assert share >= 0.65
