"""Weights of 8 and 4 bits are optimum-quanto's: codes, scales and shifts exact for each source type, the folder loads with
quanto, and a model quantized ahead of time or at load gives the same numbers, close to quanto's own."""
import json
import re
import shutil
from unittest import mock

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from optimum.quanto import QModuleMixin, WeightQBitsTensor, freeze, qint4, qint8, quantize
from optimum.quanto.models import QuantizedDiffusersModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from conftest import SHAPES, TOYBOX, learned, make_model, program, refused, run, write_recipe
from test_models import error, forward, inputs_for

NEEDS = "peers"
KINDS = dict(text_encoder=CLIPTextModel, unet=UNet2DConditionModel, vae=AutoencoderKL)
KINDS_OF_BITS = {8: qint8, 4: qint4}
FILES = dict(text_encoder="model.safetensors", unet="diffusion_pytorch_model.safetensors", vae="diffusion_pytorch_model.safetensors")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def peer(folder, part, dtype, bits=8):
    """The part quantized by quanto. (quanto converts bfloat16 layers in 4 bits to another form for its CPU kernel, which loses
    bits of the shifts and allows no odd widths; here they keep the saved form.)"""
    kind = KINDS[part]
    model = kind.from_pretrained(folder / part, **{"dtype" if part == "text_encoder" else "torch_dtype": dtype})
    quantize(model, weights=KINDS_OF_BITS[bits])
    with mock.patch.object(WeightQBitsTensor, "create", WeightQBitsTensor):
        freeze(model)
    return model.eval()


@pytest.fixture(scope="module", params=[(8, "float32"), (8, "float16"), (8, "bfloat16"), (4, "float32"), (4, "float16"), (4, "bfloat16")],
                ids=lambda p: f"{p[0]}-{p[1]}")
def pair(request, tmp_path_factory):
    """(source folder, folder written by zoodip, torch type, bits)"""
    bits, dtype = request.param
    folder = make_model(tmp_path_factory.mktemp(dtype) / "model", SHAPES["deep"], dtype, seed=11)
    out = folder.parent / "quantized"
    run(program("zoodip"), "quantize", "--model", folder, "--output", out, "--bits", bits)
    return folder, out, getattr(torch, dtype), bits


@pytest.mark.parametrize("part", KINDS)
def test_codes_and_scales_are_quantos(pair, part):
    source, out, dtype, bits = pair
    ours, theirs = load_file(out / part / FILES[part]), peer(source, part, dtype, bits).state_dict()
    names = {k.removeprefix("text_model.") for k in theirs}
    assert {k.removeprefix("text_model.") for k in ours} == names
    codes = 0
    for name, value in ours.items():
        other = theirs[name] if name in theirs else theirs[name.removeprefix("text_model.")]
        assert value.dtype == other.dtype and value.shape == other.shape, name
        assert torch.equal(value, other), name
        codes += value.dtype == {8: torch.int8, 4: torch.uint8}[bits]
    assert codes > 10


def test_the_folder_loads_with_quanto(pair, tmp_path):
    _, out, dtype, bits = pair

    class QuantizedUNet(QuantizedDiffusersModel):
        base_class = UNet2DConditionModel

    map = json.loads((out / "unet" / "quanto_qmap.json").read_text())
    assert map["conv_in"] == {"weights": f"qint{bits}", "activations": "none"}
    with mock.patch.object(WeightQBitsTensor, "create", WeightQBitsTensor):
        model = QuantizedUNet.from_pretrained(str(out / "unet"))
    if dtype == torch.float32:  # for half types quanto 0.2.7 reloads biases as fp32 and then cannot run the result itself
        inputs = inputs_for(out)
        theirs = model(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]).sample
        assert error(forward(out, tmp_path, inputs)["noise_pred"], theirs) < 1e-4


