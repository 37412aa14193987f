#!/usr/bin/env python3
"""Writes a diffusers folder of Stable Diffusion 1.5's true size with random weights in fp16, in plain Python, so that speed and
memory can be measured without the model or PyTorch.

    python3 tests/gpu/model.py FOLDER        2.1 GB; tokenizer and scheduler are toybox's

Numbers are uniform within +-1 / sqrt(inputs), as PyTorch initializes such layers, from one short sequence, repeated with a period
that no layer's width shares. The text encoder keeps all of its 49,408 rows although toybox's tokenizer is smaller.
"""
import json
import random
import shutil
import struct
import sys
from pathlib import Path

TOYBOX = Path(__file__).resolve().parents[2] / "dataset" / "toybox" / "model"
PERIOD = 65521  # a prime

TEXT = dict(architectures=["CLIPTextModel"], model_type="clip_text_model", vocab_size=49408, hidden_size=768, intermediate_size=3072,
            num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu", layer_norm_eps=1e-5,
            bos_token_id=1569, eos_token_id=1570, pad_token_id=1570)
UNET = dict(_class_name="UNet2DConditionModel", in_channels=4, out_channels=4, sample_size=64, block_out_channels=[320, 640, 1280, 1280],
            layers_per_block=2, attention_head_dim=8, cross_attention_dim=768, norm_num_groups=32,
            down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3)
VAE = dict(_class_name="AutoencoderKL", in_channels=3, out_channels=3, latent_channels=4, sample_size=512,
           block_out_channels=[128, 256, 512, 512], layers_per_block=2, norm_num_groups=32, scaling_factor=0.18215,
           down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)


class Layers:
    """Names and shapes of a network's tensors. Methods add a layer each."""

    def __init__(self):
        self.shapes = {}

    def linear(self, name, out, inner, bias=True):
        self.shapes[f"{name}.weight"] = (out, inner)
        if bias:
            self.shapes[f"{name}.bias"] = (out,)

    def conv(self, name, out, inner, kernel=3):
        self.shapes[f"{name}.weight"] = (out, inner, kernel, kernel)
        self.shapes[f"{name}.bias"] = (out,)

    def norm(self, name, width):
        self.shapes[f"{name}.weight"] = self.shapes[f"{name}.bias"] = (width,)

    def resnet(self, name, inner, out, time=0):
        self.norm(f"{name}.norm1", inner)
        self.conv(f"{name}.conv1", out, inner)
        if time:
            self.linear(f"{name}.time_emb_proj", out, time)
        self.norm(f"{name}.norm2", out)
        self.conv(f"{name}.conv2", out, out)
        if inner != out:
            self.conv(f"{name}.conv_shortcut", out, inner, 1)


def text_layers(c):
    layers, width = Layers(), c["hidden_size"]
    layers.shapes["text_model.embeddings.token_embedding.weight"] = (c["vocab_size"], width)
    layers.shapes["text_model.embeddings.position_embedding.weight"] = (c["max_position_embeddings"], width)
    for i in range(c["num_hidden_layers"]):
        name = f"text_model.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layers.linear(f"{name}.self_attn.{part}", width, width)
        layers.linear(f"{name}.mlp.fc1", c["intermediate_size"], width)
        layers.linear(f"{name}.mlp.fc2", width, c["intermediate_size"])
        for part in ("layer_norm1", "layer_norm2"):
            layers.norm(f"{name}.{part}", width)
    layers.norm("text_model.final_layer_norm", width)
    return layers.shapes


def add_transformer(layers, name, width, text):
    layers.norm(f"{name}.norm", width)
    layers.conv(f"{name}.proj_in", width, width, 1)
    block = f"{name}.transformer_blocks.0"
    for attention, seen in (("attn1", width), ("attn2", text)):
        layers.linear(f"{block}.{attention}.to_q", width, width, bias=False)
        layers.linear(f"{block}.{attention}.to_k", width, seen, bias=False)
        layers.linear(f"{block}.{attention}.to_v", width, seen, bias=False)
        layers.linear(f"{block}.{attention}.to_out.0", width, width)
    for norm in ("norm1", "norm2", "norm3"):
        layers.norm(f"{block}.{norm}", width)
    layers.linear(f"{block}.ff.net.0.proj", 8 * width, width)
    layers.linear(f"{block}.ff.net.2", width, 4 * width)
    layers.conv(f"{name}.proj_out", width, width, 1)


