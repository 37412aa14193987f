#!/usr/bin/env python3
"""seeds.py BUILD FOLDER: writes the inputs that fuzzing begins with, sound ones of every form, into FOLDER/TARGET/, and for
those that hold text the words that mutations insert, into FOLDER/TARGET.dict. BUILD is the folder of a build with sanitizers and the helper program `damage`."""
import base64
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1}


def text(value, **options):
    return json.dumps(value, **options).encode()


def safetensors(tensors, metadata=None):
    """{name: (dtype, shape)} with zeros as data."""
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, (kind, shape) in tensors.items():
        size = SIZES[kind] * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    written = text(header)
    return struct.pack("<Q", len(written)) + written + bytes(at)


def some_safetensors():
    every = {f"w{i}": (kind, [2, i + 1]) for i, kind in enumerate(SIZES)}
    return [safetensors({"a.weight": ("F32", [3, 4]), "b": ("F16", [5]), "scalar": ("F32", []), "empty": ("F32", [0, 3])}, {"format": "pt"}),
            safetensors(every), safetensors({"deep": ("U8", [1, 2, 1, 2, 1, 2, 1, 2])}), safetensors({}), safetensors({}, {"é": "ü"})]


def indexes():
    sound = {"a.weight": "x-1.safetensors", "b": "x-1.safetensors", "c": "x-2.safetensors", "d.bias": "x-2.safetensors"}
    return [text({"metadata": {"total_size": 60}, "weight_map": sound}, indent=1), text({"weight_map": {"b": "x-1.safetensors"}})]


def configs():
    own = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.json"))]
    dotted = {"model": "m", "data.images": ["a.png", "b.png"], "data.captions": "cc.json", "use_cc": True, "token.vectors": 2, "zo.n": 2,
              "zo.timesteps": [500, 900], "optim.schedule": "cosine", "output.dir": "out", "output.prompts": ["a {} in the sea"], "seed": 7}
    return own + [text(dotted)]


def jobs():
    defaults = {"model": "m", "data": {"images": "photos"}, "output": {"dir": "results"}, "token": {"initializer": "toy"}}
    listed = [{"name": "dog6", "data": {"images": ["a.png"]}, "zo.n": 4}, {"name": "ölé", "optim": {"steps": 5, "lr": 1e-3}}, {"name": "x"}]
    return [text({"defaults": defaults, "jobs": listed}, indent=1), text({"jobs": [{**defaults, "name": "alone"}]}), text({"jobs": []})]