@pytest.mark.parametrize("name, bits", [("deep", 8), ("wide", 4), ("stacked", 4)])
def test_numbers_of_the_quantized_networks(tmp_path, name, bits):
    folder = make_model(tmp_path / "model", SHAPES[name], "float32", seed=5)
    inputs = inputs_for(folder)
    ours = forward(folder, tmp_path, inputs, "--bits", bits)
    run(program("zoodip"), "quantize", "--model", folder, "--output", tmp_path / "quantized", "--bits", bits)
    ahead = forward(tmp_path / "quantized", tmp_path, inputs)
    assert all(torch.equal(ours[k], ahead[k]) for k in ours)
    unet, text, vae = (peer(folder, part, torch.float32, bits) for part in ("unet", "text_encoder", "vae"))
    assert error(ours["noise_pred"], unet(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]).sample) < 1e-4
    assert error(ours["hidden"], text(inputs["input_ids"].long()).last_hidden_state) < 1e-4
    assert error(ours["latent_mean"], vae.encode(inputs["pixels"]).latent_dist.mean) < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_four_bits_of_half_types_are_used_in_fp32(tmp_path, dtype):
    """Codes as quanto computes them in the source's type, values as it computes them for a model in fp32."""
    folder = make_model(tmp_path / "model", SHAPES["deep"], dtype, seed=5)
    inputs = inputs_for(folder)
    ours = forward(folder, tmp_path, inputs, "--bits", 4)
    state = {}
    quantized = peer(folder, "unet", getattr(torch, dtype), bits=4)
    for name, layer in quantized.named_modules():
        if isinstance(layer, QModuleMixin):
            layer.weight._scale, layer.weight._shift = layer.weight._scale.float(), layer.weight._shift.float()
            state[f"{name}.weight"] = layer.weight.dequantize()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    unet.load_state_dict({**unet.state_dict(), **state})
    assert error(ours["noise_pred"], unet(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]).sample) < 1e-4


def test_training_on_a_model_quantized_ahead(tmp_path):
    """The text encoder and UNet are the same codes either way. (The VAE is kept as it is when weights are quantized at load.)"""
    run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", tmp_path / "int8")
    config, output = write_recipe(tmp_path, optim__steps=3, output__prompts=[], model=str(tmp_path / "int8"))
    run(program("zoodip"), "train", config)
    assert len(learned(output)) > 400


def bits_said(tmp_path, model, bits):
    """The bits in which the networks are kept, according to the log and to bench."""
    config, _ = write_recipe(tmp_path, model=str(model), quant__bits=bits, data__resolution=16)
    done = run(program("zoodip"), "bench", config, "--evaluations", 1)
    return re.search("loading text encoder and UNet with (.*) weights", done.stderr)[1], json.loads(done.stdout)["bits"]


def test_the_log_says_the_bits_that_weights_really_have(tmp_path, toybox4):
    """A file's codes stay as they are, whatever the config asks for."""
    assert bits_said(tmp_path, TOYBOX / "model", 8) == ("8-bit", 8)
    assert bits_said(tmp_path, TOYBOX / "model", 4) == ("4-bit", 4)
    assert bits_said(tmp_path, toybox4, 8) == bits_said(tmp_path, toybox4, 16) == ("4-bit", 4)
    mixed = shutil.copytree(toybox4, tmp_path / "mixed", ignore=lambda folder, names: {"text_encoder"} & set(names))
    shutil.copytree(TOYBOX / "model" / "text_encoder", mixed / "text_encoder")
    assert bits_said(tmp_path, mixed, 8) == ("4- to 8-bit", 8)


def test_other_bits_and_quantizing_twice_are_refused(tmp_path):
    done = run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", tmp_path / "x", "--bits", "5", check=False)
    assert done.returncode == 2 and "--bits" in done.stderr
    for first, second in ((8, 8), (8, 4), (4, 8), (4, 4)):
        out = tmp_path / f"{first} {second}"
        run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", out, "--bits", first)
        done = run(program("zoodip"), "quantize", "--model", out, "--output", tmp_path / "again", "--bits", second, check=False)
        assert done.returncode == 2 and "already" in done.stderr
    done = run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", TOYBOX / "model", check=False)
    assert done.returncode == 2


@pytest.mark.parametrize("dtype, name", [(torch.float64, "F64"), (torch.int8, "I8")])
def test_weights_of_a_type_that_no_command_reads_are_refused(tmp_path, dtype, name):
    """They were copied as they are, into a folder that could not be used."""
    path = shutil.copytree(TOYBOX / "model", tmp_path / "model") / "unet" / FILES["unet"]
    tensors = load_file(path)
    save_file({key: t.to(dtype) if key == "mid_block.attentions.0.proj_in.weight" else t for key, t in tensors.items()}, path)
    done = run(program("zoodip"), "quantize", "--model", tmp_path / "model", "--output", tmp_path / "new", "--quiet", check=False)
    refused(done, f"{path}: tensor mid_block.attentions.0.proj_in.weight: {name}, expected F32, F16 or BF16")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def toybox4(tmp_path_factory):
    """toybox in 4 bits"""
    out = tmp_path_factory.mktemp("toybox4") / "model"
    run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", out, "--bits", "4")
    return out


