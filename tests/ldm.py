"""Makes the single file of a diffusers folder, under the names of the code that Stable Diffusion was trained with, as diffusers'
scripts/convert_diffusers_to_original_stable_diffusion.py does; and what diffusers itself makes of such a file."""
import json
import re
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

RESNET = [("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("norm2", "out_layers.0"), ("conv2", "out_layers.3"),
          ("time_emb_proj", "emb_layers.1"), ("conv_shortcut", "skip_connection")]
OPEN_CLIP = [("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
             ("self_attn.out_proj", "attn.out_proj")]


def part(folder, name):
    return load_file(next(Path(folder, name).glob("*.safetensors")))


def renamed(name, pairs):
    for new, old in pairs:
        name = re.sub(rf"(^|\.){re.escape(new)}(?=\.)", lambda m: m.group(1) + old, name)
    return name


def unet_names(config):
    """{start of a diffusers name: start of an LDM name}"""
    blocks = len(config["block_out_channels"])
    layers = config["layers_per_block"]
    layers = layers if isinstance(layers, list) else [layers] * blocks
    starts = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
              "conv_norm_out": "out.0", "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0",
              "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2"}
    at = 1
    for b in range(blocks):
        for i in range(layers[b]):
            starts[f"down_blocks.{b}.resnets.{i}"], starts[f"down_blocks.{b}.attentions.{i}"] = f"input_blocks.{at}.0", f"input_blocks.{at}.1"
            at += 1
        starts[f"down_blocks.{b}.downsamplers.0.conv"] = f"input_blocks.{at}.0.op"
        at += 1
    at = 0
    for b in range(blocks):
        cross = config["up_block_types"][b].startswith("Cross")
        for i in range(layers[blocks - 1 - b] + 1):
            starts[f"up_blocks.{b}.resnets.{i}"], starts[f"up_blocks.{b}.attentions.{i}"] = f"output_blocks.{at}.0", f"output_blocks.{at}.1"
            at += 1
        starts[f"up_blocks.{b}.upsamplers.0.conv"] = f"output_blocks.{at - 1}.{2 if cross else 1}.conv"
    return starts


def unet_to_ldm(tensors, config):
    starts, out = unet_names(config), {}
    for name, t in tensors.items():
        start = max((s for s in starts if name.startswith(s + ".")), key=len)
        rest = name[len(start):]
        out["model.diffusion_model." + starts[start] + (renamed(rest, RESNET) if ".resnets." in start else rest)] = t
    return out


def vae_to_ldm(tensors, config):
    blocks, out = len(config["block_out_channels"]), {}
    for name, t in tensors.items():
        name = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{blocks - 1 - int(m.group(1))}.", name).replace("down_blocks.", "down.")
        name = re.sub(r"(up|down)\.(\d+)\.resnets\.", r"\1.\2.block.", name)
        name = name.replace("downsamplers.0.conv", "downsample.conv").replace("upsamplers.0.conv", "upsample.conv")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m.group(1)) + 1}", name)
        attention = "mid_block.attentions.0" in name
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for new, old in [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"),
                         ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut")]:
            name = renamed(name, [(new, old)])
        out["first_stage_model." + name] = t[:, :, None, None] if attention and t.dim() == 2 else t
    return out


def clip_to_ldm(tensors, text_model="text_model."):
    out = {"cond_stage_model.transformer." + text_model + name.removeprefix("text_model."): t for name, t in tensors.items()}
    out[f"cond_stage_model.transformer.{text_model}embeddings.position_ids"] = torch.arange(77)[None]
    return out


def open_clip_to_ldm(tensors, last=True):
    """With OpenCLIP's last layer, of which Stable Diffusion 2.x takes the input."""
    out, layers = {}, 0
    tensors = {name.removeprefix("text_model."): t for name, t in tensors.items()}
    for name, t in tensors.items():
        name = name.replace("embeddings.token_embedding", "token_embedding").replace("embeddings.position_embedding.weight", "positional_embedding")
        name = name.replace("final_layer_norm", "ln_final").replace("encoder.layers.", "transformer.resblocks.")
        if "q_proj" in name:
            rows = [tensors[name.replace("transformer.resblocks.", "encoder.layers.").replace("q_proj", k)] for k in ("q_proj", "k_proj", "v_proj")]
            kind = name.rsplit(".", 1)[1]
            name, t = name.replace(f"self_attn.q_proj.{kind}", f"attn.in_proj_{kind}"), torch.cat(rows)
        elif "k_proj" in name or "v_proj" in name:
            continue
        layers = max(layers, 1 + int((re.search(r"resblocks\.(\d+)", name) or ["", -1])[1]))
        out["cond_stage_model.model." + renamed(name, OPEN_CLIP)] = t
    if last:
        out |= {name.replace(f"resblocks.{layers - 1}.", f"resblocks.{layers}."): torch.randn_like(t)
                for name, t in out.items() if f"resblocks.{layers - 1}." in name}
    out["cond_stage_model.model.text_projection"] = torch.eye(tensors["final_layer_norm.weight"].shape[0])
    out["cond_stage_model.model.logit_scale"] = torch.tensor(1.0)
    return out


def to_single_file(folder, path, second=False, metadata=None, change=lambda tensors: None, **options):
    """The folder's parts in one file, with what else such files hold."""
    config = {p: json.loads(Path(folder, p, "config.json").read_text()) for p in ("unet", "vae")}
    tensors = unet_to_ldm(part(folder, "unet"), config["unet"]) | vae_to_ldm(part(folder, "vae"), config["vae"])
    tensors |= (open_clip_to_ldm if second else clip_to_ldm)(part(folder, "text_encoder"), **options)
    tensors |= {"alphas_cumprod": torch.linspace(1, 0, 1000), "model_ema.decay": torch.tensor(0.9999)}
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=metadata)
    return path


def from_diffusers(path, folder):
    """diffusers' own conversion of the file, with the settings of a folder: its parts' state dicts."""
    from diffusers.loaders import single_file_utils as utils
    from types import SimpleNamespace

    tensors = load_file(path)
    config = {p: json.loads(Path(folder, p, "config.json").read_text()) for p in ("unet", "vae", "text_encoder")}
    parts = {"unet": utils.convert_ldm_unet_checkpoint(dict(tensors), config["unet"]),
             "vae": utils.convert_ldm_vae_checkpoint(dict(tensors), config["vae"])}
    if "cond_stage_model.model.ln_final.weight" in tensors:
        text = SimpleNamespace(config=SimpleNamespace(hidden_size=config["text_encoder"]["hidden_size"]))
        parts["text_encoder"] = utils.convert_open_clip_checkpoint(text, tensors)
    else:
        parts["text_encoder"] = utils.convert_ldm_clip_checkpoint(tensors)
    return parts


def write_shapes(path, shapes, metadata=None, dtype="F16", size=2):
    """A safetensors file of zeros that takes no room on the disk: {name: shape}."""
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, shape in shapes.items():
        end = at + size * int(np.prod(shape, dtype=object))
        header[name], at = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}, end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


def shapes_of(path):
    """{name: shape} of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118: no mapping
