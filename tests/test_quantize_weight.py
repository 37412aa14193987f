"""int8 codes and scales against optimum-quanto, bit for bit, for each type that a model may be saved in."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from optimum.quanto import AbsmaxOptimizer, qint8, quantize_weight
from safetensors.torch import load_file, save_file

BUILD = Path(os.environ.get("ZOODIP_BUILD", Path(__file__).parents[1] / "build"))
KINDS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def quantize(tmp_path):
    def run(weight):
        save_file({"weight": weight}, tmp_path / "in")
        subprocess.run([BUILD / "tests/quantize", tmp_path / "in", tmp_path / "out"], check=True)
        out = load_file(tmp_path / "out")
        return out["codes"], out["scales"]

    return run


def quantos(weight):
    quantized = quantize_weight(weight, qint8, 0, AbsmaxOptimizer()(weight, qint8, 0))
    return quantized._data, quantized._scale


def agree(ours, theirs):
    codes, scales = ours
    assert torch.equal(codes, theirs[0])
    assert torch.equal(scales, theirs[1].flatten())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(320, 1280), (64, 4, 3, 3), (7, 1001), (2, 1)])
@pytest.mark.parametrize("size", [1.0, 0.02])
def test_codes_and_scales_are_quantos(quantize, kind, shape, size):
    torch.manual_seed(0)
    weight = (size * torch.randn(shape)).to(kind)
    agree(quantize(weight), quantos(weight))


@pytest.mark.parametrize("kind", KINDS)
def test_halves_round_to_even(quantize, kind):
    weight = torch.stack([torch.arange(-127, 128) / 2, torch.full((255,), 127.0)]).to(kind)
    weight[0, 0] = 127  # the scale is 1, so that codes end in .5
    agree(quantize(weight), quantos(weight))


@pytest.mark.parametrize("kind", KINDS)
def test_one_output_has_one_scale(quantize, kind):
    weight = torch.linspace(-3, 2, 99).reshape(1, 99).to(kind)
    agree(quantize(weight), quantos(weight))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_has_scale_and_codes_of_zero(quantize, kind):
    weight = torch.zeros(3, 40, dtype=kind)
    weight[1] = 1
    codes, scales = quantize(weight)
    assert scales[0] == 0 and not codes[0].any() and not codes[2].any()
    agree((codes, scales), quantos(weight))


def test_a_scale_that_rounds_to_zero_saturates_the_codes(quantize):
    weight = torch.zeros(2, 8, dtype=torch.float16)
    weight[0, :4] = torch.tensor([2e-6, -2e-6, 1e-7, 0])
    weight[1] = 1
    agree(quantize(weight), quantos(weight))
