"""A training run replayed by the reference packages (tests/twin.py), in two halves, since a difference's 1 / eps magnifies any
rounding a thousandfold: its embeddings from the slopes that it reports, and its losses (with tangents also its slopes) from its
embeddings."""

import json

import pytest
import torch
from safetensors.torch import load_file

from conftest import TOYBOX, metrics, program, run, slice_of, write_recipe
from twin import CoordinatesLearner, FrozenModel, Learner

NEEDS = "peers"
STEPS, TAU, NU, EPS, LR = 64, 24, 0.01, 1e-3, 3e-2
SUBJECT = TOYBOX / "subjects" / "bear5"
# derivative, directions per, n, batch, vectors
CASES = [("difference", "step", 2, 2, 2), ("difference", "picture", 2, 3, 1), ("tangent", "step", 2, 3, 2), ("tangent", "picture", 2, 3, 1),
         *slice_of([("difference", "step", 1, 1, 2), ("tangent", "step", 1, 1, 1), ("difference", "step", 2, 1, 1),
                    ("difference", "step", 5, 2, 1), ("tangent", "picture", 3, 2, 2)], 3)]


# zo.directions, derivative, directions per, n, rank, batch, vectors, tau (2 removes nothing)
MIXED = [("text", "tangent", "step", 4, 4, 1, 1, TAU),
         *slice_of([("text", "difference", "picture", 2, 0, 2, 1, 2), ("table", "difference", "step", 2, 0, 2, 2, TAU), ("table", "tangent", "picture", 2, 0, 2, 1, 2),
                    ("text", "difference", "picture", 3, 3, 2, 2, 2), ("text", "tangent", "step", 2, 9, 1, 2, TAU),
                    ("text", "tangent", "picture", 3, 3, 2, 1, TAU)], 6)]
REFRESH = 28


class Run:
    """A finished run: draws, losses and embeddings by step."""

    def __init__(self, folder, derivative, per, n, batch, vectors, steps=STEPS, **keys):
        self.vectors, self.derivative, self.own = vectors, derivative, per == "picture"
        self.config, self.output = write_recipe(
            folder, model=str(TOYBOX / "model"), device="cpu", seed=7, quant__bits=32, data__images=str(SUBJECT),
            data__flip=True, data__resolution=64, token__placeholder="sks", token__initializer="toy", token__vectors=vectors,
            zo__n=n, zo__derivative=derivative, zo__directions_per=per, zo__eps=EPS, zo__sides=1, zo__nu=NU, optim__steps=steps, optim__lr=LR,
            optim__schedule="constant", optim__batch_size=batch, output__save_every=1, output__sample_every=0,
            output__prompts=[], **{"zo__tau": TAU, **keys})
        run(program("zoodip"), "train", self.config, threads=2)
        lines = metrics(self.output)
        assert [line["step"] for line in lines] == list(range(1, steps + 1))
        self.losses = [torch.tensor(line["losses"], dtype=torch.float64).reshape(-1, batch) for line in lines]
        self.slopes = [torch.tensor(line["slopes"], dtype=torch.float64).reshape(batch, n) for line in lines]
        self.removed = [line["removed"] for line in lines]
        files = {step: folder / f"draws-{step}.safetensors" for step in range(1, steps + 1)}
        run(program("tests/draws"), self.config, *(word for pair in files.items() for word in pair))
        self.draws = [load_file(file) for file in files.values()]

    def embedding(self, step):
        return load_file(self.output / f"learned_embeds-steps-{step}.safetensors")["sks"].clone()


@pytest.fixture(scope="module", params=CASES, ids=lambda c: "{}-{}-n{}-batch{}-vectors{}".format(*c))
def trained(request, tmp_path_factory):
    return Run(tmp_path_factory.mktemp("trained"), *request.param)


@pytest.fixture(scope="module")
def models():
    return {vectors: FrozenModel(TOYBOX / "model", SUBJECT.glob("*.png"), "sks", vectors) for vectors in (1, 2)}


def test_from_the_same_slopes_the_same_embeddings(trained, models):
    start = models[trained.vectors].word("toy").repeat(trained.vectors, 1)
    learner = Learner(start, LR, TAU, NU)
    for step in range(1, STEPS + 1):
        assert trained.removed[step - 1] == len(learner.removed)
        theirs = learner.step(trained.slopes[step - 1], trained.draws[step - 1]["directions"])
        learner.remember(trained.embedding(step))
        difference = (trained.embedding(step) - theirs).norm() / theirs.norm()
        assert difference < 1e-6, f"step {step}: {difference:.1e}"
    assert max(trained.removed) > 0, "no direction was ever removed: the case tests too little"


