"""Slopes, and the tangents of hidden states and predictions that they come from, are those of PyTorch's forward mode: on random
models that differ in every dimension, on what is hard for single ops, on quantized weights, at a word as it begins and as it is
learned. The reference runs the real transformers and diffusers modules in double."""
from unittest import mock

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from optimum.quanto import QModuleMixin
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from conftest import NIGHTLY, SD15, SHAPES, make_model, program, run
from test_quantize import peer

NEEDS = "peers"
LIMIT = 1e-4  # of the largest value, or of the slopes' rms

TOKENS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=2)

# Besides those of conftest: vectors of the word, length of a text, latent size.
MODELS = dict(
    plain=(SHAPES["plain"], 1, 77, (12, 20)),
    deep=(SHAPES["deep"], 3, 40, (9, 13)),
    stacked=(SHAPES["stacked"], 2, 77, (16, 6)),
    wide=(SHAPES["wide"], 1, 9, (11, 7)),
    # as Stable Diffusion 2: linear projections, gelu, heads of one size; and other channels out than in
    second=(dict(text=dict(hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=1, hidden_act="gelu",
                           vocab_size=301, max_position_embeddings=33, **TOKENS),
                 unet=dict(block_out_channels=(32, 64, 128, 128), layers_per_block=(1, 2, 1, 1), norm_num_groups=32,
                           attention_head_dim=(1, 2, 4, 4), use_linear_projection=True, upcast_attention=True, in_channels=5,
                           out_channels=3, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                           up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)), 5, 33, (8, 8)),
    # the text is first read in the middle block
    late=(dict(text=dict(hidden_size=20, intermediate_size=50, num_hidden_layers=5, num_attention_heads=10, hidden_act="quick_gelu",
                         vocab_size=100, max_position_embeddings=12, **TOKENS),
               unet=dict(block_out_channels=(6, 15), layers_per_block=3, norm_num_groups=3, attention_head_dim=3, conv_in_kernel=5,
                         conv_out_kernel=1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)), 2, 12, (5, 3)))


# -------------------------------------------------------------------------------- the reference

class Words(torch.nn.Module):
    """The token table, and after it each row's own word."""

    def __init__(self, table):
        super().__init__()
        self.table, self.words = table, None

    def forward(self, ids):
        known = len(self.table)
        own = (ids - known).clamp(min=0)[..., None].expand(*ids.shape, self.table.shape[1])
        return torch.where((ids < known)[..., None], self.table[ids.clamp(max=known - 1)], self.words.gather(1, own))


class Reference:
    def __init__(self, folder, bits=32, kind=torch.float64):
        self.text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, attn_implementation="eager").eval()
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
        if bits < 32:
            for part, model in (("text_encoder", self.text), ("unet", self.unet)):
                layers = {name: layer for name, layer in peer(folder, part, torch.float32, bits).named_modules()
                          if isinstance(layer, QModuleMixin)}
                model.load_state_dict({**model.state_dict(), **{f"{n}.weight": l.weight.dequantize() for n, l in layers.items()}})
        self.unet.set_attn_processor(AttnProcessor())
        self.text.to(kind), self.unet.to(kind)
        self.kind, self.words = kind, Words(self.text.get_input_embeddings().weight)
        self.text.set_input_embeddings(self.words)

    def forward(self, given, words):
        self.words.words = words
        with mock.patch("torch.nn.functional.softmax", lambda x, dim, dtype=None: x.softmax(dim)):  # transformers' is in float
            hidden = self.text(given["input_ids"].long()).last_hidden_state
        predicted = self.unet(given["sample"].to(self.kind), given["timestep"], hidden).sample
        return hidden, predicted, ((predicted - given["target"]) ** 2).flatten(1).mean(1)

    def losses(self, given, by):
        with torch.no_grad():
            return self.forward(given, given["embedding"].to(self.kind) + by * given["directions"])[2]

    def tangents(self, given):
        with torch.no_grad(), forward_ad.dual_level():
            word = forward_ad.make_dual(given["embedding"].to(self.kind), given["directions"].to(self.kind))
            parts = [forward_ad.unpack_dual(t) for t in self.forward(given, word)]
        (hidden, noise_pred, loss) = ((p.primal, p.tangent) for p in parts)
        return dict(hidden=hidden[0], hidden_tangent=hidden[1], noise_pred=noise_pred[0], noise_pred_tangent=noise_pred[1],
                    loss=loss[0], slope=loss[1])


