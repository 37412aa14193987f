#!/usr/bin/env python3
"""Measures a built zoodip on the GPU of this machine and writes results/gpu.md, with kernels-*.csv and library.csv beside it.
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
import gpu_model  # noqa: E402
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

# As roofline.py calls them: what goes into the matrix units, and the config that makes it so.
WAYS = {"pairs": dict(zo__derivative="difference"), "halves": dict(zo__derivative="tangent", quant__tangents=16),
        "int8": dict(zo__derivative="tangent", quant__tangents=8)}


class Skip(Exception):
    """Why a part cannot run here."""


class Wrong(Exception):
    """An error that a part found."""


class Session:
    def __init__(self, a):
        self.build, self.gpu, self.ends = Path(a.build).resolve(), a.gpu, time.monotonic() + a.limit - a.spent
        self.scratch = self.build / "gpu"
        self.sections, self.failed, self.step_seconds, self.profiles = [], [], {}, {}
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

    def big_config(self, n, bits=8, way="pairs"):
        """Stable Diffusion 1.5's size, 512 px."""
        folder = model.write_model(self.scratch / "model")
        return self.config(f"sd15-{n}-{bits}-{way}", model=str(folder), data__resolution=512, data__images=str(PICTURES),
                           zo__n=n, zo__tau=128, quant__bits=bits, **WAYS[way])


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


def metrics(s, device, way):
    """Losses and slopes of 16 steps of toybox."""
    config = s.config(f"agree-{device}-{way}", device=device, optim__steps=16, **WAYS[way])
    s.run([s.build / "zoodip", "train", config], 90)
    lines = [json.loads(line) for line in (config.parent / "out" / "metrics.jsonl").read_text().splitlines()]
    return [[x for line in lines for x in line[what]] for what in ("losses", "slopes")]


def agreement(s):
    """Losses of evaluations; slopes of tangents in halves, beside the CPU's floats. Needs no Python package."""
    ours, theirs = metrics(s, "cuda", "pairs")[0], metrics(s, "cpu", "pairs")[0]
    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    ours, theirs = metrics(s, "cuda", "halves")[1], metrics(s, "cpu", "halves")[1]
    noise = (sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / sum(b * b for b in theirs)) ** 0.5
    text = (f"16 steps of toybox with int8 weights. Losses by differences: GPU and CPU differ by {worst:.1e} at most, relatively; 1e-3 is allowed. "
            f"Slopes by tangents, in halves on the GPU and in floats on the CPU, differ by {100 * noise:.2f} % of their rms; 5 % is allowed.")
    if not (worst < 1e-3 and noise < 0.05):
        raise Wrong(text)
    return text


def tests_for_a_gpu():
    """Those of the CUDA device but for the ones that start ranks: these ask the stand-in for several GPUs. What else a GPU cannot
    show, the tests leave out themselves."""
    texts = {path: path.read_text() for path in sorted((ROOT / "tests").glob("test_cuda*.py"))}
    return [path for path, text in texts.items() if "needs_cuda" in text and ("mpirun" not in text or "ON_GPU" in text)]


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
    return pytest(s, tests_for_a_gpu(), 200)


def ops(s):
    need_modules("pytest", "torch", "safetensors")
    single = [path for path in tests_for_a_gpu() if re.search("import .*\\bOP\\b|^OP = ", path.read_text(), re.M)]
    return pytest(s, single, 110)


def planned_bytes(s, config):
    """What the plan gives to training, in which `zoodip bench` ends."""
    return json.loads(s.run([s.build / "zoodip", "inspect", config], 120).stdout)["memory_plan"]["train"]["bytes"]


def bench(s, config, evaluations):
    said = s.run([s.build / "zoodip", "bench", config, "--evaluations", evaluations], 120).stdout
    return dict(json.loads(said.splitlines()[-1]), planned_bytes=planned_bytes(s, config))


def speed(s, cases):
    """cases: (n, bits, way)."""
    name = smi(s, "name")[0]
    peak = next((p for n, p in PEAKS if n in name), None)
    empty = bench(s, s.config("empty"), 30)
    context = empty["driver_bytes"] - empty["planned_bytes"]
    rows = []
    for n, bits, way in cases:
        r = bench(s, s.big_config(n, bits, way), 500)
        if r.get("tangent_bits") != WAYS[way].get("quant__tangents"):
            raise Wrong(f"n = {n}, {way}: tangents took {r.get('tangent_bits')} bits")
        s.step_seconds[n, bits, way] = r["step_seconds"]
        work = roofline.count(argparse.Namespace(bits=bits, bandwidth=1, peak=1, size=512, at_once=32, way=way), n + 1)
        executed = sum(w.executed for w in work.values()) / r["step_seconds"] / 1e12
        rows.append([n, f"{bits} bits", way, f"{1 / r['step_seconds']:.2f}", f"{r['evaluations_per_second']:.1f}", f"{executed:.0f}",
                     f"{100 * executed / peak:.0f} %" if peak else "", f"{r['planned_bytes'] / 1e6:,.0f} MB",
                     f"{(r['driver_bytes'] - context) / 1e6:,.0f} MB", f"{r['driver_bytes'] / 1e6:,.0f} MB", f"{r['loading_seconds']:.0f} s"])
    head = ["n", "weights", "operands", "steps/s", "evaluations/s", "executed TFLOP/s", f"of {peak} TFLOP/s" if peak else "of the peak",
            "planned for training", "driver's count less the context", "driver's count", "loading"]
    return ("Stable Diffusion 1.5's size, random weights, 512 px. Operands of the matrix units: pairs of halves for differences, so that every "
            "product is two and attention's are three; halves and int8 (zo.derivative tangent, quant.tangents 16 and 8): one, and codes count half. "
            "A tangent counts as an evaluation. The driver counts everything on the GPU when training ends. "
            f"Context: {context / 1e6:,.0f} MB, what it counts beyond the plan of a run of toybox.\n\n" + table(head, rows))


