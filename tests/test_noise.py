"""A zeroth-order gradient is a small difference of big numbers: (L_i - L_0) / eps with eps = 1e-3 magnifies any rounding a
thousandfold. Measured against the same networks in fp64, the error of fp32 losses stays far below the slopes themselves."""
import torch
from safetensors.torch import load_file

from conftest import NIGHTLY, TOYBOX, metrics, program, run, write_recipe
from twin import FrozenModel

NEEDS = "peers"
STEPS, N, EPS = 16 if NIGHTLY else 6, 8, 1e-3


def test_slopes_are_signal_not_rounding(tmp_path, record_property):
    subject = TOYBOX / "subjects" / "bear5"
    config, output = write_recipe(tmp_path, optim__steps=STEPS, zo__n=N, zo__eps=EPS, quant__bits=32, output__save_every=1,
                                  output__prompts=[])
    run(program("zoodip"), "train", config, threads=2)
    model = FrozenModel(TOYBOX / "model", subject.glob("*.png"), "sks", 1)
    before = model.word("toy")[None].double()
    for part in (model.text, model.unet, model.vae):
        part.double()
    model.table = model.text.get_input_embeddings().weight
    model.pictures = [p.astype("float64") for p in model.pictures]
    error, signal = [], []
    for step, line in enumerate(metrics(output), 1):
        run(program("tests/draws"), config, step, tmp_path / "draws.safetensors")
        draws = {k: t.double() if t.is_floating_point() else t for k, t in load_file(tmp_path / "draws.safetensors").items()}
        theirs = model.losses(before, draws, EPS)[:, 0]
        ours = torch.tensor(line["losses"], dtype=torch.float64)
        exact, slopes = (theirs[1:] - theirs[0]) / EPS, (ours[1:] - ours[0]) / EPS
        error.append(slopes - exact)
        signal.append(exact)
        before = load_file(output / f"learned_embeds-steps-{step}.safetensors")["sks"].double()
    ratio = (torch.cat(error).square().mean() / torch.cat(signal).square().mean()).sqrt().item()
    record_property("noise", ratio)
    print(f"rms error of (L_i - L_0) / eps: {100 * ratio:.3f} % of its rms, over {STEPS * N} directions")
    assert ratio < 0.01
