#!/usr/bin/env python3
"""What can be known about the CUDA kernels without a GPU: what the compiler made of them.

    .venv/bin/python tests/cuda/compiled.py            a Markdown table for sm_75, 80, 86, 89 and 90 (minutes)
    .venv/bin/python tests/cuda/compiled.py 90         for one generation
    .venv/bin/python tests/cuda/compiled.py --code 90  only what is in the code, which asks for no build; the environment's
                                                       ZOODIP_SOURCES names another checkout, to compare with

Registers and stack (memory for spilled values) are from `ptxas -v`. Threads and shared memory of a
launch are what the launchers of kernels/ ask for: the program BUILD/tests/cuda/launches takes them through all their branches.
From these follows occupancy: how many warps a multiprocessor holds out of those it could. Code, and the instructions of a warp in
one round of the loop around the matrix products, are counted in cuobjdump's disassembly (sass.py), if cuobjdump is found: beside
nvcc, on the PATH, or in Python's triton package.
"""
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import sass

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("ZOODIP_BUILD", ROOT / "build"))
SOURCES = Path(os.environ.get("ZOODIP_SOURCES", ROOT))

# CUDA Programming Guide, "Technical Specifications per Compute Capability", and its chapters on each generation: what a
# multiprocessor has, and its units of allocation. Shared memory in KiB; `reserved`: of it, bytes for each block.
LIMITS = {
    75: dict(warps=32, blocks=16, shared=64, shared_of_block=64, step=256, reserved=0),
    80: dict(warps=64, blocks=32, shared=164, shared_of_block=163, step=128, reserved=1024),
    86: dict(warps=48, blocks=16, shared=100, shared_of_block=99, step=128, reserved=1024),
    89: dict(warps=48, blocks=24, shared=100, shared_of_block=99, step=128, reserved=1024),
    90: dict(warps=64, blocks=32, shared=228, shared_of_block=227, step=128, reserved=1024),
}
REGISTERS, REGISTER_STEP = 64 << 10, 256  # of a multiprocessor; allocated to a warp in units of 256


@dataclass
class Kernel:
    file: str
    name: str
    registers: int
    stack: int  # bytes of a thread's local memory: spilled registers and indexed arrays
    static_shared: int
    code: sass.Code | None = None  # None: no cuobjdump


@dataclass
class Launch:
    threads: int
    shared: int


def find(program):
    """Path of a program of the toolkit, or None."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which(program) or shutil.which(program, path=f"{home}/bin")
    if not found and (triton := importlib.util.find_spec("triton")):
        found = shutil.which(program, path=str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return found


def plain(name):
    """A demangled name as host and GPU compilers agree on it: `product_kernel<half, 8 bits, 64, 64, true>`."""
    name = re.sub(r"(?:_GLOBAL__N_\w*|\(anonymous namespace\))::", "", name)
    name = re.sub(r"^void ", "", name)
    name = re.sub(r"\(operand\)(\d)", lambda m: ("half", "bfloat")[int(m[1])], name)
    name = re.sub(r"\(tile_kind\)(\d)", lambda m: f"{4 << int(m[1])} bits", name)
    depth = 0
    for i, c in enumerate(name):  # arguments begin at the first parenthesis outside of <>
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            return name[:i]
    return name


def demangle(names):
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [plain(n) for n in done.stdout.splitlines()]


def disassemble(cubin):
    """mangled name -> Code, or {} where nothing disassembles."""
    cuobjdump = find("cuobjdump")
    if not cuobjdump:
        return {}
    return sass.functions(subprocess.run([cuobjdump, "-sass", cubin], capture_output=True, text=True, check=True).stdout)


def compile_file(source, sm):
    """The kernels of one .cu for one generation. Flags as in CMakeLists.txt."""
    flags = ["-fmad=false"] if source.name == "step.cu" else []
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        done = subprocess.run([find("nvcc"), "-std=c++17", "-O3", f"-arch=sm_{sm}", *flags, "-cubin", "-o", cubin, "-I", SOURCES,
                               "-I", SOURCES / "src", "-Xptxas", "-v", source], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc {source.name} for sm_{sm}\n{done.stderr}")
        codes = disassemble(cubin) if done.stderr.count("Compiling entry") else {}
    parts = re.split(r"Compiling entry function '(\S+)'", done.stderr)
    mangled, kernels = parts[1::2], []
    for symbol, name, said in zip(mangled, demangle(mangled), parts[2::2]):
        number = {what: sum(map(int, re.findall(rf"(\d+) bytes {what}", said))) for what in ("stack frame", "smem")}
        kernels.append(Kernel(source.name, name, int(re.search(r"Used (\d+) registers", said)[1]), number["stack frame"], number["smem"],
                              codes.get(symbol)))
    return kernels


def sources():
    """nccl.cu needs NCCL's header and has no kernel; files without __global__ are left out."""
    return sorted(p for p in (SOURCES / "kernels").glob("*.cu") if "__global__" in p.read_text())


