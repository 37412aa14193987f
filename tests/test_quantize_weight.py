"""Codes, scales and shifts against optimum-quanto, bit for bit, in 8 and 4 bits, for each type that a model may be saved in."""


import pytest
import torch
from optimum.quanto import AbsmaxOptimizer, MaxOptimizer, QConv2d, QLinear, qint4, qint8, quantize_weight
from safetensors.torch import load_file, save_file

from conftest import program, run

NEEDS = "peers"
KINDS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def quantize(tmp_path):
    def call(weight):
        save_file({"weight": weight}, tmp_path / "in")
        run(program("tests/quantize"), tmp_path / "in", tmp_path / "out")
        out = load_file(tmp_path / "out")
        return out["codes"], out["scales"]

    return call


def quantos(weight):
    quantized = quantize_weight(weight, qint8, 0, AbsmaxOptimizer()(weight, qint8, 0))
    return quantized._data, quantized._scale


def assert_equal(ours, theirs):
    codes, scales = ours
    assert torch.equal(codes, theirs[0])
    assert torch.equal(scales, theirs[1].flatten())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(320, 1280), (64, 4, 3, 3), (7, 1001), (2, 1)])
@pytest.mark.parametrize("size", [1.0, 0.02])
def test_codes_and_scales_are_quantos(quantize, kind, shape, size):
    torch.manual_seed(0)
    weight = (size * torch.randn(shape)).to(kind)
    assert_equal(quantize(weight), quantos(weight))


@pytest.mark.parametrize("kind", KINDS)
def test_halves_round_to_even(quantize, kind):
    weight = torch.stack([torch.arange(-127, 128) / 2, torch.full((255,), 127.0)]).to(kind)
    weight[0, 0] = 127  # the scale is 1, so that codes end in .5
    assert_equal(quantize(weight), quantos(weight))


@pytest.mark.parametrize("kind", KINDS)
def test_one_output_has_one_scale(quantize, kind):
    weight = torch.linspace(-3, 2, 99).reshape(1, 99).to(kind)
    assert_equal(quantize(weight), quantos(weight))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_has_scale_and_codes_of_zero(quantize, kind):
    weight = torch.zeros(3, 40, dtype=kind)
    weight[1] = 1
    codes, scales = quantize(weight)
    assert scales[0] == 0 and not codes[0].any() and not codes[2].any()
    assert_equal((codes, scales), quantos(weight))


def test_a_scale_that_rounds_to_zero_saturates_the_codes(quantize):
    weight = torch.zeros(2, 8, dtype=torch.float16)
    weight[0, :4] = torch.tensor([2e-6, -2e-6, 1e-7, 0])
    weight[1] = 1
    assert_equal(quantize(weight), quantos(weight))


# -------------------------------------------------------------------------------- four bits


@pytest.fixture
def quantize4(tmp_path):
    def call(weight):
        save_file({"weight": weight}, tmp_path / "in")
        run(program("tests/quantize"), tmp_path / "in", tmp_path / "out", 4)
        return load_file(tmp_path / "out")

    return call


def quantos4(weight):
    """The result of freezing a layer, before it is repacked for this machine (which loses bits of bfloat shifts)."""
    if weight.dim() == 2:
        layer = QLinear(weight.shape[1], weight.shape[0], weights=qint4)
    else:
        layer = QConv2d(weight.shape[1], weight.shape[0], weight.shape[2:], weights=qint4)
    group = layer.weight_group_size
    scale, shift = MaxOptimizer()(weight, qtype=qint4, axis=0, group_size=group)
    return quantize_weight(weight, qint4, 0, scale, shift, group_size=group, optimized=False)


def assert_equal4(ours, weight):
    theirs = quantos4(weight)
    assert torch.equal(ours["codes"].flatten(), theirs._data._data.flatten())
    assert ours["scales"].dtype == theirs._scale.dtype == theirs._shift.dtype
    assert torch.equal(ours["scales"], theirs._scale.flatten())
    assert torch.equal(ours["shifts"], theirs._shift.flatten())
    theirs._scale, theirs._shift = theirs._scale.float(), theirs._shift.float()
    assert torch.equal(ours["values"], theirs.dequantize().reshape(ours["values"].shape))


GROUPED = [(64, 256), (7, 768), (3, 288), (5, 320), (7, 64, 3, 3), (9, 1280, 1, 1), (20, 40, 2, 2), (1, 256)]
WHOLE = [(33, 128), (5, 200), (6, 5), (7, 5, 3, 3), (3, 33, 3, 3), (4, 1155), (2, 1)]
ALONE = [(1, 100), (1, 128), (1, 4, 3, 3), (1, 64, 1, 1), (1, 7, 2, 5), (1, 700)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", GROUPED + WHOLE + ALONE)
def test_codes_scales_and_shifts_are_quantos(quantize4, kind, shape):
    """Rows that a group divides, rows that none divides, and single rows, whose scales quanto puts along the last dimension."""
    torch.manual_seed(0)
    weight = (0.05 * torch.randn(shape) + 0.01).to(kind)
    assert_equal4(quantize4(weight), weight)


@pytest.mark.parametrize("kind", KINDS)
def test_halves_round_to_even_in_four_bits(quantize4, kind):
    weight = (torch.arange(31) / 2).repeat(2, 1).to(kind)  # from 0 to 15: the scale is 1, every other code ends in .5
    assert_equal4(quantize4(weight), weight)
    assert quantize4(weight)["scales"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_equal_numbers_are_exact(quantize4, kind):
    weight = torch.randn(4, 256).to(kind)
    weight[0], weight[1, 128:], weight[3, :128] = 0, 0.3, -7
    ours = quantize4(weight)
    assert_equal4(ours, weight)
    same = ours["scales"] == 0
    assert same.tolist() == [True, True, False, True, False, False, True, False]
    assert torch.equal(ours["values"].reshape(8, 128)[same], weight.float().reshape(8, 128)[same])


def test_a_scale_that_rounds_to_zero_saturates_the_codes_of_four_bits(quantize4):
    weight = torch.zeros(2, 8, dtype=torch.float16)
    weight[0, :3] = torch.tensor([3e-7, 1e-7, -1e-7])
    weight[1] = torch.linspace(-1, 2, 8)
    assert quantize4(weight)["scales"][0] == 0
    assert_equal4(quantize4(weight), weight)
