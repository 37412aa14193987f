"""The CUDA device as a whole beside the CPU device: model parts, training, memory. Without a GPU the kernels run in the
stand-in (tests/cuda/); tests/gpu/run.sh runs the same tests on a GPU.

Products take pairs of halves, so both devices agree far more closely than single halves would allow."""
import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import (NIGHTLY, ON_GPU, ROOT, SHAPES, TOYBOX, cuda_program, learned, losses_of, metrics, needs_cuda, program, refused, run, slice_of,
                      write_recipe)

sys.path.insert(0, str(ROOT / "tests" / "gpu"))
from model import write_model  # noqa: E402

NEEDS = "peers standin"
pytestmark = needs_cuda


def error(ours, theirs):
    """Largest difference relative to the largest value."""
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def forward(name, folder, tmp_path, *options):
    run(name, folder, tmp_path / "in.safetensors", tmp_path / "out.safetensors", *options, threads=2)
    return load_file(tmp_path / "out.safetensors")


# Weights of 4 bits become halves on their way into the matrix units; all others stay exact.
LIMITS = {32: 1e-4, 16: 1e-4, 8: 1e-4, 4: 5e-3}


@pytest.mark.parametrize("bits", LIMITS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_part_of_a_model_agrees_with_the_cpu(random_models, tmp_path, name, bits):
    from test_models import inputs_for  # imported here, since the rest of this file needs no such package
    folder = random_models(name)
    inputs = inputs_for(folder, 2, (6, 10), seed=3)
    factor = inputs["pixels"].shape[2] // 6
    inputs.update(pixels=inputs["pixels"][:1, :, :3 * factor, :2 * factor].contiguous(), latent=inputs["latent"][:1, :, :3, :4].contiguous())
    save_file(inputs, tmp_path / "in.safetensors")
    ours = forward(cuda_program("forward"), folder, tmp_path, "--bits", bits, "--device", "cuda")
    theirs = forward(program("tests/forward"), folder, tmp_path, "--bits", bits, "--device", "cpu")
    assert ours.keys() == theirs.keys()
    for part in theirs:
        assert error(ours[part], theirs[part]) < LIMITS[bits], part


def enlarged_model(folder, name, factor):
    """Toybox with one of the UNet's weights that many times as large."""
    shutil.copytree(TOYBOX / "model", folder)
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, name: factor * tensors[name].float()}, path)
    return folder


def test_activations_that_halves_cannot_hold_are_named_with_the_remedy(tmp_path):
    """The first picture of the first step, the op, the numbers it was given; float, as on the CPU, and bfloats hold them."""
    model = enlarged_model(tmp_path / "model", "conv_in.weight", 3e6)
    config, _ = write_recipe(tmp_path, model=str(model), zo__n=2, optim__steps=2, output__prompts=[], device="cuda")
    done = run(cuda_program("zoodip"), "train", config, "--quiet", check=False)
    said = re.fullmatch(r"zoodip: step 1: rank 0: the loss of picture dataset/toybox/subjects/bear5/\d\d.png is not a number, so nothing of this "
                        r"step is saved; the network's op (\d+) \(op_(\w+) \[.*\]\) was given numbers of up to (\S+), and halves end at 65504: "
                        r"set quant.activations to bf16\n", done.stderr)
    assert done.returncode == 1 and said, done.stderr
    assert said[2] in ("conv", "linear") and 65504 < float(said[3]) < 1e9
    run(cuda_program("zoodip"), "train", config, "--quiet", "--overwrite", "--set", "quant.activations=bf16")
    run(program("zoodip"), "train", config, "--quiet", "--overwrite", "--set", "device=cpu")


def tiny_recipe(random_models, folder, **changes):
    """A recipe that runs in a second: a model of random weights, 16 pixels, differences (tests/test_cuda_tangent_runs.py has tangents)."""
    return write_recipe(folder, **{**dict(model=str(random_models("plain")), data__resolution=16, optim__steps=3, zo__n=1, zo__tau=2,
                                          zo__derivative="difference", output__prompts=["a photo of a {}"], output__checkpoint_every=1,
                                          device="cuda"), **changes})


@pytest.fixture
def tiny(random_models, tmp_path):
    return lambda name="run", **changes: tiny_recipe(random_models, tmp_path / name, **changes)


