"""Tangent lanes of each op against PyTorch's forward mode in double precision, on awkward shapes.

The helper `op` also runs every case again for some lanes alone, a tangent after its primal, with 1, 2 and 3 threads, and
fails where a single bit differs: so every test here checks that a tangent depends on its primal only.
"""

import pytest
import torch
import torch.nn.functional as F
from optimum.quanto import AbsmaxOptimizer, qint8, quantize_weight

from conftest import ISAS, agree, need_isa
from test_ops import CONVOLUTIONS, GEGLU, GELU, QUICK_GELU, SILU, activate, nchw, nhwc, op, seeded  # noqa: F401, two are fixtures
from test_quantize_weight import quantos4

NEEDS = "peers"
OF = torch.tensor([0, 1, 2, 2, 0, 0, 1], dtype=torch.int32)  # three primals, and tangents in no order
PRIMAL, LANES = 3, 7


@pytest.fixture
def with_tangents(op):
    """Runs an op on tensors whose first dimension counts lanes, beside `of` and the number of primals."""

    def call(name, tensors, isa=None, of=OF, primal=PRIMAL, **numbers):
        return op(name, {**tensors, "of": of.reshape(1, 1, 1, -1)}, isa, primal=primal, **numbers)

    return call


def forward_mode(function, *tensors):
    """function of tensors with all lanes: what it gives for the primal lanes, then its derivative along the others."""
    primals = [t.double()[OF[PRIMAL:].long()] for t in tensors]
    tangents = torch.func.jvp(function, tuple(primals), tuple(t.double()[PRIMAL:] for t in tensors))[1]
    return function(*(t.double()[:PRIMAL] for t in tensors), primal=True), tangents


def agrees(ours, function, *tensors, within=3e-6, primal_within=None):
    """The op's lanes are function's, which gets `lane`, a way to choose its tensors of primal lanes."""
    lane = lambda t, primal: t.double()[: PRIMAL] if primal else t.double()[OF[PRIMAL:].long()]
    values, slopes = forward_mode(lambda *t, primal=False: function(*t, lambda s: lane(s, primal)), *tensors)
    agree(ours[:PRIMAL].double(), values, primal_within or within)
    agree(ours[PRIMAL:].double(), slopes, within)


# -------------------------------------------------------------------------------- products


@pytest.mark.parametrize("act", [0, SILU, GELU, QUICK_GELU])
@pytest.mark.parametrize("rows, inner, outer", [(1, 1, 1), (33, 5, 7), (31, 33, 17), (77, 320, 64), (3, 1000, 100)])
def test_linear(with_tangents, act, rows, inner, outer):
    x, w, b = torch.randn(LANES, 1, rows, inner), torch.randn(outer, inner) / inner**0.5, torch.randn(outer)
    ours = with_tangents("linear", {"x": x, "weight": w, "bias": b}, channels=outer, act=act)
    agrees(ours, lambda x, _: activate(F.linear(x, w.double(), b.double()), act), x)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("act", [0, SILU, GELU, QUICK_GELU])
def test_lane_bias_reaches_primal_lanes_and_residuals_all(with_tangents, act, in_place):
    x, w, b = torch.randn(LANES, 3, 7, 40), torch.randn(36, 40) / 6, torch.randn(36)
    bias, residual = torch.randn(PRIMAL, 1, 1, 36), torch.randn(LANES, 3, 7, 36)
    tensors = {"x": x, "weight": w, "bias": b, "residual": residual}
    ours = with_tangents("linear", {**tensors, "lane_bias": bias}, channels=36, act=act, in_place=in_place)
    agrees(ours, lambda x, r, lane: activate(F.linear(x, w.double(), b.double()) + lane(bias), act) + r, x, residual)
    bias = torch.cat([bias, torch.randn(LANES - PRIMAL, 1, 1, 36)])  # tangents do not read theirs
    assert torch.equal(ours, with_tangents("linear", {**tensors, "lane_bias": bias}, channels=36, act=act, in_place=in_place))


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("half", [1, 8, 13, 40])
def test_gated_linear(with_tangents, half, in_place):
    x, w, b, r = torch.randn(LANES, 1, 33, 24), torch.randn(2 * half, 24) / 5, torch.randn(2 * half), torch.randn(LANES, 1, 33, half)
    ours = with_tangents("linear", {"x": x, "weight": w, "bias": b, "residual": r}, channels=half, act=GEGLU, gated=1, in_place=in_place)

    def gated(x, r, _):
        value, gate = F.linear(x, w.double(), b.double()).chunk(2, -1)
        return value * F.gelu(gate) + r

    agrees(ours, gated, x, r)


