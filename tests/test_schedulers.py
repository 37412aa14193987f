"""The noise schedule and the samplers are diffusers' own, made from the same scheduler_config.json by from_config."""
import json
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from conftest import program, run

NEEDS = "peers"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' own warnings, about numpy

# diffusers' class, and what from_config is given for it.
DPM = diffusers.DPMSolverMultistepScheduler
SAMPLERS = {"pndm": (diffusers.PNDMScheduler, {}), "ddim": (diffusers.DDIMScheduler, {}), "euler": (diffusers.EulerDiscreteScheduler, {}),
            "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}), "dpm++": (DPM, {}),
            "dpm++_karras": (DPM, dict(use_karras_sigmas=True)), "dpm++_2m_sde": (DPM, dict(algorithm_type="sde-dpmsolver++")),
            "dpm++_2m_sde_karras": (DPM, dict(algorithm_type="sde-dpmsolver++", use_karras_sigmas=True)),
            "unipc": (diffusers.UniPCMultistepScheduler, {}), "lcm": (diffusers.LCMScheduler, {})}

# Stable Diffusion 1.5's, as it is published.
SD15 = dict(_class_name="PNDMScheduler", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            num_train_timesteps=1000, set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1, trained_betas=None,
            clip_sample=False)
SILENT = {k: v for k, v in SD15.items() if k != "clip_sample"}  # DDIM then clips: its class says so
SCHEDULES = {
    "sd15": SD15,
    "linear": {**SD15, "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "cosine": {**SD15, "beta_schedule": "squaredcos_cap_v2"},
    "short": {**SD15, "num_train_timesteps": 137, "beta_end": 0.05},
    "all defaults": {},
}
COUNT = 48


def folder_of(tmp_path, config):
    folder = tmp_path / "model"
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def peer(kind, config, **swaps):
    """diffusers' scheduler of that class for a model with that config file: from_pretrained, then from_config."""
    own = getattr(diffusers, config.get("_class_name", "PNDMScheduler")).from_config(dict(config))
    return kind.from_config(own.config, **swaps)


def run_bytes(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, check=True).stdout


def helper(folder, tensors, *arguments, check=True):
    source, target = folder / "in.safetensors", folder / "out.safetensors"
    save_file({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in tensors.items()}, source)
    done = run(program("tests/schedule"), folder, source, target, *arguments, check=check)
    return load_file(target) if check else done


def worst(ours, theirs):
    """The largest error of a row, relative to that row's largest value."""
    assert ours.shape == theirs.shape and np.isfinite(ours).all()
    return (np.abs(ours - theirs).max(1) / np.abs(theirs).max(1)).max()


# -------------------------------------------------------------------------------- training


def compare_noise(tmp_path, config, prediction="epsilon", within=1e-6):
    theirs = peer(diffusers.DDPMScheduler, config)
    steps = theirs.config.num_train_timesteps
    generator = torch.Generator().manual_seed(1)
    latent, noise = (torch.randn(steps, COUNT, generator=generator) for _ in range(2))
    ours = helper(folder_of(tmp_path, config), {"latent": latent, "noise": noise})
    t = torch.arange(steps)
    target = theirs.get_velocity(latent, noise, t) if prediction == "v_prediction" else noise
    alphas = theirs.alphas_cumprod.numpy()
    assert np.abs(ours["alphas"][:, 0] - alphas).max() < 1e-6 and ours["alphas"][-1, 0] == pytest.approx(alphas[-1], rel=1e-6, abs=0)
    assert worst(ours["noisy"], theirs.add_noise(latent, noise, t).numpy()) < within
    assert worst(ours["target"], target.numpy()) < within


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_and_target_at_every_timestep(tmp_path, name, prediction):
    compare_noise(tmp_path, {**SCHEDULES[name], "prediction_type": prediction}, prediction)


# -------------------------------------------------------------------------------- sampling


def noise_of(call):
    """What a step adds, by its address: the normals of stream 7 that follow the start latents and earlier steps' noise."""
    seed, step, stream = 3, 0, 7
    out = run_bytes(program("tests/rng"), "normals", seed, step, stream, (call + 1) * COUNT, COUNT)
    return torch.from_numpy(np.frombuffer(out, np.float32).copy())[None]


def walk(scheduler, steps, seed=0, exact=False):
    """diffusers' steps through random network outputs: timesteps, inputs, outputs, samples before and after. exact: with its formulas
    in double precision."""
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    if exact:
        scheduler.sigmas = scheduler.sigmas.double()
    sample = torch.randn(1, COUNT, generator=generator) * scheduler.init_noise_sigma
    rows = {"inputs": [], "outputs": [], "before": [], "after": []}
    for i, t in enumerate(scheduler.timesteps):
        sys.modules[type(scheduler).__module__].randn_tensor = lambda *_, i=i, **__: noise_of(i)
        shown = scheduler.scale_model_input(sample, t)
        output = torch.randn(1, COUNT, generator=generator) + 0.3 * shown
        rows["before"].append(sample)
        sample = scheduler.step(output, t, sample).prev_sample
        for name, row in (("inputs", shown), ("outputs", output), ("after", sample)):
            rows[name].append(row)
    return {"timesteps": np.array([float(t) for t in scheduler.timesteps]),
            **{name: torch.cat(values).numpy() for name, values in rows.items()}}


def compare(tmp_path, sampler, config, steps, within=2e-6, apart=0, exact=False):
    """Step by step, and all steps from the start. apart: how far timesteps between two of the schedule may lie from theirs."""
    kind, swaps = SAMPLERS[sampler]
    scheduler = peer(kind, config, **swaps)
    theirs = walk(scheduler, steps, exact=exact or sampler == "unipc")
    folder = folder_of(tmp_path, config)
    stepwise = helper(folder, {"outputs": theirs["outputs"], "samples": theirs["before"]}, sampler, steps)
    assert np.abs(stepwise["timesteps"][:, 0] - theirs["timesteps"]).max() <= apart
    assert abs(stepwise["init_sigma"].item() / float(scheduler.init_noise_sigma) - 1) < 1e-6
    assert worst(stepwise["inputs"], theirs["inputs"]) < within
    if sampler != "unipc":  # which remembers its steps
        assert worst(stepwise["samples"], theirs["after"]) < within
    alone = helper(folder, {"outputs": theirs["outputs"], "samples": theirs["before"][:1]}, sampler, steps)
    assert worst(alone["samples"], theirs["after"]) < 20 * within, "the errors of the steps add up"


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step(tmp_path, sampler, prediction, steps):
    compare(tmp_path, sampler, {**SD15, "prediction_type": prediction}, steps)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_spacings_and_other_schedules(tmp_path, sampler, spacing):
    for config, steps in ((SD15, 7), (SCHEDULES["linear"], 20), (SCHEDULES["short"], 7)):
        compare(tmp_path, sampler, {**config, "timestep_spacing": spacing}, steps)


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("sampler", ["pndm", "ddim", "euler", "dpm++", "lcm"])
def test_timesteps_of_many_counts(tmp_path, sampler, spacing):
    config = {**SD15, "timestep_spacing": spacing, "original_inference_steps": 1000}
    for steps in (4, 11, 33, 48, 96, 250, 333, 900):
        kind, swaps = SAMPLERS[sampler]
        scheduler = peer(kind, config, **swaps)
        scheduler.set_timesteps(steps)
        calls = len(scheduler.timesteps)
        zeros = np.zeros((calls, 1))
        ours = helper(folder_of(tmp_path, config), {"outputs": zeros, "samples": zeros}, sampler, steps)
        assert np.array_equal(ours["timesteps"][:, 0], scheduler.timesteps.numpy().astype(np.float64)), steps


@pytest.mark.parametrize("changes", [dict(set_alpha_to_one=True), dict(set_alpha_to_one=None), dict(steps_offset=0)], ids=str)
@pytest.mark.parametrize("sampler", ["pndm", "ddim"])
def test_the_last_step(tmp_path, sampler, changes):
    config = {k: v for k, v in {**SD15, **changes}.items() if v is not None}
    compare(tmp_path, sampler, config, 10)


@pytest.mark.parametrize("changes", [dict(), dict(clip_sample=True), dict(clip_sample=True, clip_sample_range=0.5)], ids=str)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddim_clips_where_the_model_does_not_forbid_it(tmp_path, prediction, changes):
    compare(tmp_path, "ddim", {**SILENT, **changes, "prediction_type": prediction}, 20)


@pytest.mark.parametrize("steps", [4, 5, 20])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_pndm_begins_with_runge_kutta_where_the_model_does_not_skip_it(tmp_path, spacing, prediction, steps):
    config = {k: v for k, v in SD15.items() if k != "skip_prk_steps"}
    compare(tmp_path, "pndm", {**config, "prediction_type": prediction, "timestep_spacing": spacing}, steps)


@pytest.mark.parametrize("theirs", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
                                    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
                                    "UniPCMultistepScheduler", "LMSDiscreteScheduler"])
