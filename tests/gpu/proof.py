#!/usr/bin/env python3
"""Measures a built zoodip on the GPU of this machine and writes results/gpu.md, with kernels-N.csv and library.csv beside it.
Called by tests/gpu/run.sh, and by tests/gpu/go on machines where nothing can be built.

    python3 tests/gpu/proof.py --build build-gpu
    python3 tests/gpu/proof.py --build build-gpu --smoke --limit 200

Parts run in order of importance, each with its own time limit within the total; the page is rewritten after each, so that no
measurement is lost. A part without its tools or its time is skipped and says why.
Exit codes: 0 everything that ran passed, 1 something failed.
"""
import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "gpu"), str(ROOT / "tests" / "bench"), str(ROOT / "tests")]
import library  # noqa: E402
import model  # noqa: E402
import ncu  # noqa: E402
import roofline  # noqa: E402
from arguments import arguments  # noqa: E402
from paper import recipe  # noqa: E402

PICTURES = ROOT / "dataset" / "toybox" / "subjects" / "bear5"
PAGE = ROOT / "results" / "gpu.md"

# Data sheets: TFLOP/s of the matrix units, halves with float sums, without sparsity. The first name that occurs counts.
PEAKS = [("H200", 989), ("GH200", 989), ("H100 PCIe", 756), ("H100 NVL", 835), ("H100", 989), ("A100", 312), ("L40S", 362), ("L4", 121),
         ("RTX 4090", 165), ("RTX 3090", 71), ("A10", 125), ("T4", 65)]


class Skip(Exception):
    """Why a part cannot run here."""


class Wrong(Exception):
    """An error that a part found."""


class Session:
    def __init__(self, a):
        self.build, self.gpu, self.ends = Path(a.build).resolve(), a.gpu, time.monotonic() + a.limit - a.spent
        self.scratch = self.build / "gpu"
        self.sections, self.failed, self.step_seconds = [], [], {}
        shutil.rmtree(self.scratch / "runs", ignore_errors=True)
        for folder in (self.scratch / "runs", PAGE.parent):
            folder.mkdir(parents=True, exist_ok=True)

    def left(self):
        return self.ends - time.monotonic()

    def needs(self, seconds):
        if self.left() < seconds:
            raise Skip(f"it takes {seconds} s, and {max(0, self.left()):.0f} s are left")

    def run(self, command, limit, check=True, env=None):
        """Finished process; raises Wrong with the end of its output if it failed."""
        self.needs(5)
        left = self.left()
        try:
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=min(limit, left), cwd=ROOT,
                                  env={**os.environ, **(env or {})}, errors="replace")
        except FileNotFoundError:
            raise Wrong(f"{command[0]} is missing")
        except subprocess.TimeoutExpired:
            what = f"`{' '.join(map(str, command[:4]))} ...` took longer than"
            raise Skip(f"{what} the {left:.0f} s that were left") if left < limit else Wrong(f"{what} {limit:.0f} s")
        if check and done.returncode:
            raise Wrong(f"`{' '.join(map(str, command[:6]))} ...` ended with {done.returncode}:\n{(done.stdout + done.stderr)[-1500:]}")
        return done

    def part(self, title, function):
        print(f"proof.py: {title}", flush=True)
        began = time.monotonic()
        try:
            body = function(self)
        except Skip as reason:
            body = f"Skipped: {reason}."
        except Wrong as what:
            body = f"**Wrong:**\n\n```\n{what}\n```"
            self.failed.append(title)
        except Exception as error:  # a tool that answers in another way than was thought must not cost the other parts
            body = f"**The script failed here:** {type(error).__name__}: {error}"
            self.failed.append(title)
        self.sections.append(f"## {title}\n\n{body}\n\n{time.monotonic() - began:.0f} s\n")
        PAGE.write_text("# Measured on a GPU\n\nWritten by `tests/gpu/proof.py`.\n\n" + "\n".join(self.sections))

    def config(self, name, **changes):
        """The paper's recipe for toybox on the GPU, keys changed (dots as double underscores), that writes into a folder of its own."""
        folder = self.scratch / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        path.write_text(json.dumps(recipe(folder / "out", **{"device": "cuda", "output__prompts": [], **changes})))
        return path

    def big_config(self, n, bits=8):
        """Stable Diffusion 1.5's size, 512 px."""
        folder = model.write_model(self.scratch / "model")
        return self.config(f"sd15-{n}-{bits}", model=str(folder), data__resolution=512, data__images=str(PICTURES),
                           zo__n=n, zo__tau=128, quant__bits=bits)