@pytest.mark.parametrize("height, width, inner, outer, kernel, stride, pad", CONVOLUTIONS)
def test_conv(with_tangents, height, width, inner, outer, kernel, stride, pad):
    x, b = torch.randn(LANES, height, width, inner), torch.randn(outer)
    w = torch.randn(outer, inner, kernel, kernel) / (inner * kernel**2) ** 0.5
    for act in (0, SILU):
        theirs = lambda x, _: nhwc(activate(F.conv2d(nchw(x), w.double(), b.double(), stride, pad), act))
        size = dict(zip(("height", "width"), theirs(x.double(), None).shape[1:3]))
        agrees(with_tangents("conv", {"x": x, "weight": w, "bias": b}, channels=outer, stride=stride, pad=pad, act=act, **size), theirs, x)


@pytest.mark.parametrize("height, width", [(8, 12), (7, 11)])
def test_enlarging_conv(with_tangents, height, width):
    x, w = torch.randn(LANES, 4, 6, 9), torch.randn(5, 9, 3, 3) / 9
    ours = with_tangents("conv", {"x": x, "weight": w}, channels=5, height=height, width=width, pad=1, up=1)
    agrees(ours, lambda x, _: nhwc(F.conv2d(F.interpolate(nchw(x), (height, width), mode="nearest"), w.double(), padding=1)), x)


def weight_of(w, bits):
    """What a weight of so many bits holds."""
    if bits == 8:
        codes = quantize_weight(w, qint8, 0, AbsmaxOptimizer()(w, qint8, 0))
        return codes._data.double() * codes._scale.double()
    return {32: w, 16: w.half(), 4: quantos4(w).dequantize() if bits == 4 else None}[bits].double()


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize("isa", ISAS)
def test_weights_of_all_bits_and_every_instruction_set(with_tangents, isa, bits):
    need_isa(isa)
    x, w, b = torch.randn(LANES, 6, 7, 64), torch.randn(26, 64, 3, 3) / 24, torch.randn(26)
    kept, most = weight_of(w, bits), 5e-4 if bits == 16 else 3e-6
    ours = with_tangents("conv", {"x": x, "weight": w, "bias": b}, isa, channels=26, pad=1, bits=bits, act=QUICK_GELU)
    agrees(ours, lambda x, _: nhwc(activate(F.conv2d(nchw(x), kept, b.double(), padding=1), QUICK_GELU)), x, within=most)
    w = torch.randn(52, 256) / 16
    kept, x = weight_of(w, bits), torch.randn(LANES, 1, 9, 256)
    gated = lambda x, _: F.linear(x, kept).chunk(2, -1)[0] * F.gelu(F.linear(x, kept).chunk(2, -1)[1])
    agrees(with_tangents("linear", {"x": x, "weight": w}, isa, channels=26, act=GEGLU, gated=1, bits=bits), gated, x, within=most)
    x, w, b = 3 * torch.randn(LANES, 5, 7, 66) + 1, torch.randn(66), torch.randn(66)
    for groups, act in ((22, SILU), (0, 0)):
        agrees(with_tangents("norm", {"x": x, "weight": w, "bias": b}, isa, groups=groups, act=act), norm(w, b, groups, act=act), x)


def along_an_act(act):
    """Tensors of a linear layer whose tangent is the act's derivative: on both sides of zero, and where the parts of gelu' nearly
    cancel each other. A tangent of ones shows it. And what it is at each x."""
    x = torch.linspace(-30, 30, 2002).reshape(1, 1, 22, 91)
    tensors = {"x": torch.cat([x, torch.ones_like(x)]), "of": torch.tensor([0, 0], dtype=torch.int32).reshape(1, 1, 1, 2)}
    if act == GEGLU:  # whose value is 1, so that the tangent is gelu' of the gate
        tensors |= {"weight": torch.cat([torch.zeros(91, 91), torch.eye(91)]), "bias": torch.cat([torch.ones(91), torch.zeros(91)])}
    else:
        tensors |= {"weight": torch.eye(91)}
    exact = torch.func.jvp(lambda x: activate(x, GELU if act == GEGLU else act), (x.double(),), (torch.ones_like(x).double(),))[1]
    return tensors, x, exact


@pytest.mark.parametrize("isa", ["generic", None])
@pytest.mark.parametrize("act", [SILU, GELU, QUICK_GELU, GEGLU])
def test_derivatives_of_acts_are_exact_to_2e_7(op, isa, act):
    tensors, x, theirs = along_an_act(act)
    ours = op("linear", tensors, isa, channels=91, act=act, gated=int(act == GEGLU))[1:].double()
    assert (ours - theirs).abs().max() < 2e-7
    small = x < -1  # where the derivative is small, it has digits still
    assert ((ours - theirs).abs() / theirs.abs())[small & (x > -5)].max() < 1e-5


