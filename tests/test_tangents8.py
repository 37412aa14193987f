"""Tangents in codes of 8 bits: each op against a plain model of the same rounding, networks by the noise of their slopes, and runs.

The helper `op` also checks that a tangent's bits depend on no sibling and on no thread.
"""
import json

import pytest
import torch
import torch.nn.functional as F
from optimum.quanto import AbsmaxOptimizer, qint8, quantize_weight
from safetensors.torch import load_file, save_file

from conftest import SHAPES, agree, learned, make_model, metrics, mpirun, need_isa, program, refused, run, write_recipe
from test_derivative import setting
from test_ops import GEGLU, QUICK_GELU, activate, nchw, nhwc, op, seeded  # noqa: F401, two are fixtures
from test_tangents import MODELS, ROWS, Reference, forward, inputs_for, model_of

NEEDS = "peers"
# What multiplies codes, and the instruction set whose panels it takes.
UNITS = {"amx": ("avx512", "amx_int8"), "avx512-vnni": ("avx512", "avx512_vnni"), "avx-vnni": ("avx2", "avx_vnni"), "avx2": ("avx2", "avx2")}
FLAGS = open("/proc/cpuinfo").read().split()
HAS_CODES = ("avx512_vnni" if "avx512f" in FLAGS else "avx2") in FLAGS  # a unit that fits the instruction set taken by itself
DEPTH = 640  # most channels that share a scale


def need_unit(unit):
    need_isa(UNITS[unit][0])
    if UNITS[unit][1] not in FLAGS:
        pytest.skip(f"no {unit} here")


@pytest.fixture(params=UNITS)
def eight(request, op, monkeypatch):  # noqa: F811
    """Runs an op on one primal lane and its tangents, these in 8 bits, or in `tangent_bits`."""
    need_unit(request.param)
    monkeypatch.setenv("ZOODIP_INT8", request.param)

    def call(name, tensors, **numbers):
        of = torch.zeros(1, 1, 1, len(tensors.get("k", tensors["x"])), dtype=torch.int32)
        return op(name, {**tensors, "of": of}, UNITS[request.param][0], **{"primal": 1, "tangent_bits": 8, "bits": 8, **numbers})

    call.unit = request.param
    return call