LETTERS = [chr(c) for c in range(ord("!"), ord("~") + 1)]
MERGES = ["a n", "an d</w>", "t h", "th e</w>", "r e", "re d</w>", "p h", "ph o", "o f</w>"]
WORDS = [*LETTERS, *(x + "</w>" for x in LETTERS), *(m.replace(" ", "") for m in MERGES), "<|startoftext|>", "<|endoftext|>"]
VOCABULARY = {word: i for i, word in enumerate(dict.fromkeys(WORDS))}
SPECIAL = {"bos_token": "<|startoftext|>", "eos_token": {"content": "<|endoftext|>", "lstrip": False, "rstrip": False, "normalized": True},
           "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}


def vocabularies():
    merges = "#version: 0.2\n" + "\n".join(MERGES) + "\n"
    config = {**SPECIAL, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer",
              "added_tokens_decoder": {str(len(VOCABULARY)): {"content": "sks", "special": False, "normalized": True}}}
    few = {word: i for i, word in enumerate(["a", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"])}
    return [b"\0".join([text(VOCABULARY), merges.encode(), text(config), text(SPECIAL)]),
            b"\0".join([text(few), b"#version: 0.2\r\na b</w>\r\n", text(SPECIAL), b"{}"])]


def tokenizers():
    added = [{"id": VOCABULARY["<|startoftext|>"], "content": "<|startoftext|>", "special": True, "normalized": False},
             {"id": len(VOCABULARY), "content": "sks", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}]
    pairs = [m.split() for m in MERGES]
    return [b"\0".join([text({"version": "1.0", "added_tokens": added, "model": {"type": "BPE", "vocab": VOCABULARY, "merges": merges}}),
                        text({**SPECIAL, "model_max_length": 77})]) for merges in (MERGES, pairs)]


def pictures(kind, modes, options):
    """Small ones of each mode, plain and with each of the options."""
    made = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "camera", 6
    out = []
    for mode in modes:
        sixteen = mode.startswith("I;16")
        image = Image.fromarray(made[:, :, 0].astype(np.uint16) * 257) if sixteen else Image.fromarray(made).convert(mode)
        for more in ({}, *options):
            file = io.BytesIO()
            image.save(file, kind, **more, exif=exif)
            out.append(file.getvalue())
    return out


# 4 x 4 pixels, since not everyone's Pillow writes HEIC.
HEIC = (
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAX5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABog"
    "ABAAAAAAAAAC8AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/mlwcnAAAADeaXBjbwAAAHdodmNDAQQIAAAAnjgAAAAAHvAA"
    "/P/4+AAADwNgAAEAF0ABDAH//wQIAAADAJ44AAADAAAeugJAYQABACpCAQEECAAAAwCeOAAAAwAAHpAEECCy3VXTXNwENBgQAAADAZAAAAMAEIBiAAEACEQBwXMYMBiQAA"
    "AAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAEAAAAAQAAAAQAAAAB////xAAAAAL////EAAAAAgAAABBwaXhpAAAAAAMICAgAAAAY"
    "aXBtYQAAAAAAAAABAAEFgQIDBYQAAAA3bWRhdAAAACsoAa8EEhMtYPgAonp2uZp30Nzagfjcd6d3a8UGMzQUqoC7xEDqs1q2WuGS")


def checkpoints(build):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([build / "tests" / "damage", "make-checkpoint"], input=folder + "\n", text=True, check=True, stdout=subprocess.DEVNULL)
        return [path.read_bytes() for path in Path(folder).glob("*.safetensors")]


def embeddings():
    return [safetensors({"sks": ("F32", [2, 3])}, {"format": "pt"}), safetensors({"<cat>": ("F16", [4])}), safetensors({"w": ("BF16", [1, 4])}),
            safetensors({"string_to_param": ("F32", [1, 4])}), safetensors({"emb_params": ("F32", [1, 4])})]


def single_files():
    """The smallest checkpoints: one block, one layer, four channels."""
    def layer(name, *shape):
        return {f"{name}.weight": ("F16", list(shape)), f"{name}.bias": ("F16", [shape[0]])}

    def resnet(name, inner, to="", wide=4):
        norm1, conv1, norm2, conv2, shortcut = inner
        return layer(f"{name}.{norm1}", wide) | layer(f"{name}.{conv1}", 4, wide, 3, 3) | layer(f"{name}.{norm2}", 4) | layer(
            f"{name}.{conv2}", 4, 4, 3, 3) | (layer(f"{name}.{to}", 4, 16) if to else {}) | (layer(f"{name}.{shortcut}", 4, wide, 1, 1) if wide > 4 else {})

    unet, old = "model.diffusion_model.", ("in_layers.0", "in_layers.2", "out_layers.0", "out_layers.3", "skip_connection")
    t = layer(unet + "time_embed.0", 16, 4) | layer(unet + "time_embed.2", 16, 16) | layer(unet + "input_blocks.0.0", 4, 4, 3, 3)
    t |= layer(unet + "out.0", 4) | layer(unet + "out.2", 4, 4, 3, 3)
    for at, wide in (("input_blocks.1.0", 4), ("middle_block.0", 4), ("middle_block.2", 4), ("output_blocks.0.0", 8), ("output_blocks.1.0", 8)):
        t |= resnet(unet + at, old, "emb_layers.1", wide)
    block = unet + "middle_block.1"
    for name, shape in (("norm", [4]), ("proj_in", [4, 4, 1, 1]), ("proj_out", [4, 4, 1, 1])):
        t |= layer(f"{block}.{name}", *shape)
    block += ".transformer_blocks.0"
    for name, shape in (("norm1", [4]), ("norm2", [4]), ("norm3", [4]), ("attn1.to_out.0", [4, 4]), ("attn2.to_out.0", [4, 4]),
                        ("ff.net.0.proj", [32, 4]), ("ff.net.2", [4, 16])):
        t |= layer(f"{block}.{name}", *shape)
    t |= {f"{block}.attn{n}.to_{k}.weight": ("F16", [4, 4]) for n in (1, 2) for k in "qkv"}
    vae, new = "first_stage_model.", ("norm1", "conv1", "norm2", "conv2", "nin_shortcut")
    t |= layer(vae + "quant_conv", 8, 8, 1, 1) | layer(vae + "post_quant_conv", 4, 4, 1, 1)
    for half, sides in (("encoder", (3, 8)), ("decoder", (4, 3))):
        t |= layer(f"{vae}{half}.conv_in", 4, sides[0], 3, 3) | layer(f"{vae}{half}.norm_out", 4) | layer(f"{vae}{half}.conv_out", sides[1], 4, 3, 3)
        t |= resnet(f"{vae}{half}.mid.block_1", new) | resnet(f"{vae}{half}.mid.block_2", new) | layer(f"{vae}{half}.mid.attn_1.norm", 4)
        for k in ("q", "k", "v", "proj_out"):
            t |= layer(f"{vae}{half}.mid.attn_1.{k}", 4, 4, 1, 1)
    for at in ("encoder.down.0.block.0", "decoder.up.0.block.0", "decoder.up.0.block.1"):
        t |= resnet(vae + at, new)
    first, text = dict(t), "cond_stage_model.transformer.text_model."
    first |= {text + "embeddings.token_embedding.weight": ("F16", [5, 4]), text + "embeddings.position_embedding.weight": ("F16", [3, 4])}
    for name, shape in (("layer_norm1", [4]), ("layer_norm2", [4]), ("mlp.fc1", [6, 4]), ("mlp.fc2", [4, 6]), ("self_attn.q_proj", [4, 4]),
                        ("self_attn.k_proj", [4, 4]), ("self_attn.v_proj", [4, 4]), ("self_attn.out_proj", [4, 4])):
        first |= layer(f"{text}encoder.layers.0.{name}", *shape)
    second, open_clip = dict(t), "cond_stage_model.model."
    second |= {open_clip + "token_embedding.weight": ("F16", [5, 4]), open_clip + "positional_embedding": ("F16", [3, 4])}
    for n in (0, 1):
        at = f"{open_clip}transformer.resblocks.{n}"
        second |= {f"{at}.attn.in_proj_weight": ("F16", [12, 4]), f"{at}.attn.in_proj_bias": ("F16", [12])} | layer(f"{at}.attn.out_proj", 4, 4)
        second |= layer(f"{at}.ln_1", 4) | layer(f"{at}.ln_2", 4) | layer(f"{at}.mlp.c_fc", 6, 4) | layer(f"{at}.mlp.c_proj", 4, 6)
    first |= layer(text + "final_layer_norm", 4)
    second |= layer(open_clip + "ln_final", 4)
    return [safetensors(first), safetensors(second, {"modelspec.prediction_type": "v"}), safetensors({**first, "ztsnr": ("F16", [0])})]


def metrics():
    line = {"loss": 0.25, "losses": [0.25, 0.26, None], "grad_norm": 1e-3, "removed": 2, "lr": 0.03, "seconds": 0.5, "evaluations_per_second": 6}
    lines = [text({"step": k, **line, **({"validation_loss": 0.2} if k == 2 else {})}) for k in range(1, 6)]
    return [b"\n".join(lines) + b"\n", b"\n".join(lines)[:-9]]


def schedules():
    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "steps_offset": 1}
    karras = {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun",
              "solver_order": 2, "lower_order_final": False, "euler_at_final": True, "final_sigmas_type": "sigma_min", "sigma_min": 0.03, "sigma_max": 14}
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction", "clip_sample": True,
            "clip_sample_range": 2.0, "set_alpha_to_one": False, "original_inference_steps": 40, "timestep_scaling": 10.0}
    other = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 9, "use_lu_lambdas": True, "use_exponential_sigmas": False}
    return [text({**common, **more}) for more in (karras, zero, other)] + [text({"num_train_timesteps": 7, "trained_betas": [0.1] * 7, "solver_type": "bh1"})]


STATUS = {"name": "dog6", "state": "running", "phase": "encoding pictures 3/8", "step": 3, "steps": 9, "loss": 0.02, "validation_first": 0.03,
          "validation_best": 0.02, "best_step": 2, "evaluations_per_second": 9.5, "seconds_left": 60, "ranks": 2, "host": "node7", "pid": 4711,
          "began": 1.79e9, "since": 1.79e9, "moved": 1.8e9, "interval": 5, "written": 1.8e9}
RESULT = {"name": "mug", "state": "failed", "reason": "no photo", "steps": 3, "steps_wanted": 9, "loss": 0.02, "group": 1, "finished": 1.8e9}


def summaries():
    jobs = [RESULT, {**RESULT, "name": "b", "state": "running"}, {"name": "c", "state": "waiting", "loss": None}]
    whole = {"state": "running", "groups": 2, "counts": {"waiting": 1}, "host": "node7", "pid": 1, "written": 1.8e9, "jobs": jobs}
    return [text(whole), text({**whole, "array": True, "reason": "no news"}, indent=1), text({"jobs": []})]


def prompts():
    return [b"a (toy:1.3), [grass] ((red)) BREAK \\(b\\)", b"(a (b:0.5) [c", b"[a:b:0.5] <lora:x:1> [a|b] AND", "süß (猫: 1.1 ) ] )".encode()]


def words_of(seeds):
    """The quoted words of the seeds that are text, and what breaks numbers and strings."""
    found = {word for seed in seeds for word in re.findall(rb'"[A-Za-z_.|<>/]{2,40}"', seed)}
    return sorted(found)[:200] + [b"null", b"true", b"[]", b"{}", b"1e999", b"-1", b"9007199254740993", b"0.5", b'"\\ud800"', b'"\\u0000"']


def main(build, folder):
    seeds = {
        "safetensors": some_safetensors(), "index": indexes(), "config": configs(), "jobs": jobs(),
        "settings": [text({"layers": 3, "scale": 0.5, "bias": True, "act": "silu", "channels": [1, 2, 3], "blocks": ["a"], "form": "plain"})],
        "vocabulary": vocabularies(), "tokenizer": tokenizers(),
        "png": pictures("PNG", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"], [{"compress_level": 0}]),
        "jpeg": pictures("JPEG", ["RGB", "L", "CMYK"], [{"progressive": True}, {"subsampling": 0, "restart_marker_blocks": 1}]),
        "webp": pictures("WEBP", ["RGB", "RGBA"], [{"lossless": True}, {"save_all": True, "append_images": [Image.new("RGB", (7, 5))]}]),
        "avif": pictures("AVIF", ["RGB", "RGBA", "L"], [{"range": "limited"}, {"subsampling": "4:4:4"}]), "heic": [base64.b64decode(HEIC)],
        "checkpoint": checkpoints(build), "embedding": embeddings(), "single_file": single_files(),
        "caption": ["a photo of a {} on grass\n".encode(), "\ufeffmüg, mügs\r\nmore".encode()], "schedule": schedules(), "metrics": metrics(), "summary": summaries(),
        "prompt": prompts(),
        "status": [text(STATUS), text(STATUS, indent=1) + b"\0" + text(RESULT), b"\0" + text(RESULT)],
    }
    for target, inputs in seeds.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(inputs):
            (folder / target / f"seed-{i}").write_bytes(data)
        if target in ("png", "jpeg", "webp", "avif", "heic"):
            continue
        escaped = [re.sub(rb'([\\"])', rb"\\\1", word).decode() for word in words_of(inputs)]
        (folder / f"{target}.dict").write_text("".join(f'"{word}"\n' for word in escaped))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
