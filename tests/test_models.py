"""Text encoder, UNet and VAE agree with transformers and diffusers, on random weights in shapes that differ in every
dimension, non-square inputs among them. The reference packages are the installed ones, run here in fp32."""
import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from conftest import NIGHTLY, SD15, SD15_WIDTHS, SHAPES, TOYBOX, make_model, program, run

NEEDS = "peers"
LIMIT = 1e-4


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def forward(folder, tmp_path, inputs, *options, **kw):
    save_file(inputs, tmp_path / "in.safetensors")
    run(program("tests/forward"), folder, tmp_path / "in.safetensors", tmp_path / "out.safetensors", *options, threads=2, **kw)
    return load_file(tmp_path / "out.safetensors")


def error(ours, theirs):
    """Largest difference relative to the largest value."""
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def load(folder, part):
    if part == "text_encoder":
        return CLIPTextModel.from_pretrained(folder / part, dtype=torch.float32).eval()
    kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
    return kind.from_pretrained(folder / part, torch_dtype=torch.float32).eval()


def inputs_for(folder, lanes=3, size=(12, 20), length=77, seed=1):
    g = torch.Generator().manual_seed(seed)
    text, unet = (json.loads((folder / p / "config.json").read_text()) for p in ("text_encoder", "unet"))
    factor = 2 ** (len(json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"]) - 1)
    return dict(
        input_ids=torch.randint(0, text["vocab_size"], (lanes, length), generator=g, dtype=torch.int32),
        sample=torch.randn(lanes, 4, *size, generator=g),
        timestep=torch.randint(0, 1000, (lanes,), generator=g, dtype=torch.int32),
        encoder_hidden_states=torch.randn(lanes, length, unet["cross_attention_dim"], generator=g),
        pixels=torch.rand(2, 3, 3 * factor * 2, 5 * factor, generator=g) * 2 - 1,
        latent=torch.randn(2, 4, 6, 5, generator=g))


def compare(folder, tmp_path, inputs, *options, limit=LIMIT):
    ours = forward(folder, tmp_path, inputs, *options)
    text, unet, vae = (load(folder, p) for p in ("text_encoder", "unet", "vae"))
    moments = vae.encode(inputs["pixels"]).latent_dist.parameters
    theirs = dict(hidden=text(inputs["input_ids"].long()).last_hidden_state,
                  noise_pred=unet(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]).sample,
                  latent_mean=moments.chunk(2, 1)[0], latent_logvar=moments.chunk(2, 1)[1],
                  image=vae.decode(inputs["latent"]).sample)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert error(ours[name], value) < limit, name


@pytest.mark.parametrize("name", SHAPES)
def test_random_models_in_different_shapes(random_models, tmp_path, name):
    folder = random_models(name)
    compare(folder, tmp_path, inputs_for(folder))


@pytest.mark.parametrize("size,lanes", [((8, 8), 1), ((9, 13), 2), ((5, 31), 4), ((16, 6), 5)])
def test_sizes_that_halve_unevenly_and_any_number_of_lanes(random_models, tmp_path, size, lanes):
    folder = random_models("wide")
    compare(folder, tmp_path, inputs_for(folder, lanes, size, seed=7))


def test_short_texts(random_models, tmp_path):
    folder = random_models("plain")
    compare(folder, tmp_path, inputs_for(folder, length=5))


def test_toybox_itself(tmp_path):
    folder = TOYBOX / "model"
    compare(folder, tmp_path, inputs_for(folder, size=(16, 24)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_are_read_exactly(random_models, tmp_path, dtype):
    folder = random_models("deep", dtype)
    compare(folder, tmp_path, inputs_for(folder))


def test_sixteen_bit_weights_round_an_fp32_file(random_models, tmp_path):
    folder = random_models("deep")
    compare(folder, tmp_path, inputs_for(folder), "--bits", "16", limit=5e-3)


def test_sharded_and_variant_files(random_models, tmp_path):
    source = random_models("plain")
    folder = tmp_path / "sharded"
    shutil.copytree(source, folder)
    unet = load(source, "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="40KB")
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").exists()
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    inputs = inputs_for(source)
    a, b = forward(source, tmp_path, inputs), forward(folder, tmp_path, inputs)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_older_layouts(random_models, tmp_path):
    """Text encoder keys with and without "text_model."; the VAE's attention as diffusers named it before 0.17."""
    source = random_models("plain")
    folder = tmp_path / "old"
    shutil.copytree(source, folder)
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    prefix = "text_model."
    other = {k[len(prefix):] if k.startswith(prefix) else prefix + k: v for k, v in tensors.items()}
    save_file(other, path, metadata={"format": "pt"})
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for k, v in load_file(path).items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            k = k.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[k] = v
    save_file(renamed, path, metadata={"format": "pt"})
    inputs = inputs_for(source)
    a, b = forward(source, tmp_path, inputs), forward(folder, tmp_path, inputs)
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("part,key,value", [
    ("unet", "act_fn", "mish"), ("unet", "class_embed_type", "timestep"), ("unet", "addition_embed_type", "text_time"),
    ("unet", "dual_cross_attention", True), ("unet", "resnet_time_scale_shift", "scale_shift"),
    ("unet", "down_block_types", ["SimpleCrossAttnDownBlock2D", "DownBlock2D"]), ("unet", "norm_num_groups", 5),
    ("unet", "attention_head_dim", 3), ("unet", "block_out_channels", []), ("vae", "shift_factor", 0.1),
    ("vae", "act_fn", "relu"), ("vae", "down_block_types", ["AttnDownBlock2D", "DownEncoderBlock2D"]),
    ("text_encoder", "hidden_act", "relu"), ("text_encoder", "model_type", "t5"), ("text_encoder", "num_attention_heads", 7)])
def test_what_is_not_supported_is_refused_by_name(random_models, tmp_path, part, key, value):
    folder = tmp_path / "model"
    shutil.copytree(random_models("plain"), folder)
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    save_file(inputs_for(random_models("plain")), tmp_path / "in.safetensors")
    done = run(program("tests/forward"), folder, tmp_path / "in.safetensors", tmp_path / "out.safetensors", check=False)
    assert done.returncode == 2
    assert f"{part}/config.json" in done.stderr and key in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_sd15_at_its_true_size(tmp_path, all_threads):
    """The text encoder and the UNet of Stable Diffusion 1.5, random fp16 weights, two lanes; one part at a time to save room. On
    most days the UNet has all widths, but fewer layers."""
    for part, inputs in (("text_encoder", ["input_ids"]), ("unet", ["sample", "timestep", "encoder_hidden_states"])):
        folder = make_model(tmp_path / part, SD15 if NIGHTLY else SD15_WIDTHS, "float16", parts=(part,))
        g = torch.Generator().manual_seed(3)
        given = dict(input_ids=torch.randint(0, 49408, (2, 77), generator=g, dtype=torch.int32),
                     sample=torch.randn(2, 4, 24, 16, generator=g), timestep=torch.tensor([501, 899], dtype=torch.int32),
                     encoder_hidden_states=torch.randn(2, 77, 768, generator=g))
        given = {k: given[k] for k in inputs}
        ours = forward(folder, tmp_path, given)
        model = load(folder, part)
        if part == "text_encoder":
            assert error(ours["hidden"], model(given["input_ids"].long()).last_hidden_state) < LIMIT
        else:
            theirs = model(given["sample"], given["timestep"], given["encoder_hidden_states"]).sample
            assert error(ours["noise_pred"], theirs) < LIMIT
        shutil.rmtree(folder)