def encoded(x):
    """x by codes of 8 bits, each block of the last dimension with its own scale."""
    blocks = -(-x.shape[-1] // DEPTH)
    length = -(-x.shape[-1] // blocks)
    length += -length % (64 if x.shape[-1] % 64 == 0 else 4)
    parts = []
    for part in x.split(length, -1):
        size = part.abs().amax(-1, keepdim=True)
        codes = (part.double() * torch.where(size > 0, 127 / size, 0).double()).round()
        parts.append(codes * (size / 127).double())
    return torch.cat(parts, -1)


def as_kept(w):
    codes = quantize_weight(w, qint8, 0, AbsmaxOptimizer()(w, qint8, 0))
    return codes._data.double() * codes._scale.double()


# -------------------------------------------------------------------------------- products


@pytest.mark.parametrize("rows, inner, outer", [(1, 4, 1), (33, 36, 7), (77, 320, 64), (16, 768, 100), (70, 1280, 40), (5, 960, 33)])
def test_linear_layers_round_x_and_nothing_else(eight, rows, inner, outer):
    x, w, b = torch.randn(4, 1, rows, inner), torch.randn(outer, inner) / inner**0.5, torch.randn(outer)
    x[2, 0, 0] = 0
    residual = torch.randn(4, 1, rows, outer)
    ours = eight("linear", {"x": x, "weight": w, "bias": b, "residual": residual}, channels=outer)
    agree(ours[1:].double(), F.linear(encoded(x[1:]), as_kept(w)) + residual[1:], within=1e-6)
    agree(ours[:1].double(), F.linear(x[:1].double(), as_kept(w), b.double()) + residual[:1])


@pytest.mark.parametrize("act", [QUICK_GELU, GEGLU])
def test_acts_slopes_are_the_floats(eight, act):
    x, w, b = torch.randn(3, 1, 33, 64), torch.randn(52, 64) / 8, torch.randn(52)
    ours = eight("linear", {"x": x, "weight": w, "bias": b}, channels=26 if act == GEGLU else 52, act=act, gated=int(act == GEGLU))

    def value(u):
        return u.chunk(2, -1)[0] * F.gelu(u.chunk(2, -1)[1]) if act == GEGLU else activate(u, act)

    u, moved = F.linear(x[:1].double(), as_kept(w), b.double()), F.linear(encoded(x[1:]), as_kept(w))
    theirs = torch.stack([torch.func.jvp(value, (u[0],), (m,))[1] for m in moved])
    agree(ours[1:].double(), theirs, within=2e-6)


@pytest.mark.parametrize("height, width, inner, outer, kernel, stride, pad", [
    (8, 8, 64, 96, 3, 1, 1), (9, 7, 36, 40, 3, 1, 1), (9, 6, 32, 17, 3, 2, 1), (6, 6, 20, 4, 1, 1, 0), (5, 3, 660, 8, 3, 1, 1)])
def test_convolutions(eight, height, width, inner, outer, kernel, stride, pad):
    x, w = torch.randn(3, height, width, inner), torch.randn(outer, inner, kernel, kernel) / (inner * kernel**2) ** 0.5
    exact, rounded = (nhwc(F.conv2d(nchw(t.double()), as_kept(w), stride=stride, padding=pad)) for t in (x[1:], encoded(x[1:])))
    numbers = dict(channels=outer, height=exact.shape[1], width=exact.shape[2], stride=stride, pad=pad)
    ours = eight("conv", {"x": x, "weight": w}, **numbers)
    few_multiplications = kernel == 3 and stride == 1 and height > 5 and eight.unit != "amx"  # and these in floats
    agree(ours[1:].double(), exact if few_multiplications else rounded, within=3e-6 if few_multiplications else 1e-6)


def test_enlarging_convolutions(eight):
    x, w = torch.randn(3, 4, 6, 20), torch.randn(19, 20, 3, 3) / 13
    theirs = nhwc(F.conv2d(F.interpolate(nchw(encoded(x[1:])), (8, 12), mode="nearest"), as_kept(w), padding=1))
    ours = eight("conv", {"x": x, "weight": w}, channels=19, height=8, width=12, pad=1, up=1)
    agree(ours[1:].double(), theirs, within=1e-6 if eight.unit == "amx" else 0.02)


# -------------------------------------------------------------------------------- weights of 4 bits


@pytest.mark.parametrize("rows, inner, outer, group", [(1, 4, 2, 4), (33, 36, 7, 36), (77, 320, 64, 64), (16, 768, 100, 128), (5, 288, 33, 96), (9, 4800, 8, 96)])
def test_weights_of_4_bits_by_their_groups(eight, rows, inner, outer, group):
    x, w, b = torch.randn(4, 1, rows, inner), torch.randn(outer, inner) / inner**0.5, torch.randn(outer)
    x[2, 0, 0] = 0
    ours = eight("linear", {"x": x, "weight": w, "bias": b}, channels=outer, bits=4)
    kept = eight("linear", {"x": torch.eye(inner).repeat(2, 1, 1, 1), "weight": w}, channels=outer, bits=4, tangent_bits=32)[1, 0].double()
    codes = torch.cat([encoded(part) for part in x.split(group, -1)], -1)
    agree(ours[1:].double(), codes[1:] @ kept, within=1e-6)
    agree(ours[:1].double(), x[:1].double() @ kept + b.double())


def test_outliers_with_weights_of_4_bits(eight):
    x, w = with_outliers(256, 9, (4, 1, 33)), torch.randn(50, 256)
    apart, found = torch.zeros_like(x), outliers_of(x)
    apart[..., found] = x[..., found]
    kept = eight("linear", {"x": torch.eye(256).repeat(2, 1, 1, 1), "weight": w}, channels=50, bits=4, tangent_bits=32)[1, 0].double()
    codes = torch.cat([encoded(part) for part in (x - apart).split(128, -1)], -1) + apart
    agree(eight("linear", {"x": x, "weight": w}, channels=50, bits=4, outliers=1)[1:].double(), (codes @ kept)[1:], within=1e-6)


@pytest.mark.parametrize("inner, kernel", [(132, 1), (64, 3)])
def test_where_groups_do_not_fit_4_bits_take_floats(eight, inner, kernel):
    """A row that no group divides and that is not a multiple of four, and taps, under which a group is torn apart."""
    inner += kernel == 1  # 133: one group of 133
    tensors = {"x": torch.randn(3, 5, 5, inner), "weight": torch.randn(17, inner, kernel, kernel)}
    numbers = dict(channels=17, height=5, width=5, pad=kernel // 2, bits=4)
    assert torch.equal(eight("conv", tensors, **numbers), eight("conv", tensors, tangent_bits=32, **numbers))


# -------------------------------------------------------------------------------- outliers


def outliers_of(x):
    """By its definition: of the first tangent, channels of 6 times the median's rms, the largest 32 or sixteenth part of them."""
    rms = x[1].double().square().mean((0, 1)).sqrt()
    order = rms.sort(descending=True).indices[:min(32, len(rms) // 16)]
    return [c for c in order.tolist() if rms[c] > 6 * rms.sort().values[len(rms) // 2]]


def with_outliers(channels, count, shape):
    x = torch.randn(*shape, channels)
    chosen = torch.randperm(channels)[:count]
    x[..., chosen] *= torch.where(torch.arange(count) < min(32, channels // 16), 200, 20)  # no doubt which ones are the largest
    return x


@pytest.mark.parametrize("channels, count", [(64, 3), (64, 9), (700, 1), (1280, 60), (36, 2)])
def test_outliers_are_multiplied_in_floats(eight, channels, count):
    x, w = with_outliers(channels, count, (4, 1, 33)), torch.randn(50, channels) / channels**0.5
    apart, found = torch.zeros_like(x), outliers_of(x)
    assert len(found) == min(count, 32, channels // 16)
    apart[..., found] = x[..., found]
    ours = eight("linear", {"x": x, "weight": w}, channels=50, outliers=1)
    theirs = F.linear(encoded(x - apart) + apart.double(), as_kept(w))
    agree(ours[1:].double(), theirs[1:], within=1e-6)
    if count <= channels // 16:
        exact = F.linear(x.double(), as_kept(w))[1:]
        error = rms(theirs[1:] - exact), rms(F.linear(encoded(x), as_kept(w))[1:] - exact)
        assert error[0] < 0.3 * error[1]


@pytest.mark.parametrize("kernel, stride, pad", [(3, 2, 1), (1, 1, 0)])
def test_outliers_of_convolutions(eight, kernel, stride, pad):
    x, w = with_outliers(48, 2, (3, 9, 6)), torch.randn(20, 48, kernel, kernel)
    apart, found = torch.zeros_like(x), outliers_of(x)
    apart[..., found] = x[..., found]
    theirs = nhwc(F.conv2d(nchw(encoded(x - apart) + apart.double()), as_kept(w), stride=stride, padding=pad))
    numbers = dict(channels=20, height=theirs.shape[1], width=theirs.shape[2], stride=stride, pad=pad)
    agree(eight("conv", {"x": x, "weight": w}, outliers=1, **numbers)[1:].double(), theirs[1:], within=1e-6)


def test_without_outliers_nothing_changes(eight):
    tensors = {"x": torch.randn(3, 1, 9, 64), "weight": torch.randn(33, 64)}
    tensors["x"][1, ..., 5] = 0  # nor where the only tangent that is looked at has none
    assert torch.equal(eight("linear", tensors, channels=33, outliers=1), eight("linear", tensors, channels=33))


# -------------------------------------------------------------------------------- what takes floats


@pytest.mark.parametrize("bits", [16, 32])
def test_weights_of_other_bits_are_multiplied_in_floats(eight, bits):
    tensors = {"x": torch.randn(3, 1, 9, 128), "weight": torch.randn(33, 128)}
    assert torch.equal(eight("linear", tensors, channels=33, bits=bits), eight("linear", tensors, channels=33, bits=bits, tangent_bits=32))


def test_channels_that_are_no_multiple_of_four_are_multiplied_in_floats(eight):
    tensors = {"x": torch.randn(3, 1, 9, 37), "weight": torch.randn(33, 37)}
    assert torch.equal(eight("linear", tensors, channels=33), eight("linear", tensors, channels=33, tangent_bits=32))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_not_hidden(eight, wrong):
    x = torch.randn(3, 1, 9, 64)
    x[1, 0, 4, 7] = wrong
    y = eight("linear", {"x": x, "weight": torch.randn(33, 64)}, channels=33)
    assert not torch.isfinite(y[1, 0, 4]).any() and torch.isfinite(y[1, 0, 3]).all() and torch.isfinite(y[2]).all()
    q, k, v = (torch.randn(3, 1, 9, 32) for _ in range(3))
    for tensor in (q, k, v):
        tensor[1, 0, 4, 7] = wrong
        y = eight("attention", {"x": q, "k": k, "v": v}, heads=2)
        assert not torch.isfinite(y[1]).all() and torch.isfinite(y[2]).all()
        tensor[1, 0, 4, 7] = 0


# -------------------------------------------------------------------------------- attention


def columns_encoded(x, dim):
    size = x.abs().amax(dim, keepdim=True)
    by = torch.where(size > 0, 127 / size, 0.0)
    return (x * by).round() * size / 127


def plain_attention(q, k, v, heads, causal, encode):
    """The tangents, of whose products each factor is encoded along its sum; the keys are one block."""
    cut = lambda t: t[:, 0].double().unflatten(-1, (heads, -1)).transpose(1, 2)
    q, k, v = cut(q), cut(k), cut(v)
    scores = q[:1] @ k[:1].transpose(2, 3) / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -torch.inf)
    p = scores.softmax(-1)
    moved = (encode(q[1:], -1) @ encode(k[:1], -1).transpose(2, 3) + encode(q[:1], -1) @ encode(k[1:], -1).transpose(2, 3)) / q.shape[-1] ** 0.5
    moved = p * (moved - (p * moved).sum(-1, keepdim=True))
    return (encode(moved, -1) @ encode(v[:1], -2) + encode(p, -1) @ encode(v[1:], -2)).transpose(1, 2).flatten(2)[:, None]


def rms(x):
    return x.double().square().mean().sqrt()


@pytest.mark.parametrize("heads, size, queries, keys, causal", [(2, 40, 70, 77, 0), (1, 64, 77, 77, 1), (3, 20, 33, 192, 0), (2, 80, 5, 100, 0),
                                                               (1, 160, 40, 64, 0), (1, 256, 30, 120, 0), (1, 1024, 9, 24, 0)])
def test_attention_rounds_the_factors_of_its_products(eight, heads, size, queries, keys, causal):
    q, k, v = (torch.randn(4, 1, n, heads * size) for n in (queries, keys, keys))
    ours = eight("attention", {"x": q, "k": k, "v": v}, heads=heads, causal=causal)[1:]
    plain = plain_attention(q, k, v, heads, causal, columns_encoded)
    exact = plain_attention(q, k, v, heads, causal, lambda x, dim: x)
    rounding = rms(plain - exact)
    assert rms(ours - plain) < 0.1 * rounding  # a number between two codes may take either
    assert 0.003 < rounding / rms(exact) < 0.03


def test_attention_over_many_blocks_of_keys_and_shifted_scores(eight):
    """What all scores of a query have in common does not count: it is taken off before anything is rounded."""
    q, k, v = (torch.randn(3, 1, n, 48) for n in (50, 1000, 1000))
    q[:, ..., 0], k[:1, ..., 0], k[1:, ..., 0] = 1, 0, 20
    ours = eight("attention", {"x": q, "k": k, "v": v}, heads=1)[1:]
    exact = plain_attention(q, k, v, 1, 0, lambda x, dim: x)
    assert rms(ours - exact) < 0.06 * rms(exact)


@pytest.mark.parametrize("size, keys", [(48, 77), (176, 400), (256, 200), (320, 110), (1024, 50)])
def test_attention_of_any_heads_size_and_number_of_keys(eight, size, keys):
    q, k, v = (torch.randn(3, 1, n, size) for n in (20, keys, keys))
    ours = eight("attention", {"x": q, "k": k, "v": v}, heads=1)[1:]
    exact = plain_attention(q, k, v, 1, 0, lambda x, dim: x)
    assert rms(ours - exact) < 0.03 * rms(exact)


def test_queries_without_tangents(eight):
    q, k, v = (torch.randn(3, 1, n, 40) for n in (30, 77, 77))
    q[1:] = 0
    whole = eight("attention", {"x": q, "k": k, "v": v}, heads=2)
    assert torch.equal(eight("attention", {"x": q[:1], "k": k, "v": v}, heads=2), whole)


# -------------------------------------------------------------------------------- networks


def noise_of(pairs):
    """The rms of the difference of slopes over that of the exact ones."""
    exact, eight = (torch.cat([p[i] for p in pairs]) for i in (0, 1))
    return (rms(exact - eight) / rms(exact)).item()


def fold_outliers(folder, share=0.02, by=50):
    """Makes some channels, which a norm, a value or the feed-forward's inner part gives out, that much larger, and what reads
    them that much smaller."""
    generator = torch.Generator().manual_seed(11)
    for part in ("text_encoder", "unet"):
        path = next((folder / part).glob("*.safetensors"))
        w = load_file(path)

        def fold(source, readers, rows=slice(None)):
            readers = [r for r in readers if f"{r}.weight" in w]
            if f"{source}.weight" not in w or not readers:
                return
            channels = w[f"{readers[0]}.weight"].shape[1]
            chosen = torch.randperm(channels, generator=generator)[:max(1, int(channels * share)) if channels >= 16 else 0]
            w[f"{source}.weight"][rows][chosen] *= by
            if f"{source}.bias" in w:
                w[f"{source}.bias"][rows][chosen] *= by
            for r in readers:
                w[f"{r}.weight"][:, chosen] /= by

        for name in sorted({n.rsplit(".", 1)[0] for n in w}):
            block, last = name.rsplit(".", 1) if "." in name else ("", name)
            reads = {"layer_norm1": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "layer_norm2": ["mlp.fc1"],
                     "v_proj": ["out_proj"], "norm1": ["conv1", "attn1.to_q", "attn1.to_k", "attn1.to_v"],
                     "norm2": ["conv2", "attn2.to_q"], "norm3": ["ff.net.0.proj"], "norm": ["proj_in"], "to_v": ["to_out.0"]}
            if last in reads:
                fold(name, [f"{block}.{r}" for r in reads[last]])
            if name.endswith("ff.net.0.proj"):
                fold(name, [name.replace("0.proj", "2")], slice(0, len(w[f"{name}.weight"]) // 2))
        save_file(w, path)


# In "second" a norm has groups of four numbers, of which it takes two away, and with them most of the tangent; in "deep" some
# are nearly as small, and with AMX its 3x3 convolutions are in codes too.
MOST = dict(dict.fromkeys(MODELS, 0.05), deep=0.07, second=0.2)


@pytest.mark.skipif(not HAS_CODES, reason="this processor multiplies no codes")
@pytest.mark.parametrize("outliers", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_slopes_of_random_models(tmp_path, name, outliers):
    """At words of the table: a word of zeros, which a norm divides by its eps, has one slope so large that no other counts."""
    shape, vectors, length, size = MODELS[name]
    pairs = []
    for seed in range(8):
        folder = model_of(shape, tmp_path / f"model{seed}", seed=seed)
        if outliers:
            fold_outliers(folder)
        reference = Reference(folder)
        given = inputs_for(reference, vectors, length, size)
        table = reference.words.table.float()
        given["embedding"] = table[torch.randint(0, len(table), (len(ROWS), vectors), generator=torch.Generator().manual_seed(seed))]
        exact, eight = (forward(folder, tmp_path, given, "tangent", "--bits", "8", "--tangents", bits) for bits in ("32", "8"))
        assert torch.equal(exact["loss"], eight["loss"]) and torch.equal(exact["noise_pred"], eight["noise_pred"])
        assert not torch.equal(exact["slope"], eight["slope"])
        pairs.append((exact["slope"] / rms(exact["slope"]), eight["slope"] / rms(exact["slope"])))
    assert noise_of(pairs) < MOST[name]


# -------------------------------------------------------------------------------- runs

EIGHT = dict(optim__steps=6, zo__n=5, zo__tau=3, zo__derivative="tangent", quant__tangents=8, output__prompts=[])


def slopes_of(output):
    return [m["slopes"] for m in metrics(output)]


def test_the_same_bits_on_any_ranks_and_after_a_resume(tmp_path):
    config, output = write_recipe(tmp_path / "1", **EIGHT)
    run(program("zoodip"), "train", config, threads=2)
    for ranks, threads in ((2, 1), (3, 2)):
        other, there = write_recipe(tmp_path / str(ranks), **EIGHT)
        mpirun(ranks, program("zoodip"), "train", other, threads=threads)
        assert (learned(there), slopes_of(there)) == (learned(output), slopes_of(output))
    other, there = write_recipe(tmp_path / "two", **EIGHT)
    run(program("zoodip"), "train", other, "--set", "optim.steps=3", threads=1)
    run(program("zoodip"), "train", other, "--resume", threads=2)
    assert learned(there) == learned(output)
    refused(run(program("zoodip"), "train", other, "--resume", "--quiet", *setting(quant__tangents=32, optim__steps=9), check=False), "quant.tangents")


def test_floats_where_there_is_no_unit(tmp_path):
    config, output = write_recipe(tmp_path, **EIGHT)
    done = run(program("zoodip"), "train", config, threads=1, env={"ZOODIP_ISA": "generic"})
    assert "quant.tangents: 8 takes floats here" in done.stderr
    run(program("zoodip"), "train", config, "--overwrite", *setting(quant__tangents=32), threads=1, env={"ZOODIP_ISA": "generic"})
    floats = learned(output)
    run(program("zoodip"), "train", config, "--overwrite", threads=1, env={"ZOODIP_ISA": "generic"})
    assert learned(output) == floats


def test_inspect_plans_the_arena_to_the_byte(tmp_path):
    model = make_model(tmp_path / "model", SHAPES["stacked"])
    config, _ = write_recipe(tmp_path, **dict(EIGHT, model=str(model)))
    planned = json.loads(run(program("zoodip"), "inspect", config).stdout)["step"]["arena_bytes"]["tangent"]
    measured = json.loads(run(program("zoodip"), "bench", config, "--evaluations", 6).stdout.splitlines()[-1])
    assert measured["arena_bytes"] == planned