# Along the text's directions, found again before the third step, by steps that need the predictions.
FAST = dict(zo__n=4, zo__directions="text", zo__refresh=2, optim__method="gauss_newton", optim__lr="auto", optim__batch_size=2)


@pytest.mark.parametrize("changes", [dict(), dict(optim__batch_size=3, zo__n=2, data__flip=True), dict(zo__sides=2, token__vectors=2),
                                     dict(quant__bits=4), dict(quant__activations="bf16"), FAST],
                         ids=["plain", "batch", "two sides", "4 bits", "bf16", "fast"])
def test_losses_are_those_of_the_cpu(tiny, changes):
    changes = {**changes, "output__prompts": []}
    config, output = tiny("cuda", **changes)
    run(cuda_program("zoodip"), "train", config)
    other, theirs = tiny("cpu", **changes, device="cpu")
    run(program("zoodip"), "train", other)
    ours = torch.tensor(losses_of(output), dtype=torch.float64)
    cpu = torch.tensor(losses_of(theirs), dtype=torch.float64)
    assert ((ours - cpu).abs() / cpu).max() < 1e-3


@pytest.mark.parametrize("changes", [dict(), FAST], ids=["plain", "fast"])
def test_the_same_run_gives_the_same_bits_and_a_resumed_one_too(tiny, changes):
    config, output = tiny(output__prompts=[], **changes)
    run(cuda_program("zoodip"), "train", config)
    whole = learned(output)
    run(cuda_program("zoodip"), "train", config, "--overwrite")
    assert learned(output) == whole
    (output / "checkpoints" / "step-3.safetensors").unlink()
    run(cuda_program("zoodip"), "train", config, "--resume")
    assert learned(output) == whole


def test_a_run_goes_on_by_the_derivative_that_it_began_with(tiny):
    config, output = tiny(zo__derivative="difference", output__prompts=[], optim__steps=2)
    run(cuda_program("zoodip"), "train", config)
    refused(run(cuda_program("zoodip"), "train", config, "--resume", "--set", "zo.derivative=tangent", check=False),
            "zo.derivative: is tangent, but the checkpoints in")
    said = run(cuda_program("zoodip"), "train", config, "--resume", "--set", "zo.derivative=auto", "--set", "optim.steps=3").stderr
    assert "zo.derivative: auto takes difference, as in the checkpoint" in said


def test_toybox_end_to_end(tmp_path):
    """Learn, then draw with the learned word, all on the CUDA device. Four steps of drawing are enough: those of a run's own
    pictures are drawn by the smaller model below."""
    config, output = write_recipe(tmp_path, optim__steps=6, output__prompts=[], device="cuda")
    done = run(cuda_program("zoodip"), "train", config, timeout=1200)
    assert "cuda (GPU 0" in done.stderr
    lines = metrics(output)
    assert len(lines) == 6
    # only a few steps, but they go the right way on draws that never change
    assert lines[-1]["validation_loss"] < lines[0]["validation_start"]
    for name in ("learned_embeds.safetensors", "loss.png", "grid.png", "report.html"):
        assert (output / name).stat().st_size > 0
    drawn = tmp_path / "drawn.png"
    run(cuda_program("zoodip"), "generate", "--model", TOYBOX / "model", "--embedding", output / "learned_embeds.safetensors",
        "--prompt", "a photo of a sks", "--steps", 4, "--output", drawn)
    assert drawn.stat().st_size > 0


# -------------------------------------------------------------------------------- noise

N = 128 if ON_GPU else 48 if NIGHTLY else 8  # the stand-in needs half a second for each evaluation


def slopes(output, line):
    losses = torch.tensor(metrics(output)[line]["losses"], dtype=torch.float64)
    return (losses[1:] - losses[0]) / 1e-3


