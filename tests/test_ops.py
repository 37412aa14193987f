"""Each op of the device against PyTorch, on awkward shapes.

The helper `op` also runs every case again for its first, middle and last lane alone with 1, 2 and 3 threads and fails
where a single bit differs: so every test here checks that a lane's result depends only on the lane.
"""

import subprocess

import pytest
import torch
import torch.nn.functional as F
from optimum.quanto import AbsmaxOptimizer, qint8, quantize_weight
from safetensors.torch import load_file, save_file

from conftest import ISAS, agree, need_isa, program, run
from test_quantize_weight import quantos4

NEEDS = "peers"
SILU, GELU, QUICK_GELU, GEGLU = 1, 2, 3, 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture
def op(tmp_path):
    def call(name, tensors, isa=None, **numbers):
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "in")
        run(program("tests/op"), name, tmp_path / "in", tmp_path / "out", *(f"{k}={v}" for k, v in numbers.items()),
            env={"ZOODIP_ISA": isa} if isa else {})
        return load_file(tmp_path / "out")["y"]

    return call


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def activate(x, act):
    return {0: x, SILU: F.silu(x), GELU: F.gelu(x), QUICK_GELU: x * torch.sigmoid(1.702 * x)}[act]


# -------------------------------------------------------------------------------- products


@pytest.mark.parametrize("rows", [1, 3, 31, 33, 77])
@pytest.mark.parametrize("inner, outer", [(1, 1), (5, 7), (33, 17), (320, 64), (1000, 100)])
def test_linear_is_pytorchs(op, rows, inner, outer):
    x, w, b = torch.randn(5, 1, rows, inner), torch.randn(outer, inner) / inner**0.5, torch.randn(outer)
    agree(op("linear", {"x": x, "weight": w, "bias": b}, channels=outer), F.linear(x, w, b))


@pytest.mark.parametrize("act", [0, SILU, GELU, QUICK_GELU])
def test_epilogue_adds_lane_bias_before_act_and_residual_after(op, act):
    x, w, b = torch.randn(5, 3, 7, 40), torch.randn(36, 40) / 6, torch.randn(36)
    lane_bias, residual = torch.randn(5, 1, 1, 36), torch.randn(5, 3, 7, 36)
    ours = op("linear", {"x": x, "weight": w, "bias": b, "lane_bias": lane_bias, "residual": residual}, channels=36, act=act)
    agree(ours, activate(F.linear(x, w, b) + lane_bias, act) + residual)


@pytest.mark.parametrize("half", [1, 8, 13, 40])
def test_gated_linear_multiplies_values_with_gelu_of_gates(op, half):
    x, w, b = torch.randn(5, 1, 33, 24), torch.randn(2 * half, 24) / 5, torch.randn(2 * half)
    value, gate = F.linear(x, w, b).chunk(2, -1)
    agree(op("linear", {"x": x, "weight": w, "bias": b}, channels=half, act=GEGLU, gated=1), value * F.gelu(gate))


def test_slice_of_channels_is_a_view(op):
    x, w = torch.randn(5, 4, 5, 20), torch.randn(10, 20) / 5
    agree(op("linear", {"x": x, "weight": w}, channels=10, slice=1), F.linear(x, w))


CONVOLUTIONS = [  # height, width, in, out, kernel, stride, pad
    (8, 8, 4, 32, 3, 1, 1),
    (7, 5, 3, 5, 3, 1, 1),
    (9, 6, 33, 17, 3, 2, 1),
    (8, 8, 16, 16, 3, 2, 0),
    (1, 1, 8, 8, 3, 1, 1),
    (6, 6, 20, 4, 1, 1, 0),
    (16, 16, 130, 20, 3, 1, 1),
    (7, 9, 8, 70, 3, 1, 1),
    (23, 14, 37, 200, 3, 1, 1),
    (10, 11, 150, 33, 3, 1, 0),
    (10, 11, 150, 3, 3, 1, 0),
    (6, 6, 40, 24, 3, 1, 2),
]


