#!/usr/bin/env python3
"""What rounding does to a zeroth-order slope. (L_i - L_0) / eps with eps = 1e-3 magnifies any rounding of a loss a thousandfold,
so formats that are fine for drawing pictures may drown the signal that training needs. A tangent is the derivative itself.

On toybox: slopes of directions at the initializer and at a learned word, with the networks computed in several ways, in PyTorch
and by zoodip (build/tests/forward), against PyTorch in fp64 with the same weights: differences against differences, tangents
against forward mode. The number is the rms of the error over the rms of the slopes.

    .venv/bin/python tests/bench/precision.py                     256 directions, the table of results/README.md
    .venv/bin/python tests/bench/precision.py --directions 32     quick
    .venv/bin/python tests/bench/precision.py --learned results/toybox/learned_embeds.safetensors

Without --learned a word is learned by `zoodip train`, --steps steps of the toybox recipe, in a folder that is deleted afterwards.
"""
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import diffusers
import torch
import torch.autograd.forward_ad as forward_mode
import transformers
from diffusers.models.attention_processor import AttnProcessor
from optimum.quanto import QModuleMixin, freeze, qint4, qint8, quantize
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arguments import arguments  # noqa: E402
from conftest import TOYBOX, program, run, unpack_without_a_compiler, write_recipe  # noqa: E402
from twin import FrozenModel  # noqa: E402

SUBJECT = TOYBOX / "subjects" / "bear5"
CAPTION = "a photo of a sks on the beach"
EPS = 1e-3
TIMESTEPS = range(512, 900, 25)  # each has its own picture, noise and directions, which share the error of L_0
ATTENTION = ("to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj")


def rounded(x):
    """To a half and back: a float as a matrix unit sees it when given as one half."""
    return x.half().to(x.dtype)


def as_pair(x):
    """As hi + lo, both halves: kernels/ptx.h, split_two."""
    high = rounded(x)
    return high + rounded(x - high)


class Networks:
    """Text encoder and UNet in one number format. `operand`: what happens to the input of every product (linear layers,
    convolutions, attention's queries, keys and values) in `parts`; sums stay in the networks' own type. bits: of the weights, as
    quanto rounds them."""

    def __init__(self, dtype, operand=None, parts=("text", "unet"), bits=32):
        self.model, self.dtype = FrozenModel(TOYBOX / "model", SUBJECT.glob("*.png"), "sks", 1), dtype
        for part in (self.model.text, self.model.unet):
            if bits < 32:
                self.quantize(part, {8: qint8, 4: qint4}[bits])
        for part in (self.model.text, self.model.unet, self.model.vae):
            part.to(dtype)
        self.model.text.set_attn_implementation("eager")  # forward mode knows no other
        self.model.unet.set_attn_processor(AttnProcessor())
        self.words = next(m for n, m in self.model.text.named_modules() if n.endswith("token_embedding"))
        for part in parts if operand else ():
            self.round_operands(getattr(self.model, part), operand)

    @staticmethod
    def quantize(network, kind):
        """Replaces weights by the values of quanto's codes, made from halves as in toybox's files."""
        plain = dict(network.half().named_modules())
        quantize(network, weights=kind)
        freeze(network)
        for name, module in list(network.named_modules()):
            if isinstance(module, QModuleMixin):
                w = module.weight
                w._scale = w._scale.float()
                if kind == qint4:
                    w._shift = w._shift.float()
                values = w.dequantize() if kind == qint4 else w._data.float() * w._scale
                plain[name].weight, plain[name].bias = torch.nn.Parameter(values, requires_grad=False), module.bias
                network.set_submodule(name, plain[name])

    @staticmethod
    def round_operands(network, operand):
        for name, module in network.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                module.register_forward_pre_hook(lambda _, inputs: (operand(inputs[0]),))
                if name.endswith(ATTENTION):
                    module.register_forward_hook(lambda _, inputs, output: operand(output))

    def ids(self):
        return self.model.tokenizer(CAPTION, padding="max_length", max_length=77, return_tensors="pt").input_ids

    def hidden(self, rows):
        """Hidden states of one caption with each row [n, width] inserted."""
        ids = self.ids()

        def put_rows(_, inputs, output):
            return torch.where((ids == self.model.first)[..., None], rows.to(self.dtype)[:, None], output)
        hook = self.words.register_forward_hook(put_rows)
        hidden = self.model.text(ids.expand(len(rows), -1)).last_hidden_state
        hook.remove()
        return hidden

    def losses(self, rows, draw):
        predicted = self.model.unet(draw.noisy.to(self.dtype).expand(len(rows), -1, -1, -1), torch.full((len(rows),), draw.timestep),
                                    self.hidden(rows)).sample
        return (predicted.double() - draw.noise.to(self.dtype).double()).square().flatten(1).mean(1)

    def differences(self, word, draws):
        """(L_i - L_0) / eps for every draw's directions, in double."""
        losses = [self.losses(torch.cat([word, word + EPS * draw.directions]), draw) for draw in draws]
        return torch.cat([(loss[1:] - loss[0]) / EPS for loss in losses])

    def tangents(self, word, draws):
        """The derivatives of the losses along every draw's directions."""
        out = []
        for draw in draws:
            with forward_mode.dual_level():
                rows = forward_mode.make_dual(word.to(self.dtype).expand(len(draw.directions), -1).clone(), draw.directions.to(self.dtype))
                out.append(forward_mode.unpack_dual(self.losses(rows, draw)).tangent)
        return torch.cat(out).double()


