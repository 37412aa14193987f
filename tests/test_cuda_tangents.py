"""Products of the CUDA device in programs with tangents that round once: each against a plain model of the same rounding, in
double precision. The kernels run in the stand-in (tests/cuda), and the helper `op` also checks that no lane's bits depend on
another lane, except a tangent's on its primal's.
"""
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from conftest import ON_GPU, agree, needs_cuda, run
from test_cuda_ops import GEGLU, GELU, NONE, OP, QUICK_GELU, SILU, seeded  # noqa: F401, one is a fixture
from test_ops import activate, nchw, nhwc
from test_tangent_ops import LANES, OF, PRIMAL, weight_of
from test_tangents8 import as_kept, encoded, outliers_of, with_outliers

NEEDS = "peers standin"

pytestmark = needs_cuda

TYPES = {0: torch.half, 1: torch.bfloat16}  # by `bfloat`
WITHIN = 4e-6  # of the largest: what sums in float lose, which the matrix units cut


@pytest.fixture
def cuda(tmp_path):
    """Runs an op on primal lanes and tangents, in `tangent_bits` (16, if it is not given)."""

    def call(name, tensors, of=OF, primal=PRIMAL, **numbers):
        save_file({k: v.contiguous() for k, v in {**tensors, "of": of.reshape(1, 1, 1, -1)}.items()}, tmp_path / "in")
        options = {"device": 1, "primal": primal, "tangent_bits": 16, "bits": 8, **numbers}
        run(OP, name, tmp_path / "in", tmp_path / "out", *(f"{k}={v}" for k, v in options.items()))
        return load_file(tmp_path / "out")["y"].double()

    return call


def rounded(x, bfloat=0):
    return x.to(TYPES[bfloat]).double()


def model(function, u, of=OF, primal=PRIMAL):
    """function of the primal lanes' u, and what it makes of the tangents'."""
    moved = torch.func.jvp(function, (u[of[primal:].long()],), (u[primal:],))[1]
    return torch.cat([function(u[:primal]), moved])


def primal_only(bias, lanes):
    """A bias for the primal lanes, nothing for tangents."""
    return torch.cat([bias.double().expand(PRIMAL, *bias.shape[1:]), bias.new_zeros(lanes - PRIMAL, *bias.shape[1:]).double()])


# -------------------------------------------------------------------------------- halves


@pytest.mark.parametrize("rows, inner, outer", [(1, 1, 1), (33, 5, 7), (31, 33, 17), (77, 96, 65), (3, 1000, 100), (9, 4100, 12)])
def test_linear_layers_round_their_operands_once(cuda, rows, inner, outer):
    x, w, b = torch.randn(LANES, 1, rows, inner), torch.randn(outer, inner) / inner**0.5, torch.randn(outer)
    ours = cuda("linear", {"x": x, "weight": w, "bias": b}, channels=outer)
    agree(ours, F.linear(rounded(x), as_kept(w)) + primal_only(b.reshape(1, 1, 1, -1), LANES), WITHIN)


@pytest.mark.parametrize("bfloat", TYPES)
@pytest.mark.parametrize("bits", [32, 16])
def test_weights_of_more_bits_are_rounded_too(cuda, bits, bfloat):
    x, w = torch.randn(LANES, 1, 33, 72), torch.randn(70, 72)
    ours = cuda("linear", {"x": x, "weight": w}, channels=70, bits=bits, bfloat=bfloat)
    agree(ours, F.linear(rounded(x, bfloat), rounded(w, bfloat)), WITHIN)


def test_bfloats_with_weights_of_8_bits(cuda):
    x, w = torch.randn(LANES, 1, 33, 72), torch.randn(70, 72)
    agree(cuda("linear", {"x": x, "weight": w}, channels=70, bfloat=1), F.linear(rounded(x, 1), as_kept(w)), WITHIN)