def test_slopes_are_signal_not_rounding(tmp_path, record_property):
    """The rms error of (L_i - L_0) / eps relative to its rms, over N directions at the initializer and N at a learned word. The
    CPU's float losses serve as the truth: tests/test_noise.py holds them against float64 (below 1 %)."""
    keys = dict(zo__n=N, zo__derivative="difference", optim__steps=9, output__checkpoint_every=1, output__checkpoint_keep=0, output__prompts=[])
    config, there = write_recipe(tmp_path / "cpu", **keys, device="cpu")
    run(program("zoodip"), "train", config, threads=2)

    def at_the_initializer():
        config, here = write_recipe(tmp_path / "first", **{**keys, "optim__steps": 1}, device="cuda")
        run(cuda_program("zoodip"), "train", config, timeout=1500)
        return slopes(here, 0), slopes(there, 0)

    def at_a_learned_word():
        config, here = write_recipe(tmp_path / "last", **keys, device="cuda")
        (here / "checkpoints").mkdir(parents=True)
        shutil.copy(there / "checkpoints" / "step-8.safetensors", here / "checkpoints")
        run(cuda_program("zoodip"), "train", config, "--resume", timeout=1500)
        return slopes(here, -1), slopes(there, 8)

    with ThreadPoolExecutor() as pool:
        pairs = [job.result() for job in [pool.submit(at_the_initializer), pool.submit(at_a_learned_word)]]
    ratios = [((ours - exact).square().mean() / exact.square().mean()).sqrt().item() for ours, exact in pairs]
    record_property("noise", ratios)
    print("noise in the slopes, at the initializer and at a learned word:", [f"{100 * r:.2f} %" for r in ratios])
    assert max(ratios) < 0.05


# -------------------------------------------------------------------------------- memory

def planned_and_taken(stderr):
    found = re.search(r"GPU memory: (\d+) bytes planned, (\d+) taken", stderr)
    assert found, stderr
    return int(found[1]), int(found[2])


PLANNED = {"plain": dict(), "lanes": dict(zo__n=5, optim__batch_size=2), "4 bits": dict(quant__bits=4), "16 bits": dict(quant__bits=16),
           "samples": dict(output__sample_every=2), "vectors": dict(token__vectors=3),
           "bf16": dict(quant__bits=16, quant__activations="bf16"), "fast": FAST}


@pytest.mark.parametrize("case", slice_of(list(PLANNED), 2))
def test_memory_is_as_planned_to_the_byte(tiny, tmp_path, case):
    config, _ = tiny(**PLANNED[case])
    report = tmp_path / "report.json"
    done = run(cuda_program("zoodip"), "train", config, env={"ZOODIP_STANDIN_REPORT": str(report)})
    planned, taken = planned_and_taken(done.stderr)
    assert planned == taken
    assert json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"]["bytes"] == planned
    if not ON_GPU:  # the sum of all allocations, by the driver's count
        used = json.loads(report.read_text())
        assert used["device"]["peak"] == planned
        assert used["leaks"] == 0


@pytest.mark.parametrize("bits,most", [(8, 1.15e9), (4, 0.72e9)])
def test_stable_diffusion_fits_into_what_was_promised(tmp_path, bits, most):
    config, _ = write_recipe(tmp_path, model=str(write_model(tmp_path / "sd15", empty=True)), data__resolution=512, zo__n=1, quant__bits=bits)
    plan = json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"]
    assert plan.keys() == {"derivative", "bytes", "encode pictures", "train", "draw pictures"}
    assert plan["bytes"] <= most


def drawing_memory(model, latent_side, factor, output, **env):
    """Draws two pictures; the bytes of both halves."""
    side = latent_side * factor
    done = run(cuda_program("zoodip"), "generate", "--model", model, "--prompt", "a toy", "--steps", 1, "--count", 2, "--size",
               f"{side}x{side}", "--output", output / "toy.png", env=env)
    found = re.search(r"(\d+) bytes planned, (\d+) taken: (\d+) to draw latents, (\d+) to decode them", done.stderr)
    assert found, done.stderr
    planned, taken, drawing, decoding = map(int, found.groups())
    assert planned == taken == max(drawing, decoding)
    return drawing, decoding


@pytest.fixture
def mixed(random_models, tmp_path):
    """The model `plain` with the larger VAE of `deep`, which makes drawing take more than training."""
    model = shutil.copytree(random_models("plain"), tmp_path / "mixed", ignore=lambda folder, names: {"vae"} & set(names))
    shutil.copytree(random_models("deep") / "vae", model / "vae")
    return model


