"""The ops of the CUDA device against the CPU device, over awkward shapes: the kernels run in the stand-in (tests/cuda).

The helper `op` also runs every case again for its first, middle and last lane alone and fails where a single bit
differs: so every test here checks that a lane's result depends only on the lane.
"""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import agree, cuda_program, needs_cuda, program, run

NEEDS = "peers standin"

# Another build of the same kernels: cuda-asan, cuda-race (tests/test_cuda_checked.py)
FLAVOUR = os.environ.get("ZOODIP_STANDIN_FLAVOUR")
OP = program(f"tests/{FLAVOUR}/op") if FLAVOUR else cuda_program("op")
NONE, SILU, GELU, QUICK_GELU, GEGLU = range(5)

# What sums in matrix units may be off, of the largest value: they cut instead of rounding (tests/cuda/units.h). Measured on
# the shapes below up to 2.2e-6 as Hopper adds and 2.8e-6 as Ampere does, three times what rounded sums were.
CUT = 4e-6
CARDS = ["H100", "A100"] # which add differently, and of whose tiles the sizes here fill other parts

pytestmark = needs_cuda


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def both(tmp_path):
    """Runs one op on both devices: (CUDA's result, the CPU's)."""

    def call(name, tensors, card=None, **numbers):
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "in")
        results = []
        for device in (1, 0):
            options = [f"{k}={v}" for k, v in {**numbers, "device": device}.items()]
            run(OP, name, tmp_path / "in", tmp_path / "out", *options, env=card and {"ZOODIP_STANDIN_GPU": card})
            results.append(load_file(tmp_path / "out")["y"])
        return results

    return call


@pytest.fixture
def refusal(tmp_path):
    """What the CUDA device reports about unusable contents."""

    def call(name, tensors, **numbers):
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "in")
        done = run(OP, name, tmp_path / "in", tmp_path / "out", "device=1", *(f"{k}={v}" for k, v in numbers.items()), check=False)
        assert done.returncode == 1, done.stderr
        return done.stderr

    return call


# -------------------------------------------------------------------------------- norms


def allowed(numbers):
    """A number that is its own mean deviates by 0; the CPU rounds that and divides it by sqrt(eps)."""
    return 2e-6 if numbers > 1 else 1e-4


GROUPED = [  # height, width, channels, groups
    (1, 1, 1, 1),
    (1, 3, 3, 3),
    (31, 1, 5, 1),
    (3, 11, 12, 4),
    (7, 11, 33, 11),
    (7, 11, 40, 4),
    (8, 8, 640, 32),
    (16, 16, 40, 4),
    (2, 2, 1024, 1),
    (64, 64, 20, 2),
]


