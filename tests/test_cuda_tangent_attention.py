"""Tangent lanes of the CUDA device's attention against PyTorch's forward mode; the kernels run in the stand-in (tests/cuda).

The helper `op` also runs every case again for its first, middle and last lane alone, a tangent beside its primal, and
fails where a single bit differs: so every test here also checks that no lane's bits depend on the lanes beside it.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import needs_cuda, run
from test_cuda_ops import OP, seeded  # noqa: F401, fixtures
from test_tangent_attention import PRIMAL, agree_both, pytorchs

NEEDS = "peers standin"
pytestmark = needs_cuda

OF = [0, 1, 2, 2, 0, 0, 2, 2, 2]  # 1 has no tangent, and 2 has more than a block computes together
HALVES, PAIRS = 16, 32            # bits of tangents
WITHIN = {HALVES: 2e-3, PAIRS: 6e-6}
SIZES = [1, 8, 24, 32, 40, 48, 64, 80, 96, 100, 160, 161, 200]


@pytest.fixture
def streamed(tmp_path):
    """What the op gives for q, k, v."""
    def call(q, k, v, heads, bits=HALVES, of=OF, **numbers):
        tensors = {"x": q, "k": k, "v": v, "of": torch.tensor(of, dtype=torch.int32).reshape(1, 1, 1, -1)}
        save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "in")
        options = {"device": 1, "heads": heads, "primal": PRIMAL, "tangent_bits": bits, **numbers}
        run(OP, "attention", tmp_path / "in", tmp_path / "out", *(f"{name}={n}" for name, n in options.items()))
        return load_file(tmp_path / "out")["y"]
    return call


def make(queries, keys, heads, size, tangents=1.0, lanes=len(OF)):
    """Random q, k, v of all lanes; `tangents`: how large those of tangents are."""
    scale = torch.tensor([1.0] * PRIMAL + [tangents] * (lanes - PRIMAL)).reshape(-1, 1, 1, 1)
    return [torch.randn(lanes, 1, n, heads * size) * scale for n in (queries, keys, keys)]


@pytest.mark.parametrize("bits", [HALVES, PAIRS])
@pytest.mark.parametrize("size", SIZES)
def test_tangents_are_pytorchs(streamed, size, bits):
    q, k, v = make(19, 77, 2, size)
    agree_both(streamed(q, k, v, 2, bits), pytorchs(q, k, v, 2, of=OF), WITHIN[bits])


@pytest.mark.parametrize("bits", [HALVES, PAIRS])
@pytest.mark.parametrize("size", [5, 64, 80, 160, 200])
@pytest.mark.parametrize("length", [1, 70])
def test_causal_tangents_are_pytorchs(streamed, length, size, bits):
    q, k, v = make(length, length, 1, size)
    agree_both(streamed(q, k, v, 1, bits, causal=1), pytorchs(q, k, v, 1, True, of=OF), WITHIN[bits])


@pytest.mark.parametrize("bits, within", [(HALVES, 1.2e-2), (PAIRS, 1e-4)])
@pytest.mark.parametrize("size", [40, 64, 200])
def test_bfloats_keep_8_bits_and_their_pairs_16(streamed, size, bits, within):
    q, k, v = make(33, 77, 2, size)
    agree_both(streamed(q, k, v, 2, bits, bfloat=1), pytorchs(q, k, v, 2, of=OF), within)


@pytest.mark.parametrize("queries, keys, size", [(1, 1, 40), (1, 1, 200), (300, 1, 40), (2, 33, 80), (129, 70, 40)])
def test_any_number_of_queries_and_keys(streamed, queries, keys, size):
    q, k, v = make(queries, keys, 1, size)
    agree_both(streamed(q, k, v, 1), pytorchs(q, k, v, 1, of=OF), WITHIN[HALVES])


def test_a_whole_picture(streamed):
    q, k, v = make(5, 4096, 1, 40)
    agree_both(streamed(q, k, v, 1), pytorchs(q, k, v, 1, of=OF), WITHIN[HALVES])


def test_a_head_with_a_block_for_each_part_of_its_channels(streamed):
    q, k, v = make(3, 20, 1, 2048)
    agree_both(streamed(q, k, v, 1), pytorchs(q, k, v, 1, of=OF), WITHIN[HALVES])


@pytest.mark.parametrize("bits", [HALVES, PAIRS])
@pytest.mark.parametrize("size", [40, 80, 200])
def test_queries_without_tangents_are_queries_with_tangents_of_zero(streamed, size, bits):
    q, k, v = make(33, 77, 1, size)
    ours = streamed(q[:PRIMAL], k, v, 1, bits)
    agree_both(ours, pytorchs(q[:PRIMAL], k, v, 1, of=OF), WITHIN[bits])
    assert torch.equal(ours, streamed(torch.cat([q[:PRIMAL], 0 * q[PRIMAL:]]), k, v, 1, bits))


@pytest.mark.parametrize("size", [40, 80, 160, 200])
def test_tangents_may_come_in_any_order(streamed, size):
    order = [0, 1, 2, 4, 8, 3, 7, 5, 6]
    q, k, v = make(33, 50, 1, size)
    shuffled = streamed(q[order], k[order], v[order], 1, of=[OF[lane] for lane in order])
    assert torch.equal(shuffled, streamed(q, k, v, 1)[order])


@pytest.mark.parametrize("bits", [HALVES, PAIRS])
@pytest.mark.parametrize("size", [40, 64, 80, 160, 200])
def test_primals_have_the_bits_that_they_have_without_tangents(streamed, size, bits):
    q, k, v = make(33, 50, 1, size)
    alone = streamed(q[:PRIMAL], k[:PRIMAL], v[:PRIMAL], 1, bits, of=range(PRIMAL))
    assert torch.equal(alone, streamed(q, k, v, 1, bits)[:PRIMAL])


@pytest.mark.parametrize("size", [40, 200])
def test_a_gpus_attention_takes_no_codes(streamed, size):
    q, k, v = make(33, 50, 1, size)
    assert torch.equal(streamed(q, k, v, 1, 8), streamed(q, k, v, 1, HALVES))


@pytest.mark.parametrize("size", [40, 200])
@pytest.mark.parametrize("tangents", [1e-30, 1e-4, 1e-2, 1e3, 1e30])
def test_small_and_large_tangents_keep_as_many_digits(streamed, tangents, size):
    q, k, v = make(33, 300, 1, size, tangents)
    for bits in (HALVES, PAIRS):
        agree_both(streamed(q, k, v, 1, bits), pytorchs(q, k, v, 1, of=OF), WITHIN[bits])


def test_twice_the_tangent_has_twice_the_derivative_bit_for_bit(streamed):
    q, k, v = make(33, 77, 1, 40)
    twice = [torch.cat([t[:PRIMAL], 2.0**20 * t[PRIMAL:]]) for t in (q, k, v)]
    assert torch.equal(streamed(*twice, 1)[PRIMAL:], 2.0**20 * streamed(q, k, v, 1)[PRIMAL:])


@pytest.mark.parametrize("bits, within", [(HALVES, WITHIN[HALVES]), (PAIRS, 4e-5)])
@pytest.mark.parametrize("size", [40, 200])
def test_what_all_scores_share_costs_no_digits(streamed, size, bits, within):
    """Scores that are 20 larger, and tangents of scores too: neither is seen in y, and only float's own digits are lost."""
    q, k, v = make(33, 150, 1, size)
    q[..., 0], q[PRIMAL:, ..., 0] = 4, 0
    k[..., 0] = 20 * size**0.5 / 4
    agree_both(streamed(q, k, v, 1, bits), pytorchs(q, k, v, 1, of=OF), within)


