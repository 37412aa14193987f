"""Tangent lanes of attention against PyTorch's forward mode.

The helper `op` also runs every case again for its first, middle and last lane alone, a tangent beside its primal, with
1, 2 and 3 threads, and fails where a single bit differs: so every test here also checks that a tangent's bits depend on
no sibling, on no group that it is computed in, and on no thread.
"""

import pytest
import torch
import torch.autograd.forward_ad as forward_mode

from conftest import ISAS, agree, need_isa
from test_ops import op, seeded  # noqa: F401, fixtures

NEEDS = "peers"
# Lanes 0, 1, 2 are primal; 1 has no tangent, and 2 has more than fit into a group. The last is the only one of 0.
OF = [0, 1, 2] + 10 * [2] + [0]
PRIMAL = 3


def make(queries, keys, heads, size, lanes=len(OF)):
    """Random q, k, v of all lanes; the tangents' are smaller than what they are tangents of."""
    return [torch.randn(lanes, 1, n, heads * size) * torch.tensor([1.0] * PRIMAL + [0.5] * (lanes - PRIMAL)).reshape(-1, 1, 1, 1)
            for n in (queries, keys, keys)]


def attention(q, k, v, heads, causal):
    """Written out, since forward mode needs it so: [queries, heads * size] of one lane."""
    cut = lambda t: t[0].unflatten(-1, (heads, -1)).transpose(0, 1)
    q, k, v = cut(q), cut(k), cut(v)
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)[None]


def pytorchs(q, k, v, heads, causal=False, kind=torch.float64, of=OF):
    """[lanes, 1, queries, channels]: the primals and the tangents, in `kind`. q may have the primal lanes only."""
    q, k, v = (t.to(kind) for t in (torch.cat([q, torch.zeros(len(k) - len(q), *q.shape[1:])]), k, v))
    y = [attention(q[p], k[p], v[p], heads, causal) for p in range(PRIMAL)]
    for lane in range(PRIMAL, len(k)):
        with forward_mode.dual_level():
            duals = [forward_mode.make_dual(t[of[lane]], t[lane]) for t in (q, k, v)]
            y.append(forward_mode.unpack_dual(attention(*duals, heads, causal)).tangent)
    return torch.stack(y)


@pytest.fixture
def streamed(op):
    """What the op gives for q, k, v."""
    def call(q, k, v, heads, causal=False, isa=None):
        of = torch.tensor(OF, dtype=torch.int32).reshape(1, 1, 1, -1)
        return op("attention", {"x": q, "k": k, "v": v, "of": of}, isa, heads=heads, causal=int(causal), primal=PRIMAL)
    return call


def agree_both(ours, theirs, within):
    """Primals and tangents, each by their own largest value."""
    agree(ours[:PRIMAL].double(), theirs[:PRIMAL], within)
    agree(ours[PRIMAL:].double(), theirs[PRIMAL:], within)


@pytest.mark.parametrize("queries, keys, heads, size", [
    (33, 1, 3, 7), (300, 5, 1, 64), (64, 77, 2, 40), (1, 300, 2, 1), (130, 300, 1, 40), (17, 77, 2, 160), (40, 130, 1, 230)])
def test_tangents_are_pytorchs(streamed, queries, keys, heads, size):
    q, k, v = make(queries, keys, heads, size)
    agree_both(streamed(q, k, v, heads), pytorchs(q, k, v, heads), within=3e-6)


@pytest.mark.parametrize("length, heads, size", [(1, 2, 5), (5, 1, 1), (77, 3, 64), (300, 1, 40)])
def test_causal_tangents_are_pytorchs(streamed, length, heads, size):
    q, k, v = make(length, length, heads, size)
    agree_both(streamed(q, k, v, heads, causal=True), pytorchs(q, k, v, heads, True), within=3e-6)


def test_the_widest_head_leaves_room_for_tangents(streamed):
    q, k, v = make(3, 20, 1, 2048)
    agree_both(streamed(q, k, v, 1), pytorchs(q, k, v, 1), within=3e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_agrees(streamed, isa):
    need_isa(isa)
    q, k, v = make(130, 130, 2, 24)
    agree_both(streamed(q, k, v, 2, True, isa), pytorchs(q, k, v, 2, True), within=3e-6)
    agree_both(streamed(q[:PRIMAL], k, v, 2, False, isa), pytorchs(q[:PRIMAL], k, v, 2), within=3e-6)


def test_queries_without_tangents_are_queries_with_tangents_of_zero(streamed):
    q, k, v = make(70, 200, 3, 20)
    ours = streamed(q[:PRIMAL], k, v, 3)
    agree_both(ours, pytorchs(q[:PRIMAL], k, v, 3), within=3e-6)
    assert torch.equal(ours, streamed(torch.cat([q[:PRIMAL], 0 * q[PRIMAL:]]), k, v, 3))


def test_primals_have_the_bits_that_they_have_without_tangents(op, streamed):
    q, k, v = make(130, 200, 2, 40)
    ours = streamed(q, k, v, 2)
    assert torch.equal(ours[:PRIMAL], op("attention", {"x": q[:PRIMAL], "k": k[:PRIMAL], "v": v[:PRIMAL]}, heads=2))


def test_what_all_scores_share_costs_no_digits(streamed):
    """Scores that are 20 larger, and tangents of scores too: neither is seen in y, and fp32 keeps as many digits as
    PyTorch's fp32 does."""
    heads, size = 2, 40
    q, k, v = make(100, 300, heads, size)
    q.unflatten(-1, (heads, size))[..., 0] = 4
    q.unflatten(-1, (heads, size))[PRIMAL:, ..., 0] = 0
    k.unflatten(-1, (heads, size))[..., 0] += 20 * size**0.5 / 4
    theirs = pytorchs(q, k, v, heads)
    agree_both(streamed(q, k, v, heads), theirs, within=1e-5)
    agree_both(pytorchs(q, k, v, heads, kind=torch.float32), theirs, within=1e-5)


def test_one_key_may_outweigh_all_before_it(streamed):
    """Scores from -300 to 300: sums shrink to nothing, and most weights are the least that there is."""
    q, k, v = make(40, 300, 1, 64)
    k[:PRIMAL] *= 60 * torch.linspace(0.1, 1, 300)[:, None]
    agree_both(streamed(q, k, v, 1), pytorchs(q, k, v, 1), within=3e-5)


def test_tangents_that_begin_at_a_word_are_zero_before_it(streamed):
    word, length = 50, 130
    q, k, v = make(length, length, 2, 32)
    for t in (q, k, v):
        t[PRIMAL:, :, :word] = 0
        t[2] = 0  # and rows of zeros in a primal
    ours = streamed(q, k, v, 2, causal=True)
    assert (ours[PRIMAL:, :, :word] == 0).all()
    agree_both(ours, pytorchs(q, k, v, 2, True), within=3e-6)


def test_only_queries_may_lack_tangents(streamed):
    q, k, v = make(5, 6, 1, 4)
    with pytest.raises(pytest.fail.Exception, match="op_attention: shapes do not fit"):
        streamed(q, k[:PRIMAL], v[:PRIMAL], 1)
