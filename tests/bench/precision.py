#!/usr/bin/env python3
"""What rounding does to a zeroth-order slope. (L_i - L_0) / eps with eps = 1e-3 magnifies any rounding of a loss a thousandfold,
so formats that are fine for drawing pictures may drown the signal that training needs.

On toybox, in PyTorch: slopes of directions at the initializer and at a learned word, with the networks computed in several
ways, against the same in fp64. The number is the rms of the difference over the rms of the slopes.

    .venv/bin/python tests/bench/precision.py                     256 directions, the table of results/README.md
    .venv/bin/python tests/bench/precision.py --directions 32     quick
    .venv/bin/python tests/bench/precision.py --learned results/toybox/learned_embeds.safetensors

Without --learned a word is learned by `zoodip train`, --steps steps of the toybox recipe, in a folder that is deleted afterwards.
"""
import os
import sys
import tempfile
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arguments import arguments  # noqa: E402
from conftest import TOYBOX, program, run, write_recipe  # noqa: E402
from twin import FrozenModel  # noqa: E402

SUBJECT = TOYBOX / "subjects" / "bear5"
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
    convolutions, attention's queries, keys and values) in `parts`; sums stay in the networks' own type."""

    def __init__(self, dtype, operand=None, parts=("text", "unet")):
        self.model, self.dtype = FrozenModel(TOYBOX / "model", SUBJECT.glob("*.png"), "sks", 1), dtype
        for part in (self.model.text, self.model.unet, self.model.vae):
            part.to(dtype)
        self.words = next(m for n, m in self.model.text.named_modules() if n.endswith("token_embedding"))
        for part in parts if operand else ():
            self.round_operands(getattr(self.model, part), operand)

    @staticmethod
    def round_operands(network, operand):
        for name, module in network.named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                module.register_forward_pre_hook(lambda _, inputs: (operand(inputs[0]),))
                if name.endswith(ATTENTION):
                    module.register_forward_hook(lambda _, inputs, output: operand(output))

    def hidden(self, rows, ids):
        """Hidden states of one caption with each row [n, width] inserted."""
        def put_rows(_, inputs, output):
            output = output.clone()
            output[ids.expand(len(rows), -1) == self.model.first] = rows.to(self.dtype)
            return output
        hook = self.words.register_forward_hook(put_rows)
        hidden = self.model.text(ids.expand(len(rows), -1)).last_hidden_state
        hook.remove()
        return hidden

    def slopes(self, word, draws):
        """(L_i - L_0) / eps for every draw's directions, in double."""
        out = []
        for timestep, noisy, noise, directions in draws:
            rows = torch.cat([word, word + EPS * directions])
            ids = self.model.tokenizer("a photo of a sks on the beach", padding="max_length", max_length=77, return_tensors="pt").input_ids
            predicted = self.model.unet(noisy.to(self.dtype).expand(len(rows), -1, -1, -1), torch.full((len(rows),), timestep),
                                        self.hidden(rows, ids)).sample
            loss = (predicted.double() - noise.to(self.dtype).double()).square().flatten(1).mean(1)
            out.append((loss[1:] - loss[0]) / EPS)
        return torch.cat(out)


WAYS = [
    ("everything in fp32", lambda: Networks(torch.float32)),
    ("everything in fp16, as the reference computes", lambda: Networks(torch.float16)),
    ("operands rounded once to fp16, sums in fp32", lambda: Networks(torch.float32, rounded)),
    ("the same, only in the text encoder", lambda: Networks(torch.float32, rounded, ("text",))),
    ("the same, only in the UNet", lambda: Networks(torch.float32, rounded, ("unet",))),
    ("operands as pairs of halves, sums in fp32", lambda: Networks(torch.float32, as_pair)),
]


def draw(exact, count):
    """`count` directions, spread over TIMESTEPS."""
    draws, levels = [], exact.model.schedule.alphas_cumprod.double()
    for i, timestep in enumerate(TIMESTEPS):
        picture = torch.from_numpy(exact.model.pictures[i % len(exact.model.pictures)]).double().permute(2, 0, 1)[None]
        latents = exact.model.vae.encode(picture).latent_dist.mean * exact.model.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        noisy = levels[timestep].sqrt() * latents + (1 - levels[timestep]).sqrt() * noise
        draws.append((timestep, noisy, noise, torch.randn(count // len(TIMESTEPS), exact.model.table.shape[1], dtype=torch.float64)))
    return draws


def learn(steps, threads):
    """The word that a short run learns."""
    with tempfile.TemporaryDirectory() as folder:
        config, output = write_recipe(folder, data__images=str(SUBJECT), data__captions=str(SUBJECT.parent / "cc.json"),
                                      optim__steps=steps, output__prompts=[])
        run(program("zoodip"), "train", config, threads=threads, timeout=3600)
        return load_file(output / "learned_embeds.safetensors")["sks"].double()


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
    torch.set_grad_enabled(False)
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    exact = Networks(torch.float64)
    draws = draw(exact, a.directions)
    words = {"at the initializer": exact.model.word("toy")[None].double(),
             "at a learned word": load_file(a.learned)["sks"].double() if a.learned else learn(a.steps, a.threads)}
    truth = {name: exact.slopes(word, draws) for name, word in words.items()}
    print("rms of the slopes: " + ", ".join(f"{t.square().mean().sqrt():.3g} {at}" for at, t in truth.items()) + "\n")
    print("| computed how | " + " | ".join(words) + " |\n|" + " --- |" * (1 + len(words)), flush=True)
    for name, make in WAYS:
        networks, cells = make(), []
        for at, word in words.items():
            ratio = (networks.slopes(word, draws) - truth[at]).square().mean() / truth[at].square().mean()
            cells.append(f"{100 * ratio.sqrt().item():.2g} %")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