def test_primal_lanes_have_the_bits_that_they_have_alone(op, with_tangents):
    x, w, b, r = torch.randn(LANES, 4, 5, 40), torch.randn(72, 40) / 6, torch.randn(72), torch.randn(LANES, 4, 5, 36)
    gain, shift = torch.randn(40), torch.randn(40)
    gated = dict(channels=36, act=GEGLU, gated=1)
    for name, tensors, numbers in [
        ("linear", {"x": x, "weight": w, "bias": b, "residual": r}, gated),
        *(("linear", {"x": x, "weight": w[:36], "bias": b, "residual": r}, dict(channels=36, act=act)) for act in (0, SILU, GELU, QUICK_GELU)),
        *(("norm", {"x": x, "weight": gain, "bias": shift}, dict(groups=groups, act=SILU)) for groups in (0, 4)),
    ]:
        alone = {k: t[:PRIMAL] if k in ("x", "residual") else t for k, t in tensors.items()}
        assert torch.equal(with_tangents(name, tensors, **numbers)[:PRIMAL], op(name, alone, **numbers))


def test_tangents_of_what_is_not_a_number_are_none(with_tangents):
    x = torch.randn(LANES, 1, 1, 9)
    x[2] = float("nan")
    lost = torch.tensor([False, False, True, True, False, False, False])
    for act in (SILU, GELU, QUICK_GELU):
        y = with_tangents("linear", {"x": x, "weight": torch.eye(9)}, channels=9, act=act)
        assert torch.equal(y.isnan().all(-1).flatten(), lost) and torch.equal(y.isnan().any(-1).flatten(), lost)
    y = with_tangents("norm", {"x": x, "weight": torch.ones(9)}, act=SILU)
    assert torch.equal(y.isnan().all(-1).flatten(), lost) and torch.equal(y.isnan().any(-1).flatten(), lost)


# -------------------------------------------------------------------------------- norms


def norm(w, b, groups, act=0, eps=1e-5):
    w, b = w.double(), b.double()
    if groups:
        return lambda x, _: nhwc(activate(F.group_norm(nchw(x), groups, w, b, eps), act))
    return lambda x, _: activate(F.layer_norm(x, x.shape[-1:], w, b, eps), act)


SHAPES = [(8, 8, 32, 8), (5, 7, 33, 11), (1, 3, 6, 1), (16, 16, 320, 32), (3, 3, 9, 9), (1, 1, 3, 0), (1, 77, 96, 0), (1, 31, 769, 0)]


@pytest.mark.parametrize("height, width, channels, groups", SHAPES)
@pytest.mark.parametrize("act, in_place, slice", [(0, 0, 0), (SILU, 0, 1), (0, 1, 0), (SILU, 1, 1)])
def test_norm(with_tangents, height, width, channels, groups, act, in_place, slice):
    x, w, b = 3 * torch.randn(LANES, height, width, channels) + 1, torch.randn(channels), torch.randn(channels)
    ours = with_tangents("norm", {"x": x, "weight": w, "bias": b}, groups=groups, act=act, in_place=in_place, slice=slice)
    agrees(ours, norm(w, b, groups, act), x)


@pytest.mark.parametrize("groups", [0, 4])
def test_norm_of_little_or_no_variance(with_tangents, groups):
    """Groups whose variance is below eps, groups of one number, rows of zeros."""
    x, w, b = torch.randn(LANES, 3, 4, 24), torch.randn(24), torch.randn(24)
    x[0] *= 1e-4
    x[1] = 0.7
    x[2] = 0
    for act in (0, SILU):
        ours = with_tangents("norm", {"x": x, "weight": w, "bias": b}, groups=groups, act=act)
        agrees(ours, norm(w, b, groups, act), x, within=3e-5 if act else 3e-6, primal_within=1e-4)  # the act sees rounded u
    x[0] *= 1e-4
    ours = with_tangents("norm", {"x": x, "weight": w, "bias": b}, groups=groups, eps=1)
    agrees(ours, norm(w, b, groups, eps=1e-6), x, primal_within=1e-4)


def far_from_zero(with_tangents, groups, within):
    x = torch.randn(LANES, 16, 16, 32) + torch.tensor([1000, 1000, 1000, 0, 1000, -1000, 30]).reshape(-1, 1, 1, 1)
    w, b = torch.ones(32), torch.zeros(32)
    agrees(with_tangents("norm", {"x": x, "weight": w, "bias": b}, groups=groups), norm(w, b, groups), x, within=within, primal_within=2e-4)