@functools.cache
def compile_all(sm):
    """name -> Kernel, two files at a time; the longest first."""
    files = sorted(sources(), key=lambda p: -p.stat().st_size * ("product" in p.name or "attention" in p.name))
    with ThreadPoolExecutor(2) as pool:
        return {k.name: k for kernels in pool.map(lambda p: compile_file(p, sm), files) for k in kernels}


@functools.cache
def launches(sm):
    """name -> Launch: the largest launch on this generation."""
    program = BUILD / "tests" / "cuda" / "launches"
    listed = subprocess.run([program, str(sm)], capture_output=True, text=True, check=True).stdout
    rows = [(int(a, 16), int(t), int(s)) for a, t, s in (line.split() for line in listed.splitlines())]
    symbols = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    symbols = {int(a, 16): n for a, kind, n in re.findall(r"^(\w+) (\w) (\S+)$", symbols, re.M) if kind in "tTwW"}
    shift = rows[0][0] - next(a for a, n in symbols.items() if n == "main")
    found = {}
    for (_, threads, shared), name in zip(rows[1:], demangle([symbols[a - shift] for a, _, _ in rows[1:]])):
        before = found.get(name, Launch(0, 0))
        found[name] = Launch(max(threads, before.threads), max(shared, before.shared))
    return found


def up(n, step):
    return -(-n // step) * step


def resident_warps(kernel, launch, sm):
    """Warps of this kernel that a multiprocessor holds."""
    limit, warps = LIMITS[sm], -(-launch.threads // 32)
    shared = up(launch.shared + kernel.static_shared + limit["reserved"], limit["step"])
    of_registers = REGISTERS // up(kernel.registers * 32, REGISTER_STEP) // 4 * 4 // warps  # each of 4 parts has a quarter
    blocks = min(limit["blocks"], limit["warps"] // warps, of_registers, (limit["shared"] << 10) // shared if shared else limit["blocks"])
    return blocks * warps


def joined(name):
    """Both operand types in one row."""
    return re.sub(r"(?:half|bfloat)(?:, )?", "", name).replace("<>", "")


def cell(kernels, sm):
    """Registers, occupancy and stack of the worst of a row's kernels."""
    registers = max(k.registers for k in kernels)
    warps = min(resident_warps(k, launches(sm)[k.name], sm) for k in kernels)
    stack = max(k.stack for k in kernels)
    return f"{registers}, {100 * warps / LIMITS[sm]['warps']:.0f} %" + (f", stack {stack} bytes" if stack else "")


def print_table(generations):
    print("| file | kernel | threads | shared memory | " + " | ".join(f"sm_{sm}" for sm in generations) +
          " | code | loop, matrix products in it |")
    print("|" + " --- |" * (6 + len(generations)))
    newest, rows = generations[-1], {}
    for kernel in compile_all(newest).values():
        rows.setdefault((kernel.file, joined(kernel.name)), []).append(kernel.name)
    for (file, name), names in rows.items():
        launch = launches(newest).get(names[0])
        if not launch:
            raise RuntimeError(f"tests/cuda/launches.cu never launches {names[0]}")
        cells = []
        for sm in generations:
            used = [compile_all(sm)[n] for n in names if n in launches(sm) and ("bfloat" not in n or sm >= 80)]
            cells.append(cell(used, sm) if used else "not used")
        code = compile_all(newest)[names[0]].code
        size, loop = (f"{code.kib:.0f} KiB", f"{code.loop}, {code.matrix}" if code.loop else "") if code else ("?", "?")
        print(f"| {file} | {name} | {launch.threads} | {launch.shared / 1024:.1f} KiB | {' | '.join(cells)} | {size} | {loop} |")


def print_code(sm):
    print("| file | kernel | registers | stack | instructions | code | loop | matrix products | behind it |")
    print("|" + " --- |" * 9)
    for k in compile_all(sm).values():
        if "bfloat" not in k.name:
            print(f"| {k.file} | {k.name} | {k.registers} | {k.stack} | {k.code.instructions:,} | {k.code.kib:.0f} KiB | {k.code.loop:,} | {k.code.matrix} | "
                  f"{k.code.behind:,} |")


if __name__ == "__main__":
    if set(sys.argv[1:]) & {"-h", "--help"}:
        print(__doc__)
    elif "--code" in sys.argv:
        print_code(int(sys.argv[-1]))
    else:
        print_table([int(a) for a in sys.argv[1:]] or list(LIMITS))