def modelled_gpu(s):
    name = smi(s, "name")[0]
    gpu = next((g for g in (gpu_model.H100, gpu_model.A100) if g.name in name), None)
    if not gpu:
        raise Skip(f"tests/bench/gpu_model.py knows no {name}")
    return gpu


def beside_the_model(s):
    """Steps, and of the profiled ones each kernel's share, beside what gpu_model.py expects."""
    gpu, rows = modelled_gpu(s), []
    if not s.step_seconds:
        raise Skip("no step was measured")
    for (n, bits, way), seconds in s.step_seconds.items():
        expected = gpu_model.step(n, gpu=gpu, bits=bits, way=way).seconds()
        rows.append([n, f"{bits} bits", way, f"{1e3 * seconds:.1f}", f"{1e3 * expected:.1f}", f"{100 * (expected / seconds - 1):+.0f} %"])
    text = ("By `tests/bench/gpu_model.py`, whose free parameters were fitted to another version's kernels on an H100.\n\n"
            + table(["n", "weights", "operands", "ms of a step", "ms by the model", "the model is off by"], rows))
    for (n, way), step in s.profiles.items():
        measured = ncu.by_function(step)
        expected = gpu_model.step(n, gpu=gpu, way=way).by_function()
        names = sorted({*measured, *expected}, key=lambda f: -measured.get(f, (0, 0))[1])
        rows = [[f"`{f}`", *(x for times, us in (measured.get(f, (0, 0)), expected.get(f, (0, 0))) for x in (times, f"{us / 1e3:.2f}"))] for f in names]
        text += f"\n\nKernels of a step at n = {n}, {way}:\n\n" + table(["kernel", "launches", "ms", "launches by the model", "ms by the model"], rows)
    return text


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


def time_per_kernel(s, n, way="pairs"):
    if not shutil.which("ncu"):
        raise Skip("ncu is not on the PATH")
    s.needs(45)
    program = [s.build / "zoodip", "bench", s.big_config(n, way=way), "--evaluations", n + 1]  # a step that is not counted, and one that is
    log = s.scratch / "runs" / f"kernels-{n}-{way}.csv"
    for metrics in ((ncu.TIME, ncu.GRID, ncu.TENSOR), (ncu.TIME, ncu.GRID)):  # not every GPU knows the last
        done = s.run(ncu.command(program, log, metrics), 120, check=False)
        said = log.read_text(errors="replace") if log.exists() else done.stdout + done.stderr
        launches = ncu.last_step(ncu.read_launches(said.splitlines()))
        if launches:
            break
    else:
        raise Skip("ncu measured no step: " + " ".join(said.split())[-300:])
    step = ncu.summed(launches)
    s.profiles[n, way] = step
    ncu.write(PAGE.with_name(f"kernels-{n}-{way}.csv"), step)
    text = (f"The kernels of one step with int8 weights, operands as {way}, by ncu, summed by kernel and grid: {len(launches):,} launches, "
            f"{sum(k.us for k in step) / 1e3:.1f} ms")
    if (n, 8, way) in s.step_seconds:
        text += f"; without ncu a step takes {1e3 * s.step_seconds[n, 8, way]:.1f} ms"
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


def sanitizer(s, kind, way):
    tool = shutil.which("compute-sanitizer")
    if not tool:
        raise Skip("compute-sanitizer is not on the PATH")
    config = s.config(f"{kind}-{way}", optim__steps=2, **WAYS[way])
    s.run([tool, "--tool", kind, "--error-exitcode", "9", s.build / "zoodip", "train", config], 150)
    return f"Nothing found in 2 steps of toybox, operands as {way}."


MACHINE, AGREEMENT = ("The machine", machine), ("GPU and CPU agree", agreement)
SPEED = [(n, 8, way) for n in (2, 16) for way in WAYS]
KERNELS = ("Time per kernel, n = 16, tangents in 8 bits", partial(time_per_kernel, n=16, way="int8"))
MEMCHECK, MODEL = ("memcheck, tangents", partial(sanitizer, kind="memcheck", way="int8")), ("Beside the model", beside_the_model)
FULL = [MACHINE, AGREEMENT, ("Speed and memory", partial(speed, cases=[*SPEED, (1, 8, "pairs"), (1, 8, "int8"), (1, 4, "pairs"), (1, 4, "halves")])),
        ("The reference beside it", reference), ("Tests of the CUDA device", parity), KERNELS,
        ("Time per kernel, n = 2, tangents in 16 bits", partial(time_per_kernel, n=2, way="halves")), MODEL, MEMCHECK,
        ("Time per kernel, n = 2, pairs", partial(time_per_kernel, n=2)), ("Libraries on the same shapes", libraries),
        ("racecheck, tangents", partial(sanitizer, kind="racecheck", way="int8")),
        ("memcheck, differences", partial(sanitizer, kind="memcheck", way="pairs")),
        ("racecheck, differences", partial(sanitizer, kind="racecheck", way="pairs")), ("More of the reference", more_of_the_reference)]
SMOKE = [MACHINE, AGREEMENT, ("Speed and memory", partial(speed, cases=[(2, 8, "pairs"), (2, 8, "halves"), (16, 8, "int8")])),
         ("Tests of single ops", ops), MODEL, MEMCHECK, KERNELS]


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