class Zoodip:
    """The same by the program: weights in so many bits, fp32 arithmetic but for tangents of 8 bits."""

    def __init__(self, bits, threads, tangents=32):
        self.bits, self.threads, self.tangent_bits = bits, threads, tangents

    def slopes(self, word, draws, *options):
        like = FrozenModel(TOYBOX / "model", [], "sks", 1)
        ids = like.tokenizer(CAPTION, padding="max_length", max_length=77, return_tensors="pt").input_ids
        ids[ids == like.first] = transformers.CLIPTextConfig.from_pretrained(TOYBOX / "model" / "text_encoder").vocab_size
        counts = [len(draw.directions) for draw in draws]
        rows = dict(input_ids=ids.expand(sum(counts), -1), embedding=word[None].expand(sum(counts), -1, -1),
                    directions=torch.cat([draw.directions for draw in draws])[:, None],
                    sample=torch.cat([draw.noisy.expand(n, -1, -1, -1) for n, draw in zip(counts, draws)]),
                    target=torch.cat([draw.noise.expand(n, -1, -1, -1) for n, draw in zip(counts, draws)]),
                    timestep=torch.tensor([draw.timestep for n, draw in zip(counts, draws) for _ in range(n)]))
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "in.safetensors", Path(folder) / "out.safetensors"
            save_file({k: x.to(torch.float32 if x.is_floating_point() else torch.int32).contiguous() for k, x in rows.items()}, given)
            run(program("tests/forward"), TOYBOX / "model", given, made, "--bits", self.bits, *options, threads=self.threads)
            return load_file(made)["slope"]

    def differences(self, word, draws):
        return self.slopes(word, draws, "--derivative", "difference", "--eps", EPS)

    def tangents(self, word, draws):
        return self.slopes(word, draws, "--derivative", "tangent", "--tangents", self.tangent_bits)


# How, bits of the weights, what computes it (given threads), and the kind of its slopes.
WAYS = [
    ("differences, PyTorch, everything in fp32", 32, lambda _: Networks(torch.float32), "differences"),
    ("everything in fp16, as the reference computes", 32, lambda _: Networks(torch.float16), "differences"),
    ("operands rounded once to fp16, sums in fp32", 32, lambda _: Networks(torch.float32, rounded), "differences"),
    ("the same, only in the text encoder", 32, lambda _: Networks(torch.float32, rounded, ("text",)), "differences"),
    ("the same, only in the UNet", 32, lambda _: Networks(torch.float32, rounded, ("unet",)), "differences"),
    ("operands as pairs of halves, sums in fp32", 32, lambda _: Networks(torch.float32, as_pair), "differences"),
    *((f"differences, zoodip on the CPU, {bits}-bit weights", bits, lambda t, bits=bits: Zoodip(bits, t), "differences") for bits in (32, 8, 4)),
    ("tangents, PyTorch, everything in fp32", 32, lambda _: Networks(torch.float32), "tangents"),
    ("everything in fp16", 32, lambda _: Networks(torch.float16), "tangents"),
    ("operands rounded once to fp16, sums in fp32", 32, lambda _: Networks(torch.float32, rounded), "tangents"),
    *((f"tangents, zoodip on the CPU, {bits}-bit weights", bits, lambda t, bits=bits: Zoodip(bits, t), "tangents") for bits in (32, 8, 4)),
    ("the same, 8-bit weights and tangents in 8 bits", 8, lambda t: Zoodip(8, t, 8), "tangents"),
]


