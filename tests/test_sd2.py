"""Stable Diffusion 2.x: its networks, tokenizer, velocity prediction and zero terminal SNR agree with diffusers and transformers, in
small random models whose configs have all the keys that the published ones have."""
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import NIGHTLY, SD21, TOYBOX, make_model, metrics, mpirun, program, run, write_recipe
from test_diffusers import assert_same_picture, draw_both, pipeline
from test_models import compare, error, forward, inputs_for, load
from twin import FrozenModel

NEEDS = "peers"
SUBJECT = TOYBOX / "subjects" / "bear5"

# As stabilityai publishes them, but for the numbers of a shape.
UNET_KEYS = dict(act_fn="silu", center_input_sample=False, downsample_padding=1, dual_cross_attention=False, flip_sin_to_cos=True,
                 freq_shift=0, mid_block_scale_factor=1, norm_eps=1e-5, num_class_embeds=None, only_cross_attention=False,
                 use_linear_projection=True, upcast_attention=True, resnet_time_scale_shift="default", class_embed_type=None)
TEXT_KEYS = dict(architectures=["CLIPTextModel"], attention_dropout=0.0, bos_token_id=0, eos_token_id=2, pad_token_id=1, dropout=0.0,
                 initializer_factor=1.0, initializer_range=0.02, layer_norm_eps=1e-5, model_type="clip_text_model", projection_dim=20,
                 torch_dtype="float32")
VAE_KEYS = dict(act_fn="silu", force_upcast=True, sample_size=768, scaling_factor=0.18215, latents_mean=None, latents_std=None,
                shift_factor=None, use_quant_conv=True, use_post_quant_conv=True, mid_block_add_attention=True)
V_PREDICTION = dict(_class_name="DDIMScheduler", beta_end=0.012, beta_schedule="scaled_linear", beta_start=0.00085, clip_sample=False,
                    num_train_timesteps=1000, prediction_type="v_prediction", set_alpha_to_one=False, skip_prk_steps=True,
                    steps_offset=1, trained_betas=None)
ZERO_SNR = dict(V_PREDICTION, rescale_betas_zero_snr=True, timestep_spacing="trailing")

CROSS, UP_CROSS = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
TEXT = dict(hidden_size=40, intermediate_size=152, num_hidden_layers=3, num_attention_heads=5, hidden_act="gelu")
VAE = dict(block_out_channels=(8, 12, 12), layers_per_block=1, norm_num_groups=4)
SHAPES = {
    "as published": dict(unet=dict(block_out_channels=(20, 40, 80, 80), layers_per_block=2, norm_num_groups=5,
                                   attention_head_dim=(1, 2, 4, 4), down_block_types=(CROSS,) * 3 + ("DownBlock2D",),
                                   up_block_types=("UpBlock2D",) + (UP_CROSS,) * 3)),
    "one block, two deep": dict(unet=dict(block_out_channels=(36,), layers_per_block=1, norm_num_groups=6, attention_head_dim=(3,),
                                          transformer_layers_per_block=2, down_block_types=(CROSS,), up_block_types=(UP_CROSS,))),
    "blocks that differ": dict(unet=dict(block_out_channels=(24, 60), layers_per_block=(2, 1), norm_num_groups=12,
                                         transformer_layers_per_block=(1, 3), attention_head_dim=(2, 5),
                                         down_block_types=(CROSS, CROSS), up_block_types=(UP_CROSS, UP_CROSS))),
    "three blocks": dict(unet=dict(block_out_channels=(12, 44, 52), layers_per_block=1, norm_num_groups=4, attention_head_dim=(1, 11, 13),
                                   transformer_layers_per_block=2, down_block_types=("DownBlock2D", CROSS, CROSS),
                                   up_block_types=(UP_CROSS, UP_CROSS, "UpBlock2D"))),
}


def add_keys(path, keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}, indent=2))


def make_sd2(folder, shape, scheduler, dtype="float32"):
    """Also padded with "!", as SD 2.x's special_tokens_map.json says against its tokenizer_config.json."""
    make_model(folder, dict(text=TEXT, vae=VAE, unet=dict(shape["unet"], use_linear_projection=True)), dtype)
    for part, keys in (("unet", UNET_KEYS), ("text_encoder", TEXT_KEYS), ("vae", VAE_KEYS)):
        add_keys(folder / part / "config.json", keys)
    add_keys(folder / "tokenizer" / "special_tokens_map.json", dict(pad_token="!"))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    add_keys(folder / "model_index.json", dict(scheduler=["diffusers", scheduler["_class_name"]]))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def get(shape="as published", scheduler=V_PREDICTION):
        key = shape, json.dumps(scheduler)
        if key not in made:
            made[key] = make_sd2(tmp_path_factory.mktemp("sd2"), SHAPES[shape], scheduler)
        return made[key]
    return get


@pytest.mark.parametrize("shape", SHAPES)
def test_text_encoder_unet_and_vae(models, tmp_path, shape):
    with torch.no_grad():
        compare(models(shape), tmp_path, inputs_for(models(shape)))


