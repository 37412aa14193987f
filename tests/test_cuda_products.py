"""Products of the CUDA device on their way out: evaluations and tangents of float programs against the CPU device.

Which tile a product takes, and how many launches, must not be seen: the helper `op` compares lanes alone, bit for bit."""
import pytest
import torch

from conftest import agree, needs_cuda
from test_cuda_ops import GEGLU, GELU, NONE, QUICK_GELU, SILU, WITHIN, both, seeded  # noqa: F401, two are fixtures
from test_tangent_ops import along_an_act

NEEDS = "peers standin"
pytestmark = needs_cuda

OF = torch.tensor([0, 1, 2, 2, 0, 0, 1], dtype=torch.int32).reshape(1, 1, 1, 7)  # three primals, and tangents in no order
PRIMAL, LANES = 3, 7
ODD, WHOLE = 21, 24  # channels that are read one by one, and four at a time


def agrees(results, within):
    """Evaluations and tangents, each by their own size."""
    ours, theirs = results
    agree(ours[:PRIMAL], theirs[:PRIMAL], within)
    agree(ours[PRIMAL:], theirs[PRIMAL:], within)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("out", [ODD, WHOLE])
@pytest.mark.parametrize("act", [NONE, SILU, GELU, QUICK_GELU])
def test_tangents_of_a_linear_layer(both, act, out, in_place):
    tensors = {"x": torch.randn(LANES, 4, 9, 36), "weight": torch.randn(out, 36, 1, 1) / 4, "bias": torch.randn(out),
               "lane_bias": torch.randn(PRIMAL, 1, 1, out), "residual": torch.randn(LANES, 4, 9, out), "of": OF}
    agrees(both("linear", tensors, bits=8, channels=out, act=act, primal=PRIMAL, in_place=in_place), 4e-6)


@pytest.mark.parametrize("bits", WITHIN)
@pytest.mark.parametrize("half", [1, 10, 12, 40])
def test_tangents_of_a_gated_layer(both, bits, half):
    tensors = {"x": torch.randn(LANES, 1, 33, 40), "weight": torch.randn(2 * half, 40, 1, 1) / 6, "bias": torch.randn(2 * half),
               "residual": torch.randn(LANES, 1, 33, half), "of": OF}
    agrees(both("linear", tensors, bits=bits, channels=half, act=GEGLU, gated=1, primal=PRIMAL), 2 * WITHIN[bits])


@pytest.mark.parametrize("act", [NONE, SILU])
@pytest.mark.parametrize("bits", WITHIN)
def test_tangents_of_a_convolution(both, bits, act):
    tensors = {"x": torch.randn(LANES, 7, 9, 40), "weight": torch.randn(20, 40, 3, 3) / 19, "bias": torch.randn(20), "of": OF}
    agrees(both("conv", tensors, bits=bits, channels=20, stride=1, pad=1, act=act, primal=PRIMAL), 2 * WITHIN[bits])


@pytest.mark.parametrize("act", [SILU, GELU, QUICK_GELU, GEGLU])
def test_derivatives_of_acts_are_exact_to_3e_7(both, act):
    tensors, _, _ = along_an_act(act)
    ours, theirs = both("linear", tensors, channels=91, act=act, gated=int(act == GEGLU), primal=1)
    assert (ours - theirs)[1].abs().max() < 3e-7


# -------------------------------------------------------------------------------- tiles, parts, groups


@pytest.fixture
def of_132_processors(monkeypatch):
    """On it these tests' lanes take large tiles together, and each of them small ones alone."""
    monkeypatch.setenv("ZOODIP_STANDIN_GPU", "H100")


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_large_tiles_of_linear_layers(of_132_processors, both, bits):
    out = 140  # 3 lanes have 67 x 2 tiles of 128 x 128, one has 46
    tensors = {"x": torch.randn(3, 1, 2817, 160), "weight": torch.randn(out, 160, 1, 1), "bias": torch.randn(out),
               "residual": torch.randn(3, 1, 2817, out)}
    agree(*both("linear", tensors, bits=bits, channels=out), WITHIN[bits])


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_large_tiles_of_gated_layers(of_132_processors, both, bits):
    tensors = {"x": torch.randn(3, 1, 2817, 40), "weight": torch.randn(144, 40, 1, 1) / 6, "bias": torch.randn(144)}
    agree(*both("linear", tensors, bits=bits, channels=72, act=GEGLU, gated=1), 2 * WITHIN[bits])


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_large_tiles_of_convolutions(of_132_processors, both, bits):
    tensors = {"x": torch.randn(3, 53, 54, 32), "weight": torch.randn(140, 32, 3, 3), "lane_bias": torch.randn(3, 1, 1, 140)}
    agree(*both("conv", tensors, bits=bits, channels=140, stride=1, pad=1), WITHIN[bits])


@pytest.mark.parametrize("bits", WITHIN)
@pytest.mark.parametrize("channels", [1055, 2080, 3200, 8000])
def test_long_sums_are_shared_out_in_parts(both, bits, channels):
    """1, 2, 3 and 6 parts, the last of which may be short."""
    tensors = {"x": torch.randn(3, 1, 9, channels), "weight": torch.randn(20, channels, 1, 1), "bias": torch.randn(20)}
    agree(*both("linear", tensors, bits=bits, channels=20), WITHIN[bits])


def test_a_tap_may_begin_in_the_middle_of_a_part(both):
    tensors = {"x": torch.randn(2, 3, 4, 300), "weight": torch.randn(30, 300, 3, 3), "bias": torch.randn(30)}
    agree(*both("conv", tensors, bits=8, channels=30, stride=1, pad=1), WITHIN[8])


def test_parts_have_the_same_bits_in_one_block_as_shared_out(both):
    """All lanes have 15 x 2 tiles, enough for the stand-in's 28 processors; a lane alone has 10, and shares out its parts."""
    tensors = {"x": torch.randn(3, 1, 300, 2100), "weight": torch.randn(100, 2100, 1, 1)}
    agree(*both("linear", tensors, bits=8, channels=100), WITHIN[8])


def test_tangents_of_long_sums(both):
    tensors = {"x": torch.randn(LANES, 1, 9, 2100), "weight": torch.randn(40, 2100, 1, 1) / 46, "bias": torch.randn(40), "of": OF}
    agrees(both("linear", tensors, bits=8, channels=20, act=GEGLU, gated=1, primal=PRIMAL), 4e-6)


@pytest.mark.parametrize("kernel, channels", [(1, 36), (1, 160), (1, 320), (1, 192), (1, 256), (3, 4), (3, 36), (3, 64), (3, 128)])
def test_each_group_of_four_bits_has_its_own_scale(both, kernel, channels):
    """Groups of 36 (all), 32, 64, 96, 128 numbers, and under nine taps of 36, 324 (all), 96 and 128."""
    weight = torch.randn(70, channels, kernel, kernel) * torch.logspace(-2, 1, channels)[None, :, None, None]
    tensors = {"x": torch.randn(2, 5, 6, channels) / torch.logspace(-2, 1, channels), "weight": weight}
    agree(*both("conv", tensors, bits=4, channels=70, stride=1, pad=kernel // 2), 1e-2)  # another one's would be off by 1
