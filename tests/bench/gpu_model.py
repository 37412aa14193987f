#!/usr/bin/env python3
"""A model of a GPU that works on zoodip's kernels: what a training step of Stable Diffusion 1.5 should take, and which of three
roofs keeps it from taking less. All but the lines "measured" is computed, not measured.

    .venv/bin/python tests/bench/gpu_model.py            the tables in results/README.md
    .venv/bin/python tests/bench/gpu_model.py --check    beside what an H100 measured (results/gpu.md), kernel by kernel
    .venv/bin/python tests/bench/gpu_model.py --fit      finds FIT again, from the same measurements

The first two roofs, memory and matrix units, are roofline.py's. The third is the way the kernels go about it. A launch is cut into
blocks by the launcher's own rules; as many as fit go to each multiprocessor, wave after wave; a block's warps go through K in
rounds. Of what a multiprocessor can do, the slowest counts:

    issue     each of its four schedulers starts one instruction a cycle; instructions of a round are those of the compiled
              kernels (tests/cuda/compiled.py)
    matrix    a scheduler's matrix unit takes m16n8k16 of halves, or m16n8k32 of codes, in so many cycles; mma.sync reaches
              only a part of that
    L2        a round's operands come from the L2 cache, at so many bytes a cycle

and beside it, since warps wait (for operands, for each other), each instruction of a warp takes `wait` cycles of its own. Work w
and waiting overlap in part: a round takes sqrt(w^2 + waiting^2). `wait` and its like in FIT are what no data sheet tells: they are
fitted to a measurement of one H100, and carried over to kernels that no GPU has run yet. There they are a guess, so the tables give
a range: RANGE says for what.
"""
from collections import defaultdict
from dataclasses import dataclass, replace
from math import ceil, hypot, log

import gpu_kernels as known
import roofline
from arguments import arguments


@dataclass(frozen=True)
class Gpu:
    name: str
    processors: int
    clock: float      # GHz, under load
    bandwidth: float  # TB/s
    l2: float         # bytes a cycle that a multiprocessor gets from the L2 cache
    unit: float       # cycles of a scheduler's matrix unit for an m16n8k16 of halves
    mma_sync: float   # part of the unit's peak that mma.sync reaches

    @property
    def peak(self):
        """TFLOP/s of halves, of the data sheet's units at this clock."""
        return 4 * self.processors * self.clock * 2 * 16 * 8 * 16 / self.unit / 1e3


# Processors, bandwidth and units: NVIDIA's data sheets and white papers of the H100 SXM (989 TFLOP/s at 1.83 GHz) and of the A100 SXM
# 80 GB (312 TFLOP/s at 1.41 GHz, which it holds under load). An H100's clock under load is assumed. mma.sync: arXiv 2402.13499 for
# Hopper, arXiv 2206.02874 for Ampere. L2: half of the 5,120 bytes a cycle of the A100's white paper, assumed for both.
H100 = Gpu("H100", 132, 1.755, 3.35, 24, 4, 0.62)
A100 = Gpu("A100", 108, 1.41, 2.04, 24, 8, 0.97)


@dataclass(frozen=True)
class Fit:
    wait: float = 1.65       # cycles an instruction of a product's loop takes a warp that has the processor to itself
    dear: float = 1.09      # the same with weights of 4 bits whose groups are looked up one by one
    wait_keys: float = 6.02  # of attention's
    behind: float = 5.21     # of the code behind the loop, as it was measured: of each act one is executed, and code is fetched
    # not fitted:
    wait_tangents: float = 3.0  # as wait_keys, with several tangents' chains side by side: assumed
    leave: float = 4000         # cycles in which sums leave in whole rows: two rounds trips to memory and some arithmetic, assumed
    start: float = 1500         # cycles from a block's start to its first round
    gap: float = 1e-6           # seconds from a kernel's last block to the next one's first, in a graph
    host: float = 300e-6        # seconds between graphs: draws and losses go through the host
    apply: float = 6.3          # bytes a cycle that a block of group_apply reads and writes: its 64 blocks took 124 us (gpu.md)
    moments: float = 1.85       # the same of group_moments: 256 blocks took 53 us
    stream: float = 0.8         # part of the bandwidth that copies and norms reach