@pytest.mark.parametrize("bfloat", TYPES)
@pytest.mark.parametrize("rows, inner, outer", [(33, 36, 7), (9, 128, 70), (5, 960, 33)])
def test_weights_of_4_bits_become_halves(cuda, rows, inner, outer, bfloat):
    x, w = torch.randn(LANES, 1, rows, inner), torch.randn(outer, inner)
    numbers = dict(channels=outer, bits=4, bfloat=bfloat)
    kept = cuda("linear", {"x": torch.eye(inner).repeat(LANES, 1, 1, 1), "weight": w}, **numbers)[0, 0]
    agree(kept, weight_of(w, 4).T, 2e-3 if not bfloat else 1e-2)
    assert torch.equal(kept, rounded(kept, bfloat))
    agree(cuda("linear", {"x": x, "weight": w}, **numbers), rounded(x, bfloat) @ kept, WITHIN)


@pytest.mark.parametrize("kernel", [3, 5])
def test_groups_of_4_bits_that_change_between_neighbouring_channels(cuda, kernel):
    x, w = torch.randn(LANES, 6, 5, 96), torch.randn(40, 96, kernel, kernel) * torch.logspace(-2, 1, 96)[None, :, None, None]
    ours = cuda("conv", {"x": x, "weight": w}, bits=4, channels=40, pad=kernel // 2)
    agree(ours, nhwc(F.conv2d(nchw(rounded(x)), weight_of(w, 4), padding=kernel // 2)), 2e-3)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("act", [NONE, SILU, GELU, QUICK_GELU])
def test_acts_lane_biases_and_residuals(cuda, act, in_place):
    x, w, b = torch.randn(LANES, 3, 7, 40), torch.randn(36, 40) / 6, torch.randn(36)
    bias, residual = torch.randn(PRIMAL, 1, 1, 36), torch.randn(LANES, 3, 7, 36)
    tensors = {"x": x, "weight": w, "bias": b, "residual": residual, "lane_bias": bias}
    u = F.linear(rounded(x), as_kept(w)) + primal_only(b + bias, LANES)
    ours = cuda("linear", tensors, channels=36, act=act, in_place=in_place)
    agree(ours, model(lambda u: activate(u, act), u) + residual, WITHIN)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("half", [1, 8, 13, 40])
def test_gated_linear_layers(cuda, half, in_place):
    x, w, b, r = torch.randn(LANES, 1, 33, 24), torch.randn(2 * half, 24) / 5, torch.randn(2 * half), torch.randn(LANES, 1, 33, half)
    ours = cuda("linear", {"x": x, "weight": w, "bias": b, "residual": r}, channels=half, act=GEGLU, gated=1, in_place=in_place)
    u = F.linear(rounded(x), as_kept(w)) + primal_only(b.reshape(1, 1, 1, -1), LANES)
    agree(ours, model(lambda u: u.chunk(2, -1)[0] * F.gelu(u.chunk(2, -1)[1]), u) + r, WITHIN)


@pytest.mark.parametrize("rows, inner", [(4224, 32), (2048 if ON_GPU else 384, 4096)])
def test_lanes_alone_take_smaller_tiles_and_have_the_same_bits(cuda, rows, inner):
    """Sums of one part take the largest tiles, others the next size: as many as an H100, or the stand-in, has processors, which a lane
    alone would leave idle. The second one's parts are then shared out."""
    x, w = torch.randn(4, 1, rows, inner), torch.randn(256, inner) / inner**0.5
    ours = cuda("linear", {"x": x, "weight": w}, of=torch.tensor([0, 1, 0, 1], dtype=torch.int32), primal=2, channels=256)
    agree(ours, F.linear(rounded(x), as_kept(w)), WITHIN)


def test_long_sums_are_summed_in_parts(cuda):
    """Matrix units cut, always towards zero: a sum of 16,384 positive numbers would shrink by 8e-5."""
    x, w = torch.rand(LANES, 1, 3, 16384), torch.rand(8, 16384)
    agree(cuda("linear", {"x": x, "weight": w}, channels=8), F.linear(rounded(x), as_kept(w)), 2e-5)


CONVOLUTIONS = [  # height, width, inner, outer, kernel, stride, pad
    (7, 9, 12, 33, 3, 1, 1), (9, 11, 70, 20, 3, 2, 1), (4, 5, 64, 130, 3, 1, 1), (5, 6, 4, 3, 5, 1, 2), (7, 9, 36, 4, 1, 1, 0), (4, 6, 3, 8, 3, 3, 2)]


@pytest.mark.parametrize("act", [NONE, SILU])
@pytest.mark.parametrize("height, width, inner, outer, kernel, stride, pad", CONVOLUTIONS)
def test_convolutions(cuda, act, height, width, inner, outer, kernel, stride, pad):
    x, w = torch.randn(LANES, height, width, inner), torch.randn(outer, inner, kernel, kernel) / (inner * kernel**2) ** 0.5
    u = nhwc(F.conv2d(nchw(rounded(x)), as_kept(w), stride=stride, padding=pad))
    size = dict(height=u.shape[1], width=u.shape[2], channels=outer)
    agree(cuda("conv", {"x": x, "weight": w}, stride=stride, pad=pad, act=act, **size), model(lambda u: activate(u, act), u), WITHIN)


@pytest.mark.parametrize("height, width", [(8, 12), (7, 11)])
def test_convolutions_of_enlarged_pictures(cuda, height, width):
    x, w = torch.randn(LANES, 4, 6, 9), torch.randn(5, 9, 3, 3) / 9
    large = F.interpolate(nchw(rounded(x)), (height, width), mode="nearest")
    ours = cuda("conv", {"x": x, "weight": w}, channels=5, height=height, width=width, pad=1, up=1)
    agree(ours, nhwc(F.conv2d(large, as_kept(w), padding=1)), WITHIN)


# -------------------------------------------------------------------------------- codes


def eight(x, primal=1):
    """What products of 8 bits are given: evaluations as halves, tangents as codes."""
    return torch.cat([rounded(x[:primal]), encoded(x[primal:])])


ONE = dict(of=torch.zeros(4, dtype=torch.int32), primal=1, tangent_bits=8)  # an evaluation and three tangents


@pytest.mark.parametrize("rows, inner, outer", [(1, 4, 1), (33, 36, 7), (77, 320, 64), (16, 768, 100), (70, 1280, 40), (5, 960, 33)])
def test_tangents_of_linear_layers_in_codes(cuda, rows, inner, outer):
    x, w, b, residual = torch.randn(4, 1, rows, inner), torch.randn(outer, inner) / inner**0.5, torch.randn(outer), torch.randn(4, 1, rows, outer)
    x[2, 0, 0] = 0
    x[3, 0, -1] *= 1e-34  # too small for codes
    theirs = F.linear(eight(x), as_kept(w)) + residual
    theirs[:1] += b
    theirs[3, 0, -1] = residual[3, 0, -1]
    tensors = {"x": x, "weight": w, "bias": b, "residual": residual}
    ours = cuda("linear", tensors, channels=outer, **ONE)
    agree(ours, theirs, WITHIN)
    agree(ours[1:], cuda("linear", tensors, channels=outer, device=0, **ONE)[1:], WITHIN)


def test_tangents_alone_take_smaller_tiles_and_have_the_same_bits_in_codes(cuda):
    x, w = torch.randn(4, 1, 2816, 64), torch.randn(256, 64) / 8
    agree(cuda("linear", {"x": x, "weight": w}, channels=256, **ONE), F.linear(eight(x), as_kept(w)), WITHIN)


@pytest.mark.parametrize("act", [SILU, QUICK_GELU, GEGLU])
def test_acts_of_tangents_in_codes(cuda, act):
    x, w, b = torch.randn(4, 1, 33, 64), torch.randn(52, 64) / 8, torch.randn(52)
    u = F.linear(eight(x), as_kept(w))
    u[:1] += b
    value = lambda u: u.chunk(2, -1)[0] * F.gelu(u.chunk(2, -1)[1]) if act == GEGLU else activate(u, act)
    ours = cuda("linear", {"x": x, "weight": w, "bias": b}, channels=26 if act == GEGLU else 52, act=act, gated=int(act == GEGLU), **ONE)
    agree(ours, model(value, u, ONE["of"], 1), WITHIN)


CODED_CONVOLUTIONS = [  # height, width, inner, outer, kernel, stride, pad
    (8, 8, 64, 96, 3, 1, 1), (9, 7, 36, 40, 3, 1, 1), (9, 6, 32, 17, 3, 2, 1), (6, 6, 20, 4, 1, 1, 0), (4, 3, 704, 8, 3, 1, 1)]


@pytest.mark.parametrize("height, width, inner, outer, kernel, stride, pad", CODED_CONVOLUTIONS)
def test_tangents_of_convolutions_in_codes(cuda, height, width, inner, outer, kernel, stride, pad):
    x, w = torch.randn(4, height, width, inner), torch.randn(outer, inner, kernel, kernel) / (inner * kernel**2) ** 0.5
    theirs = nhwc(F.conv2d(nchw(eight(x)), as_kept(w), stride=stride, padding=pad))
    size = dict(height=theirs.shape[1], width=theirs.shape[2], channels=outer)
    agree(cuda("conv", {"x": x, "weight": w}, stride=stride, pad=pad, **size, **ONE), theirs, WITHIN)


def test_tangents_of_convolutions_of_enlarged_pictures_in_codes(cuda):
    x, w = torch.randn(4, 4, 6, 20), torch.randn(19, 20, 3, 3) / 13
    large = F.interpolate(nchw(eight(x)), (8, 12), mode="nearest")
    ours = cuda("conv", {"x": x, "weight": w}, channels=19, height=8, width=12, pad=1, up=1, **ONE)
    agree(ours, nhwc(F.conv2d(large, as_kept(w), padding=1)), WITHIN)


@pytest.mark.parametrize("channels, count", [(64, 3), (64, 9), (640, 1), (1280, 60), (36, 2), (16, 1)])
def test_outliers_are_multiplied_as_halves(cuda, channels, count):
    x, w = with_outliers(channels, count, (4, 1, 33)), torch.randn(50, channels) / channels**0.5
    apart, found = torch.zeros_like(x), outliers_of(x)
    assert len(found) == min(count, 32, channels // 16)
    apart[..., found] = x[..., found]
    theirs = F.linear(encoded(x - apart) + rounded(apart), as_kept(w))
    agree(cuda("linear", {"x": x, "weight": w}, channels=50, outliers=1, **ONE)[1:], theirs[1:], WITHIN)


@pytest.mark.parametrize("bfloat", TYPES)
@pytest.mark.parametrize("kernel, stride, pad", [(3, 2, 1), (1, 1, 0)])
def test_outliers_of_convolutions(cuda, kernel, stride, pad, bfloat):
    x, w = with_outliers(48, 2, (4, 9, 6)), torch.randn(20, 48, kernel, kernel)
    apart, found = torch.zeros_like(x), outliers_of(x)
    apart[..., found] = x[..., found]
    theirs = nhwc(F.conv2d(nchw(encoded(x - apart) + rounded(apart, bfloat)), as_kept(w), stride=stride, padding=pad))
    size = dict(height=theirs.shape[1], width=theirs.shape[2], channels=20)
    agree(cuda("conv", {"x": x, "weight": w}, outliers=1, stride=stride, pad=pad, bfloat=bfloat, **size, **ONE)[1:], theirs[1:], WITHIN)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_not_hidden(cuda, wrong):
    x = torch.randn(4, 1, 9, 64)
    x[1, 0, 4, 7] = wrong
    y = cuda("linear", {"x": x, "weight": torch.randn(33, 64)}, channels=33, **ONE)
    assert not torch.isfinite(y[1, 0, 4]).any() and torch.isfinite(y[1, 0, 3]).all() and torch.isfinite(y[2:]).all()


@pytest.mark.parametrize("bits, inner", [(16, 128), (32, 128), (8, 37)])
def test_what_takes_no_codes_takes_halves(cuda, bits, inner):
    tensors = {"x": torch.randn(4, 1, 9, inner), "weight": torch.randn(33, inner)}
    eight, sixteen = (cuda("linear", tensors, channels=33, bits=bits, **{**ONE, "tangent_bits": t}) for t in (8, 16))
    assert torch.equal(eight, sixteen)