def need_modules(*names):
    missing = [n for n in names if not importlib.util.find_spec(n.split(".")[0])]
    if missing:
        raise Skip(f"{', '.join(missing)} cannot be imported by {sys.executable.removeprefix(str(ROOT) + '/')}")


def table(head, rows):
    return "\n".join("| " + " | ".join(map(str, r)) + " |" for r in [head, ["---"] * len(head), *rows])


# -------------------------------------------------------------------------------- parts


def smi(s, *fields):
    said = s.run(["nvidia-smi", "-i", s.gpu, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"], 20).stdout
    return [f.strip() for f in said.splitlines()[0].split(",")]


def commit(s):
    """What is measured: as tests/gpu/prepare wrote it down, or as git tells it."""
    if (ROOT / "COMMIT").exists():
        return (ROOT / "COMMIT").read_text().strip()
    known = shutil.which("git") and s.run(["git", "log", "-1", "--format=%h"], 20, check=False).stdout.strip()
    return known or "unknown"


def machine(s):
    name, driver, memory = smi(s, "name", "driver_version", "memory.total")
    rows = [("GPU", name), ("memory", f"{int(memory):,} MiB"), ("driver", driver), ("processor cores", len(os.sched_getaffinity(0))),
            ("commit", commit(s)),
            ("zoodip", " ".join(s.run([s.build / "zoodip", "--version"], 20).stdout.split()))]
    rows += [(package, version(package)) for package in ("torch", "diffusers", "transformers") if importlib.util.find_spec(package)]
    return table(["", ""], rows)


def losses(s, device):
    config = s.config(f"agree-{device}", device=device, optim__steps=16)
    s.run([s.build / "zoodip", "train", config], 90)
    lines = (config.parent / "out" / "metrics.jsonl").read_text().splitlines()
    return [x for line in lines for x in json.loads(line)["losses"]]


def agreement(s):
    """Needs no Python package."""
    pairs = list(zip(losses(s, "cuda"), losses(s, "cpu"), strict=True))
    worst = max(abs(a - b) / abs(b) for a, b in pairs)
    text = f"Losses of 16 steps of toybox (int8 weights, {len(pairs)} losses): GPU and CPU differ by {worst:.1e} at most, relatively; 1e-3 is allowed."
    if not worst < 1e-3:
        raise Wrong(text)
    return text


def tests_for_a_gpu():
    """Those of the CUDA device but for the ones that start ranks: these ask the stand-in for several GPUs. What else a GPU cannot
    show, the tests leave out themselves."""
    texts = {path: path.read_text() for path in sorted((ROOT / "tests").glob("test_cuda*.py"))}
    return [path for path, text in texts.items() if "cuda_program(" in text and "mpirun" not in text]


def pytest(s, files, limit):
    """Deals the tests out to a few processes: most of their time is that of starting programs."""
    env = {"ZOODIP_BUILD": str(s.build), "ZOODIP_CUDA_PROGRAMS": str(s.build)}
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--maxfail=5", "-p", "no:cacheprovider"]
    listed = s.run([*command, "--collect-only", *files], 60, env=env).stdout
    tests = [line for line in listed.splitlines() if "::" in line]
    hands = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
    with ThreadPoolExecutor(hands) as pool:
        done = list(pool.map(lambda i: s.run([*command, "--basetemp", s.scratch / f"pytest-{i}", *tests[i::hands]], limit, check=False, env=env),
                             range(hands)))
    for folder in s.scratch.glob("pytest-*"):
        shutil.rmtree(folder)
    if any(d.returncode for d in done):
        raise Wrong("\n".join((d.stdout + d.stderr)[-3000:] for d in done if d.returncode))
    last = [d.stdout.strip().splitlines()[-1] for d in done]
    count = {what: sum(int(n) for line in last for n in re.findall(rf"(\d+) {what}", line)) for what in ("passed", "skipped")}
    return f"{', '.join(f.name for f in files)}: {count['passed']} passed, {count['skipped']} skipped."


def parity(s):
    need_modules("pytest", "torch", "diffusers", "transformers", "safetensors", "optimum")
    return pytest(s, tests_for_a_gpu(), 170)


def ops(s):
    need_modules("pytest", "torch", "safetensors")
    return pytest(s, [ROOT / "tests" / "test_cuda_ops.py"], 110)


def planned_bytes(s, config):
    """What the plan gives to training, in which `zoodip bench` ends."""
    return json.loads(s.run([s.build / "zoodip", "inspect", config], 120).stdout)["memory_plan"]["train"]["bytes"]


def bench(s, config, evaluations):
    said = s.run([s.build / "zoodip", "bench", config, "--evaluations", evaluations], 120).stdout
    return dict(json.loads(said.splitlines()[-1]), planned_bytes=planned_bytes(s, config))


def speed(s, cases):
    """cases: (n, bits)."""
    name = smi(s, "name")[0]
    peak = next((p for n, p in PEAKS if n in name), None)
    empty = bench(s, s.config("empty"), 30)
    context = empty["driver_bytes"] - empty["planned_bytes"]
    rows = []
    for n, bits in cases:
        r = bench(s, s.big_config(n, bits), 500)
        s.step_seconds[n, bits] = r["step_seconds"]
        work = roofline.count(argparse.Namespace(bits=bits, bandwidth=1, peak=1, size=512, at_once=32), n + 1)
        executed = sum(w.executed for w in work.values()) / r["step_seconds"] / 1e12
        rows.append([n, f"{bits} bits", f"{1 / r['step_seconds']:.2f}", f"{r['evaluations_per_second']:.1f}", f"{executed:.0f}",
                     f"{100 * executed / peak:.0f} %" if peak else "", f"{r['planned_bytes'] / 1e6:,.0f} MB",
                     f"{(r['driver_bytes'] - context) / 1e6:,.0f} MB", f"{r['driver_bytes'] / 1e6:,.0f} MB", f"{r['loading_seconds']:.0f} s"])
    head = ["n", "weights", "steps/s", "evaluations/s", "executed TFLOP/s", f"of {peak} TFLOP/s" if peak else "of the peak",
            "planned for training", "driver's count less the context", "driver's count", "loading"]
    return ("Stable Diffusion 1.5's size, random weights, 512 px. Executed: operands go into the matrix units as pairs of halves, so that every "
            "product is two and attention's are three. The driver counts everything on the GPU when training ends. "
            f"Context: {context / 1e6:,.0f} MB, what it counts beyond the plan of a run of toybox.\n\n" + table(head, rows))


def need_a_gpu_for_torch(s):
    if s.run([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"], 60).stdout.strip() != "True":
        raise Skip("PyTorch sees no GPU")


def reference_rows(s, ways):
    """ways: (n, way, rows in one batch, seconds). One that fails does not cost the others."""
    need_modules("torch", "diffusers", "transformers")
    need_a_gpu_for_torch(s)
    folder, rows = model.write_model(s.scratch / "model"), []
    for n, way, together, limit in ways:
        label = {"eager": "fp16 eager", "int8": "fp16, optimum-quanto int8", "compile": "fp16, torch.compile"}[way]
        label += ", rows in one batch" if together else ", row after row"
        try:
            if way == "int8":
                need_modules("optimum")
            said = s.run([sys.executable, ROOT / "tests" / "gpu" / "reference.py", folder, "--n", n, "--way", way,
                          *(["--together"] if together else [])], limit).stdout
            r = json.loads(said.splitlines()[-1])
            rows.append([n, label, f"{r['steps_per_second']:.2f}", f"{r['evaluations_per_second']:.1f}", f"{r['peak_bytes'] / 1e6:,.0f} MB"])
        except (Skip, Wrong) as why:
            rows.append([n, label, "not measured: " + " ".join(str(why).split())[-160:].replace("|", "/"), "", ""])
    return table(["n", "PyTorch", "steps/s", "evaluations/s", "memory"], rows)


def reference(s):
    return ("The reference's step: VAE encoding, text encoder and UNet for n + 1 rows, in fp16, on the same random weights. It goes row after "
            "row; one batch is what it might do. Memory: PyTorch's own count.\n\n"
            + reference_rows(s, [(2, "eager", False, 60), (2, "eager", True, 60), (16, "eager", True, 60)]))


def more_of_the_reference(s):
    return reference_rows(s, [(2, "int8", False, 60), (2, "compile", False, 150), (16, "eager", False, 60)])


def time_per_kernel(s, n):
    if not shutil.which("ncu"):
        raise Skip("ncu is not on the PATH")
    s.needs(45)
    program = [s.build / "zoodip", "bench", s.big_config(n), "--evaluations", n + 1]  # a step that is not counted, and one that is
    log = s.scratch / "runs" / f"kernels-{n}.csv"
    for metrics in ((ncu.TIME, ncu.GRID, ncu.TENSOR), (ncu.TIME, ncu.GRID)):  # not every GPU knows the last
        done = s.run(ncu.command(program, log, metrics), 120, check=False)
        said = log.read_text(errors="replace") if log.exists() else done.stdout + done.stderr
        launches = ncu.last_step(ncu.read_launches(said.splitlines()))
        if launches:
            break
    else:
        raise Skip("ncu measured no step: " + " ".join(said.split())[-300:])
    step = ncu.summed(launches)
    ncu.write(PAGE.with_name(f"kernels-{n}.csv"), step)
    text = (f"The kernels of one step with int8 weights, by ncu, summed by kernel and grid: {len(launches):,} launches, "
            f"{sum(k.us for k in step) / 1e3:.1f} ms")
    if (n, 8) in s.step_seconds:
        text += f"; without ncu a step takes {1e3 * s.step_seconds[n, 8]:.1f} ms"
    return text + ". Tensor pipe: how much of its peak the matrix units' pipe was busy.\n\n" + table(ncu.HEAD, ncu.rows(step))


def libraries(s):
    need_modules("torch")
    need_a_gpu_for_torch(s)
    path = PAGE.with_name("library.csv")
    s.run([sys.executable, ROOT / "tests" / "gpu" / "library.py", path], 60)
    rows = library.read(path)
    sums = " and ".join("{:.1f} ms a step at n = {} ({:.0f} TFLOP/s)".format(ms, lanes - 1, tflops)
                        for lanes in library.LANES for ms, tflops in [library.total(rows, lanes)])
    return (f"Linear layers by cuBLAS, 3 x 3 convolutions by cuDNN, attention by PyTorch's fused kernels, all in fp16: {sums}, without norms, "
            "copies and activations. Each is launched from Python, which takes some 20 us: rows near that say little about the library. Shapes: "
            "rows x outputs x inputs; of attention, lanes x queries x keys.\n\n" + table(library.HEAD, library.table_rows(rows)))


def sanitizer(s, kind):
    tool = shutil.which("compute-sanitizer")
    if not tool:
        raise Skip("compute-sanitizer is not on the PATH")
    config = s.config(kind, optim__steps=2)
    s.run([tool, "--tool", kind, "--error-exitcode", "9", s.build / "zoodip", "train", config], 150)
    return "Nothing found in 2 steps of toybox."


MACHINE, AGREEMENT = ("The machine", machine), ("GPU and CPU agree", agreement)
KERNELS, MEMCHECK = ("Time per kernel, n = 2", partial(time_per_kernel, n=2)), ("memcheck", partial(sanitizer, kind="memcheck"))
FULL = [MACHINE, AGREEMENT, ("Speed and memory", partial(speed, cases=[(2, 8), (16, 8), (1, 8), (8, 8), (1, 4)])),
        ("The reference beside it", reference), ("Tests of the CUDA device", parity), KERNELS, MEMCHECK,
        ("Libraries on the same shapes", libraries), ("racecheck", partial(sanitizer, kind="racecheck")),
        ("Time per kernel, n = 16", partial(time_per_kernel, n=16)), ("More of the reference", more_of_the_reference)]
SMOKE = [MACHINE, AGREEMENT, ("Speed and memory", partial(speed, cases=[(2, 8)])), ("Tests of single ops", ops), MEMCHECK, KERNELS]


def main():
    p = arguments("Measure zoodip on a GPU.", __doc__)
    p.add_argument("--build", default="build-gpu", help="folder of the build for this GPU")
    p.add_argument("--gpu", default="0", help="as nvidia-smi calls it")
    p.add_argument("--limit", type=float, default=590, help="seconds for everything, the build included")
    p.add_argument("--spent", type=float, default=0, help="seconds of these that are gone")
    p.add_argument("--smoke", action="store_true", help="only what takes three minutes")
    a = p.parse_args()
    s = Session(a)
    for title, function in SMOKE if a.smoke else FULL:
        s.part(title, function)
    print(f"proof.py: {PAGE.relative_to(ROOT)} is written; wrong: {', '.join(s.failed) or 'nothing'}")
    sys.exit(1 if s.failed else 0)


if __name__ == "__main__":
    main()
