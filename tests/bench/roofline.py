#!/usr/bin/env python3
"""A roofline on paper: the least time that a training step of Stable Diffusion 1.5 takes on a GPU, per family of layers. Nothing
is measured here.

    .venv/bin/python tests/bench/roofline.py                       int8 weights, n = 2 and 16, an H100
    .venv/bin/python tests/bench/roofline.py --bits 4 --lanes 3
    .venv/bin/python tests/bench/roofline.py --model DIR           the networks of a model folder

Every op of src/model/text_encoder.c and src/model/unet.c is walked through with its shapes and counted:

    bytes     what an op must read and write once: activations are floats, weights have their bits
    useful    floating-point operations of the product that the network asks for
    executed  those that the matrix units are given: operands go in as pairs of halves, so a product with weights of 4, 8 or
              16 bits is two, one with 32 bits and both of attention's are three (kernels/ptx.h)

An op takes the longer of bytes / bandwidth and executed / matrix peak; a family the sum of its ops. Everything before the first
contact with the text is computed for one lane, everything else for all (unet.c, attend_to_text). Many lanes run in batches of one
size, at most --at-once lanes (zo/step.c, LANES_AT_ONCE).
"""
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from arguments import arguments

SD15_TEXT = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
SD15_UNET = dict(block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, attention_head_dim=8, cross_attention_dim=768,
                 down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",))
TOKENS = 77


@dataclass
class Work:
    bytes: float = 0
    useful: float = 0
    executed: float = 0
    seconds: float = 0
    ops: int = 0


class Step:
    """Adds up ops by family."""

    def __init__(self, bits, bandwidth, peak):
        self.bits, self.bandwidth, self.peak = bits, bandwidth, peak
        self.families = defaultdict(Work)

    def op(self, family, moved, useful=0.0, products=0):
        memory, compute = moved / self.bandwidth, useful * products / self.peak
        w = self.families[family]
        w.bytes += moved
        w.useful += useful
        w.executed += useful * products
        w.seconds += max(memory, compute)
        w.ops += 1

    def weight_bytes(self, out, depth):
        if self.bits == 4:
            group = next((g for g in (128, 96, 64, 32) if depth % g == 0), depth)
            return out * depth / 2 + out * depth / group * 4
        return out * depth * self.bits / 8 + out * 4

    def product(self, family, rows, out, channels, taps=1, extra=0, gated=False, rows_in=None):
        """extra: floats read or written besides x and y for each row, such as a residual."""
        wide = out // 2 if gated else out
        moved = 4 * ((rows_in or rows) * channels + rows * (wide + extra)) + self.weight_bytes(out, channels * taps)
        self.op(family, moved, 2.0 * rows * out * channels * taps, 3 if self.bits == 32 else 2)

    def attention(self, family, lanes, queries, keys, channels, causal=False):
        """Keys and values are read by every block of queries, from the cache; counted once."""
        share = 0.5 if causal else 1
        self.op(family, 4 * lanes * channels * (2 * queries + 2 * keys), share * 4.0 * lanes * queries * keys * channels, 3)

    def norm(self, family, numbers, groups=False):
        """A group norm reads twice: for the moments, and to apply them."""
        self.op(family, 4 * numbers * (3 if groups else 2))

    def copy(self, family, numbers):
        self.op(family, 8 * numbers)


def text_encoder(s, c, lanes):
    width, inner, rows = c["hidden_size"], c["intermediate_size"], lanes * TOKENS
    for _ in range(c["num_hidden_layers"]):
        s.norm("text: norms", rows * width)
        for _ in "qkv":
            s.product("text: linear layers", rows, width, width)
        s.attention("text: attention", lanes, TOKENS, TOKENS, width, causal=True)
        s.product("text: linear layers", rows, width, width, extra=width)
        s.norm("text: norms", rows * width)
        s.product("text: linear layers", rows, inner, width)
        s.product("text: linear layers", rows, width, inner, extra=width)
    s.norm("text: norms", rows * width)


class UNet:
    """Follows unet.c. `lanes` is 1 until the text comes in for the first time."""

    def __init__(self, step, config, all_lanes, size):
        self.s, self.c, self.all, self.lanes, self.size = step, config, all_lanes, 1, size
        self.skips, self.time = [], 4 * config["block_out_channels"][0]

    @property
    def rows(self):
        return self.lanes * self.size * self.size

    def resnet(self, inner, out):
        s, rows = self.s, self.rows
        s.norm("group norms", rows * inner, groups=True)
        s.product("small products", self.lanes, out, self.time)
        s.product("3 x 3 convolutions", rows, out, inner, 9)
        s.norm("group norms", rows * out, groups=True)
        if inner != out:
            s.product("1 x 1 convolutions", rows, out, inner)
        s.product("3 x 3 convolutions", rows, out, out, 9, extra=out)

    def transformer(self, channels):
        s, c = self.s, channels
        s.norm("group norms", self.rows * c, groups=True)
        s.product("1 x 1 convolutions", self.rows, c, c)
        s.norm("layer norms", self.rows * c)
        for _ in "qkv":
            s.product("attention's linear layers", self.rows, c, c)
        s.attention("self-attention", self.lanes, self.size**2, self.size**2, c)
        s.product("attention's linear layers", self.rows, c, c, extra=c)
        s.norm("layer norms", self.rows * c)
        s.product("attention's linear layers", self.rows, c, c)
        if self.lanes < self.all:  # query, x, h and the time embedding separate into lanes
            self.lanes = self.all
            s.copy("copies", 3 * self.rows * c + self.all * self.time)
        for _ in "kv":
            s.product("small products", self.all * TOKENS, c, self.c["cross_attention_dim"])
        s.attention("cross-attention", self.lanes, self.size**2, TOKENS, c)
        s.product("attention's linear layers", self.rows, c, c, extra=c)
        s.norm("layer norms", self.rows * c)
        s.product("feed forward", self.rows, 8 * c, c, gated=True)
        s.product("feed forward", self.rows, c, 4 * c, extra=c)
        s.product("1 x 1 convolutions", self.rows, c, c, extra=c)

    def sampler(self, channels, factor):
        before = self.rows
        self.size = int(self.size * factor)
        self.s.product("3 x 3 convolutions", self.rows, channels, channels, 9, rows_in=before)

    def walk(self):
        s, c, channels = self.s, self.c, list(self.c["block_out_channels"])
        cross = [t.startswith("CrossAttn") for t in c["down_block_types"]]
        s.product("small products", 1, self.time, channels[0])
        s.product("small products", 1, self.time, self.time)
        s.product("3 x 3 convolutions", self.rows, channels[0], 4, 9)
        width = channels[0]
        self.skips.append(width)
        for i, out in enumerate(channels):
            for _ in range(c["layers_per_block"]):
                self.resnet(width, out)
                width = out
                if cross[i]:
                    self.transformer(out)
                self.skips.append(out)
            if i + 1 < len(channels):
                self.sampler(out, 0.5)
                self.skips.append(out)
        self.resnet(width, width)
        self.transformer(width)
        self.resnet(width, width)
        for i in reversed(range(len(channels))):
            for _ in range(c["layers_per_block"] + 1):
                skip = self.skips.pop()
                s.copy("copies", self.rows * (width + skip))
                self.resnet(width + skip, channels[i])
                width = channels[i]
                if cross[i]:
                    self.transformer(width)
            if i:
                self.sampler(width, 2)
        s.norm("group norms", self.rows * width, groups=True)
        s.product("3 x 3 convolutions", self.rows, 4, width, 9)


def count(a, lanes, text=SD15_TEXT, unet=SD15_UNET):
    s = Step(a.bits, a.bandwidth * 1e12, a.peak * 1e12)
    batches = -(-lanes // a.at_once)
    for _ in range(batches):
        text_encoder(s, text, -(-lanes // batches))
        UNet(s, unet, -(-lanes // batches), a.size // 8).walk()
    return s.families


def print_table(a, lanes, families):
    total = Work(*(sum(getattr(w, k) for w in families.values()) for k in ("bytes", "useful", "executed", "seconds", "ops")))
    batches = -(-lanes // a.at_once)
    print(f"n = {lanes - 1}: {lanes} lanes" + (f" in {batches} batches of {-(-lanes // batches)}" if batches > 1 else "")
          + f", {'int8' if a.bits == 8 else f'{a.bits}-bit'} weights, {a.size} px\n")
    print("| family | ops | GB | useful TFLOP | executed TFLOP | ms of memory | ms of matrix units | bound by | ms at least | share |")
    print("|" + " --- |" * 10)
    for name, w in [*sorted(families.items(), key=lambda item: -item[1].seconds), ("all", total)]:
        memory, compute = w.bytes / a.bandwidth / 1e12, w.executed / a.peak / 1e12
        bound = "" if w is total else "memory" if memory > compute else "matrix units"
        print(f"| {name} | {w.ops} | {w.bytes / 1e9:.2f} | {w.useful / 1e12:.3f} | {w.executed / 1e12:.3f} | {1e3 * memory:.2f} | "
              f"{1e3 * compute:.2f} | {bound} | {1e3 * w.seconds:.2f} | {100 * w.seconds / total.seconds:.0f} % |")
    rate = lanes / total.seconds
    print(f"\nAt 100 % of both limits: {1 / total.seconds:.1f} steps/s, {rate:.0f} evaluations/s. "
          f"250 evaluations/s are {100 * 250 / rate:.0f} % of that, {250 * total.executed / lanes / 1e12:.0f} executed TFLOP/s.\n")


def main():
    p = arguments("Work out a roofline.", __doc__)
    p.add_argument("--lanes", type=int, nargs="*", default=[3, 17])
    p.add_argument("--bits", type=int, default=8, choices=[4, 8, 16, 32])
    p.add_argument("--size", type=int, default=512, help="pixels")
    p.add_argument("--at-once", type=int, default=32, help="lanes of a batch at most")
    p.add_argument("--bandwidth", type=float, default=3.35, help="TB/s")
    p.add_argument("--peak", type=float, default=800, help="TFLOP/s of the matrix units with 16-bit operands")
    p.add_argument("--model", type=Path, help="folder of a model; default: Stable Diffusion 1.5's shapes")
    a = p.parse_args()
    text, unet = SD15_TEXT, SD15_UNET
    if a.model:
        text, unet = (json.loads((a.model / part / "config.json").read_text()) for part in ("text_encoder", "unet"))
    for lanes in a.lanes:
        print_table(a, lanes, count(a, lanes, text, unet))


if __name__ == "__main__":
    main()