@pytest.mark.parametrize("kind, derivative, per, n, rank, batch, vectors, tau", MIXED)
def test_from_the_same_slopes_and_basis_the_same_embeddings(kind, derivative, per, n, rank, batch, vectors, tau, models, tmp_path):
    """Each step's basis is the one in its checkpoint; after step 28 text has another one."""
    trained = Run(tmp_path, derivative, per, n, batch, vectors, zo__directions=kind, zo__rank=rank, zo__tau=tau,
                  zo__refresh=REFRESH if kind == "text" else 0, output__checkpoint_every=1, output__checkpoint_keep=0)
    plain = plain_directions(trained, tmp_path)
    start = models[vectors].word("toy").repeat(vectors, 1)
    learner = (CoordinatesLearner if kind == "text" else Learner)(start, LR, tau, NU)
    bases = []
    for step in range(1, STEPS + 1):
        basis = load_file(trained.output / "checkpoints" / f"step-{step}.safetensors")["basis"]
        bases.append(basis)
        weights = None if n == rank else plain[step - 1].flatten(1)[:, :len(basis)] if kind == "text" else plain[step - 1]
        directions = trained.draws[step - 1]["directions"]
        mixed = basis.repeat(len(directions) // n, 1) if weights is None else (weights.double() @ basis.double()).float()
        assert (directions.flatten(1) - mixed.flatten(1)).abs().max() < 1e-6
        if kind == "text":
            learner.use(basis)
        assert trained.removed[step - 1] == len(learner.removed)
        theirs = learner.step(trained.slopes[step - 1], weights if kind == "text" else directions)
        learner.remember(trained.embedding(step))
        difference = (trained.embedding(step) - theirs).norm() / theirs.norm()
        assert difference < 1e-6, f"step {step}: {difference:.1e}"
    changes = [step for step in range(1, STEPS) if not torch.equal(bases[step], bases[step - 1])]
    assert changes == ([REFRESH, 2 * REFRESH] if kind == "text" else []), changes
    assert len(bases[0]) >= n and (max(trained.removed) > 0) == (tau > 2)


def test_slopes_of_differences_are_those_of_their_losses(trained):
    for losses, slopes in zip(trained.losses, trained.slopes):
        if trained.derivative == "difference":
            assert torch.allclose(slopes.T, (losses[1:] - losses[0]) / EPS, rtol=1e-15, atol=0)
        else:
            assert losses.shape == (1, len(slopes))


def test_from_the_same_embeddings_the_same_losses_and_slopes(trained, models):
    model = models[trained.vectors]
    before = model.word("toy").repeat(trained.vectors, 1)
    errors, exact = [], []
    for step in range(1, STEPS + 1):
        if step % 15 == 1:  # the others would show the same, and cost more
            draws = trained.draws[step - 1]
            if trained.derivative == "tangent":
                theirs, slopes = model.slopes(before, draws, trained.own)
                errors.append(trained.slopes[step - 1] - slopes)
                exact.append(slopes)
            else:
                theirs = model.losses(before, draws, EPS, trained.own)
            difference = ((trained.losses[step - 1] - theirs).abs() / theirs).max()
            assert difference < 1e-5, f"step {step}: {difference:.1e}"
        before = trained.embedding(step)
    if errors:
        assert torch.cat(errors).abs().max() < 1e-4 * torch.cat(exact).square().mean().sqrt()


def plain_directions(trained, folder):
    """Of each step, the draws that its directions were mixed from."""
    config, files = json.loads(trained.config.read_text()), [folder / f"plain-{step}" for step in range(1, STEPS + 1)]
    config["zo"]["directions"] = "normal"
    (folder / "plain.json").write_text(json.dumps(config))
    run(program("tests/draws"), folder / "plain.json", *(word for step, file in enumerate(files, 1) for word in (step, file)))
    return [load_file(file)["directions"] for file in files]


def test_both_flips_several_pictures_and_captions_were_drawn(trained):
    assert {int(f) for d in trained.draws for f in d["flip"]} == {0, 1}
    assert len({int(p) for d in trained.draws for p in d["picture"]}) == 5
    assert len({tuple(ids.tolist()) for d in trained.draws for ids in d["input_ids"]}) > 3
    assert all(500 <= int(t) < 900 for d in trained.draws for t in d["timestep"])


def test_even_timesteps_are_one_sequence_over_steps_and_batches(tmp_path):
    drawn = {}
    for batch in (1, 2, 3):
        config, _ = write_recipe(tmp_path / f"{batch}", data__images=str(SUBJECT), optim__batch_size=batch, zo__timestep_order="even",
                                 zo__timesteps=[100, 980])
        files = [tmp_path / f"{batch}-{step}" for step in range(1, 6 // batch + 1)]
        run(program("tests/draws"), config, *(word for step, file in enumerate(files, 1) for word in (step, file)))
        drawn[batch] = [int(t) for file in files for t in load_file(file)["timestep"]]
    assert drawn[1] == drawn[2] == drawn[3] and len(set(drawn[1])) == 6
    apart = [(b - a) % 880 / 880 for a, b in zip(drawn[1], drawn[1][1:])]
    assert apart == pytest.approx([(5 ** 0.5 - 1) / 2] * 5, abs=2 / 880)


def test_tangents_are_what_differences_come_near(tmp_path):
    """In the first step both stand at the same word, on the same draws."""
    slopes = {}
    for derivative in ("difference", "tangent"):
        first = Run(tmp_path / derivative, derivative, "picture", 4, 3, 1, steps=1)
        slopes[derivative] = first.slopes[0]
    assert (slopes["difference"] - slopes["tangent"]).square().mean() < (0.03 ** 2) * slopes["tangent"].square().mean()