def test_codes_stay_as_they_are(toybox4, tmp_path):
    """More bits would hold the same numbers; fewer cannot be made well from codes."""
    inputs = inputs_for(TOYBOX / "model")
    four = forward(toybox4, tmp_path, inputs, "--bits", 4)
    for bits in (8, 16, 32):
        other = forward(toybox4, tmp_path, inputs, "--bits", bits)
        assert all(torch.equal(four[k], other[k]) for k in four)
    run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", tmp_path / "int8")
    done = run(program("tests/forward"), tmp_path / "int8", tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--bits", 4, check=False)
    assert done.returncode == 2 and re.search(r"tensor \S+: is already quantized to 8 bits; 4 bits need an unquantized model", done.stderr)


@pytest.mark.parametrize("layer", ["attn1.to_q", "attn1.to_v", "attn2.to_k"])
def test_queries_keys_and_values_of_several_kinds_are_the_same_network(tmp_path, layer):
    """They are one product here; a file may have some of them in codes, and one in floats."""
    run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", tmp_path / "model")
    inputs, path = inputs_for(TOYBOX / "model"), tmp_path / "model" / "unet" / FILES["unet"]
    codes = forward(tmp_path / "model", tmp_path, inputs, "--bits", 16)
    tensors, name = load_file(path), f"mid_block.attentions.0.transformer_blocks.0.{layer}.weight"
    tensors[name] = tensors.pop(f"{name}._data").float() * tensors.pop(f"{name}._scale").float()
    save_file(tensors, path)
    mixed = forward(tmp_path / "model", tmp_path, inputs, "--bits", 16)["noise_pred"]
    assert 0 < error(mixed, codes["noise_pred"]) < 2e-6


def test_inspect_counts_what_codes_stand_for(toybox4):
    """As many parameters as the model itself, in fewer bytes; half of a small model's text encoder is a table, which stays as it
    is."""
    count = lambda folder: [(int(n), float(size)) for n, size in
                            re.findall(r"(\d+) parameters, ([\d.]+) MB", run(program("zoodip"), "inspect", folder).stdout)]
    assert run(program("zoodip"), "inspect", toybox4).stdout.count("layers quantized to 4 bits") == 3
    for (n, size), (all, whole) in zip(count(toybox4), count(TOYBOX / "model"), strict=True):
        assert n == all and size < 0.6 * whole


@pytest.mark.parametrize("suffix, value, message", [
    ("_data._data", lambda t: t.to(torch.int8), "expected 4-bit codes in U8"),
    ("_data._data", lambda t: t[:-1], "but config.json makes it"),
    ("_scale", lambda t: t[1:], "but config.json makes it"),
    ("_scale", lambda t: t.to(torch.int32), "expected F32, F16 or BF16"),
    ("_shift", lambda t: None, "is missing"),
    ("_shift", lambda t: t.float(), "differs in type from the layer's scales"),
    ("_shift", lambda t: t.to(torch.uint8), "expected F32, F16 or BF16")])
def test_torn_layers_are_refused_by_name(toybox4, tmp_path, suffix, value, message):
    shutil.copytree(toybox4, tmp_path / "model")
    path, name = tmp_path / "model" / "unet" / FILES["unet"], f"mid_block.resnets.0.conv1.weight.{suffix}"
    tensors = load_file(path)
    tensors[name] = value(tensors[name])
    save_file({k: v.contiguous() for k, v in tensors.items() if v is not None}, path)
    save_file(inputs_for(TOYBOX / "model"), tmp_path / "in.safetensors")
    done = run(program("tests/forward"), tmp_path / "model", tmp_path / "in.safetensors", tmp_path / "out.safetensors", check=False)
    assert done.returncode == 2 and name in done.stderr and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_of_many_small_layers(tmp_path):
    """Quantizing a folder ignores config.json: any number of layers, with or without biases."""
    shutil.copytree(TOYBOX / "model", tmp_path / "model")
    save_file({f"l{i}.weight": torch.randn(2, 2) for i in range(400)},
              tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    run(program("zoodip"), "quantize", "--model", tmp_path / "model", "--output", tmp_path / "int8")
    assert len(load_file(tmp_path / "int8" / "unet" / FILES["unet"])) == 1600