FIT = Fit()
# For the worse and for the better, all at once: kernels that no GPU has run wait longer or shorter, sums take as long to leave as they
# did one by one or hardly any time, a multiprocessor gets 16 or 32 bytes a cycle from the L2 cache, and kernels follow each other
# more slowly or faster.
RANGE = ((replace(FIT, wait=2.5, wait_tangents=5.88, leave=15000, gap=1.5e-6), 16), (replace(FIT, wait=1.2, wait_tangents=1.66, leave=2500, gap=0.5e-6), 32))


def waves(blocks, resident, gpu):
    """How many blocks a processor works on at a time, one number for each wave."""
    while blocks > 0:
        here = min(resident, ceil(blocks / gpu.processors))
        yield here
        blocks -= here * gpu.processors


def round_cycles(gpu, k, here, wait):
    """A round of `here` blocks of kernel k on one processor."""
    warps = here * k.warps / 4
    return hypot(max(warps * k.loop, warps * k.matrix * gpu.unit / gpu.mma_sync, here * k.bytes / gpu.l2), wait * k.loop)


def finish_cycles(gpu, fit, k, here, arrays):
    """From the loop's end to a block's last number; arrays: as many floats as y are read or written."""
    if k.behind:
        return hypot(here * k.warps / 4, fit.behind) * k.behind
    return hypot(here * k.rows * k.columns * 4 * arrays / gpu.l2, fit.leave)


def kernel_cycles(gpu, fit, k, blocks, rounds, wait, arrays=1):
    return sum(rounds * round_cycles(gpu, k, here, wait) + finish_cycles(gpu, fit, k, here, arrays) + fit.start
               for here in waves(blocks, k.resident, gpu))


@dataclass
class Launch:
    family: str
    kernel: str
    blocks: int
    seconds: float


