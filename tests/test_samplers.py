"""What a model's scheduler_config.json says to samplers beside the schedule: heeded as diffusers' classes heed it, or refused by name."""
import numpy as np
import pytest

from conftest import refused
from test_generate import generate
from test_schedulers import SAMPLERS, SD15, compare, compare_noise, folder_of, helper, peer

NEEDS = "peers"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' own warnings, about numpy

SIGMA_SAMPLERS = ["euler", "dpm++", "unipc"]
BETWEEN = 1e-3  # timesteps that lie between two of the schedule are found in float logarithms


# -------------------------------------------------------------------------------- sigmas


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("changes", [
    dict(use_karras_sigmas=True), dict(use_exponential_sigmas=True), dict(final_sigmas_type="sigma_min"),
    dict(use_karras_sigmas=True, sigma_min=0.05, sigma_max=12.0), dict(use_karras_sigmas=True, final_sigmas_type="sigma_min")],
    ids=str)
@pytest.mark.parametrize("sampler", SIGMA_SAMPLERS)
def test_sigmas_that_are_spread_in_another_way(tmp_path, sampler, changes, steps):
    for more in (dict(timestep_spacing="leading"), dict(timestep_spacing="trailing", prediction_type="v_prediction")):
        compare(tmp_path, sampler, {**SD15, **more, **changes}, steps, apart=BETWEEN)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("changes", [dict(use_lu_lambdas=True), dict(use_lu_lambdas=True, use_karras_sigmas=True)], ids=str)
def test_lambdas_that_are_spread_evenly(tmp_path, changes, steps):
    compare(tmp_path, "dpm++", {**SD15, **changes}, steps)
    compare(tmp_path, "dpm++_karras", {**SD15, **changes}, steps)


@pytest.mark.parametrize("steps", [2, 20])
@pytest.mark.parametrize("key", ["use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas"])
@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_timesteps_of_sigmas_of_the_cosine_schedule(tmp_path, sampler, key, steps):
    """Several sigmas have the same timestep there, and diffusers' own steps then begin with the second one."""
    config = {**SD15, key: True, "beta_schedule": "squaredcos_cap_v2"}
    scheduler = peer(SAMPLERS[sampler][0], config)
    scheduler.set_timesteps(steps)
    zeros = np.zeros((steps, 1))
    ours = helper(folder_of(tmp_path, config), {"outputs": zeros, "samples": zeros}, sampler, steps)
    assert np.array_equal(ours["timesteps"][:, 0], scheduler.timesteps.numpy())


def test_classes_without_such_sigmas_do_not_heed_them(tmp_path):
    config = {**SD15, "use_karras_sigmas": True, "use_lu_lambdas": True, "final_sigmas_type": "sigma_min", "solver_order": 3,
              "interpolation_type": "log_linear", "algorithm_type": "sde-dpmsolver", "lambda_min_clipped": -5.1}
    for sampler in ("pndm", "ddim", "euler_a", "lcm"):
        compare(tmp_path, sampler, config, 12)


# -------------------------------------------------------------------------------- multistep solvers