@pytest.mark.parametrize("groups", [0, 2])
def test_norm_keeps_its_tangents_digits_far_from_zero(with_tangents, groups):
    far_from_zero(with_tangents, groups, within=1e-6)


# -------------------------------------------------------------------------------- copies, embedding, loss


def test_copies_of_what_does_not_depend_on_the_word_have_tangents_of_zero(with_tangents):
    x, lanes = torch.randn(PRIMAL, 2, 5, 7), torch.tensor([2, 0, 1, 2, 0, 2, 1], dtype=torch.int32).reshape(1, 1, 1, LANES)
    zeros, moved = torch.zeros(LANES - PRIMAL, 2, 5, 7), torch.tensor([2, 0, 1])
    shape = dict(height=2, width=5, channels=7)
    assert torch.equal(with_tangents("copy", {"x": x}, **shape), torch.cat([x, zeros]))
    assert torch.equal(with_tangents("copy", {"x": x, "map": lanes}, **shape), torch.cat([x[moved], zeros]))
    x = torch.randn(LANES, 2, 5, 7)
    assert torch.equal(with_tangents("copy", {"x": x}, **shape), x)
    assert torch.equal(with_tangents("copy", {"x": x, "map": lanes}, **shape), x[lanes.flatten().long()])


@pytest.mark.parametrize("log2", [-6, 0, 3])
def test_embedding_has_directions_at_the_words_places_alone(with_tangents, log2):
    table, places, rows = torch.randn(50, 40).half(), torch.randn(9, 40), torch.randn(LANES, 1, 2, 40)
    ids = torch.randint(0, 50, (LANES, 9), dtype=torch.int32)
    ids[:, 4], ids[:, 2], ids[1, 8] = 50, 51, 50
    ids[PRIMAL:] = ids[OF[PRIMAL:].long()]
    ours = with_tangents("embed", {"x": ids.reshape(LANES, 1, 9, 1), "weight": table, "positions": places, "rows": rows}, channels=40, first=50, log2=log2)
    for lane in range(LANES):
        theirs = F.embedding(ids[lane].long(), torch.cat([table.float(), rows[lane, 0]])) + places
        if lane >= PRIMAL:
            theirs = F.embedding(ids[lane].long(), torch.cat([torch.zeros(50, 40), 2.0**log2 * rows[lane, 0]]))
        assert torch.equal(ours[lane, 0], theirs)


@pytest.mark.parametrize("slice", [0, 1])
@pytest.mark.parametrize("log2", [-6, 0])
@pytest.mark.parametrize("masked", [False, True])
def test_slope_is_the_derivative_of_the_loss(with_tangents, slice, log2, masked):
    pred, target, lanes = torch.randn(LANES, 9, 7, 5), torch.randn(2, 9, 7, 5), torch.tensor([1, 0, 1], dtype=torch.int32)[OF.long()]
    mask = torch.rand(2, 9, 7, 1)
    tensors = {"x": pred, "target": target, "map": lanes.reshape(1, 1, 1, LANES), **({"k": mask} if masked else {})}
    ours = with_tangents("loss", tensors, height=1, width=1, channels=1, log2=log2, slice=slice)
    target, mask = target.double()[lanes.long()], mask.double()[lanes.long()] if masked else torch.ones(LANES, 1, 1, 1)
    loss = lambda pred, primal=False: ((pred - (target[:PRIMAL] if primal else target[PRIMAL:])).square()
                                       * (mask[:PRIMAL] if primal else mask[PRIMAL:])).mean((1, 2, 3))
    values, slopes = forward_mode(loss, pred)
    assert torch.allclose(ours.flatten(), torch.cat([values, slopes / 2.0**log2]), rtol=1e-13, atol=1e-15)


def test_a_tangent_of_a_tangent_is_refused(with_tangents):
    of = torch.tensor([0, 0, 1], dtype=torch.int32)
    with pytest.raises(pytest.fail.Exception, match="op_loss: a tangent of a lane that is not primal"):
        with_tangents("loss", {"x": torch.zeros(3, 2, 2, 1), "target": torch.zeros(3, 2, 2, 1)}, of=of, primal=1, height=1, width=1)
    tensors = {"x": torch.zeros(3, 1, 2, 1, dtype=torch.int32), "weight": torch.zeros(4, 5), "positions": torch.zeros(2, 5)}
    with pytest.raises(pytest.fail.Exception, match="op_embed: a tangent of a lane that is not primal"):
        with_tangents("embed", {**tensors, "rows": torch.zeros(3, 1, 1, 5)}, of=of, primal=1, channels=5)