@pytest.mark.parametrize("height, width, inner, outer, kernel, stride, pad", CONVOLUTIONS)
def test_conv_is_pytorchs(op, height, width, inner, outer, kernel, stride, pad):
    x, b = torch.randn(5, height, width, inner), torch.randn(outer)
    w = torch.randn(outer, inner, kernel, kernel) / (inner * kernel**2) ** 0.5
    theirs = nhwc(F.conv2d(nchw(x), w, b, stride, pad))
    ours = op("conv", {"x": x, "weight": w, "bias": b}, channels=outer, height=theirs.shape[1], width=theirs.shape[2], stride=stride, pad=pad)
    agree(ours, theirs)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mean", [0, 3])
def test_convs_of_few_multiplications_keep_their_digits(op, isa, mean):
    """Winograd's transforms magnify rounding, about five times here; with the usual points it would be ten."""
    need_isa(isa)
    x, w = torch.randn(2, 8, 8, 320) + mean, torch.randn(32, 320, 3, 3) / 54
    exact = nhwc(F.conv2d(nchw(x).double(), w.double(), padding=1))
    error = (op("conv", {"x": x, "weight": w}, isa, channels=32, pad=1) - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 2.5e-6


def test_downsampling_of_the_vae_pads_below_and_right_only(op):
    x, w = torch.randn(2, 8, 10, 6), torch.randn(7, 6, 3, 3) / 7
    theirs = nhwc(F.conv2d(F.pad(nchw(x), (0, 1, 0, 1)), w, stride=2))
    agree(op("conv", {"x": x, "weight": w}, channels=7, height=4, width=5, stride=2, pad=0), theirs)


@pytest.mark.parametrize("height, width", [(8, 12), (7, 11), (5, 9)])
def test_enlarging_conv_reads_its_nearest_neighbours(op, height, width):
    x, w = torch.randn(3, 4, 6, 9), torch.randn(5, 9, 3, 3) / 9
    theirs = nhwc(F.conv2d(F.interpolate(nchw(x), (height, width), mode="nearest"), w, padding=1))
    agree(op("conv", {"x": x, "weight": w}, channels=5, height=height, width=width, pad=1, up=1), theirs)


@pytest.mark.parametrize("kind, bits", [(torch.float16, 16), (torch.bfloat16, 16), (torch.float16, 32), (torch.bfloat16, 32)])
def test_half_weights_are_exact_and_computed_in_float(op, kind, bits):
    x, w, b = torch.randn(3, 1, 9, 50), (torch.randn(30, 50) / 7).to(kind), torch.randn(30).to(kind)
    agree(op("linear", {"x": x, "weight": w, "bias": b}, channels=30, bits=bits), F.linear(x, w.float(), b.float()))


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_int8_weights_are_quantos(op, kind):
    x, w = torch.randn(3, 6, 6, 10), (torch.randn(30, 10, 3, 3) / 9).to(kind)
    quantized = quantize_weight(w, qint8, 0, AbsmaxOptimizer()(w, qint8, 0))
    theirs = nhwc(F.conv2d(nchw(x), quantized._data.float() * quantized._scale.float(), padding=1))
    agree(op("conv", {"x": x, "weight": w}, channels=30, pad=1, bits=8), theirs)
    codes = {"x": x, "weight": quantized._data, "scale": quantized._scale.flatten()}
    agree(op("conv", codes, channels=30, pad=1, bits=8), theirs)
    agree(op("conv", codes, channels=30, pad=1, bits=32), theirs)


FOUR_BITS = [(64, 256, 1), (30, 10, 3), (50, 64, 3), (37, 96, 3), (20, 33, 3), (26, 200, 1), (1, 256, 1), (1, 40, 3), (1, 90, 1)]


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("outer, inner, kernel", FOUR_BITS)
@pytest.mark.parametrize("height", [5, 7])
def test_four_bit_weights_are_quantos(op, kind, outer, inner, kernel, height):
    """Groups that end within a channel's taps, rows without groups, single rows; codes made at load, as in a file, or widened."""
    x, w = torch.randn(3, height, 6, inner), (torch.randn(outer, inner, kernel, kernel) / (inner * kernel**2) ** 0.5).to(kind)
    four, numbers = quantos4(w), dict(channels=outer, pad=kernel // 2)
    file = {"x": x, "weight": four._data._data, "scale": four._scale, "shift": four._shift}
    alone = outer == 1 and four._group_size is None
    shape = dict(out=outer, kernel=kernel, cycle=four._scale.numel() if alone else 0, **{"in": inner})
    four._scale, four._shift = four._scale.float(), four._shift.float()
    theirs = nhwc(F.conv2d(nchw(x), four.dequantize(), padding=kernel // 2))
    ours = op("conv", file, bits=4, **numbers, **shape)
    agree(ours, theirs)
    assert torch.equal(ours, op("conv", file, bits=32, **numbers, **shape))
    if not alone:  # which is left as it is at load
        assert torch.equal(ours, op("conv", {"x": x, "weight": w}, bits=4, **numbers))
    half = 2e-3 if kind == torch.float16 else 2e-2
    agree(op("conv", file, bits=16, **numbers, **shape), theirs, half)


def test_gated_four_bit_layers(op):
    x, w, b = torch.randn(3, 1, 9, 256), torch.randn(52, 256) / 16, torch.randn(52)
    value, gate = F.linear(x, quantos4(w).dequantize(), b).chunk(2, -1)
    agree(op("linear", {"x": x, "weight": w, "bias": b}, channels=26, act=GEGLU, gated=1, bits=4), value * F.gelu(gate))


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_do_not_become_codes_of_other_bits(op, bits):
    w = {8: torch.zeros(2, 40, dtype=torch.uint8), 4: torch.zeros(4, 40, dtype=torch.int8)}[bits]
    file = {"x": torch.zeros(1, 1, 1, 40), "weight": w, "scale": torch.ones(4), "shift": torch.ones(4)}
    with pytest.raises(pytest.fail.Exception, match=f"is already quantized to {12 - bits} bits; {bits} bits need"):
        op("linear", file, channels=4, bits=bits, out=4, **{"in": 40})


# -------------------------------------------------------------------------------- attention


def attention(q, k, v, heads, causal):
    cut = lambda t: t.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)
    y = F.scaled_dot_product_attention(cut(q), cut(k), cut(v), is_causal=causal)
    return y.transpose(1, 2).reshape(q.shape)


@pytest.mark.parametrize("heads, size", [(8, 40), (4, 80), (2, 160), (1, 512), (3, 24), (2, 7), (1, 1)])
@pytest.mark.parametrize("queries, keys", [(64, 77), (33, 33), (1, 200), (300, 300), (17, 1)])
def test_attention_is_pytorchs(op, heads, size, queries, keys):
    q, k, v = (torch.randn(3, 1, n, heads * size) for n in (queries, keys, keys))
    agree(op("attention", {"x": q, "k": k, "v": v}, heads=heads), attention(q, k, v, heads, False))


@pytest.mark.parametrize("length", [1, 16, 77, 230])
@pytest.mark.parametrize("heads, size", [(12, 64), (4, 24)])
def test_causal_attention_sees_no_later_key(op, length, heads, size):
    q, k, v = (torch.randn(5, 1, length, heads * size) for _ in range(3))
    agree(op("attention", {"x": q, "k": k, "v": v}, heads=heads, causal=1), attention(q, k, v, heads, True))


def test_attention_survives_large_scores(op):
    q, k, v = (torch.randn(2, 1, 150, 64) for _ in range(3))
    agree(op("attention", {"x": 300 * q, "k": k, "v": v}, heads=1), attention(300 * q, k, v, 1, False), within=1e-3)


# -------------------------------------------------------------------------------- norms, pointwise


@pytest.mark.parametrize("height, width, channels, groups", [(8, 8, 32, 8), (5, 7, 33, 11), (1, 3, 6, 1), (16, 16, 320, 32), (3, 3, 9, 9)])
@pytest.mark.parametrize("act", [0, SILU])
def test_group_norm_is_pytorchs(op, height, width, channels, groups, act):
    x, w, b = 3 * torch.randn(5, height, width, channels) + 1, torch.randn(channels), torch.randn(channels)
    theirs = activate(nhwc(F.group_norm(nchw(x), groups, w, b, 1e-5)), act)
    agree(op("norm", {"x": x, "weight": w, "bias": b}, groups=groups, act=act), theirs)


@pytest.mark.parametrize("rows, channels", [(1, 3), (77, 96), (33, 33), (31, 769)])
def test_layer_norm_is_pytorchs(op, rows, channels):
    x, w, b = 3 * torch.randn(5, 1, rows, channels) + 1, torch.randn(channels), torch.randn(channels)
    agree(op("norm", {"x": x, "weight": w, "bias": b}), F.layer_norm(x, (channels,), w, b, 1e-5))


def test_norm_keeps_its_digits_far_from_zero(op):
    x = torch.randn(2, 16, 16, 8) + 1000
    theirs = nhwc(F.group_norm(nchw(x).double(), 2)).float()
    agree(op("norm", {"x": x, "weight": torch.ones(8), "bias": torch.zeros(8)}, groups=2), theirs, within=2e-4)


@pytest.mark.parametrize("act", [SILU, GELU, QUICK_GELU])
def test_acts_are_exact_to_1e_7(op, act):
    x = torch.linspace(-30, 30, 6006).reshape(3, 1, 22, 91)
    error = (op("linear", {"x": x, "weight": torch.eye(91)}, channels=91, act=act).double() - activate(x.double(), act)).abs()
    assert (error / x.abs().clamp(min=1)).max() < 1.5e-7


def test_not_a_number_is_not_lost(op):
    x = torch.full((2, 1, 1, 9), float("nan"))
    for act in (SILU, GELU, QUICK_GELU):
        assert op("linear", {"x": x, "weight": torch.eye(9)}, channels=9, act=act, threads=1).isnan().all()


def test_copy_follows_its_map(op):
    x, lanes = torch.randn(3, 2, 5, 7), torch.tensor([2, 0, 1, 2, 0], dtype=torch.int32)
    ours = op("copy", {"x": x, "map": lanes.reshape(1, 1, 1, 5)})
    assert torch.equal(ours, x[lanes.long()])


def test_embedding_takes_the_lanes_own_rows_for_new_ids(op):
    table, places, rows = torch.randn(50, 40).half(), torch.randn(9, 40), torch.randn(5, 1, 2, 40)
    ids = torch.randint(0, 52, (5, 9), dtype=torch.int32)
    theirs = torch.stack([F.embedding(i.long(), torch.cat([table.float(), r[0]])) for i, r in zip(ids, rows)]) + places
    ours = op("embed", {"x": ids.reshape(5, 1, 9, 1), "weight": table, "positions": places, "rows": rows}, channels=40, first=50)
    assert torch.equal(ours[:, 0], theirs)


@pytest.mark.parametrize("flip, shift, dim", [(1, 0, 320), (0, 1, 32), (1, 0, 7)])
def test_timesteps_are_diffusers(op, flip, shift, dim):
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0.0, 1, 500, 899, 999])
    theirs = get_timestep_embedding(t, dim, bool(flip), shift).reshape(5, 1, 1, dim)
    agree(op("timestep", {"x": t.reshape(5, 1, 1, 1)}, channels=dim, flip=flip, shift=shift), theirs, within=1e-4)


def test_loss_is_the_mean_squared_error_in_double(op):
    pred, target, lanes = torch.randn(5, 9, 7, 4), torch.randn(2, 9, 7, 4), torch.tensor([0, 0, 1, 1, 0], dtype=torch.int32)
    ours = op("loss", {"x": pred, "target": target, "map": lanes.reshape(1, 1, 1, 5)}, height=1, width=1, channels=1)
    theirs = (pred.double() - target[lanes.long()].double()).square().mean((1, 2, 3))
    assert torch.allclose(ours.flatten(), theirs, rtol=1e-14, atol=0)


def test_a_mask_weighs_the_errors_of_places(op):
    pred, target, mask = torch.randn(4, 9, 7, 4), torch.randn(2, 9, 7, 4), torch.rand(2, 9, 7, 1)
    for lanes in ([0, 1, 1, 0], [1, 1, 1, 1]):
        ours = op("loss", {"x": pred, "target": target, "k": mask, "map": torch.tensor(lanes, dtype=torch.int32).reshape(1, 1, 1, 4)}, height=1, width=1, channels=1)
        theirs = ((pred.double() - target[lanes].double()).square() * mask[lanes].double()).mean((1, 2, 3))
        assert torch.allclose(ours.flatten(), theirs, rtol=1e-14, atol=0)
    with pytest.raises(pytest.fail.Exception, match="op_loss"):
        op("loss", {"x": pred, "target": target, "k": mask[:1], "map": torch.zeros(1, 1, 1, 4, dtype=torch.int32)}, height=1, width=1, channels=1)


@pytest.mark.parametrize("velocity", [0, 1])
@pytest.mark.parametrize("sampled", [True, False])
def test_noise_is_added_to_a_posterior_sample_or_to_its_mean(op, sampled, velocity):
    moments, posterior, noise, levels = torch.rand(3, 5, 7, 8), torch.randn(2, 5, 7, 4), torch.randn(2, 5, 7, 4), torch.rand(9, 1, 1, 2)
    choice = torch.tensor([[2, 8, 1], [0, 3, 0], [2, 0, 0]], dtype=torch.int32)
    row, t, place = choice.long().T
    mean, deviation = moments[row].split(4, 3)
    latent, (a, b) = (mean + deviation * (posterior[place] if sampled else 0)) * 0.18215, levels[t].split(1, 3)
    theirs = torch.cat([a * latent + b * noise[place], a * noise[place] - b * latent if velocity else noise[place]], 3)
    tensors = {"x": moments, "v": noise, "target": levels, "rows": choice.reshape(3, 1, 1, 3), **({"k": posterior} if sampled else {})}
    agree(op("add_noise", tensors, velocity=velocity), theirs, within=1e-6)


# -------------------------------------------------------------------------------- sets of instructions, errors


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_agrees(op, isa):
    need_isa(isa)
    x, w = torch.randn(3, 6, 7, 37), torch.randn(26, 37, 3, 3) / 18
    for bits in (32, 16, 8, 4):
        ours = op("conv", {"x": x, "weight": w}, isa, channels=26, pad=1, bits=bits)
        agree(ours, nhwc(F.conv2d(nchw(x), w, padding=1)), within={32: 2e-6, 16: 1e-3, 8: 3e-2, 4: 0.3}[bits])
    w = torch.randn(26, 37) / 6
    value, gate = F.linear(x, w).chunk(2, -1)
    agree(op("linear", {"x": x, "weight": w}, isa, channels=13, act=GEGLU, gated=1), value * F.gelu(gate))
    q, k, v = (torch.randn(3, 1, n, 48) for n in (130, 130, 130))
    agree(op("attention", {"x": q, "k": k, "v": v}, isa, heads=3, causal=1), attention(q, k, v, 3, True))


@pytest.mark.parametrize(
    "name, tensors, numbers, message",
    [
        ("linear", {"x": (2, 1, 3, 4), "weight": (5, 6)}, {"channels": 5}, "op_linear: shapes do not fit"),
        ("linear", {"x": (2, 1, 3, 4), "weight": (5, 4)}, {"channels": 6}, "op_linear: shapes do not fit"),
        ("norm", {"x": (2, 1, 3, 4), "weight": (4,)}, {"groups": 3}, "op_norm"),
        ("attention", {"x": (2, 1, 3, 4), "k": (2, 1, 3, 4), "v": (2, 1, 2, 4)}, {}, "op_attention: shapes do not fit"),
        ("attention", {"x": (2, 1, 3, 4), "k": (2, 1, 3, 4), "v": (2, 1, 3, 4)}, {"heads": 3}, "cannot be cut into 3 heads"),
    ],
)
def test_wrong_shapes_are_refused(op, name, tensors, numbers, message):
    with pytest.raises(pytest.fail.Exception, match=message):
        op(name, {k: torch.zeros(s) for k, s in tensors.items()}, **numbers)


# -------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("isa", ["generic", None])
@pytest.mark.parametrize("step", [0, 7, 2**40 + 3])
def test_draws_are_the_streams_of_the_random_numbers_bit_for_bit(op, isa, step):
    seed, stream = 2**33 + 5, 11
    drawn = op("draw", {"x": torch.full((3, 1, 1, 1), step)}, isa=isa, seed=seed, stream=stream, height=37, width=5, channels=7)
    for lane in range(3):
        stated = subprocess.run([program("tests/rng"), "normals", *map(str, (seed, step, stream + lane, 0, 37 * 5 * 7))],
                                capture_output=True, check=True).stdout
        assert drawn[lane].numpy().tobytes() == stated
