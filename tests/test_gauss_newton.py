"""optim.method gauss_newton beside PyTorch: from the same embedding and draws its forward mode finds what each direction changes
in the prediction, and from that the same next embedding follows."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from safetensors.torch import load_file

from conftest import TOYBOX, metrics, mpirun, program, run, slice_of, write_recipe
from test_masks import masked_photos
from twin import FrozenModel

NEEDS = "peers"
SUBJECT = TOYBOX / "subjects" / "bear5"
N, STEPS, FALL, LR = 6, 8, 4, 0.2
# derivative, batch, vectors, with masks
CASES = [("tangent", 2, 1, True), ("difference", 1, 2, False), *slice_of([("difference", 3, 1, False), ("tangent", 1, 2, False)], 1)]


def learn(folder, derivative, batch, vectors, ranks=1, images=SUBJECT, **changes):
    config, output = write_recipe(
        folder, model=str(TOYBOX / "model"), device="cpu", seed=3, quant__bits=32, data__images=str(images), data__resolution=64,
        token__placeholder="sks", token__initializer="toy", token__vectors=vectors, zo__n=N, zo__derivative=derivative, zo__eps=1e-3,
        zo__directions="text", zo__refresh=3, zo__tau=3, zo__nu=0.9, optim__method="gauss_newton", optim__steps=STEPS, optim__lr=LR,
        optim__schedule="warmup_stable_decay", optim__decay=FALL, optim__batch_size=batch, output__save_every=1,
        output__checkpoint_every=1, output__checkpoint_keep=0, output__prompts=[], **changes)
    mpirun(ranks, program("zoodip"), "train", config)
    return config, output


def checkpoint(output, step):
    return load_file(sorted((output / "checkpoints").glob("*.safetensors"))[step - 1])


@torch.no_grad()
def changes_of(model, embedding, draws, basis):
    """-> losses [batch], slopes and mean squares of what the prediction changes, each [n, batch]."""
    (noisy, timestep, target), weights = model.noisy(draws), model.weights(draws)
    batch, slopes, squares = len(timestep), [], []
    for z in basis:
        with forward_ad.dual_level():
            rows = forward_ad.make_dual(embedding.expand(batch, *embedding.shape).contiguous(), z.expand(batch, *z.shape).contiguous())
            hidden = model.hidden(rows, draws["input_ids"].long())
            predicted, change = forward_ad.unpack_dual(model.unet(noisy, timestep, hidden).sample)
            error = (predicted - target).double()
            slopes.append(2 * (weights * error * change.double()).flatten(1).mean(1))
            squares.append((weights * change.double().square()).flatten(1).mean(1))
    return (weights * error.square()).flatten(1).mean(1), torch.stack(slopes), torch.stack(squares)


@pytest.mark.parametrize("derivative, batch, vectors, masked", CASES)
def test_each_step_is_the_one_that_pytorch_finds(tmp_path, derivative, batch, vectors, masked):
    pictures, masks = masked_photos(tmp_path / "photos")
    changes = dict(images=tmp_path / "photos", use_cc=False, data__captions=None) if masked else {}
    config, output = learn(tmp_path, derivative, batch, vectors, **changes)
    files = {step: tmp_path / f"draws-{step}.safetensors" for step in range(1, STEPS + 1)}
    run(program("tests/draws"), config, *(word for pair in files.items() for word in pair))
    model = FrozenModel(TOYBOX / "model", SUBJECT.glob("*.png"), "sks", vectors)
    if masked:
        model.pictures, model.masks = pictures, masks
    embedding, known, rates = model.word("toy").repeat(vectors, 1), torch.zeros(N, dtype=torch.float64), [m["lr"] for m in metrics(output)]
    basis, cut = None, 0
    for step in range(1, STEPS + 1):
        saved = checkpoint(output, step)
        turned = saved["basis"].double()
        if basis is not None:
            turn = turned @ basis.T
            known = turn.square() @ known if not torch.equal(turned, basis) else known
        basis = turned
        draws = load_file(files[step])
        numbers = (model.weights(draws).double() * torch.ones(batch, 4, 16, 16)).sum()
        losses, slopes, squares = changes_of(model, embedding, draws, basis.float().reshape(N, vectors, -1))
        known = 0.9 * known + squares.mean(1)
        moves = -slopes.mean(1) / 2 / (known + 3 * losses.mean() / numbers / LR ** 2)
        if moves.norm() > LR * N ** 0.5 / 2:
            moves *= LR * N ** 0.5 / 2 / moves.norm()
            cut += 1
        moves *= rates[step - 1] / LR
        new = load_file(output / f"learned_embeds-steps-{step}.safetensors")["sks"]
        theirs = (moves @ basis).reshape(vectors, -1)
        accuracy = 2e-4 if derivative == "tangent" else 2e-2
        assert ((new - embedding).double() - theirs).norm() < accuracy * theirs.norm(), f"step {step}"
        assert torch.allclose(saved["v"][0].double(), known, rtol=accuracy)
        embedding, known = new, saved["v"][0].double()
    assert 0 < cut < STEPS, "no step was cut, or all were: the case tests too little"
    assert not any(m["removed"] for m in metrics(output)), "the subspace is Adam's"
    assert rates == [LR] * 5 + [LR * (1 - i / FALL) for i in range(1, FALL)]


def test_the_same_bits_on_any_number_of_ranks(tmp_path):
    words = [(learn(tmp_path / str(ranks), "tangent", 2, 1, ranks, cluster__timeout=60)[1] / "learned_embeds-last.safetensors").read_bytes()
             for ranks in (1, 3)]
    assert words[0] == words[1]