def test_a_model_saved_with_another_scheduler(tmp_path, theirs):
    """Any class may have saved the file, with all its keys; its own settings matter here only if they are ours too."""
    saved = getattr(diffusers, theirs)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    config = json.loads(saved.to_json_string())
    for sampler in SAMPLERS:
        # diffusers itself fails on DEIS's algorithm_type, and on UniPC's last step where lower_order_final is false
        if (theirs, sampler) not in {("DEISMultistepScheduler", "dpm++"), ("DEISMultistepScheduler", "dpm++_karras"),
                                     ("DPMSolverSinglestepScheduler", "unipc")}:
            compare(tmp_path, sampler, config, 12)


@pytest.mark.parametrize("theirs, changes", [
    ("DPMSolverMultistepScheduler", dict(use_karras_sigmas=True)), ("DPMSolverMultistepScheduler", dict(algorithm_type="sde-dpmsolver++")),
    ("DPMSolverMultistepScheduler", dict(solver_order=3)), ("DPMSolverMultistepScheduler", dict(lambda_min_clipped=-5.1)),
    ("EulerDiscreteScheduler", dict(use_karras_sigmas=True)), ("HeunDiscreteScheduler", {}), ("KDPM2AncestralDiscreteScheduler", {}),
    ("LCMScheduler", {}), ("DDIMScheduler", dict(thresholding=True)), ("UniPCMultistepScheduler", dict(solver_order=3)),
    ("DDPMScheduler", dict(trained_betas=list(np.linspace(0.001, 0.02, 1000)))),
    ("PNDMScheduler", dict(trained_betas=list(np.linspace(0.00085**0.5, 0.012**0.5, 1000)**2)))], ids=str)
