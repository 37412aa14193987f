#!/usr/bin/env python3
"""A roofline on paper: the least time that a training step of Stable Diffusion 1.5 takes on a GPU, per family of layers. Nothing
is measured here.

    .venv/bin/python tests/bench/roofline.py                       int8 weights, n = 2 and 16, an H100
    .venv/bin/python tests/bench/roofline.py --bits 4 --lanes 3
    .venv/bin/python tests/bench/roofline.py --model DIR           the networks of a model folder

Every op of src/model/text_encoder.c and src/model/unet.c is walked through with its shapes and counted:

    bytes     what an op must read and write once: activations are floats, weights have their bits
    useful    floating-point operations of the product that the network asks for
    executed  those that the matrix units are given. Evaluations go in as pairs of halves, so a product with weights of 4, 8
              or 16 bits is two, one with 32 bits and both of attention's are three (kernels/ptx.h). With --way halves all
              lanes but the first are tangents and operands are rounded once (src/device/gpu.h): one product; a tangent's
              attention is four products, the first lane's two. With --way int8 the tangents' products with weights are of
              8-bit codes, at twice the rate, and count half

An op takes the longer of bytes / bandwidth and executed / matrix peak; a family the sum of its ops. Everything before the first
contact with the text is computed for one lane, everything else for all (unet.c, split_lanes). Many lanes run in batches of one
size, at most --at-once lanes (zo/step.c, LANES_AT_ONCE). What keeps the kernels from these limits is in gpu_model.py.
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
MOST_INNER = 1310720  # numbers of a lane between the two layers of a feed-forward piece (blocks.c)


@dataclass
class Work:
    bytes: float = 0
    useful: float = 0
    executed: float = 0
    seconds: float = 0
    ops: int = 0


WAYS = ("pairs", "halves", "int8")


class Step:
    """Adds up ops by family. A lane has `positions`; with tangents (any way but pairs) only the first lane is an evaluation."""

    def __init__(self, bits, bandwidth, peak, way="pairs"):
        self.bits, self.bandwidth, self.peak, self.way = bits, bandwidth, peak, way
        self.tangents = way != "pairs"
        self.families = defaultdict(Work)

    def op(self, family, moved, useful=0.0, executed=0.0):
        memory, compute = moved / self.bandwidth, executed / self.peak
        w = self.families[family]
        w.bytes += moved
        w.useful += useful
        w.executed += executed
        w.seconds += max(memory, compute)
        w.ops += 1

    def weight_bytes(self, out, depth):
        if self.bits == 4:
            group = next((g for g in (128, 96, 64, 32) if depth % g == 0), depth)
            return out * depth / 2 + out * depth / group * 4
        return out * depth * self.bits / 8 + out * 4

    def coded(self, lanes):
        """Lanes whose products with weights are of codes."""
        return lanes - 1 if self.way == "int8" and self.bits == 8 else 0

    def rounded_bytes(self, lanes, numbers):
        """What is written and read again of operands that are rounded before a product."""
        codes = self.coded(lanes)
        return 2 * numbers * (2 * (lanes - codes) + codes) if self.tangents else 0

    def product(self, family, lanes, positions, out, channels, taps=1, extra=0, gated=False, positions_in=None):
        """extra: floats read or written besides x and y for each position, such as a residual."""
        wide, inside = (out // 2 if gated else out), positions_in or positions
        moved = 4 * lanes * (inside * channels + positions * (wide + extra)) + self.weight_bytes(out, channels * taps)
        if self.tangents and gated:  # the factors that the first lane leaves
            moved += 4 * positions * 2 * wide * min(lanes, 2)
        useful = 2.0 * positions * out * channels * taps
        products = lanes * (3 if self.bits == 32 else 2) if not self.tangents else lanes - self.coded(lanes) / 2
        self.op(family, moved + self.rounded_bytes(lanes, inside * channels), useful * lanes, useful * products)

    def joined(self, family, lanes, positions, count, out, channels):
        """Layers that read the same x are one product (weights.h, weights_joined)."""
        self.product(family, lanes, positions, count * out, channels)

    def pieces(self, positions, inner):
        """Positions of the pieces in which a feed forward runs, so that tangents' inner numbers take little room (blocks.c, block_piece)."""
        most = min(MOST_INNER // inner, -(-positions // 2)) if self.tangents else positions
        return [min(most, positions - done) for done in range(0, positions, most)]

    def attention(self, family, lanes, queries, keys, channels, causal=False):
        """Keys and values are read by every block of queries, from the cache; counted once."""
        two = (0.5 if causal else 1) * 4.0 * queries * keys * channels
        useful = two * (2 * lanes - 1 if self.tangents else lanes)
        self.op(family, 4 * lanes * channels * (2 * queries + 2 * keys), useful, useful * (1 if self.tangents else 3))

    def norm(self, family, lanes, positions, channels, groups=False, in_place=False):
        """A group norm reads twice: for the moments, and to apply them. in_place: y is x, which tangents read beside their own."""
        numbers = positions * channels
        self.op(family, 4 * numbers * (lanes * (3 if groups else 2) + (1 if self.tangents and lanes > 1 else 0)))

    def copy(self, family, numbers):
        self.op(family, 8 * numbers)


def text_encoder(s, c, lanes):
    width, inner = c["hidden_size"], c["intermediate_size"]
    for _ in range(c["num_hidden_layers"]):
        s.norm("text: norms", lanes, TOKENS, width)
        s.joined("text: linear layers", lanes, TOKENS, 3, width, width)
        s.attention("text: attention", lanes, TOKENS, TOKENS, width, causal=True)
        s.product("text: linear layers", lanes, TOKENS, width, width, extra=width)
        s.norm("text: norms", lanes, TOKENS, width)
        for piece in s.pieces(TOKENS, inner):
            s.product("text: linear layers", lanes, piece, inner, width)
            s.product("text: linear layers", lanes, piece, width, inner, extra=width)
    s.norm("text: norms", lanes, TOKENS, width)


class UNet:
    """Follows unet.c. `lanes` is 1 until the text comes in for the first time."""

    def __init__(self, step, config, all_lanes, size):
        self.s, self.c, self.all, self.lanes, self.size = step, config, all_lanes, 1, size
        self.skips, self.time = [], 4 * config["block_out_channels"][0]

    @property
    def positions(self):
        return self.size * self.size

    def product(self, family, out, channels, taps=1, **more):
        self.s.product(family, self.lanes, self.positions, out, channels, taps, **more)

    def norm(self, channels, groups=False, in_place=False):
        self.s.norm("group norms" if groups else "layer norms", self.lanes, self.positions, channels, groups, in_place)

    def resnet(self, inner, out):
        self.norm(inner, groups=True)
        self.s.product("small products", 1 if self.s.tangents else self.lanes, 1, out, self.time)
        self.product("3 x 3 convolutions", out, inner, 9)
        self.norm(out, groups=True, in_place=True)
        if inner != out:
            self.product("1 x 1 convolutions", out, inner)
        self.product("3 x 3 convolutions", out, out, 9, extra=out)

    def feed_forward(self, channels):
        for piece in self.s.pieces(self.positions, 4 * channels):
            self.s.norm("layer norms", self.lanes, piece, channels)
            self.s.product("feed forward", self.lanes, piece, 8 * channels, channels, gated=True)
            self.s.product("feed forward", self.lanes, piece, channels, 4 * channels, extra=channels)

    def transformer(self, channels):
        s, c = self.s, channels
        self.norm(c, groups=True)
        self.product("1 x 1 convolutions", c, c)
        self.norm(c)
        s.joined("attention's linear layers", self.lanes, self.positions, 3, c, c)
        s.attention("self-attention", self.lanes, self.positions, self.positions, c)
        self.product("attention's linear layers", c, c, extra=c)
        self.norm(c)
        self.product("attention's linear layers", c, c)
        if self.lanes < self.all:  # x and h separate into lanes; without tangents also the query and the time embedding
            self.lanes = self.all
            s.copy("copies", self.lanes * (2 * self.positions * c if s.tangents else 3 * self.positions * c + self.time))
        s.joined("small products", self.all, TOKENS, 2, c, self.c["cross_attention_dim"])
        s.attention("cross-attention", self.lanes, self.positions, TOKENS, c)
        self.product("attention's linear layers", c, c, extra=c)
        self.feed_forward(c)
        self.product("1 x 1 convolutions", c, c, extra=c)

    def sampler(self, channels, factor):
        before = self.positions
        self.size = int(self.size * factor)
        self.product("3 x 3 convolutions", channels, channels, 9, positions_in=before)

    def walk(self):
        s, c, channels = self.s, self.c, list(self.c["block_out_channels"])
        cross = [t.startswith("CrossAttn") for t in c["down_block_types"]]
        s.product("small products", 1, 1, self.time, channels[0])
        s.product("small products", 1, 1, self.time, self.time)
        self.product("3 x 3 convolutions", channels[0], 4, 9)
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
                s.copy("copies", self.lanes * self.positions * (width + skip))
                self.resnet(width + skip, channels[i])
                width = channels[i]
                if cross[i]:
                    self.transformer(width)
            if i:
                self.sampler(width, 2)
        self.norm(width, groups=True, in_place=True)
        self.product("3 x 3 convolutions", 4, width, 9)


def walk(step, lanes, size=512, at_once=32, text=SD15_TEXT, unet=SD15_UNET):
    """Takes `step` through all evaluations of a training step, and returns it."""
    batches = -(-lanes // at_once)
    for _ in range(batches):
        text_encoder(step, text, -(-lanes // batches))
        UNet(step, unet, -(-lanes // batches), size // 8).walk()
    return step


def count(a, lanes, text=SD15_TEXT, unet=SD15_UNET):
    step = Step(a.bits, a.bandwidth * 1e12, a.peak * 1e12, getattr(a, "way", "pairs"))
    return walk(step, lanes, a.size, a.at_once, text, unet).families


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
    p.add_argument("--way", default="pairs", choices=WAYS, help="evaluations in pairs, or tangents in halves or in codes")
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