# -------------------------------------------------------------------------------- inputs, and ours

ROWS = ["a word as it begins", "as it is learned", "learned, twice in the text", "at the text's beginning", "zeros", "not in the text"]


def inputs_for(reference, vectors, length, size, seed=1):
    """For each of ROWS a text, a word and a picture of its own."""
    g = torch.Generator().manual_seed(seed)
    table, config = reference.words.table.float(), reference.unet.config
    vocab, dim = table.shape
    ids = torch.randint(0, vocab, (len(ROWS), length), generator=g, dtype=torch.int32)
    word = torch.arange(vocab, vocab + vectors, dtype=torch.int32)
    for row, at in enumerate([1, length - vectors, 2, 0, length // 3]):
        ids[row, at:at + vectors] = word
    ids[2, -vectors:] = word
    embedding = table[torch.randint(0, vocab, (len(ROWS), vectors), generator=g)].clone()
    embedding[1:4] += 10 * table.std() * torch.randn(3, vectors, dim, generator=g)
    embedding[4] = 0
    return dict(input_ids=ids, embedding=embedding, directions=torch.randn(len(ROWS), vectors, dim, generator=g),
                sample=torch.randn(len(ROWS), config.in_channels, *size, generator=g),
                target=torch.randn(len(ROWS), config.out_channels, *size, generator=g),
                timestep=torch.randint(0, 1000, (len(ROWS),), generator=g, dtype=torch.int32))


def forward(folder, tmp_path, given, *options, **kw):
    save_file(given, tmp_path / "in.safetensors")
    done = run(program("tests/forward"), folder, tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--derivative", *options,
               threads=2, **kw)
    return load_file(tmp_path / "out.safetensors") if done.returncode == 0 else done


def differs(ours, theirs):
    """Row by row the largest difference, relative to the row's largest value."""
    assert ours.shape == theirs.shape and torch.isfinite(ours).all()
    ours, theirs = ours.flatten(1).double(), theirs.flatten(1)
    largest = theirs.abs().amax(1)
    return ((ours - theirs).abs().amax(1) / torch.where(largest > 0, largest, 1.0)).max().item()


def rms(t):
    return t.double().flatten(1).pow(2).mean(1).sqrt()


def agree(given, ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ("hidden", "hidden_tangent", "noise_pred", "noise_pred_tangent"):
        assert differs(ours[name], theirs[name]) < LIMIT, name
    # row by row: a slope's rms, were the prediction's tangent as large as it is but anywhere
    usual = 2 * rms(theirs["noise_pred"] - given["target"]) * rms(theirs["noise_pred_tangent"]) / given["target"][0].numel() ** 0.5
    assert ((ours["slope"] - theirs["slope"]).abs() <= LIMIT * usual).all()
    assert ((ours["loss"] - theirs["loss"]).abs() < LIMIT / 10 * theirs["loss"]).all()


def compare(folder, tmp_path, reference, *options, vectors=2, length=24, size=(8, 8), rows=len(ROWS)):
    given = {name: value[:rows].contiguous() for name, value in inputs_for(reference, vectors, length, size).items()}
    ours, theirs = forward(folder, tmp_path, given, "tangent", *options), reference.tangents(given)
    agree(given, ours, theirs)
    return given, ours, theirs


def model_of(shape, folder, **kw):
    return make_model(folder, shape, parts=("text_encoder", "unet"), **kw)


# -------------------------------------------------------------------------------- tests

@pytest.mark.parametrize("name", MODELS)
def test_random_models(tmp_path, name):
    shape, vectors, length, size = MODELS[name]
    folder = model_of(shape, tmp_path / "model", seed=7)
    given, ours, theirs = compare(folder, tmp_path, Reference(folder), vectors=vectors, length=length, size=size)
    # nothing depends on a word that is not there, nor what stands before the word on it
    assert not ours["slope"][-1] and not ours["hidden_tangent"][-1].any() and not ours["noise_pred_tangent"][-1].any()
    assert not ours["hidden_tangent"][1, :length - vectors].any() and ours["hidden_tangent"][1, length - vectors:].any()


def test_differences_in_double_approach_them(tmp_path):
    shape, vectors, length, size = MODELS["deep"]
    folder = model_of(shape, tmp_path / "model", seed=8)
    reference = Reference(folder)
    given = inputs_for(reference, vectors, length, size)
    slopes = forward(folder, tmp_path, given, "tangent")["slope"]
    away = []
    for eps in (3e-2, 1e-2, 1e-3, 1e-4):
        differences = (reference.losses(given, eps) - reference.losses(given, -eps)) / (2 * eps)
        away.append(((differences - slopes).pow(2).mean().sqrt() / slopes.pow(2).mean().sqrt()).item())
    assert away[0] > 4 * away[1] and away[1] > away[3] and away[3] < 1e-5, away


def test_our_own_differences_are_them_with_noise(tmp_path):
    shape, vectors, length, size = MODELS["plain"]
    folder = model_of(shape, tmp_path / "model", seed=9)
    given = inputs_for(Reference(folder), vectors, length, size)
    exact = forward(folder, tmp_path, given, "tangent")
    for options, limit in (((), 0.03), (("--eps", "1e-2"), 0.1)):
        rough = forward(folder, tmp_path, given, "difference", *options)
        assert torch.equal(rough["loss"], exact["loss"]) and torch.equal(rough["noise_pred"], exact["noise_pred"])
        assert 0 < (rough["slope"] - exact["slope"]).abs().max() < limit * exact["slope"].pow(2).mean().sqrt()
        assert differs(rough["hidden_tangent"][:4], exact["hidden_tangent"][:4].double()) < limit


def constant_channel(norm):
    """A norm's channel 0 that is 1 whatever the input."""
    norm.weight[0], norm.bias[0] = 0, 1


def shift_scores(heads, q, k, shift):
    """What heads score rises by `shift`, given that both inputs' channel 0 is 1: each head's channel 0 is no longer used for
    anything else."""
    size = q.weight.shape[0] // heads
    for layer in (q, k):
        layer.weight[::size] = 0
        layer.weight[::size, 0] = (shift * size**0.5) ** 0.5
        if layer.bias is not None:
            layer.bias[::size] = 0


def common_shift(text, unet):
    """All scores 20 higher: probabilities are as before, which exp(20) must not spoil."""
    layers = text.encoder.layers if hasattr(text, "encoder") else text.text_model.encoder.layers
    for layer in layers:
        constant_channel(layer.layer_norm1)
        shift_scores(text.config.num_attention_heads, layer.self_attn.q_proj, layer.self_attn.k_proj, 20)
    constant_channel((text if hasattr(text, "final_layer_norm") else text.text_model).final_layer_norm)
    for block in (m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"):
        for norm, attention in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
            constant_channel(norm)
            shift_scores(attention.heads, attention.to_q, attention.to_k, 20)


def flat_groups(text, unet):
    """Layer norms and a part of the groups of group norms whose variance is far below eps, so that eps is all there is."""
    for table in (m for m in text.modules() if isinstance(m, torch.nn.Embedding)):
        table.weight.mul_(1e-3)
    for resnet in (m for m in unet.modules() if type(m).__name__ == "ResnetBlock2D"):
        some = resnet.norm2.num_channels // resnet.norm2.num_groups * (resnet.norm2.num_groups // 2)
        resnet.conv1.weight[:some] *= 1e-4
        resnet.time_emb_proj.weight[:some] = 0


def peaked_scores(text, unet):
    """Scores so far apart that one key has nearly everything."""
    for name, p in [*text.named_parameters(), *unet.named_parameters()]:
        if name.endswith(("q_proj.weight", "to_q.weight")):
            p *= 8


def large_rows(text, unet):
    """A table of large numbers, so that the scale of tangents is large too."""
    text.get_input_embeddings().weight.mul_(300)


@pytest.mark.parametrize("change", [common_shift, flat_groups, peaked_scores, large_rows])
def test_what_is_hard_for_ops(tmp_path, change):
    folder = model_of(SHAPES["deep"], tmp_path / "model", seed=10)
    for part, kind in (("text_encoder", CLIPTextModel), ("unet", UNet2DConditionModel)):
        model = kind.from_pretrained(folder / part)
        if part == "text_encoder":
            text = model
    with torch.no_grad():
        change(text, model)
    text.save_pretrained(folder / "text_encoder"), model.save_pretrained(folder / "unet")
    compare(folder, tmp_path, Reference(folder))


@pytest.mark.parametrize("bits, name", [(8, "deep"), (4, "stacked")])
def test_quantized_weights(tmp_path, bits, name):
    folder = model_of(SHAPES[name], tmp_path / "model", seed=11)
    compare(folder, tmp_path, Reference(folder, bits), "--bits", bits)


def quick_weights(model, folder, name):
    """Writes a model in halves whose numbers, the same normals again and again, cost no time."""
    normals = torch.randn(2**18 + 1, generator=torch.Generator().manual_seed(12))
    state = {}
    for key, p in model.state_dict().items():
        if p.is_floating_point():
            some = normals * (p[0].numel() ** -0.5 if p.dim() > 1 else 0.1) + ("norm" in key and key.endswith("weight"))
            state[key] = some.half().repeat(-(-p.numel() // len(some)))[:p.numel()].reshape(p.shape)
    model.save_config(folder) if hasattr(model, "save_config") else model.config.save_pretrained(folder)
    save_file(state, folder / name, metadata={"format": "pt"})


@pytest.mark.parametrize("blocks", [2, pytest.param(4, marks=pytest.mark.skipif(not NIGHTLY, reason="600 million weights"))])
def test_the_widths_of_stable_diffusion_15(tmp_path, blocks):
    """Of its first blocks or of all, each of one layer, with a text encoder of two."""
    folder, shape = tmp_path / "model", SD15["unet"]
    for part in ("text_encoder", "unet"):
        (folder / part).mkdir(parents=True)
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**{**SD15["text"], "num_hidden_layers": 2, "vocab_size": 500, **TOKENS}))
        unet = UNet2DConditionModel(**{**shape, "layers_per_block": 1, "cross_attention_dim": 768,
                                       "block_out_channels": shape["block_out_channels"][:blocks],
                                       "down_block_types": shape["down_block_types"][:blocks],
                                       "up_block_types": shape["up_block_types"][-blocks:]})
    quick_weights(text, folder / "text_encoder", "model.safetensors")
    quick_weights(unet, folder / "unet", "diffusion_pytorch_model.safetensors")
    compare(folder, tmp_path, Reference(folder, kind=torch.float32), "--bits", "16", vectors=1, length=77, rows=2)


def test_bad_inputs_have_one_line(tmp_path):
    folder = model_of(SHAPES["plain"], tmp_path / "model", seed=13)
    good = inputs_for(Reference(folder), 2, 24, (8, 8))
    alone = {name: value[:1].contiguous() for name, value in good.items()}
    vocab = 1571

    def says(words, given=good, options=("difference",)):
        done = forward(folder, tmp_path, given, *options, check=False)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert all(word in done.stderr for word in words), done.stderr

    for name in good:
        says([name, "missing"], {k: v for k, v in good.items() if k != name})
        says([name, "dimensions"], {**good, name: good[name][None]})
        if name != "input_ids":  # whose rows are what the others are compared with
            says([name, "is [1", "expected [6"], {**good, name: alone[name]})
        says([name, "expected floats" if good[name].is_floating_point() else "expected I32"],
             {**good, name: good[name].int() if good[name].is_floating_point() else good[name].float()})
    says(["input_ids", "77 positions"], {**good, "input_ids": torch.zeros(6, 78, dtype=torch.int32)})
    says(["embedding", "[6, 2, 31]", "[6, 2, 32]"], {**good, "embedding": good["embedding"][..., :31].contiguous()})
    says(["target", "[6, 4, 8, 7]", "[6, 4, 8, 8]"], {**good, "target": good["target"][..., :7].contiguous()})
    for id in (-1, vocab + 2, 2**31 - 1, 2**33):
        ids = good["input_ids"].long()
        ids[3, 5] = id
        says(["input_ids", str(id), f"below {vocab + 2}" if id < 2**31 else "not an I32"], {**good, "input_ids": ids})
    says(["--derivative", "expected tangent or difference"], options=["slope"])
    says(["--eps", "difference"], options=["tangent", "--eps", "1e-3"])
    for eps in ("0", "-1", "nan", "inf", "x", ""):
        says(["--eps", "above 0"], options=["difference", "--eps", eps])