def test_training_takes_the_noise_of_any_sampler_and_pndm_its_settings(tmp_path, theirs, changes):
    saved = getattr(diffusers, theirs)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **changes)
    config = json.loads(saved.to_json_string())
    compare_noise(tmp_path, config)
    compare(tmp_path, "pndm", config, 12)


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("changes", [
    dict(beta_schedule="sigmoid"), dict(beta_start=-1), dict(beta_end=2), dict(num_train_timesteps=0), dict(num_train_timesteps="many"),
    dict(prediction_type="sample"), dict(timestep_spacing="even"), dict(steps_offset=-1), dict(trained_betas=[0.1] * 999),
    dict(trained_betas=[0.1] * 999 + [1]), dict(trained_betas="many"), dict(use_flow_sigmas=True), dict(rescale_betas_zero_snr="yes"),
    dict(rescale_betas_zero_snr=True, trained_betas=[1e-9] * 1000), dict(_class_name="FlowMatchEulerDiscreteScheduler")],
    ids=lambda c: next(iter(c)))
def test_what_no_model_can_have_is_refused_by_name(tmp_path, changes):
    rows = np.zeros((1, 1))
    done = helper(folder_of(tmp_path, {**SD15, **changes}), {"outputs": rows, "samples": rows}, "ddim", 1, check=False)
    assert done.returncode == 2
    assert f"scheduler_config.json: {next(iter(changes))}" in done.stderr


@pytest.mark.parametrize("config, sampler, steps", [
    (SD15, "pndm", 0), (SD15, "ddim", 1000), ({**SD15, "steps_offset": 1000}, "ddim", 1), ({**SD15, "steps_offset": 900}, "pndm", 2),
    ({**SD15, "skip_prk_steps": False}, "pndm", 3)], ids=str)
def test_steps_that_the_schedule_does_not_have(tmp_path, config, sampler, steps):
    rows = np.zeros((1, 1))
    done = helper(folder_of(tmp_path, config), {"outputs": rows, "samples": rows}, sampler, steps, check=False)
    assert done.returncode == 2 and f"is {steps}, " in done.stderr
