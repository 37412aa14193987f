#!/usr/bin/env python3
"""What NVIDIA's libraries make of the shapes of Stable Diffusion 1.5's step in fp16, on this machine's GPU: linear layers by
cuBLAS, convolutions by cuDNN, attention by PyTorch's fused kernels. A bar for zoodip's own kernels, which do the same in
pairs of halves. Half a minute.

    python3 tests/gpu/library.py OUT.csv
"""
import csv
import sys
from collections import Counter, namedtuple
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import roofline  # noqa: E402

LANES = (3, 17)  # n = 2 and 16
HEADS = {True: roofline.SD15_TEXT["num_attention_heads"], False: roofline.SD15_UNET["attention_head_dim"]}  # by causal

# a, b, c: rows, outputs and inputs of a product; lanes, queries and keys of attention. us: of one. times: in a step.
Row = namedtuple("Row", "lanes kind a b c times us tflops")


class Shapes(roofline.Step):
    """Walks the networks as the roofline does and counts how often each shape occurs."""

    def __init__(self):
        super().__init__(bits=16, bandwidth=1, peak=1)
        self.times = Counter()

    def product(self, family, lanes, positions, out, channels, taps=1, **_):
        self.times["conv 3 x 3" if taps > 1 else "linear", lanes * positions, out, channels, None] += 1

    def attention(self, family, lanes, queries, keys, channels, causal=False):
        self.times["attention", lanes, queries, keys, (channels, causal)] += 1


def shapes(lanes):
    step = Shapes()
    roofline.text_encoder(step, roofline.SD15_TEXT, lanes)
    roofline.UNet(step, roofline.SD15_UNET, lanes, 64).walk()
    return step.times


def picture(rows, lanes):
    """Lanes and side of the square pictures that these rows are: what lies before the text is one lane, whatever their number."""
    for count in (lanes, 1):
        side = round((rows / count) ** 0.5)
        if side * side * count == rows:
            return count, side
    raise ValueError(f"{rows} rows are no square pictures")


def operations(kind, a, b, c, more):
    channels = more[0] if kind == "attention" else 0
    return {"linear": 2 * a * b * c, "conv 3 x 3": 2 * 9 * a * b * c, "attention": 4 * a * b * c * channels}[kind]


def work(kind, a, b, c, more, lanes, **there):
    """A function that computes it once; there: PyTorch's device and dtype."""
    import torch
    from torch.nn import functional
    if kind == "linear":
        x, w = torch.randn(a, c, **there), torch.randn(b, c, **there)
        return lambda: functional.linear(x, w)
    if kind == "attention":
        channels, causal = more
        q, k, v = (torch.randn(a, HEADS[causal], n, channels // HEADS[causal], **there) for n in (b, c, c))
        return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    count, side = picture(a, lanes)
    x, w = (torch.randn(*shape, **there).to(memory_format=torch.channels_last) for shape in ((count, c, side, side), (b, c, 3, 3)))
    return lambda: functional.conv2d(x, w, padding=1)


def seconds(once, at_least=0.03):
    """The median of repetitions, by the GPU's own clock."""
    import torch
    for _ in range(3):
        once()
    took = []
    while len(took) < 5 or (sum(took) < at_least and len(took) < 60):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        once()
        end.record()
        end.synchronize()
        took.append(begin.elapsed_time(end) / 1e3)
    return median(took)


def measured():
    import torch
    rows = []
    with torch.no_grad():
        for lanes in LANES:
            for shape, times in shapes(lanes).items():
                s = seconds(work(*shape, lanes, device="cuda", dtype=torch.float16))
                rows.append(Row(lanes, *shape[:4], times, 1e6 * s, operations(*shape) / s / 1e12))
    return rows


def write(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([Row._fields, *((*r[:6], f"{r.us:.1f}", f"{r.tflops:.1f}") for r in rows)])


def read(path):
    with open(path, newline="") as file:
        return [Row(*(int(r[f]) if f in ("lanes", "a", "b", "c", "times") else r[f] if f == "kind" else float(r[f]) for f in Row._fields))
                for r in csv.DictReader(file)]


def total(rows, lanes):
    """Milliseconds of a step's products and attention, and what they reach in TFLOP/s."""
    us = sum(r.us * r.times for r in rows if r.lanes == lanes)
    return us / 1e3, sum(r.tflops * r.us * r.times for r in rows if r.lanes == lanes) / us


HEAD = ["kind", "times a step", *(f"{what}, n = {n - 1}" for n in LANES for what in ("shape", "us each", "TFLOP/s"))]


def table_rows(rows):
    """Both numbers of lanes side by side: the walk meets the same shapes in the same order."""
    lines = []
    for pair in zip(*([r for r in rows if r.lanes == lanes] for lanes in LANES), strict=True):
        lines.append([pair[0].kind, pair[0].times, *(x for r in pair for x in (f"{r.a:,} x {r.b:,} x {r.c:,}", f"{r.us:.0f}", f"{r.tflops:.0f}"))])
    return lines


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    write(sys.argv[1], measured())