@pytest.mark.parametrize("steps", [1, 3, 14, 20])
@pytest.mark.parametrize("changes", [
    dict(solver_order=1), dict(solver_order=3), dict(solver_type="heun"), dict(solver_order=3, final_sigmas_type="sigma_min"),
    dict(lower_order_final=False), dict(solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"),
    dict(euler_at_final=True, final_sigmas_type="sigma_min"), dict(solver_order=3, prediction_type="v_prediction"),
    dict(algorithm_type="sde-dpmsolver++", solver_type="heun"), dict(algorithm_type="sde-dpmsolver++", solver_order=1),
    dict(algorithm_type="sde-dpmsolver++", final_sigmas_type="sigma_min")], ids=str)
def test_dpm_solver_as_the_model_configures_it(tmp_path, changes, steps):
    compare(tmp_path, "dpm++", {**SD15, **changes}, steps, exact=True)


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("changes", [
    dict(solver_order=1), dict(solver_order=3), dict(solver_order=3, prediction_type="v_prediction"),
    dict(solver_type="bh1", final_sigmas_type="sigma_min"), dict(solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min"),
    dict(solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"), dict(solver_type="midpoint")], ids=str)
def test_unipc_as_the_model_configures_it(tmp_path, changes, steps):
    compare(tmp_path, "unipc", {**SD15, **changes}, steps)


@pytest.mark.parametrize("changes", [dict(solver_type="bh1"), dict(lower_order_final=False)], ids=str)
def test_unipc_ends_where_diffusers_divides_by_zero(tmp_path, changes):
    """Of the last step, to sigma 0, only the newest picture is left."""
    rows = np.random.default_rng(0).normal(size=(6, 8))
    ours = helper(folder_of(tmp_path, {**SD15, **changes}), {"outputs": rows, "samples": rows[:1]}, "unipc", 6)
    assert np.isfinite(ours["samples"]).all()


# -------------------------------------------------------------------------------- LCM


@pytest.mark.parametrize("steps", [1, 7, 30])
@pytest.mark.parametrize("changes", [
    dict(), dict(original_inference_steps=100), dict(original_inference_steps=30, timestep_scaling=1.0), dict(clip_sample=True),
    dict(prediction_type="v_prediction", num_train_timesteps=333)], ids=str)
def test_lcm_as_the_model_configures_it(tmp_path, changes, steps):
    compare(tmp_path, "lcm", {**SD15, **changes}, steps)


def test_lcm_has_no_more_steps_than_it_was_distilled_along(tmp_path):
    rows = np.zeros((51, 1))
    done = helper(folder_of(tmp_path, SD15), {"outputs": rows, "samples": rows}, "lcm", 51, check=False)
    assert done.returncode == 2 and "is 51, expected 1 to 50" in done.stderr


# -------------------------------------------------------------------------------- zero terminal SNR

ZERO = {**SD15, "_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
        "prediction_type": "v_prediction"}


@pytest.mark.parametrize("changes", [dict(), dict(prediction_type="epsilon"), dict(beta_schedule="linear"),
                                     dict(beta_schedule="squaredcos_cap_v2"), dict(num_train_timesteps=137, beta_end=0.05),
                                     dict(trained_betas=list(np.linspace(0.001, 0.02, 1000)))], ids=str)
def test_noise_and_target_with_zero_terminal_snr(tmp_path, changes):
    """The last timestep is noise alone, and its target is finite."""
    config = {**ZERO, **changes}
    compare_noise(tmp_path, config, config["prediction_type"], within=2e-5)  # torch's square roots are off by a digit


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "pndm"])
def test_pictures_begin_at_zero_terminal_snr(tmp_path, sampler, steps):
    within = 1e-4 if "euler" in sampler else 5e-6  # whose samples fall from 4096 to 1: diffusers' floats keep that many digits
    compare(tmp_path, sampler, ZERO, steps, within)
    compare(tmp_path, sampler, {**ZERO, "timestep_spacing": "leading", "beta_schedule": "linear"}, steps, within)


@pytest.mark.parametrize("sampler", ["euler", "euler_a", "dpm++", "dpm++_karras", "unipc"])
def test_where_the_network_predicts_noise(tmp_path, sampler):
    compare(tmp_path, sampler, {**ZERO, "prediction_type": "epsilon"}, 12, within=1e-4 if "euler" in sampler else 5e-6)


@pytest.mark.parametrize("sampler, changes, words", [
    ("pndm", dict(), "rescale_betas_zero_snr: true is not supported by pndm"),
    ("ddim", dict(prediction_type="epsilon"), "begins at pure noise"), ("lcm", dict(prediction_type="epsilon"), "begins at pure noise")])
def test_what_cannot_begin_there_says_so(tmp_path, sampler, changes, words):
    rows = np.zeros((9, 1))
    done = helper(folder_of(tmp_path, {**ZERO, **changes}), {"outputs": rows, "samples": rows}, sampler, 8, check=False)
    assert done.returncode == 2 and words in done.stderr


# -------------------------------------------------------------------------------- refusals

# What diffusers' classes heed and these do not know. Training does not sample, and PNDM heeds none of it.
REFUSED = [
    (dict(thresholding=True), ["ddim", "lcm", "dpm++", "unipc"]), (dict(use_beta_sigmas=True), SIGMA_SAMPLERS),
    (dict(use_exponential_sigmas=True, use_karras_sigmas=True), SIGMA_SAMPLERS), (dict(final_sigmas_type="half"), SIGMA_SAMPLERS),
    (dict(use_karras_sigmas="yes"), SIGMA_SAMPLERS), (dict(sigma_min=-1), SIGMA_SAMPLERS), (dict(interpolation_type="log_linear"), ["euler"]),
    (dict(timestep_type="continuous"), ["euler"]), (dict(algorithm_type="sde-dpmsolver"), ["dpm++"]),
    (dict(solver_type="rk4"), ["dpm++", "unipc"]), (dict(solver_order=4), ["dpm++", "unipc"]),
    (dict(solver_order=3, algorithm_type="sde-dpmsolver++"), ["dpm++"]), (dict(lambda_min_clipped=-5.1), ["dpm++"]),
    (dict(predict_x0=False), ["unipc"]), (dict(disable_corrector=[0]), ["unipc"]), (dict(original_inference_steps=0), ["lcm"])]


@pytest.mark.parametrize("changes, samplers", REFUSED, ids=lambda v: next(iter(v)) if isinstance(v, dict) else "")
def test_a_setting_that_a_sampler_heeds_and_does_not_know_is_refused_by_name(tmp_path, changes, samplers):
    config = {**SD15, **changes}
    rows = np.zeros((4, 1))
    for sampler in samplers:
        done = helper(folder_of(tmp_path, config), {"outputs": rows, "samples": rows}, sampler, 1, check=False)
        assert done.returncode == 2 and f"scheduler_config.json: {next(iter(changes))}" in done.stderr, sampler
    compare_noise(tmp_path, config)
    compare(tmp_path, "pndm", config, 3)


# -------------------------------------------------------------------------------- names


@pytest.mark.parametrize("names", [
    ["pndm", "PNDM", "PLMS", "PNDMScheduler"], ["ddim", "DDIM"], ["euler", "Euler", "EulerDiscreteScheduler"],
    ["euler_a", "Euler a", "euler-a", "Euler Ancestral"], ["dpm++", "DPM++ 2M", "dpm++2m", "DPMSolverMultistepScheduler"],
    ["dpm++_karras", "DPM++ 2M Karras", "dpm++2m_karras", "dpm++-2m-karras"], ["dpm++_2m_sde", "DPM++ 2M SDE"],
    ["dpm++_2m_sde_karras", "DPM++ 2M SDE Karras"], ["unipc", "UniPC"], ["lcm", "LCM"]], ids=lambda names: names[0])
def test_samplers_go_by_the_names_that_people_know(tmp_path, names):
    rows = np.random.default_rng(0).normal(size=(6, 8))
    results = [helper(folder_of(tmp_path, SD15), {"outputs": rows, "samples": rows[:1]}, name, 5)["samples"] for name in names]
    assert all(np.array_equal(results[0], other) for other in results)


@pytest.mark.parametrize("name", ["DPM++ SDE", "DPM++ SDE Karras", "DPM++ 2S a", "Heun"])
def test_what_is_another_sampler_elsewhere_is_none_here(tmp_path, name):
    refused(generate("--prompt", "a toy", "--scheduler", name, "--output", tmp_path / "x.png", check=False), "--scheduler", f'"{name}"', "dpm++_2m_sde")
