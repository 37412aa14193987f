#!/usr/bin/env python3
"""Times one step of the reference in PyTorch on a GPU: encodes a picture with the VAE, runs text encoder and UNet forward for the
embedding and n perturbed ones, all in fp16, and updates from the differences of the losses.

    python3 tests/gpu/reference.py MODEL --n 2                  row after row, as the reference goes
    python3 tests/gpu/reference.py MODEL --n 2 --together       all rows in one batch, which it does not do
    python3 tests/gpu/reference.py MODEL --n 2 --way compile    with torch.compile
    python3 tests/gpu/reference.py MODEL --n 2 --way int8       with optimum-quanto's weights of 8 bits

Prints a line of JSON.
"""
import argparse
import json
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

EPS, LR, BEGIN = 1e-3, 1e-2, 500


class Reference:
    def __init__(self, folder, way, device, size):
        load = dict(torch_dtype=torch.float16)
        self.text = CLIPTextModel.from_pretrained(f"{folder}/text_encoder", **load).to(device).eval()
        self.unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet", **load).to(device).eval()
        self.vae = AutoencoderKL.from_pretrained(f"{folder}/vae", **load).to(device).eval()
        self.table = self.text.get_input_embeddings().weight
        self.pixels = torch.rand(1, 3, size, size, device=device, dtype=torch.float16) * 2 - 1
        self.ids = torch.randint(0, 1500, (1, 77), device=device)
        self.place = 1500  # the new word's row
        self.ids[0, 5] = self.place
        self.row = self.table[3].clone()
        if way == "int8":
            from optimum.quanto import freeze, qint8, quantize
            for part in (self.text, self.unet):
                quantize(part, weights=qint8)
                freeze(part)
        if way == "compile":
            self.text, self.unet = torch.compile(self.text), torch.compile(self.unet)

    def losses_by_row(self, rows, noisy, noise, timestep):
        losses = []
        for row in rows:
            self.table.data[self.place] = row
            hidden = self.text(self.ids).last_hidden_state
            losses.append((self.unet(noisy, timestep, hidden).sample.float() - noise.float()).square().mean())
        return torch.stack(losses)

    def losses_together(self, rows, noisy, noise, timestep):
        count = len(rows)
        self.table.data[self.place:self.place + count] = rows
        ids = self.ids.repeat(count, 1)
        ids[:, 5] += torch.arange(count, device=ids.device)
        hidden = self.text(ids).last_hidden_state
        predicted = self.unet(noisy.expand(count, -1, -1, -1), timestep.expand(count), hidden).sample
        return (predicted.float() - noise.float()).square().flatten(1).mean(1)

    @torch.no_grad()
    def step(self, n, together):
        latents = self.vae.encode(self.pixels).latent_dist.sample() * self.vae.config.scaling_factor
        noise, timestep = torch.randn_like(latents), torch.randint(BEGIN, 900, (1,), device=latents.device)
        level = timestep / 1000.0
        noisy = ((1 - level).sqrt() * latents + level.sqrt() * noise).half()
        directions = torch.randn(n, len(self.row), device=latents.device)
        rows = torch.cat([self.row[None].float(), self.row.float() + EPS * directions]).half()
        losses = (self.losses_together if together else self.losses_by_row)(rows, noisy, noise, timestep)
        gradient = ((losses[1:] - losses[0]) / EPS) @ directions / n
        self.row = (self.row.float() - LR * gradient.clamp(-1, 1)).half()


def wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main():
    p = argparse.ArgumentParser(description="Time the reference's step.", epilog=__doc__.split("\n\n", 1)[1],
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--n", type=int, default=2)
    p.add_argument("--way", choices=["eager", "compile", "int8"], default="eager")
    p.add_argument("--together", action="store_true")
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--seconds", type=float, default=5, help="seconds to measure, after two steps that do not count")
    a = p.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    reference = Reference(a.model, a.way, device, a.size)
    for _ in range(2):
        reference.step(a.n, a.together)
    wait()
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < a.seconds:
        reference.step(a.n, a.together)
        wait()
        steps += 1
    rate = steps / (time.perf_counter() - began)
    line = dict(device=device, way=a.way, together=a.together, n=a.n, steps_per_second=rate, evaluations_per_second=rate * (a.n + 1))
    if device == "cuda":
        line["peak_bytes"] = torch.cuda.max_memory_reserved()
    print(json.dumps(line))


if __name__ == "__main__":
    main()
