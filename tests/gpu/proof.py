#!/usr/bin/env python3
"""Measures a built zoodip on the GPU of this machine and writes results/gpu.md. Called by tests/gpu/run.sh.

    python3 tests/gpu/proof.py --build build-gpu

Parts run in the order of their worth, each with a time limit of its own within that of the whole; the page is written anew
after each, so that what was measured is there whatever comes. A part without its tools is skipped and says why.
"""
import argparse
import csv
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "gpu"), str(ROOT / "tests" / "bench")]
import model  # noqa: E402
import roofline  # noqa: E402

RECIPE, PICTURES = ROOT / "configs" / "toybox.json", ROOT / "dataset" / "toybox" / "subjects" / "bear5"
NOT_FOR_A_GPU = {"standin", "compiled", "ranks"}  # tests/test_cuda_*.py that ask for the stand-in

# Data sheets: TFLOP/s of the matrix units, halves with float sums, without sparsity. The first name that occurs counts.
PEAKS = [("H200", 989), ("GH200", 989), ("H100 PCIe", 756), ("H100 NVL", 835), ("H100", 989), ("A100", 312), ("L40S", 362), ("L4", 121),
         ("RTX 4090", 165), ("RTX 3090", 71), ("A10", 125), ("T4", 65)]

# nsys tells times by kernel; what belongs together, by the beginning of the name.
FAMILIES = [("product_kernel", "linear layers and convolutions"), ("attend", "attention"), ("group_", "group norms"),
            ("layer_norm", "layer norms"), ("copy", "copies"), ("", "everything else")]


class Skip(Exception):
    """Why a part cannot run here."""


class Wrong(Exception):
    """What a part found to be wrong."""


class Session:
    def __init__(self, a):
        self.build, self.gpu, self.ends = Path(a.build).resolve(), a.gpu, time.monotonic() + a.limit - a.spent
        self.scratch = self.build / "gpu"
        self.sections, self.failed = [], []
        shutil.rmtree(self.scratch / "runs", ignore_errors=True)
        (self.scratch / "runs").mkdir(parents=True)

    def run(self, command, limit, check=True, env=None):
        """Finished process; Wrong with the end of its output where it failed."""
        limit = min(limit, self.ends - time.monotonic())
        if limit < 5:
            raise Skip("no time is left")
        try:
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=limit, cwd=ROOT,
                                  env={**os.environ, **(env or {})}, errors="replace")
        except subprocess.TimeoutExpired:
            raise Wrong(f"`{' '.join(map(str, command[:4]))} ...` took longer than {limit:.0f} s")
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
        page = ROOT / "results" / "gpu.md"
        page.write_text("# Measured on a GPU\n\nWritten by `tests/gpu/run.sh`.\n\n" + "\n".join(self.sections))

    def config(self, name, **changes):
        """A toybox recipe on the GPU, keys changed (dots as double underscores), that writes into a folder of its own."""
        config = json.loads(RECIPE.read_text())
        folder = self.scratch / "runs" / name
        changes = {"device": "cuda", "output__dir": str(folder / "out"), "output__prompts": [], **changes}
        for key, value in changes.items():
            group, _, inner = key.partition("__")
            if inner:
                config.setdefault(group, {})[inner] = value
            else:
                config[key] = value
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.json"
        path.write_text(json.dumps(config))
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


def machine(s):
    name, driver, memory = smi(s, "name", "driver_version", "memory.total")
    nvcc = re.search(r"release (\S+),", s.run(["nvcc", "--version"], 20).stdout)[1]
    rows = [("GPU", name), ("memory", f"{int(memory):,} MiB"), ("driver", driver), ("CUDA toolkit", nvcc),
            ("processor cores", len(os.sched_getaffinity(0))),
            ("commit", s.run(["git", "log", "-1", "--format=%h"], 20, check=False).stdout.strip() or "unknown"),
            ("zoodip", " ".join(s.run([s.build / "zoodip", "--version"], 20).stdout.split()))]
    if importlib.util.find_spec("torch"):
        rows.append(("PyTorch", s.run([sys.executable, "-c", "import torch; print(torch.__version__)"], 60).stdout.strip()))
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


