"""Not a number, or infinite, is never hidden: weights, words, checkpoints, losses and pictures that are not finite are refused
by name, and a run that meets one keeps what it had."""
import json
import shutil
import struct
import zlib

import numpy as np
import pytest

from conftest import TOYBOX, program, refused, run, write_recipe

QUICK = True
MODEL = TOYBOX / "model"
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I64": 8}
BITS = {"F32": {"nan": 0x7FC00001, "inf": 0xFF800000}, "F16": {"nan": 0x7C01, "inf": 0xFC00}, "BF16": {"nan": 0xFF81, "inf": 0x7F80}}


def read_tensors(path):
    """{name: [dtype, shape, bytes]} of a safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    at = 8 + length
    return {n: [t["dtype"], t["shape"], data[at + t["data_offsets"][0] : at + t["data_offsets"][1]]] for n, t in header.items()}


def write_tensors(path, tensors, blanks=0):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode() + b" " * blanks
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def spoil(path, name, what="nan", place=-1):
    """One number of a tensor, of the last place if no other is given, becomes nan or infinite."""
    tensors = read_tensors(path)
    dtype, _, content = tensors[name]
    size, data = SIZES[dtype], bytearray(content)
    at = place % (len(data) // size) * size
    data[at : at + size] = BITS[dtype][what].to_bytes(size, "little")
    tensors[name][2] = bytes(data)
    write_tensors(path, tensors)


def copy_model(folder, source=MODEL):
    return shutil.copytree(source, folder / "model")


def name_like(path, end):
    return next(name for name in read_tensors(path) if name.endswith(end))


# ---------------------------------------------------------------------------- the pass over the weights


def contents(model, threads=1):
    return run(program("tests/contents"), model, threads).stdout.strip()


def test_contents_are_the_crc_of_the_tensors_and_of_nothing_else(tmp_path):
    crc = 0
    for part in (TEXT, UNET, VAE):
        crc = zlib.crc32(part.split("/")[0].encode() + b"\0", crc)
        for name, (dtype, shape, content) in sorted(read_tensors(MODEL / part).items()):
            crc = zlib.crc32(f"{name}\0{dtype}\0".encode() + struct.pack(f"<{len(shape)}q", *shape) + content, crc)
    assert contents(MODEL) == contents(MODEL, 3) == f"{crc:08x}"
    # another path, another order of the tensors, blanks after the header, two shards under another variant's name
    model = copy_model(tmp_path)
    write_tensors(model / VAE, dict(reversed(read_tensors(MODEL / VAE).items())), blanks=32)
    tensors = list(read_tensors(MODEL / UNET).items())
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.fp16.safetensors": dict(tensors[i::2]) for i in range(2)}
    for shard, held in shards.items():
        write_tensors(model / "unet" / shard, held)
    (model / UNET).unlink()
    (model / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").write_text(
        json.dumps({"weight_map": {name: shard for shard, held in shards.items() for name in held}}))
    assert contents(model) == f"{crc:08x}"
    # one bit, a name, a shape
    changed = read_tensors(MODEL / TEXT)
    name = list(changed)[3]
    dtype, shape, content = changed[name]
    for other in ({name: [dtype, shape, bytes([content[0] ^ 1]) + content[1:]]}, {name: [dtype, [1, *shape], content]}):
        write_tensors(model / TEXT, {**changed, **other})
        assert contents(model) != f"{crc:08x}"


def test_pieces_of_a_large_tensor_count_in_their_order(tmp_path):
    """Pieces have 4 MiB: one just short of, of, and beyond several."""
    for part in (TEXT, UNET, VAE):
        (tmp_path / part).parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    tensors = {str(count): ["F32", [count], rng.standard_normal(count, np.float32).tobytes()] for count in ((1 << 20) - 1, 1 << 20, (5 << 20) + 3)}
    crc = 0
    for part in (TEXT, UNET, VAE):
        held = tensors if part == UNET else {}
        write_tensors(tmp_path / part, held)
        crc = zlib.crc32(part.split("/")[0].encode() + b"\0", crc)
        for name, (dtype, shape, content) in sorted(held.items()):
            crc = zlib.crc32(f"{name}\0{dtype}\0".encode() + struct.pack("<q", *shape) + content, crc)
    assert contents(tmp_path) == contents(tmp_path, 4) == f"{crc:08x}"
    for place in (0, (1 << 20) - 1, 1 << 20, (5 << 20) + 2):
        write_tensors(tmp_path / UNET, tensors)
        spoil(tmp_path / UNET, str((5 << 20) + 3), "inf", place)
        done = run(program("tests/contents"), tmp_path, 4, check=False)
        assert done.returncode == 2 and f"tensor {(5 << 20) + 3}: holds a value that is not a number" in done.stderr


# ---------------------------------------------------------------------------- weights are refused by name


WEIGHTS = [(UNET, "conv_out.weight"), (UNET, "conv_out.bias"), (UNET, "mid_block.resnets.0.norm1.weight"), (VAE, "encoder.conv_in.weight"),
           (VAE, "decoder.conv_out.weight"), (TEXT, "token_embedding.weight"), (TEXT, "fc1.weight"), (TEXT, "final_layer_norm.bias")]


@pytest.mark.parametrize("part, end", WEIGHTS)
def test_a_weight_is_refused_before_any_work(tmp_path, part, end):
    model = copy_model(tmp_path)
    name = name_like(model / part, end)
    spoil(model / part, name, "inf" if "bias" in end else "nan")
    said = [f"{model / part}: tensor {name}: holds a value that is not a number"]
    config, output = write_recipe(tmp_path, model=str(model), optim__steps=2)
    for bits in (4, 8, 16, 32):
        refused(run(program("zoodip"), "train", config, "--set", f"quant.bits={bits}", check=False), *said)
        if part != UNET:
            break
    assert not output.exists()
    refused(run(program("zoodip"), "generate", "--model", model, "--prompt", "a toy", "--steps", 2, "--output", tmp_path / "x.png", check=False), *said)
    refused(run(program("zoodip"), "quantize", "--model", model, "--output", tmp_path / "q", check=False), *said)
    assert not (tmp_path / "q").exists() and not (tmp_path / "x.png").exists()
    if end == "conv_out.weight":
        config.write_text(json.dumps({"defaults": json.loads(config.read_text()), "jobs": [{"name": "a"}]}))
        refused(run(program("zoodip"), "run", config, check=False), *said)
        config.write_text(json.dumps(json.loads(config.read_text())["defaults"]))
        refused(run(program("zoodip"), "bench", config, check=False), *said)


@pytest.mark.parametrize("bits, ends", [(8, ["_scale"]), (4, ["_scale", "_shift"])])
def test_a_scale_or_shift_of_a_quantized_layer_is_refused(tmp_path, bits, ends):
    run(program("zoodip"), "quantize", "--model", MODEL, "--output", tmp_path / "model", "--bits", bits)
    for end in ends:
        whole = (tmp_path / "model" / UNET).read_bytes()
        name = name_like(tmp_path / "model" / UNET, f"attn1.to_q.weight.{end}")
        spoil(tmp_path / "model" / UNET, name)
        config, output = write_recipe(tmp_path, model=str(tmp_path / "model"), optim__steps=2)
        refused(run(program("zoodip"), "train", config, check=False), f"tensor {name}: holds a value that is not a number")
        assert not output.exists()
        (tmp_path / "model" / UNET).write_bytes(whole)


def test_the_types_that_weights_have(tmp_path):
    """The least number that is not finite, and the largest that is, in both signs, at every place of a word of 8 bytes."""
    edges = {"F32": (0x7F7FFFFF, 0x7F800000), "F16": (0x7BFF, 0x7C00), "BF16": (0x7F7F, 0x7F80)}
    for part in (TEXT, VAE):
        (tmp_path / part).parent.mkdir()
        write_tensors(tmp_path / part, {})
    (tmp_path / UNET).parent.mkdir()
    for dtype, (most, least) in edges.items():
        size = SIZES[dtype]
        for sign in (0, 1 << (8 * size - 1)):
            finite = (most | sign).to_bytes(size, "little") * 11
            write_tensors(tmp_path / UNET, {"a": [dtype, [11], finite]})
            contents(tmp_path)
            for place in (0, 1, 2, 3, 10):
                data = finite[: place * size] + (least | sign).to_bytes(size, "little") + finite[(place + 1) * size :]
                write_tensors(tmp_path / UNET, {"a": [dtype, [11], data], "b": ["I64", [1], b"\xff" * 8]})
                done = run(program("tests/contents"), tmp_path, 1, check=False)
                assert done.returncode == 2 and "tensor a: " in done.stderr, (dtype, sign, place)