def unet_layers(c):
    layers, channels, text = Layers(), c["block_out_channels"], c["cross_attention_dim"]
    time, count, skips = 4 * channels[0], c["layers_per_block"], [channels[0]]
    cross = [kind.startswith("CrossAttn") for kind in c["down_block_types"]]
    layers.linear("time_embedding.linear_1", time, channels[0])
    layers.linear("time_embedding.linear_2", time, time)
    layers.conv("conv_in", channels[0], c["in_channels"])
    width = channels[0]
    for i, out in enumerate(channels):
        for j in range(count):
            layers.resnet(f"down_blocks.{i}.resnets.{j}", width, out, time)
            if cross[i]:
                add_transformer(layers, f"down_blocks.{i}.attentions.{j}", out, text)
            width = out
            skips.append(out)
        if i + 1 < len(channels):
            layers.conv(f"down_blocks.{i}.downsamplers.0.conv", out, out)
            skips.append(out)
    layers.resnet("mid_block.resnets.0", width, width, time)
    add_transformer(layers, "mid_block.attentions.0", width, text)
    layers.resnet("mid_block.resnets.1", width, width, time)
    for i, out in enumerate(reversed(channels)):
        for j in range(count + 1):
            layers.resnet(f"up_blocks.{i}.resnets.{j}", width + skips.pop(), out, time)
            if cross[-1 - i]:
                add_transformer(layers, f"up_blocks.{i}.attentions.{j}", out, text)
            width = out
        if i + 1 < len(channels):
            layers.conv(f"up_blocks.{i}.upsamplers.0.conv", out, out)
    layers.norm("conv_norm_out", width)
    layers.conv("conv_out", c["out_channels"], width)
    return layers.shapes


def add_coder(layers, side, kind, channels, count, first, last):
    """One half of the VAE: encoder (kind down, channels as they come) or decoder (kind up, channels reversed)."""
    layers.conv(f"{side}.conv_in", channels[0], first)
    width = channels[0]
    for i, out in enumerate(channels):
        for j in range(count):
            layers.resnet(f"{side}.{kind}_blocks.{i}.resnets.{j}", width, out)
            width = out
        if i + 1 < len(channels):
            layers.conv(f"{side}.{kind}_blocks.{i}.{kind}samplers.0.conv", out, out)
    middle = channels[-1] if kind == "down" else channels[0]
    layers.norm(f"{side}.mid_block.attentions.0.group_norm", middle)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        layers.linear(f"{side}.mid_block.attentions.0.{part}", middle, middle)
    for j in range(2):
        layers.resnet(f"{side}.mid_block.resnets.{j}", middle, middle)
    layers.norm(f"{side}.conv_norm_out", width)
    layers.conv(f"{side}.conv_out", last, width)


def vae_layers(c):
    layers, channels, count, latent = Layers(), c["block_out_channels"], c["layers_per_block"], c["latent_channels"]
    add_coder(layers, "encoder", "down", channels, count, c["in_channels"], 2 * latent)
    add_coder(layers, "decoder", "up", channels[::-1], count + 1, latent, c["out_channels"])
    layers.conv("quant_conv", 2 * latent, 2 * latent, 1)
    layers.conv("post_quant_conv", latent, latent, 1)
    return layers.shapes


class Numbers:
    """Bytes of random halves, uniform within +-scale."""

    def __init__(self, seed):
        draw = random.Random(seed)
        self.pool, self.made, self.at = [draw.uniform(-1, 1) for _ in range(PERIOD)], {}, 0

    def take(self, count, scale):
        if scale not in self.made:
            self.made[scale] = struct.pack(f"<{PERIOD}e", *(scale * x for x in self.pool))
        self.at = (self.at + 7919) % PERIOD
        stretch = self.made[scale][2 * self.at:] + self.made[scale][:2 * self.at]
        return (stretch * (count // PERIOD + 1))[:2 * count]


def tensor_bytes(name, shape, numbers):
    count = 1
    for n in shape:
        count *= n
    if "norm" in name and len(shape) == 1:
        return struct.pack("<e", 1.0 if name.endswith("weight") else 0.0) * count
    if "embedding.weight" in name:
        return numbers.take(count, 0.03)
    inputs = count // shape[0] if len(shape) > 1 else 1024
    return numbers.take(count, inputs ** -0.5)


def write_safetensors(path, shapes, numbers):
    """Format: https://huggingface.co/docs/safetensors: the header's length, the header, the tensors; without `numbers` a hole of
    their size."""
    header, at = {}, 0
    for name, shape in shapes.items():
        count = 1
        for n in shape:
            count *= n
        header[name] = dict(dtype="F16", shape=list(shape), data_offsets=[at, at + 2 * count])
        at += 2 * count
    text = json.dumps(dict(__metadata__=dict(format="pt"), **header)).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if numbers is None:
            file.truncate(file.tell() + at)
            return
        for name, shape in shapes.items():
            file.write(tensor_bytes(name, shape, numbers))


def write_model(folder, text=TEXT, unet=UNET, vae=VAE, empty=False):
    """Returns the folder. A complete one is left as it is. empty: no numbers, which is enough to plan memory."""
    folder = Path(folder)
    if (folder / "whole").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(TOYBOX / part, folder / part, dirs_exist_ok=True)
    shutil.copy(TOYBOX / "model_index.json", folder)
    numbers = None if empty else Numbers(0)
    for part, config, shapes, name in (("text_encoder", text, text_layers(text), "model"),
                                       ("unet", unet, unet_layers(unet), "diffusion_pytorch_model"),
                                       ("vae", vae, vae_layers(vae), "diffusion_pytorch_model")):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(config, indent=1))
        write_safetensors(folder / part / f"{name}.safetensors", shapes, numbers)
    (folder / "whole").touch()
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    write_model(sys.argv[1])