def parity(s):
    """The tests of the CUDA device, dealt out to a few processes: most of their time is that of starting programs."""
    need_modules("pytest", "torch", "diffusers", "transformers", "safetensors", "optimum")
    files = [f for f in sorted((ROOT / "tests").glob("test_cuda*.py")) if f.stem.removeprefix("test_cuda_") not in NOT_FOR_A_GPU]
    env = {"ZOODIP_BUILD": str(s.build), "ZOODIP_CUDA_PROGRAMS": str(s.build)}
    pytest = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--maxfail=5", "-p", "no:cacheprovider"]
    listed = s.run([*pytest, "--collect-only", *files], 60, env=env).stdout
    tests = [line for line in listed.splitlines() if "::" in line]
    hands = max(1, min(6, len(os.sched_getaffinity(0)) // 2))
    with ThreadPoolExecutor(hands) as pool:
        done = list(pool.map(lambda i: s.run([*pytest, "--basetemp", s.scratch / f"pytest-{i}", *tests[i::hands]], 170, check=False, env=env),
                             range(hands)))
    for folder in s.scratch.glob("pytest-*"):
        shutil.rmtree(folder)
    if any(d.returncode for d in done):
        raise Wrong("\n".join(d.stdout[-3000:] for d in done if d.returncode))
    last = [d.stdout.strip().splitlines()[-1] for d in done]
    count = {what: sum(int(n) for line in last for n in re.findall(rf"(\d+) {what}", line)) for what in ("passed", "skipped")}
    return f"{', '.join(f.name for f in files)}: {count['passed']} passed, {count['skipped']} skipped."


class MemoryWatch:
    """The driver's count of the GPU's used memory, in MiB, looked at 20 times a second; nobody else may use the GPU."""

    def __init__(self, s):
        self.s = s

    def __enter__(self):
        self.before = int(smi(self.s, "memory.used")[0])
        self.most = self.before
        self.process = subprocess.Popen(["nvidia-smi", "-i", str(self.s.gpu), "--query-gpu=memory.used", "--format=csv,noheader,nounits",
                                         "-lms", "50"], stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.most = max(self.most, int(line))

    def __exit__(self, *_):
        self.process.terminate()
        self.thread.join()
        self.bytes = (self.most - self.before) * 2**20


def planned_bytes(s, config):
    """The larger of the plan's phases that `zoodip bench` goes through."""
    plan = json.loads(s.run([s.build / "zoodip", "inspect", config], 120).stdout)["memory_plan"]
    return max(plan[phase]["bytes"] for phase in ("encode pictures", "train"))


def bench(s, config, evaluations):
    with MemoryWatch(s) as watch:
        said = s.run([s.build / "zoodip", "bench", config, "--evaluations", evaluations], 120).stdout
    return dict(json.loads(said.splitlines()[-1]), driver_bytes=watch.bytes, planned_bytes=planned_bytes(s, config))


def speed(s):
    name = smi(s, "name")[0]
    peak = next((p for n, p in PEAKS if n in name), None)
    empty = bench(s, s.config("empty"), 30)
    context = empty["driver_bytes"] - empty["planned_bytes"]
    rows = []
    for n, bits in ((2, 8), (16, 8), (1, 8), (8, 8), (1, 4)):
        r = bench(s, s.big_config(n, bits), 500)
        work = roofline.count(argparse.Namespace(bits=bits, bandwidth=1, peak=1, size=512, at_once=32), n + 1)
        executed = sum(w.executed for w in work.values()) / r["step_seconds"] / 1e12
        rows.append([n, f"{bits} bits", f"{1 / r['step_seconds']:.2f}", f"{r['evaluations_per_second']:.1f}", f"{executed:.0f}",
                     f"{100 * executed / peak:.0f} %" if peak else "", f"{r['planned_bytes'] / 1e6:,.0f} MB",
                     f"{(r['driver_bytes'] - context) / 1e6:,.0f} MB", f"{r['driver_bytes'] / 1e6:,.0f} MB", f"{r['loading_seconds']:.0f} s"])
    head = ["n", "weights", "steps/s", "evaluations/s", "executed TFLOP/s", f"of {peak} TFLOP/s" if peak else "of the peak", "planned",
            "driver's count less the context", "driver's count", "loading"]
    return ("Stable Diffusion 1.5's size, random weights, 512 px. Executed: operands go into the matrix units as pairs of halves, so that every "
            f"product is two and attention's are three. Context: {context / 1e6:,.0f} MB, what a run of toybox takes beyond its plan.\n\n" + table(head, rows))


def reference_rows(s, ways):
    """ways: (n, way, rows in one batch, seconds). One that fails does not cost the others."""
    need_modules("torch", "diffusers", "transformers")
    if s.run([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"], 60).stdout.strip() != "True":
        raise Skip("PyTorch sees no GPU")
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


def kernels(s):
    nsys = shutil.which("nsys")
    if not nsys:
        raise Skip("nsys is not on the PATH")
    text = []
    for n in (2, 16):
        trace = s.scratch / "runs" / f"trace-{n}"
        s.run([nsys, "profile", "--trace=cuda", "--cuda-graph-trace=node", "--force-overwrite=true", "-o", trace, s.build / "zoodip", "bench",
               s.big_config(n), "--evaluations", 10 * (n + 1)], 120)
        said = s.run([nsys, "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", "--force-export=true", f"{trace}.nsys-rep"], 60).stdout
        said = said[said.index("Time (%)"):]
        sums = dict.fromkeys((family for _, family in FAMILIES), 0.0)
        for row in csv.DictReader(io.StringIO(said)):
            name = re.sub(r"^void |\(anonymous namespace\)::|<unnamed>::", "", row["Name"])
            sums[next(family for begin, family in FAMILIES if name.startswith(begin))] += float(row["Total Time (ns)"])
        total = sum(sums.values())
        text.append(f"n = {n}, int8 weights, encoding of the pictures included:\n\n" + table(
            ["family", "share"], [(family, f"{100 * t / total:.1f} %") for family, t in sorted(sums.items(), key=lambda i: -i[1])]))
    return "\n\n".join(text)


def sanitizer(s):
    tool = shutil.which("compute-sanitizer")
    if not tool:
        raise Skip("compute-sanitizer is not on the PATH")
    said = []
    for kind in ("memcheck", "racecheck"):
        config = s.config(f"sanitizer-{kind}", optim__steps=2)
        s.run([tool, "--tool", kind, "--error-exitcode", "9", s.build / "zoodip", "train", config], 100)
        said.append(f"{kind}: nothing found in 2 steps of toybox.")
    return "\n\n".join(said)


PARTS = [("The machine", machine), ("GPU and CPU agree", agreement), ("Speed and memory", speed), ("The reference beside it", reference),
         ("Tests of the CUDA device", parity), ("compute-sanitizer", sanitizer), ("Time per family of kernels", kernels),
         ("More of the reference", more_of_the_reference)]


def main():
    p = argparse.ArgumentParser(description="Measure zoodip on a GPU.", epilog=__doc__.split("\n\n", 1)[1],
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build-gpu", help="folder of the build for this GPU")
    p.add_argument("--gpu", default="0", help="as nvidia-smi calls it")
    p.add_argument("--limit", type=float, default=590, help="seconds for everything, the build included")
    p.add_argument("--spent", type=float, default=0, help="seconds of these that are gone")
    s = Session(p.parse_args())
    for title, function in PARTS:
        s.part(title, function)
    print(f"proof.py: results/gpu.md is written; wrong: {', '.join(s.failed) or 'nothing'}")
    sys.exit(1 if s.failed else 0)


if __name__ == "__main__":
    main()