class Model(roofline.Step):
    """Walks the networks as roofline.Step does, and through the launchers as well."""

    def __init__(self, gpu=H100, bits=8, way="pairs", fit=FIT, kernels=known.NOW):
        super().__init__(bits, gpu.bandwidth * 1e12, gpu.peak * 1e12, way)
        self.gpu, self.fit, self.kernels, self.launches = gpu, fit, kernels, []
        self.joins = kernels is not known.MEASURED  # queries, keys and values as one product

    def launch(self, family, kernel, blocks, cycles=0.0, moved=0.0):
        """moved: bytes of the memory, which cannot take less than they do."""
        seconds = max(cycles / self.gpu.clock / 1e9, moved / self.bandwidth)
        self.launches.append(Launch(family, kernel, blocks, seconds + self.fit.gap))

    def stream(self, family, kernel, blocks, moved, rate):
        """A kernel that only reads and writes; rate: bytes a cycle and block."""
        seconds = max(moved / (self.fit.stream * self.bandwidth), moved / (blocks * rate * self.gpu.clock * 1e9))
        self.launch(family, kernel, blocks, self.fit.start + seconds * self.gpu.clock * 1e9)

    # -------------------------------------------------------------------------------- products

    def multiply(self, family, kind, rows, columns, depth, taps, arrays, moved):
        """One launch of the tile that its launcher chooses. depth: channels."""
        choose = known.choose_cut if self.tangents else known.choose_pairs
        name = choose(self.kernels, kind, self.gpu.processors, rows, columns, depth=taps * depth)
        k = self.kernels[name]
        tiles, rounds = known.tiles_of(k, rows, columns), taps * ceil(depth / 32) * 32 / k.depth
        parts = known.split(k, self.gpu.processors, tiles, rounds)
        cycles = kernel_cycles(self.gpu, self.fit, k, tiles * parts, rounds / parts, self.fit.dear if k.dear else self.fit.wait, arrays)
        if parts > 1:  # sums are written and read again
            cycles += self.fit.leave
        self.launch(family, name, tiles * parts, cycles, moved)

    def product(self, family, lanes, positions, out, channels, taps=1, extra=0, gated=False, positions_in=None):
        super().product(family, lanes, positions, out, channels, taps, extra, gated, positions_in)
        arrays, inside = (0.5 if gated else 1) + (1 if extra else 0), positions_in or positions

        def multiply(kind, some, size):
            moved = some * (inside * channels * size + positions * out * 4 * arrays) + self.weight_bytes(out, channels * taps)
            self.multiply(family, kind, some * positions, out, channels, taps, arrays, moved)

        def encode(some, size):
            self.stream(family, "encode_codes_kernel" if size == 1 else "encode_halves_kernel", ceil(some * inside * channels / 4096), some * inside * channels * (4 + size), self.fit.apply)

        if not self.tangents:
            return multiply(f"pairs {self.bits}", lanes, 4)
        codes = self.coded(lanes)
        encode(lanes - codes, 2)
        for some in [1, lanes - 1] if gated and lanes - codes > 1 else [lanes - codes]:  # after an act tangents have a launch of their own
            multiply(f"halves {self.bits}", some, 2)
        if codes:
            encode(codes, 1)
            multiply("codes", codes, 1)

    def joined(self, family, lanes, positions, count, out, channels):
        for _ in range(1 if self.joins else count):
            self.product(family, lanes, positions, out * count if self.joins else out, channels)

    # -------------------------------------------------------------------------------- attention

    def attention(self, family, lanes, queries, keys, channels, causal=False):
        super().attention(family, lanes, queries, keys, channels, causal)
        heads = 12 if causal else 8
        size, seen = next(s for s in known.HEADS if channels // heads <= s), keys / 2 if causal else keys
        if self.tangents:
            numbers, moved = channels * lanes, 4 * channels * lanes
            if lanes > 1:
                self.stream(family, "find_largest", 32 * (lanes - 1), moved * (queries + 2 * keys), self.fit.apply)
            self.stream(family, "round_keys", ceil(keys * numbers / 512) * 2, keys * numbers * (8 + 4), self.fit.apply)
            k, blocks = known.attend_tangents(size, lanes - 1)
            name, wait = "attend_tangents", self.fit.wait_tangents
        else:
            name, wait, blocks = f"attend {size}", self.fit.wait_keys, lanes
            k = self.kernels[name]
        blocks *= ceil(queries / k.rows) * heads
        cycles = kernel_cycles(self.gpu, self.fit, k, blocks, ceil(seen / k.depth), wait)
        self.launch(family, name, blocks, cycles, 8 * lanes * channels * (queries + keys))

    # -------------------------------------------------------------------------------- the rest

    def norm(self, family, lanes, positions, channels, groups=False, in_place=False):
        super().norm(family, lanes, positions, channels, groups, in_place)
        numbers = 4 * positions * channels
        for some in [lanes - 1, 1] if self.tangents and in_place and lanes > 1 else [lanes]:
            primals = (some - 1 if some == lanes else some if some > 1 else 0) if self.tangents else 0  # read beside their tangents
            if groups:
                chunks = min(64, ceil(positions * (channels // 32) / 768))
                self.stream(family, "group_moments", chunks * 4 * some, numbers * (some + primals), self.fit.moments)
                self.stream(family, "group_apply", chunks * ceil(channels / 512) * some, numbers * (2 * some + primals), self.fit.apply)
            else:
                self.stream(family, "layer_norm", ceil(positions / 8) * some, numbers * (2 * some + primals), self.fit.apply)

    def copy(self, family, numbers):
        super().copy(family, numbers)
        self.stream(family, "copy", ceil(numbers / 1024), 8 * numbers, 16)

    def by_function(self):
        """__global__ function -> (launches, us of all)."""
        functions = defaultdict(lambda: (0, 0.0))
        for x in self.launches:
            times, us = functions[name := known.FUNCTIONS.get(x.kernel.split()[0].rstrip(","), x.kernel)]
            functions[name] = times + 1, us + 1e6 * (x.seconds - self.fit.gap)
        return dict(functions)

    def seconds(self, family=None):
        of = sum(x.seconds for x in self.launches if family in (None, x.family))
        return of + (self.fit.host if family is None else 0)


# ------------------------------------------------------------------------------------ what was measured


# results/gpu.md: ms of a step by (n, bits); us of a launch by (kernel, its blocks), as ncu found them in three evaluations of n = 2,
# and how many these were.
STEPS = {(2, 8): 1e3 / 23.87, (16, 8): 1e3 / 5.28, (1, 8): 1e3 / 29.52, (8, 8): 1e3 / 9.29, (1, 4): 1e3 / 14.59}
LAUNCHES = {("pairs 8, 128", 288): (200, 150), ("pairs 8, 64", 240): (83, 183), ("pairs 8, 64", 480): (85, 177),
            ("pairs 8, 64", 60): (120, 81), ("attend 40", 1032): (522, 27)}


def step(n, **more):
    return roofline.walk(Model(**more), n + 1)


def compared(fit):
    """(what, measured, modelled, in which unit): as the kernels were when they were measured."""
    then = dict(gpu=H100, fit=fit, kernels=known.MEASURED)
    evaluation = step(2, **then)
    for (kernel, blocks), (us, _) in LAUNCHES.items():
        of = [x.seconds - fit.gap for x in evaluation.launches if (x.kernel, x.blocks) == (kernel, blocks)]
        yield f"{kernel}: {blocks:,} blocks", us, 1e6 * sum(of) / len(of), "us a launch"
    for (n, bits), ms in STEPS.items():
        yield f"n = {n}, weights of {bits} bits", ms, 1e3 * step(n, bits=bits, **then).seconds(), "ms a step"


def off(fit):
    return sum(log(model / measured) ** 2 for _, measured, model, _ in compared(fit))


def find_fit(fit=FIT, free=("wait", "dear", "wait_keys", "behind")):
    """Each in turn a little larger or smaller, as long as that helps; then by smaller changes."""
    best, factor = off(fit), 1.2
    while factor > 1.003:
        tried = [replace(fit, **{name: getattr(fit, name) * by}) for name in free for by in (factor, 1 / factor)]
        nearest = min(tried, key=off)
        if off(nearest) < best:
            fit, best = nearest, off(nearest)
        else:
            factor **= 0.5
    return fit


# ------------------------------------------------------------------------------------ tables


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |")


def head(*cells):
    row(*cells)
    row(*["---"] * len(cells))


def print_check(fit):
    head("what", "measured", "model", "off by")
    for what, measured, model, unit in compared(fit):
        row(what, f"{measured:.1f} {unit}", f"{model:.1f}", f"{100 * (model / measured - 1):+.0f} %")


def print_families(n, ways):
    head("family", *(f"{way}: {what}" for way in ways for what in ("memory", "matrix units", "all")))
    steps = [step(n, way=way) for way in ways]
    order = sorted(steps[0].families, key=lambda f: -steps[0].seconds(f))
    for family in order:
        cells = []
        for s in steps:
            w = s.families[family]
            cells += [f"{1e3 * w.bytes / s.bandwidth:.2f}", f"{1e3 * w.executed / s.peak:.2f}", f"**{1e3 * s.seconds(family):.2f}**"]
        row(family, *cells)
    row("host", *(x for s in steps for x in ("", "", f"{1e3 * s.fit.host:.2f}")))
    row("all", *(x for s in steps for x in (f"{1e3 * sum(w.bytes for w in s.families.values()) / s.bandwidth:.2f}",
                                           f"{1e3 * sum(w.executed for w in s.families.values()) / s.peak:.2f}", f"**{1e3 * s.seconds():.2f}**")))


def rate(n, **more):
    return (n + 1) / step(n, **more).seconds()


AIMS = {2: 200, 16: 330}  # evaluations/s of an H100


def print_rates(ways):
    head("GPU", "n", "operands", "launches", "ms of memory", "ms of matrix units", "ms by the model", "evaluations/s", "aim", "measured")
    for gpu in (H100, A100):
        for n in AIMS:
            for way in ways:
                s = step(n, gpu=gpu, way=way)
                memory, matrix = (1e3 * sum(getattr(w, what) for w in s.families.values()) for what in ("bytes", "executed"))
                slow, fast = (rate(n, gpu=replace(gpu, l2=l2), way=way, fit=fit) for fit, l2 in RANGE)
                row(gpu.name, n, way, f"{len(s.launches):,}", f"{memory / s.bandwidth:.1f}", f"{matrix / s.peak:.1f}", f"{1e3 * s.seconds():.1f}",
                    f"{(n + 1) / s.seconds():.0f} ({slow:.0f} to {fast:.0f})", AIMS[n] if gpu is H100 and way != "pairs" else "", "no")


def main():
    p = arguments("Model a GPU.", __doc__)
    p.add_argument("--check", action="store_true", help="only beside what was measured")
    p.add_argument("--fit", action="store_true", help="find FIT again")
    a = p.parse_args()
    if a.fit:
        print(find_fit())
    elif a.check:
        print_check(FIT)
    else:
        print_rates(roofline.WAYS)
        for n in (2, 16):
            print(f"\n**n = {n}**, H100, int8 weights, ms of a step\n")
            print_families(n, roofline.WAYS)


if __name__ == "__main__":
    main()