def test_unet_and_vae_are_never_in_memory_together(random_models, mixed, tmp_path):
    """Drawing takes the same memory with another VAE, decoding the same with another UNet, and the larger half is the peak."""
    report = tmp_path / "report.json"
    of_plain = drawing_memory(random_models("plain"), 4, 2, tmp_path, ZOODIP_STANDIN_REPORT=str(report))
    of_mixed, of_deep = (drawing_memory(model, 4, 4, tmp_path) for model in (mixed, random_models("deep")))
    assert of_mixed[0] == of_plain[0] != of_deep[0]
    assert of_mixed[1] == of_deep[1] != of_plain[1]
    if not ON_GPU:
        used = json.loads(report.read_text())
        assert used["device"]["peak"] == max(of_plain) and used["leaks"] == 0


def planned_for_bench(config):
    """It draws no pictures, so their memory does not count."""
    plan = json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"]
    needed = max(plan["encode pictures"]["bytes"], plan["train"]["bytes"])
    assert plan["draw pictures"]["bytes"] > needed
    return needed


def test_bench_takes_what_it_planned(tiny, mixed):
    config, _ = tiny(model=str(mixed))
    done = run(cuda_program("zoodip"), "bench", config, "--set", "output.sample_every=1", "--evaluations", 1)
    planned = planned_for_bench(config)
    said = json.loads(done.stdout)
    assert said["device_bytes"] == planned
    assert said["driver_bytes"] > said["weights_bytes"] + said["arena_bytes"]
    assert f"GPU memory: {planned / 1e6:.1f} MB planned" in done.stderr


# -------------------------------------------------------------------------------- faults

standin_only = pytest.mark.skipif(ON_GPU, reason="asks the stand-in to misbehave")


@standin_only
def test_a_step_is_one_graph_with_a_copy_before_and_one_after_it(tiny, tmp_path):
    """By the calls of 13 steps and of 3; the host waits once, and then copies what kernels have to say of bad contents."""
    calls = []
    for steps in (3, 13):
        config, _ = tiny(str(steps), optim__steps=steps, zo__tau=100, output__prompts=[], output__checkpoint_every=0)
        report = tmp_path / f"report-{steps}.json"
        run(cuda_program("zoodip"), "train", config, env={"ZOODIP_STANDIN_REPORT": str(report)})
        calls.append(json.loads(report.read_text())["calls"])
    a_step = {name: (calls[1][name] - calls[0].get(name, 0)) / 10 for name in calls[1]}
    assert {name: count for name, count in a_step.items() if count} == {
        "cudaGraphLaunch": 1, "cudaMemcpy2DAsync": 2, "cudaMemcpyAsync": 1, "cudaStreamSynchronize": 1}


@standin_only
def test_too_little_memory_is_reported_before_any_work(tiny):
    config, output = tiny()
    needed = json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"]["bytes"]
    done = run(cuda_program("zoodip"), "train", config, check=False, env={"ZOODIP_STANDIN_MEMORY": str(needed - 1)})
    assert done.returncode == 2
    assert "are free; lower data.resolution, zo.n or optim.batch_size" in done.stderr
    assert not output.exists()


@standin_only
def test_a_bench_too_large_for_the_memory_is_refused(tiny, mixed):
    config, _ = tiny(model=str(mixed))
    needed = planned_for_bench(config)
    bench = [cuda_program("zoodip"), "bench", config, "--evaluations", 1]
    done = run(*bench, check=False, env={"ZOODIP_STANDIN_MEMORY": str(needed - 1)})
    assert done.returncode == 2 and "are free; lower data.resolution" in done.stderr and not done.stdout
    run(*bench, env={"ZOODIP_STANDIN_MEMORY": str(needed)})


def test_weighed_prompts_of_several_chunks_are_planned_and_drawn_as_on_the_cpu(random_models, tmp_path):
    options = ["generate", "--model", random_models("plain"), "--prompt-syntax", "a1111", "--prompt", "a (red:1.3) toy, " * 20, "--negative", "[dark]",
               "--steps", 1, "--size", "16x16"]
    done = run(cuda_program("zoodip"), *options, "--output", tmp_path / "cuda.png")
    planned, taken = map(int, re.search(r"(\d+) bytes planned, (\d+) taken", done.stderr).groups())
    assert planned == taken
    run(program("zoodip"), *options, "--device", "cpu", "--output", tmp_path / "cpu.png")
    ours, theirs = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("cuda.png", "cpu.png"))
    assert theirs.std() > 5 and abs(ours - theirs).max() <= 1