@pytest.mark.parametrize("height, width, channels, groups", GROUPED)
def test_group_norm(both, height, width, channels, groups):
    x, gain, shift = torch.randn(3, height, width, channels), torch.randn(channels), torch.randn(channels)
    agree(*both("norm", {"x": x, "weight": gain, "bias": shift}, groups=groups, act=SILU), allowed(height * width * channels // groups))


def test_group_norm_takes_its_lanes_in_parts_where_scratch_is_short(both):
    x, gain = torch.randn(70, 64, 16, 32), torch.randn(32)
    agree(*both("norm", {"x": x, "weight": gain}, groups=32))


@pytest.mark.parametrize("rows", [1, 3, 33, 77])
@pytest.mark.parametrize("channels", [1, 3, 5, 12, 33, 40, 320])
def test_layer_norm(both, rows, channels):
    x, gain, shift = torch.randn(3, 1, rows, channels), torch.randn(channels), torch.randn(channels)
    agree(*both("norm", {"x": x, "weight": gain, "bias": shift}), allowed(channels))


@pytest.mark.parametrize("groups", [0, 4])
def test_norms_survive_a_mean_far_above_the_deviations(both, groups):
    x = 1000 + torch.randn(2, 16, 16, 40)
    agree(*both("norm", {"x": x, "weight": torch.ones(40)}, groups=groups), 1e-4)


@pytest.mark.parametrize("groups", [0, 4])
def test_norms_of_a_slice_of_channels(both, groups):
    agree(*both("norm", {"x": torch.randn(2, 3, 5, 12), "weight": torch.randn(12)}, groups=groups, slice=1))


# -------------------------------------------------------------------------------- attention


def qkv(queries, keys, heads, size, lanes=2):
    draw = lambda rows: torch.randn(lanes, 1, rows, heads * size)
    return {"x": draw(queries), "k": draw(keys), "v": draw(keys)}


@pytest.mark.parametrize("heads, size", [(2, 8), (3, 11), (2, 24), (2, 40), (2, 64), (2, 80), (1, 160), (1, 176), (1, 512)])
@pytest.mark.parametrize("queries, keys", [(1, 1), (3, 77), (33, 31), (77, 33)])
def test_attention(both, heads, size, queries, keys):
    agree(*both("attention", qkv(queries, keys, heads, size), heads=heads), CUT)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("size", [40, 160, 200])
def test_attention_as_other_cards_add(both, card, size):
    agree(*both("attention", qkv(77, 130, 2, size), heads=2, card=card), CUT)


@pytest.mark.parametrize("size", [40, 80, 200])
def test_attention_in_pairs_of_bfloats_keeps_16_bits(both, size):
    agree(*both("attention", qkv(33, 77, 2, size), heads=2, bfloat=1), 1e-4)


@pytest.mark.parametrize("heads, size", [(2, 11), (2, 40), (2, 64), (1, 160), (1, 200)])
@pytest.mark.parametrize("rows", [1, 31, 77, 130])
def test_causal_attention_sees_no_later_key(both, heads, size, rows):
    tensors = qkv(rows, rows, heads, size)
    tensors["v"][:, :, -1] = 1e4  # keys that only the last query may see
    ours, theirs = both("attention", tensors, heads=heads, causal=1)
    agree(ours[:, :, :-1], theirs[:, :, :-1], CUT) if rows > 1 else None
    agree(ours, theirs, CUT)


def test_attention_over_a_whole_picture(both):
    agree(*both("attention", qkv(129, 4096, 1, 40, lanes=1), heads=1), CUT)


@pytest.mark.parametrize("size", [40, 200])
def test_attention_of_one_key_far_above_all_others(both, size):
    tensors = qkv(20, 100, 1, size)
    tensors["x"] *= 30
    agree(*both("attention", tensors, heads=1), 1e-4)


def test_attention_of_a_head_with_a_block_for_each_part_of_its_channels(both):
    agree(*both("attention", qkv(5, 9, 1, 1100), heads=1), CUT)


def test_attention_of_queries_that_are_a_slice(both):
    agree(*both("attention", qkv(9, 20, 2, 12), heads=2, slice=1), CUT)


# -------------------------------------------------------------------------------- number by number


@pytest.mark.parametrize("act", [NONE, SILU, GELU, QUICK_GELU])
@pytest.mark.parametrize("rows, channels", [(1, 1), (3, 5), (77, 33), (4096, 4)])
def test_act(both, act, rows, channels):
    tensors = {"x": 3 * torch.randn(3, 1, rows, channels), "weight": torch.eye(channels)}
    agree(*both("linear", tensors, channels=channels, act=act), 1e-6)


@pytest.mark.parametrize("rows, channels", [(1, 1), (31, 3), (33, 12), (77, 320)])
@pytest.mark.parametrize("mapped", [False, True])
def test_copy_is_exact(both, rows, channels, mapped):
    tensors = {"x": torch.randn(4, 1, rows, channels)}
    if mapped:
        tensors["map"] = torch.tensor([3, 0, 0, 2, 1, 3], dtype=torch.int32).reshape(1, 1, 1, 6)
    ours, theirs = both("copy", tensors)
    assert torch.equal(ours, theirs)
    ours, theirs = both("copy", tensors, slice=int(not mapped))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("length, dim", [(1, 1), (31, 12), (77, 96), (77, 320)])
def test_embed_is_exact(both, length, dim):
    ids = torch.randint(0, 50, (3, 1, length, 1), dtype=torch.int32)
    ids[:, :, length // 2] = 51
    tensors = {"x": ids, "weight": torch.randn(50, dim), "positions": torch.randn(80, dim), "rows": torch.randn(3, 1, 2, dim)}
    ours, theirs = both("embed", tensors, first=50, channels=dim)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dim", [4, 5, 33, 320])
def test_timestep(both, flip, shift, dim):
    t = torch.tensor([0, 1, 500, 999], dtype=torch.float32).reshape(4, 1, 1, 1)
    agree(*both("timestep", {"x": t}, flip=flip, shift=shift, channels=dim), 1e-7)


@pytest.mark.parametrize("height, width, channels", [(1, 1, 1), (3, 11, 5), (33, 31, 3), (64, 64, 4)])
@pytest.mark.parametrize("lanes", [[0, 1, 2, 3], [3, 0, 0, 2]])
def test_loss(both, height, width, channels, lanes):
    pred, target = torch.randn(4, height, width, channels), torch.randn(4, height, width, channels)
    map = torch.tensor(lanes, dtype=torch.int32).reshape(1, 1, 1, 4)
    for mask in ({}, {"k": torch.rand(4, height, width, 1)}):
        agree(*both("loss", {"x": pred, "target": target, "map": map, **mask}, height=1, width=1, channels=1), 1e-14)


@pytest.mark.parametrize("velocity", [0, 1])
@pytest.mark.parametrize("posterior", [True, False])
def test_add_noise(both, posterior, velocity):
    tensors = {"x": torch.rand(4, 7, 3, 8), "v": torch.randn(3, 7, 3, 4), "target": torch.rand(9, 1, 1, 2),
               "rows": torch.tensor([[3, 8, 2], [0, 0, 0], [1, 3, 2], [3, 8, 2]], dtype=torch.int32).reshape(4, 1, 1, 3)}
    if posterior:
        tensors["k"] = torch.randn(3, 7, 3, 4)
    ours, theirs = both("add_noise", tensors, velocity=velocity)
    assert torch.equal(ours, theirs)


# -------------------------------------------------------------------------------- contents


@pytest.mark.parametrize("lane", [-1, 4, 1 << 30])
@pytest.mark.parametrize("name, shape", [("copy", {}), ("loss", dict(height=1, width=1, channels=1))])
def test_a_map_to_no_lane_is_refused(refusal, lane, name, shape):
    x = torch.randn(4, 1, 40, 3)
    names = torch.tensor([0, lane, 2, 3], dtype=torch.int32).reshape(1, 1, 1, 4)
    assert f"lane {lane}" in refusal(name, {"x": x, "target": x + 1, "map": names}, **shape)


@pytest.mark.parametrize("stray", [-1, 52, 1 << 30])
def test_an_id_without_a_row_is_refused(refusal, stray):
    ids = torch.full((3, 1, 7, 1), 4, dtype=torch.int32)
    ids[1, 0, 5] = stray
    tensors = {"x": ids, "weight": torch.randn(50, 12), "positions": torch.randn(80, 12), "rows": torch.randn(3, 1, 2, 12)}
    assert f"id {stray} has no row" in refusal("embed", tensors, first=50, channels=12)


# -------------------------------------------------------------------------------- products

# Weights of 8, 16 and 32 bits go in exactly, and activations as pairs of halves: 22 bits. A 4-bit number becomes a half.
WITHIN = {8: CUT, 16: CUT, 32: 6e-6, 4: 2e-3}


@pytest.mark.parametrize("bits", WITHIN)
@pytest.mark.parametrize("rows, channels, out", [(1, 1, 1), (3, 5, 7), (31, 33, 12), (33, 40, 65), (77, 96, 130), (129, 64, 8)])
def test_linear(both, bits, rows, channels, out):
    tensors = {"x": torch.randn(3, 1, rows, channels), "weight": torch.randn(out, channels, 1, 1), "bias": torch.randn(out)}
    agree(*both("linear", tensors, bits=bits, channels=out), WITHIN[bits])


def test_linear_over_a_whole_picture(both):
    tensors = {"x": torch.randn(1, 1, 4096, 40), "weight": torch.randn(72, 40, 1, 1)}
    agree(*both("linear", tensors, bits=8, channels=72))


@pytest.mark.parametrize("bits", WITHIN)
@pytest.mark.parametrize("out", [2, 10, 16, 50, 144])
def test_linear_times_its_gelu_of_gates(both, bits, out):
    tensors = {"x": torch.randn(2, 1, 33, 40), "weight": torch.randn(out, 40, 1, 1) / 6, "bias": torch.randn(out)}
    agree(*both("linear", tensors, bits=bits, channels=out // 2, act=GEGLU, gated=1), 2 * WITHIN[bits])


@pytest.mark.parametrize("act", [NONE, SILU, GELU, QUICK_GELU])
def test_epilogues_of_products(both, act):
    tensors = {"x": torch.randn(3, 4, 9, 36), "weight": torch.randn(21, 36, 1, 1), "bias": torch.randn(21),
               "lane_bias": torch.randn(3, 1, 1, 21), "residual": torch.randn(3, 4, 9, 21)}
    agree(*both("linear", tensors, bits=8, channels=21, act=act))


@pytest.mark.parametrize("bits", WITHIN)
@pytest.mark.parametrize("channels, out, kernel", [(1, 1, 1), (3, 5, 3), (12, 33, 3), (40, 20, 3), (64, 130, 3), (4, 3, 5), (36, 4, 1)])
def test_conv(both, bits, channels, out, kernel):
    tensors = {"x": torch.randn(2, 7, 9, channels), "weight": torch.randn(out, channels, kernel, kernel), "bias": torch.randn(out)}
    agree(*both("conv", tensors, bits=bits, channels=out, stride=1, pad=kernel // 2), WITHIN[bits])


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("bits", WITHIN)
def test_conv_as_other_cards_add(both, bits, card):
    tensors = {"x": torch.randn(2, 7, 9, 64), "weight": torch.randn(130, 64, 3, 3), "bias": torch.randn(130)}
    agree(*both("conv", tensors, bits=bits, channels=130, stride=1, pad=1, card=card), WITHIN[bits])


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("channels", [2880, 11520])
def test_sums_as_long_as_stable_diffusions(both, channels, card):
    """320 and 1,280 channels times 3 x 3. A sum that is cut at every step shrinks in proportion to its steps: by up to 1.3e-5 and
    4.0e-5 in one piece, and by 4.2e-6 and 5.0e-6 in parts, which are added in float."""
    tensors = {"x": torch.randn(1, 1, 40, channels), "weight": torch.randn(24, channels, 1, 1)}
    agree(*both("linear", tensors, bits=8, channels=24, card=card), 2 * CUT)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_groups_of_four_bits_that_change_between_neighbouring_channels(both, kernel):
    """Groups run through (channel, ky, kx): with a wide kernel every channel has its own group, or more than one."""
    weight = torch.randn(4, 96, kernel, kernel) * torch.logspace(-2, 1, 96)[None, :, None, None]
    agree(*both("conv", {"x": torch.randn(1, 6, 5, 96), "weight": weight}, bits=4, channels=4, stride=1, pad=kernel // 2), 2e-3)


@pytest.mark.parametrize("stride, pad, height, width", [(2, 1, 5, 6), (2, 0, 4, 5), (3, 2, 4, 5)])
def test_conv_with_strides(both, stride, pad, height, width):
    tensors = {"x": torch.randn(2, 9, 11, 12), "weight": torch.randn(20, 12, 3, 3)}
    agree(*both("conv", tensors, bits=8, channels=20, stride=stride, pad=pad, height=height, width=width))


@pytest.mark.parametrize("height, width", [(18, 22), (9, 11), (17, 21), (13, 30)])
def test_conv_of_an_enlarged_picture(both, height, width):
    tensors = {"x": torch.randn(2, 9, 11, 12), "weight": torch.randn(20, 12, 3, 3)}
    agree(*both("conv", tensors, bits=8, channels=20, stride=1, pad=1, up=1, height=height, width=width))


def test_a_product_reads_a_slice_of_channels(both):
    tensors = {"x": torch.randn(2, 3, 5, 12), "weight": torch.randn(20, 12, 3, 3)}
    agree(*both("conv", tensors, bits=8, channels=20, stride=1, pad=1, slice=1))


@pytest.mark.parametrize("bits, within", [(8, 1e-4), (16, 1e-4), (32, 1e-4), (4, 2e-2)])
def test_products_in_pairs_of_bfloats_keep_16_bits(both, bits, within):
    weight = torch.randn(40, 96, 1, 1).half().float()  # 16 bits are halves on the CPU, whatever the GPU's operands are
    agree(*both("linear", {"x": torch.randn(2, 1, 33, 96), "weight": weight}, bits=bits, channels=40, bfloat=1), within)


def test_numbers_too_large_for_halves_fit_into_bfloats(both):
    tensors = {"x": 1e6 * torch.randn(1, 1, 9, 32), "weight": torch.randn(8, 32, 1, 1)}
    agree(*both("linear", tensors, bits=8, channels=8, bfloat=1), 1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_weights_of_any_size_keep_their_bits(both, scale):
    tensors = {"x": torch.randn(1, 1, 9, 32), "weight": scale * torch.randn(8, 32, 1, 1)}
    agree(*both("linear", tensors, bits=32, channels=8), 4e-6)


def test_draws_are_the_hosts_bit_for_bit(both):
    tensors = {"x": torch.full((3, 1, 1, 1), 2**40 + 3)}
    ours, theirs = both("draw", tensors, seed=2**33 + 5, stream=11, height=37, width=5, channels=7)
    assert torch.equal(ours, theirs)