@pytest.mark.parametrize("size", [64, 200])
def test_one_key_may_outweigh_all_before_it(streamed, size):
    """Scores from -300 to 300: sums shrink to nothing, and most weights are the least that there is."""
    q, k, v = make(20, 150, 1, size)
    k[:PRIMAL] *= 60 * torch.linspace(0.1, 1, 150)[:, None]
    agree_both(streamed(q, k, v, 1, PAIRS), pytorchs(q, k, v, 1, of=OF), 1e-4)


@pytest.mark.parametrize("size", [32, 200])
def test_tangents_that_begin_at_a_word_are_zero_before_it(streamed, size):
    word, length = 50, 77
    q, k, v = make(length, length, 1, size)
    for t in (q, k, v):
        t[PRIMAL:, :, :word] = 0
        t[-1] = 0  # and a tangent of nothing
    ours = streamed(q, k, v, 1, causal=1)
    assert (ours[PRIMAL:, :, :word] == 0).all() and (ours[-1] == 0).all()
    agree_both(ours, pytorchs(q, k, v, 1, True, of=OF), WITHIN[HALVES])


@pytest.mark.parametrize("size", [12, 200])
def test_queries_may_be_a_slice(streamed, size):
    q, k, v = make(9, 20, 2, size)
    assert torch.equal(streamed(q, k, v, 2, slice=1), streamed(q, k, v, 2))