@standin_only
def test_pictures_too_large_for_the_memory_are_refused(random_models, tmp_path):
    drawing, decoding = drawing_memory(random_models("plain"), 4, 2, tmp_path / "first")
    draw = [cuda_program("zoodip"), "generate", "--model", random_models("plain"), "--prompt", "a toy", "--steps", 1, "--count", 2,
            "--size", "8x8", "--output", tmp_path / "toy.png"]
    needed = max(drawing, decoding)
    done = run(*draw, check=False, env={"ZOODIP_STANDIN_MEMORY": str(needed - 1)})
    assert done.returncode == 2 and "are free; lower --size" in done.stderr
    assert not list(tmp_path.glob("toy*.png"))
    run(*draw, env={"ZOODIP_STANDIN_MEMORY": str(needed)})
    assert len(list(tmp_path.glob("toy*.png"))) == 2


@standin_only
@pytest.mark.parametrize("env,said", [({"ZOODIP_STANDIN_DEVICES": "0"}, "no GPU is visible"),
                                      ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES"),
                                      ({"ZOODIP_STANDIN_DRIVER": "11080"}, "update the driver")])
def test_without_a_usable_gpu_auto_takes_the_cpu_and_says_why(tiny, env, said):
    config, _ = tiny(device="auto", output__prompts=[])
    done = run(cuda_program("zoodip"), "train", config, env=env)
    assert said in done.stderr and "zoodip: cpu (" in done.stderr
    config, _ = tiny("insisting", device="cuda")
    done = run(cuda_program("zoodip"), "train", config, env=env, check=False)
    assert done.returncode == 2 and said in done.stderr


@standin_only
@pytest.mark.parametrize("derivative", slice_of(["difference", "tangent"], 2))
def test_a_call_that_fails_at_any_moment_ends_the_run_in_one_line(tiny, derivative):
    """The k-th call fails, for k spread over the run and all k of its beginning and end, a third of them a day: one line, no leak, no
    broken checkpoint."""
    def train(config, *options, **env):
        report = config.with_name("report.json")
        report.unlink(missing_ok=True)
        done = run(cuda_program("zoodip"), "train", config, *options, check=False,
                   env={"ZOODIP_STANDIN_REPORT": str(report), **env})
        return done, json.loads(report.read_text())

    def checkpoints(output):
        return {p.name: p.read_bytes() for p in (output / "checkpoints").glob("step-*")}

    changes = dict(output__checkpoint_keep=0, output__prompts=[], zo__derivative=derivative, quant__tangents=8)
    config, output = tiny("whole", **changes)
    done, used = train(config)
    assert done.returncode == 0
    whole, good, calls = learned(output), checkpoints(output), used["fallible"]
    assert len(good) == 3

    def fail_each(name, numbers):
        """One after the other in a folder, where each finds what the one before has left."""
        config, output = tiny(name, **changes)
        for k in numbers:
            done, used = train(config, "--overwrite", ZOODIP_STANDIN_FAIL=str(k))
            lines = [line for line in done.stderr.splitlines() if line.startswith("zoodip: ")]
            if done.returncode == 0:  # memory was freed, and nothing depended on it any more
                assert learned(output) == whole
            else:
                assert done.returncode in (1, 2), (k, done.stderr)
                assert re.search(r"cuda|op_|group_|layer_norm|attend|copy|embed|loss|encode|round_|largest|gather_|squares", lines[-1]), (k, done.stderr)
            assert checkpoints(output).items() <= good.items(), k  # each is complete and correct, or missing
            assert used["leaks"] == 0 and used["faults"] == 0, (k, used, done.stderr)
            assert "Sanitizer" not in done.stderr
        done, _ = train(config, "--resume")  # from the checkpoint that the last failure left, if any
        assert done.returncode == 0 and learned(output) == whole

    numbers = slice_of([*range(1, 26), *range(26, calls - 15, max(1, calls // 40)), *range(calls - 15, calls + 1)], 3)
    with ThreadPoolExecutor() as pool:
        list(pool.map(fail_each, ["even", "odd"], [numbers[::2], numbers[1::2]]))
