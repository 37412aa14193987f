"""Tangents of whole networks and runs on the CUDA device, in pairs (32 bits), halves (16) and codes (8), beside the CPU's exact ones.
The kernels run in the stand-in (tests/cuda)."""
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import ON_GPU, SHAPES, cuda_program, learned, make_model, metrics, mpirun, needs_cuda, program, run, slice_of, write_recipe
from test_derivative import setting
from test_directions import inputs_for as captions_for
from test_tangents import MODELS, ROWS, Reference, inputs_for, model_of
from test_tangents8 import fold_outliers

NEEDS = "peers standin"
pytestmark = needs_cuda


def rms(t):
    return t.double().square().mean().sqrt()


# -------------------------------------------------------------------------------- networks


def slopes(name, folder, tmp_path, given, *options):
    """The slopes of the rows, but that of a word of zeros, which a norm divides by its eps, so that no other counts."""
    save_file(given, tmp_path / "in.safetensors")
    run(name, folder, tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--derivative", "tangent", *options, threads=2)
    out = load_file(tmp_path / "out.safetensors")
    keep = [row for row, what in enumerate(ROWS) if what != "zeros"]
    return out["slope"][keep], out["loss"][keep]


# What slopes are off by, of their rms, and losses of themselves: measured, times two.
NOISE = {32: (5e-4, 1e-5), 16: (1e-2, 1e-3), 8: (7e-2, 1e-3)}


@pytest.mark.parametrize("name, weights", slice_of([(name, weights) for weights in (8, 32) for name in MODELS], 6))
def test_slopes_are_the_cpus_with_the_noise_of_their_bits(tmp_path, name, weights):
    shape, vectors, length, size = MODELS[name]
    folder = model_of(shape, tmp_path / "model")
    given = inputs_for(Reference(folder), vectors, length, size)
    exact, losses = slopes(program("tests/forward"), folder, tmp_path, given, "--bits", weights)
    for bits, (most, most_of_loss) in NOISE.items():
        if bits == 8 and weights != 8:
            continue
        ours, ours_losses = slopes(cuda_program("forward"), folder, tmp_path, given, "--bits", weights, "--device", "cuda", "--tangents", bits)
        assert rms(ours - exact) < most * rms(exact), bits
        assert ((ours_losses - losses).abs() < most_of_loss * losses).all(), bits


@pytest.mark.skipif(not Path(cuda_program("basis")).exists(), reason="no such program on a GPU machine")
def test_directions_of_the_text_are_the_cpus(tmp_path):
    """Eigenvalues of JtJ, whose J is made of tangents in halves."""
    shape, vectors, length, _ = MODELS["plain"]
    folder, values = model_of(shape, tmp_path / "model"), []
    save_file(captions_for(Reference(folder), vectors, length, 2), tmp_path / "in")
    for name, options in ((program("tests/basis"), ()), (cuda_program("basis"), ("--device", "cuda", "--tangents", 16))):
        run(name, "--bits", 8, "--least", 3, *options, folder, tmp_path / "in", tmp_path / "out")
        values.append(load_file(tmp_path / "out")["values"][0])
    assert (values[1] - values[0]).abs().max() < 2e-3 * values[0].max()


# -------------------------------------------------------------------------------- runs


TINY = dict(data__resolution=16, optim__steps=3, zo__n=3, zo__tau=2, zo__derivative="tangent", output__prompts=[], output__checkpoint_every=1,
            device="cuda")


@pytest.fixture
def tiny(random_models, tmp_path):
    return lambda name="out", **changes: write_recipe(tmp_path / name, **{**TINY, "model": str(random_models("plain")), **changes})


# Operands, in how many bits: what losses and slopes are off by at most, of toybox.
OFF = {("fp16", 32): (1e-5, 1e-3), ("fp16", 16): (1e-3, 5e-3), ("fp16", 8): (1e-3, 5e-2), ("bf16", 16): (1e-2, 3e-2)}


@pytest.mark.parametrize("operands, bits", slice_of(list(OFF), 2))
def test_the_first_steps_slopes_and_losses_are_the_cpus(tmp_path, operands, bits):
    """Of toybox. Looks at the word are evaluations in pairs, whatever tangents are."""
    keys = dict(optim__steps=1, zo__n=4, zo__tau=2, zo__derivative="tangent", output__prompts=[], optim__batch_size=2)
    lines = []
    for name, changes in (("zoodip", dict(device="cpu", quant__tangents=32)), ("cuda", dict(device="cuda", quant__tangents=bits, quant__activations=operands))):
        config, output = write_recipe(tmp_path / name, **keys, **changes)
        run(cuda_program("zoodip") if name == "cuda" else program("zoodip"), "train", config, timeout=1200)
        lines.append(metrics(output)[0])
    (exact, losses), (ours, ours_losses) = ([torch.tensor(line[key], dtype=torch.float64) for key in ("slopes", "losses")] for line in lines)
    most_of_loss, most = OFF[operands, bits]
    of_losses, noise = ((ours_losses - losses).abs() / losses).max(), rms(ours - exact) / rms(exact)
    print(f"{operands}, {bits} bits: slopes are off by {100 * noise:.3f} %, losses by {of_losses:.1e}")
    assert of_losses < most_of_loss and noise < most
    assert math.isclose(lines[0]["validation_start"], lines[1]["validation_start"], rel_tol=1e-5 if operands == "fp16" else 1e-4)


def test_auto_takes_tangents_in_16_bits(tiny):
    for changes, words in ((dict(), ("tangent, which take less time in 16 bits", "quant.tangents: auto takes 16 bits")),
                           (dict(quant__tangents=8), ("tangent, which take less time in 8 bits", "quant.tangents: 8 bits")),
                           (dict(quant__tangents=32), ("difference, because tangents in 32 bits take more time",))):
        config, _ = tiny(str(len(changes)), zo__derivative="auto", **changes)
        said = run(cuda_program("zoodip"), "train", config, "--overwrite").stderr
        assert all(w in said for w in words), said


PLANNED = {"8": dict(quant__tangents=8), "16": dict(quant__tangents=16), "32": dict(quant__tangents=32), "4-bit weights": dict(quant__bits=4),
           "float weights": dict(quant__bits=32), "lanes": dict(zo__n=5, optim__batch_size=2), "bf16": dict(quant__activations="bf16"),
           "auto": dict(zo__derivative="auto"), "text": dict(zo__directions="text", zo__rank=3, optim__method="gauss_newton", optim__lr="auto")}


@pytest.mark.parametrize("case", slice_of(list(PLANNED), 3))
def test_memory_is_as_planned_to_the_byte(tiny, tmp_path, case):
    config, _ = tiny(**PLANNED[case])
    report = tmp_path / "report.json"
    said = run(cuda_program("zoodip"), "train", config, env={"ZOODIP_STANDIN_REPORT": str(report)}).stderr
    planned = json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"]
    assert f"GPU memory: {planned['bytes']} bytes planned, {planned['bytes']} taken" in said
    assert planned["derivative"] == "tangent"
    if not ON_GPU:  # by the driver's count
        used = json.loads(report.read_text())
        assert used["device"]["peak"] == planned["bytes"] and used["leaks"] == 0


@pytest.mark.parametrize("bits", [16, 8])
def test_a_resumed_run_ends_in_the_same_bits(tiny, bits):
    config, output = tiny(quant__tangents=bits, optim__steps=4)
    run(cuda_program("zoodip"), "train", config)
    whole, noise = learned(output), [line.get("slope_noise") for line in metrics(output)]
    assert (noise[0] is not None) == (bits == 8)
    (output / "checkpoints" / "step-4.safetensors").unlink()
    run(cuda_program("zoodip"), "train", config, "--resume", *setting(quant__tangents="auto"))
    assert learned(output) == whole


@pytest.mark.skipif(ON_GPU, reason="asks the stand-in for several GPUs")
def test_any_number_of_ranks_learns_the_same_bits(tiny):
    """With NCCL where each has a GPU of its own, and by MPI where they share it."""
    words = []
    for ranks in (1, 2, 3):
        config, output = tiny(str(ranks), optim__batch_size=2, quant__tangents=8)
        command = [cuda_program("zoodip"), "train", config]
        (mpirun(ranks, *command) if ranks > 1 else run(*command))
        words.append((learned(output), [line.get("slope_noise") for line in metrics(output)]))
    assert words[1:] == words[:-1]


def test_outliers_stay_out_of_codes(tmp_path):
    """Found on the GPU in the first exact step, as the CPU finds them; without them slopes would be noise."""
    folder = make_model(tmp_path / "model", SHAPES["plain"])
    fold_outliers(folder, by=200)
    config, output = write_recipe(tmp_path / "run", **{**TINY, "model": str(folder), "zo__n": 16, "optim__steps": 1, "quant__tangents": 8})
    run(cuda_program("zoodip"), "train", config)
    assert metrics(output)[0]["slope_noise"] < 0.1
    assert len(load_file(output / "checkpoints" / "step-1.safetensors")["outliers"]) > 0
