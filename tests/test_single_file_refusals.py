"""Files that are no Stable Diffusion 1.x or 2.x in one piece: each is refused in one line that says what it is, what is missing or what
to do, whatever is wrong with it; and the settings that follow from the shapes of the published models."""
import json
import random

import pytest
import torch

from conftest import SD15, make_model, program, refused, run, slice_of, write_recipe
from ldm import clip_to_ldm, open_clip_to_ldm, shapes_of, to_single_file, unet_to_ldm, vae_to_ldm, write_shapes
from test_single_file import FIRST, WORDS

NEEDS = "peers"
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
IN = UNET + "input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """{name: shape} of a small checkpoint."""
    root = tmp_path_factory.mktemp("sound")
    return shapes_of(to_single_file(make_model(root / "folder", FIRST, "float16"), root / "x.safetensors"))


def look(path, *more):
    """Its settings and the shapes of all its weights, without a step."""
    return run(program("zoodip"), "generate", "--model", path, "--tokenizer", WORDS, "--prompt", "a toy", "--output", path.with_suffix(".png"),
               *more, check=False)


def told(done, *words):
    """Exit 2, and a last line with these words."""
    assert done.returncode == 2, done.stderr
    for word in words:
        assert word in done.stderr.splitlines()[-1], done.stderr
    assert done.stderr.count("\n") <= 2, done.stderr


def test_the_small_checkpoint_itself_is_taken(sound, tmp_path):
    assert look(write_shapes(tmp_path / "x.safetensors", sound), "--steps", "1", "--size", "64x64").returncode == 0


# ---------------------------------------------------------------- other kinds

OTHERS = {
    "SDXL": (
        lambda s: {"conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": [8], "conditioner.embedders.1.model.ln_final.bias": [8]},
        "a Stable Diffusion XL checkpoint"),
    "SDXL refiner": (lambda s: {"conditioner.embedders.0.model.ln_final.bias": [8]}, "a Stable Diffusion XL refiner"),
    "SD 3": (lambda s: {UNET + "joint_blocks.0.x_block.attn.qkv.weight": [8, 8]}, "a Stable Diffusion 3 checkpoint"),
    "Flux": (lambda s: {"double_blocks.0.img_attn.qkv.weight": [8, 8]}, "a Flux checkpoint"),
    "Flux with prefix": (lambda s: {UNET + "double_blocks.0.img_attn.qkv.weight": [8, 8]}, "a Flux checkpoint"),
    "another transformer": (lambda s: {UNET + "layers.0.attention.qkv.weight": [8, 8]}, "diffusion transformer"),
    "LoRA of kohya": (lambda s: {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": [4, 8]}, "a LoRA"),
    "LoRA of diffusers": (lambda s: {"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": [4, 8]}, "a LoRA"),
    "VAE": (lambda s: {k: v for k, v in s.items() if k.startswith(VAE)}, "a VAE alone"),
    "VAE without prefix": (lambda s: {k.removeprefix(VAE): v for k, v in s.items() if k.startswith(VAE)}, "a VAE alone"),
    "embedding of diffusers": (lambda s: {"<mug>": [768]}, "a learned embedding"),
    "embedding of a1111": (lambda s: {"emb_params": [2, 768]}, "a learned embedding"),
    "ControlNet": (lambda s: {"control_model.input_blocks.0.0.weight": [8, 4, 3, 3]}, "a ControlNet"),
    "ControlNet of diffusers": (lambda s: {"controlnet_cond_embedding.conv_in.weight": [8, 3, 3, 3], "down_blocks.0.resnets.0.norm1.bias": [8]},
        "a ControlNet"),
    "UNet of a folder": (lambda s: {"conv_in.weight": [8, 4, 3, 3], "down_blocks.0.resnets.0.norm1.bias": [8]}, "a UNet alone"),
    "text encoder of a folder": (lambda s: {"text_model.final_layer_norm.bias": [8], "text_model.embeddings.token_embedding.weight": [9, 8]},
        "a text encoder alone"),
    "nothing": (lambda s: {}, "no checkpoint of a model"),
    "something": (lambda s: {f"x{i}.weight": [3, 3, 3] for i in range(9)}, "no checkpoint of a model"),
    "inpainting": (lambda s: {**s, IN: [32, 9, 3, 3]}, "an inpainting checkpoint"),
    "depth2img": (lambda s: {**s, IN: [32, 5, 3, 3]}, "a depth2img checkpoint"),
    "upscaler": (lambda s: {**s, IN: [32, 7, 3, 3]}, "an upscaler"),
    "pix2pix": (lambda s: {**s, IN: [32, 8, 3, 3]}, "an InstructPix2Pix checkpoint"),
    "unCLIP": (lambda s: {**s, UNET + "label_emb.0.0.weight": [8, 8]}, "unCLIP"),
    "no text encoder": (lambda s: {k: v for k, v in s.items() if not k.startswith("cond_stage")}, "has no text encoder (cond_stage_model.*)"),
    "no VAE": (lambda s: {k: v for k, v in s.items() if not k.startswith(VAE)}, "has no VAE (first_stage_model.*)"),
    "UNet alone": (lambda s: {k: v for k, v in s.items() if k.startswith(UNET)}, "no text encoder (cond_stage_model.*) and no VAE"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_refused_by_name(sound, tmp_path, kind):
    make, says = OTHERS[kind]
    path = write_shapes(tmp_path / "x.safetensors", make(sound))
    told(look(path), "--model: ", str(path), says)


def test_train_quantize_and_inspect_say_the_same(sound, tmp_path):
    path = write_shapes(tmp_path / "x.safetensors", OTHERS["inpainting"][0](sound))
    config, output = write_recipe(tmp_path, model=str(path))
    refused(run(program("zoodip"), "train", config, check=False), f"{config}: model: ", "an inpainting checkpoint")
    assert not output.exists()
    refused(run(program("zoodip"), "quantize", "--model", path, "--output", tmp_path / "q", check=False), "an inpainting checkpoint")
    assert not (tmp_path / "q").exists()
    assert "not a model: " in run(program("zoodip"), "inspect", path).stdout.splitlines()[-1]


@pytest.mark.parametrize("end", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickled_files_are_refused_with_what_converts_them(tmp_path, end):
    path = tmp_path / f"model{end}"
    path.write_bytes(b"PK\3\4" + bytes(100))
    told(look(path), str(path), "is pickled", f'StableDiffusionPipeline.from_single_file("{path}").save_pretrained("FOLDER")')


def test_other_files_and_none(tmp_path):
    pointer = tmp_path / "lfs.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 4265146304\n")
    told(look(pointer), "git lfs pull")
    told(look(tmp_path / "none.safetensors"), "no such file")
    (tmp_path / "pickled.safetensors").write_bytes(b"PK\3\4" + bytes(100))
    told(look(tmp_path / "pickled.safetensors"), "is pickled")


# ---------------------------------------------------------------- damaged ones

DAMAGE = {
    "no middle": (lambda s: {k: v for k, v in s.items() if ".middle_block.1." not in k}, "middle_block.1"),
    "no downsampler": (lambda s: {k: v for k, v in s.items() if "input_blocks.2.0.op" not in k}, "input_blocks.2.0"),
    "a resnet less": (lambda s: {k: v for k, v in s.items() if ".output_blocks.3." not in k}, "output_blocks"),
    "no norm": (lambda s: {k: v for k, v in s.items() if k != UNET + "out.0.bias"}, "out.0.bias: is missing"),
    "no text layer's bias": (lambda s: {k: v for k, v in s.items() if k != TEXT + "encoder.layers.1.mlp.fc1.bias"},
        "layers.1.mlp.fc1.bias: is missing"),
    "no VAE attention": (lambda s: {k: v for k, v in s.items() if k != VAE + "decoder.mid.attn_1.q.weight"},
        "decoder.mid.attn_1.q.weight: is missing"),
    "attention in a VAE's block": (lambda s: {**s, VAE + "encoder.down.1.attn.0.q.weight": [48, 48, 1, 1]}, "encoder.down.1.attn"),
    "flat convolution": (lambda s: {**s, UNET + "input_blocks.1.0.in_layers.2.weight": [32 * 32 * 9]}, "input_blocks.1.0.in_layers.2.weight"),
    "a scalar": (lambda s: {**s, UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight": []}, "attn2.to_k.weight"),
    "other channels": (lambda s: {**s, UNET + "input_blocks.3.0.in_layers.2.weight": [40, 32, 3, 3]}, "shape"),
    "no channels": (lambda s: {**s, UNET + "input_blocks.1.0.in_layers.2.weight": [0, 32, 3, 3]}, "block_out_channels"),
    "another width": (lambda s: {**s, TEXT + "embeddings.token_embedding.weight": [1571, 96]},
        "cross_attention_dim: 128, but the text encoder is 96 wide"),
    "a huge number": (lambda s: {**s, UNET + "input_blocks.99999999999999999999.0.op.weight": [1]}, "input_blocks"),
    "many layers": (lambda s: {**s, TEXT + "encoder.layers.5000.mlp.fc1.bias": [1]}, "layers"),
    "deep": (lambda s: {**s, UNET + "input_blocks.1.1.transformer_blocks.400.norm1.bias": [1]}, "transformer_blocks"),
    "a bad table": (lambda s: {**s, TEXT + "embeddings.position_embedding.weight": [0, 128]}, "max_position_embeddings"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints_are_refused_in_one_line(sound, tmp_path, damage):
    make, says = DAMAGE[damage]
    told(look(write_shapes(tmp_path / "x.safetensors", make(sound))), says)


@pytest.mark.parametrize("seed", slice_of(range(60), 6))
def test_mutations_end_in_success_or_one_line(sound, tmp_path, seed):
    draw, shapes = random.Random(seed), dict(sound)
    for _ in range(draw.randint(1, 4)):
        name = draw.choice(list(shapes))
        shape = list(shapes.pop(name))
        if draw.random() < 0.7:
            kind = draw.randrange(5)
            if kind == 0 and shape:
                shape[draw.randrange(len(shape))] = draw.choice([0, 1, 2, 3, 64, 1 << 20])
            shape = [[*shape, 1], shape[1:], [1] * 8, shape[::-1], shape][kind]
            if kind != 4:
                shapes[name] = shape if torch.Size(shape).numel() < 1 << 32 else [1]
            else:
                shapes[name.replace("0", draw.choice(["1", "7", "100", "x", "-1"]), 1)] = shape
    done = look(write_shapes(tmp_path / "x.safetensors", shapes), "--steps", "1", "--size", "8x8")
    if done.returncode != 0:
        told(done)


def test_numbers_that_are_not_finite_are_named(tmp_path):
    def spoil(tensors):
        tensors[VAE + "decoder.conv_in.bias"][0] = float("nan")
    path = to_single_file(make_model(tmp_path / "folder", FIRST, "float16"), tmp_path / "x.safetensors", change=spoil)
    told(look(path, "--size", "64x64"), str(path), "decoder.conv_in.bias", "not a number")


# ---------------------------------------------------------------- the published models

SD21 = dict(
    text=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu", vocab_size=49408),
    unet=dict(SD15["unet"], attention_head_dim=(5, 10, 20, 20), use_linear_projection=True, sample_size=96), vae=SD15["vae"])


def true_shapes(model):
    """{name: shape} of a checkpoint of true size, without a number of it."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=model["text"]["hidden_size"], **model["unet"])
        vae = AutoencoderKL(latent_channels=4, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, **model["vae"])
        text = CLIPTextModel(CLIPTextConfig(**model["text"]))
    return unet_to_ldm(unet.state_dict(), json.loads(unet.to_json_string())) | vae_to_ldm(vae.state_dict(), vae.config), text.state_dict(), unet


def test_settings_of_the_published_models(tmp_path):
    for name, model in (("1.x", SD15), ("2.x", SD21)):
        tensors, text, unet = true_shapes(model)
        with torch.device("meta"):
            tensors |= (clip_to_ldm if name == "1.x" else open_clip_to_ldm)(text)
        path = write_shapes(tmp_path / "x.safetensors", {k: v.shape for k, v in tensors.items()})
        shown = run(program("zoodip"), "inspect", path, *(["--prediction", "v"] if name == "2.x" else [])).stdout
        assert f"Stable Diffusion {name}" in shown
        for key in ("block_out_channels", "layers_per_block", "attention_head_dim", "cross_attention_dim", "in_channels", "sample_size"):
            assert f"    {key} {json.dumps(unet.config[key], separators=(',', ':'))}\n" in shown, key
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "hidden_act"):
            assert f"    {key} {json.dumps(model['text'][key])}\n" in shown, key
        assert f"{sum(p.numel() for p in unet.parameters())} parameters" in shown
        assert "    block_out_channels [128,256,512,512]\n    layers_per_block 2\n    latent_channels 4\n    scaling_factor 0.18215\n" in shown
