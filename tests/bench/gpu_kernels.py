"""The kernels of products and attention as gpu_model.py sees them: how a launcher cuts its work into blocks, and what a warp executes.
Instructions are those that tests/cuda/compiled.py counts for sm_90."""
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Kernel:
    rows: int      # of y, and its columns, that a block computes; of attention: queries, and channels of all its lanes
    columns: int
    depth: int     # numbers of K in a round of the loop; of attention: keys
    warps: int
    resident: int  # blocks on a multiprocessor: registers and shared memory leave room for no more
    loop: int      # instructions of a warp in a round, and products of the matrix units among them
    matrix: int
    bytes: int     # that a block copies in a round
    behind: int = 0    # instructions behind the loop, where sums leave one by one; 0: in whole rows (kernels/epilogue.h)
    dear: bool = False  # weights of 4 bits, whose groups the loop looks up one by one
    parts: bool = False  # of few tiles, parts of K are blocks of their own (kernels/parts.h)


def product(rows, columns, warps, resident, depth, loop, matrix, weight_bits, x_bytes=4, **more):
    copied = depth * (rows * x_bytes + columns * weight_bits // 8)
    return Kernel(rows, columns, depth, warps, resident, loop, matrix, copied, **more)


def attend(size, warps, keys, resident, loop, matrix, behind=0):
    depth = ceil(size / 16) * 16
    return Kernel(16 * warps, size, keys, warps, resident, loop, matrix, 2 * keys * depth * 4, behind)


# Commit d46483a, which results/gpu.md measured.
MEASURED = {
    "pairs 8, 128": product(128, 128, 8, 1, 32, 436, 64, 8, behind=12212),
    "pairs 8, 64": product(64, 64, 4, 4, 32, 286, 32, 8, behind=6165),
    "pairs 4, 128": product(128, 128, 8, 1, 32, 1467, 64, 4, behind=12209, dear=True),
    "pairs 4, 64": product(64, 64, 4, 3, 32, 1324, 32, 4, behind=6160, dear=True),
    "attend 40": attend(40, 6, 32, 2, 558, 66, 698), "attend 64": attend(64, 4, 32, 2, 602, 96, 822),
    "attend 80": attend(80, 4, 32, 2, 640, 120, 928), "attend 160": attend(160, 3, 16, 2, 626, 120, 1506),
}

NOW = MEASURED | {
    "pairs 8, 128": product(128, 128, 8, 1, 32, 433, 64, 8, parts=True),
    "pairs 8, 64": product(64, 64, 4, 3, 32, 283, 32, 8, parts=True),
    # between 560 and 740 (64: 410, 590) by how many groups a chunk meets; all branches together have 814 (661)
    "pairs 4, 128": product(128, 128, 8, 1, 32, 650, 64, 4, parts=True),
    "pairs 4, 64": product(64, 64, 4, 3, 32, 500, 32, 4, parts=True),
    "halves 8, 256": product(256, 128, 8, 1, 64, 455, 128, 8, x_bytes=2),
    "halves 8, 128": product(128, 128, 8, 1, 64, 272, 64, 8, x_bytes=2, parts=True),
    "halves 8, 64": product(64, 64, 4, 3, 64, 232, 32, 8, x_bytes=2, parts=True),
    "halves 4, 256": product(256, 128, 8, 1, 64, 1781, 128, 4, x_bytes=2),
    "halves 4, 128": product(128, 128, 8, 1, 64, 1014, 64, 4, x_bytes=2, parts=True),
    "halves 4, 64": product(64, 64, 4, 3, 64, 1021, 32, 4, x_bytes=2, parts=True),
    # without the outliers' stage, which a product need not have; of the end of a block of codes (216 and 124 instructions) a quarter
    "codes, 128": product(128, 128, 8, 1, 128, 340, 64, 8, x_bytes=1),
    "codes, 64": product(64, 64, 4, 4, 128, 280, 32, 8, x_bytes=1),
}

# Where the loop above is the compiled kernel's as it is.
COMPILED = {"pairs 8, 128": "product_kernel<half, 8 bits, 128, 128, true>", "pairs 8, 64": "product_kernel<half, 8 bits, 64, 64, true>",
            "halves 8, 256": "rounded_kernel<half, 8 bits, block_cut<4, 8, 4, 2>, false>", "halves 8, 128": "rounded_kernel<half, 8 bits, block_cut<4, 4, 2, 4>, true>",
            "halves 8, 64": "rounded_kernel<half, 8 bits, block_cut<2, 4, 2, 2>, true>", "attend 40": "attend<half, 40>", "attend 80": "attend<half, 80>",
            **{f"attend_tangents {size}": f"attend_tangents<half, {size}, 1>" for size in (40, 64, 80, 160)}}

# By the first word of a kernel's name here: the __global__ function.
FUNCTIONS = {"pairs": "product_kernel", "halves": "rounded_kernel", "codes": "coded_kernel", "attend": "attend"}
HEADS = (40, 64, 80, 160)  # the most channels of a head, by kernel


def parts_of(rounds):
    """Of a long sum (kernels/parts.h)."""
    return max(1, min(6, int(rounds) // 32))


def split(k, processors, tiles, rounds):
    """Blocks for each tile."""
    return parts_of(rounds) if k.parts and tiles < processors else 1


def tiles_of(k, rows, columns):
    return ceil(rows / k.rows) * ceil(columns / k.columns)


def choose_pairs(kernels, kind, processors, rows, columns, **_):
    """product.cu, choose_tile."""
    return f"{kind}, {128 if tiles_of(kernels[f'{kind}, 128'], rows, columns) >= processors else 64}"


SLOWNESS = {"halves": {256: 100, 128: 120, 64: 200}, "codes": {128: 100, 64: 180}}


def choose_cut(kernels, kind, processors, rows, columns, depth):
    """rounded_product.cu and coded_product.cu, choose_cut: the largest tiles have room for the sums of one part of K alone."""
    costs = {}
    for size, slowness in SLOWNESS[kind.split()[0]].items():
        k = kernels[f"{kind}, {size}"]
        if size < 256 or parts_of(depth / k.depth) == 1:
            costs[f"{kind}, {size}"] = ceil(tiles_of(k, rows, columns) / processors) * k.rows * k.columns * slowness
    return min(costs, key=costs.get)


# attend_tangents by the head's channels: most tangents of a block, keys of a round; a round's instructions and matrix products of a
# primal without tangents, and how many each tangent adds (attention_tangent.cu, rounded once).
TANGENTS = {40: (3, 32, (252, 22), (198, 44)), 64: (2, 32, (272, 32), (247, 64)), 80: (2, 32, (316, 40), (278, 80)),
            160: (1, 16, (315, 40), (348, 80))}


def named(name):
    """The kernel of that name, of attend_tangents with as many tangents as a block has at most."""
    kind, _, size = name.partition(" ")
    return attend_tangents(int(size), TANGENTS[int(size)][0])[0] if kind == "attend_tangents" else NOW[name]


def attend_tangents(size, tangents):
    """A block: a primal's queries, with all lanes' tangents in as many groups as it takes. Returns the kernel, and the groups."""
    most, keys, primal, each = TANGENTS[size]
    groups = max(1, ceil(tangents / most))
    lanes = 1 + ceil(tangents / groups)
    loop, matrix = (of_primal + (lanes - 1) * of_each for of_primal, of_each in zip(primal, each))
    copied = 2 * keys * ceil(size / 16) * 16 * 2 * lanes
    return Kernel(128, size * lanes, keys, 8, 1, loop, matrix, copied), groups