def draw(exact, count):
    """`count` directions, spread over TIMESTEPS; all numbers are floats."""
    draws, levels = [], exact.model.schedule.alphas_cumprod.double()
    for i, timestep in enumerate(TIMESTEPS):
        picture = torch.from_numpy(exact.model.pictures[i % len(exact.model.pictures)]).double().permute(2, 0, 1)[None]
        latents = exact.model.vae.encode(picture).latent_dist.mean * exact.model.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        noisy = levels[timestep].sqrt() * latents + (1 - levels[timestep]).sqrt() * noise
        directions = torch.randn(count // len(TIMESTEPS), exact.model.table.shape[1], dtype=torch.float64)
        draws.append(SimpleNamespace(timestep=timestep, **{name: x.float().double() for name, x in
                                                           dict(noisy=noisy, noise=noise, directions=directions).items()}))
    return draws


def learn(steps, threads):
    """The word that a short run learns."""
    with tempfile.TemporaryDirectory() as folder:
        config, output = write_recipe(folder, data__images=str(SUBJECT), data__captions=str(SUBJECT.parent / "cc.json"),
                                      zo__derivative="difference", optim__steps=steps, output__prompts=[])
        run(program("zoodip"), "train", config, threads=threads, timeout=3600)
        return load_file(output / "learned_embeds.safetensors")["sks"].double()


def rms(x):
    return x.square().mean().sqrt().item()


def print_row(name, found, exact):
    """`found` and `exact` for each word."""
    errors = [100 * rms(f - e) / rms(e) for f, e in zip(found, exact)]
    print(f"| {name} | " + " | ".join(f"{x:.0f} %" if x >= 100 else f"{x:.2g} %" for x in errors) + " |", flush=True)


def main():
    p = arguments("Measure what rounding does to slopes.", __doc__)
    p.add_argument("--directions", type=int, default=256, help=f"in all, a multiple of {len(TIMESTEPS)}")
    p.add_argument("--learned", type=Path, help="a learned_embeds.safetensors of toybox, in place of a run")
    p.add_argument("--steps", type=int, default=750, help="of the run that learns a word")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    a = p.parse_args()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    unpack_without_a_compiler()
    torch.set_grad_enabled(False)
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    exact = {bits: Networks(torch.float64, bits=bits) for bits in (32, 8, 4)}
    draws = draw(exact[32], a.directions)
    words = {"at the initializer": exact[32].model.word("toy")[None].double(),
             "at a learned word": load_file(a.learned)["sks"].double() if a.learned else learn(a.steps, a.threads)}
    truth = {(kind, bits): [getattr(networks, kind)(word, draws) for word in words.values()]
             for kind in ("differences", "tangents") for bits, networks in exact.items()}
    print("rms of the slopes: " + ", ".join(f"{rms(t):.3g} {at}" for at, t in zip(words, truth["differences", 32])) + "\n")
    print("| computed how | " + " | ".join(words) + " |\n|" + " --- |" * (1 + len(words)), flush=True)
    for name, bits, make, kind in WAYS:
        computed = make(a.threads)
        print_row(name, [getattr(computed, kind)(word, draws) for word in words.values()], truth[kind, bits])
    print_row("differences in fp64, against the derivative", truth["differences", 32], truth["tangents", 32])


if __name__ == "__main__":
    main()