@pytest.mark.skipif(not NIGHTLY, reason="1.2 billion weights")
def test_sd21_at_its_true_size_and_768_pixels(tmp_path, all_threads):
    """Random fp16 weights; one part at a time to save room."""
    g = torch.Generator().manual_seed(3)
    given = dict(input_ids=torch.randint(0, 49408, (2, 77), generator=g, dtype=torch.int32), sample=torch.randn(1, 4, 96, 96, generator=g),
                 timestep=torch.tensor([501], dtype=torch.int32), encoder_hidden_states=torch.randn(1, 77, 1024, generator=g),
                 latent=torch.randn(1, 4, 96, 96, generator=g))
    parts = dict(text_encoder=["input_ids"], unet=["sample", "timestep", "encoder_hidden_states"], vae=["latent"])
    for part, names in parts.items():
        folder = make_model(tmp_path / part, SD21, "float16", parts=(part,))
        ours = forward(folder, tmp_path, {name: given[name] for name in names})
        model = load(folder, part)
        with torch.no_grad():
            if part == "text_encoder":
                theirs = dict(hidden=model(given["input_ids"].long()).last_hidden_state)
            elif part == "unet":
                theirs = dict(noise_pred=model(given["sample"], given["timestep"], given["encoder_hidden_states"]).sample)
            else:
                theirs = dict(image=model.decode(given["latent"]).sample)
        assert all(error(ours[name], value) < 1e-4 for name, value in theirs.items()), part
        shutil.rmtree(folder)


@pytest.mark.parametrize("shape, scheduler, timesteps", [
    ("as published", V_PREDICTION, [0, 1000]), ("as published", ZERO_SNR, [999, 1000]), ("one block, two deep", ZERO_SNR, [500, 1000]),
    ("one block, two deep", dict(ZERO_SNR, prediction_type="epsilon"), [999, 1000])],
    ids=["v", "the last timestep", "zero snr", "the last timestep, noise"])
def test_losses_and_slopes(models, tmp_path, shape, scheduler, timesteps):
    """Of the first steps, at the words that the run had then; at the last timestep the picture is pure noise."""
    folder, steps = models(shape, scheduler), 3
    config, output = write_recipe(tmp_path, model=str(folder), seed=5, quant__bits=32, data__images=str(SUBJECT), data__resolution=32,
                                  token__initializer="toy", zo__n=2, zo__derivative="tangent", zo__timesteps=timesteps,
                                  optim__steps=steps, optim__batch_size=2, output__save_every=1, output__prompts=[])
    run(program("zoodip"), "train", config)
    files = [tmp_path / f"draws-{step}" for step in range(1, steps + 1)]
    run(program("tests/draws"), config, *(word for step, file in enumerate(files, 1) for word in (step, file)))
    model = FrozenModel(folder, SUBJECT.glob("*.png"), "sks", 1, resolution=32)
    word = model.word("toy")[None]
    for step, (line, file) in enumerate(zip(metrics(output), files), 1):
        losses, slopes = model.slopes(word, load_file(file))
        assert torch.allclose(torch.tensor(line["losses"], dtype=torch.float64), losses, rtol=1e-5, atol=0)
        assert (torch.tensor(line["slopes"]).reshape(2, 2) - slopes).abs().max() < 1e-4 * slopes.square().mean().sqrt()
        word = load_file(output / f"learned_embeds-steps-{step}.safetensors")["sks"]


@pytest.mark.parametrize("scheduler, theirs", [("pndm", "PNDMScheduler"), ("ddim", None), ("dpm++", "DPMSolverMultistepScheduler")])
def test_pictures(models, tmp_path, scheduler, theirs):
    pipe = pipeline(models(), theirs)
    assert_same_picture(*draw_both(tmp_path, pipe, "a toy!", width=32, height=48, steps=6, scheduler=scheduler, model=models()))


def test_pictures_from_zero_terminal_snr(models, tmp_path):
    folder = models("three blocks", ZERO_SNR)
    for scheduler, theirs in (("ddim", None), ("euler", "EulerDiscreteScheduler"), ("unipc", "UniPCMultistepScheduler")):
        pictures = draw_both(tmp_path, pipeline(folder, theirs), "a toy", width=32, height=32, steps=5, scheduler=scheduler, model=folder)
        assert_same_picture(*pictures)
    default = tmp_path / "default.png"
    run(program("zoodip"), "generate", "--model", folder, "--prompt", "a toy", "--latents", tmp_path / "latents.safetensors", "--steps", 5,
        "--output", default)
    run(program("zoodip"), "generate", "--model", folder, "--prompt", "a toy", "--latents", tmp_path / "latents.safetensors", "--steps", 5,
        "--scheduler", "DDIM", "--output", tmp_path / "ddim.png")
    assert default.read_bytes() == (tmp_path / "ddim.png").read_bytes()


def test_a_run_draws_with_a_sampler_that_can_begin_at_zero_terminal_snr(models, tmp_path):
    learned = []
    for ranks in (1, 2):
        config, output = write_recipe(tmp_path / str(ranks), model=str(models("three blocks", ZERO_SNR)), data__images=str(SUBJECT),
                                      data__resolution=32, token__initializer="toy", optim__steps=2, output__sample_every=1,
                                      output__sample_steps=3, output__prompts=["a {}"])
        done = mpirun(ranks, program("zoodip"), "train", config)
        assert "by ddim, as pndm cannot begin at zero terminal SNR" in done.stderr and "nan" not in done.stderr.lower()
        learned.append([(output / name).read_bytes() for name in ("learned_embeds.safetensors", "samples/step-1-1.png")])
    assert learned[0] == learned[1]
