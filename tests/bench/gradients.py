#!/usr/bin/env python3
"""A step of learning by gradients beside steps of forward passes, at Stable Diffusion 1.5's true size (random weights, one picture a
step): seconds and memory. Gradients: textual inversion by autograd in PyTorch, on diffusers' and transformers' modules, the word's row
the only thing trained, with and without gradient checkpointing; its int8 weights are optimum-quanto's.

    .venv/bin/python tests/bench/gradients.py                       512 px, then 256 (about ten minutes on 2 cores)
    .venv/bin/python tests/bench/gradients.py --size 256 --only zoodip-2 fp32 fp32-checkpointed
    .venv/bin/python tests/bench/gradients.py --passes 50 100 250   on toybox instead: how many passes gradients need

Every row is a process of its own, whose second step is timed; rows stay in build/bench/gradients, and a second start measures only what
is missing. All memory: the most that the process held (PyTorch: from the first step on), without pages of the model's files, which the
system may drop. A step's own: what a step adds to that; of zoodip, its arena. Nobody encodes pictures in a step. The random model's files
are those of bench.py.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import bench  # noqa: E402
from arguments import arguments  # noqa: E402
from conftest import ROOT, TOYBOX, environment, program  # noqa: E402

FOLDER = bench.FOLDER / "gradients"
# zoodip's rows, int8 weights: n and derivative.
FORWARD = {"zoodip-2": (2, "difference"), "zoodip-16": (16, "tangent")}
# Gradients: what the frozen weights are, the type that is computed in, whether blocks are computed again for the backward pass.
BACKWARD = {"fp32": ("fp32", "float32", False), "fp32-checkpointed": ("fp32", "float32", True), "bf16": ("bf16", "bfloat16", False),
            "bf16-checkpointed": ("bf16", "bfloat16", True), "int8-checkpointed": ("int8", "float32", True)}
PLACEHOLDER, TIMESTEP = 1500, 700


# -------------------------------------------------------------------------------- a process and its memory


def held(pid):
    """Bytes that a process holds in memory, without pages of files."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0  # it has ended
    return sum(int(kilobytes) for kilobytes in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+)", status)) * 1024


def run_child(command, threads):
    """(its last line's JSON, the bytes it held when it said "steps", and the most since then). Without that line: 0, the most of all."""
    child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(threads))
    before = most = 0

    def watch():
        nonlocal most
        while child.poll() is None:
            most = max(most, held(child.pid))
            time.sleep(0.01)
    watching = threading.Thread(target=watch)
    watching.start()
    line = ""
    for line in child.stdout:
        if line == "steps\n":
            before = most = held(child.pid)
    watching.join()
    if child.returncode:
        sys.exit(f"{' '.join(map(str, command))}: status {child.returncode}")
    return json.loads(line), before, most


# -------------------------------------------------------------------------------- gradients


class TextualInversion:
    """One word, one picture."""

    def __init__(self, model, weights, dtype, again, size):
        import torch
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel
        kind = getattr(torch, dtype)
        self.text = CLIPTextModel.from_pretrained(f"{model}/text_encoder", dtype=kind)
        self.unet = UNet2DConditionModel.from_pretrained(f"{model}/unet", torch_dtype=kind)
        for network in (self.text, self.unet):
            network.requires_grad_(False)
            if weights == "int8":
                self.quantize(network)
            if again:
                network.train()  # only then; there is no dropout
                network.enable_gradient_checkpointing() if network is self.unet else network.gradient_checkpointing_enable()
        words = next(m for m in self.text.modules() if isinstance(m, torch.nn.Embedding))
        self.row = torch.nn.Parameter(words.weight[PLACEHOLDER].float())
        words.register_forward_hook(lambda _, ids, out: torch.where((ids[0] == PLACEHOLDER)[..., None], self.row.to(out.dtype), out))
        self.adam = torch.optim.Adam([self.row], lr=5e-3)
        self.ids = torch.randint(0, PLACEHOLDER, (1, 77))
        self.ids[0, 5] = PLACEHOLDER
        self.noisy, self.noise = torch.randn(2, 1, 4, size // 8, size // 8).to(kind).unbind()

    @staticmethod
    def quantize(network):
        from optimum.quanto import freeze, qint8, quantize
        quantize(network, weights=qint8)
        freeze(network)

    def bytes_of_weights(self):
        return sum(p._data.nbytes + p._scale.nbytes if hasattr(p, "_data") else p.nbytes
                   for network in (self.text, self.unet) for p in network.parameters())

    def step(self):
        import torch
        predicted = self.unet(self.noisy, torch.tensor([TIMESTEP]), self.text(self.ids).last_hidden_state).sample
        (predicted.float() - self.noise.float()).square().mean().backward()
        self.adam.step()
        self.adam.zero_grad()


def time_backward(model, name, size, threads):
    """A child: times its second step."""
    import ctypes

    import torch
    torch.set_num_threads(threads)
    inversion = TextualInversion(model, *BACKWARD[name], size)
    ctypes.CDLL(None).malloc_trim(0)  # what loading needed
    print("steps", flush=True)
    inversion.step()
    before, began = inversion.row.detach().clone(), time.perf_counter()
    inversion.step()
    seconds = time.perf_counter() - began
    assert inversion.row.isfinite().all() and not torch.equal(before, inversion.row), "nothing was learned"
    print(json.dumps(dict(step_seconds=seconds, weights_bytes=inversion.bytes_of_weights())))


# -------------------------------------------------------------------------------- rows and their table


def measure_row(a, name, size):
    """A lane is an evaluation, a tangent, or a forward and a backward pass."""
    if name in FORWARD:
        n, derivative = FORWARD[name]
        config = bench.write_config(bench.FOLDER, bench.FOLDER / "model", n + 1, 8, size)
        sets = {"zo.derivative": derivative, "data.images": str(TOYBOX / "subjects" / "bear5" / "00.png")}
        command = [program("zoodip"), "bench", config, "--evaluations", 1, *(x for key, value in sets.items() for x in ("--set", f"{key}={value}"))]
    else:
        command = [sys.executable, __file__, "--child", name, "--size", size, "--threads", a.threads]
    found, before, most = run_child(command, a.threads)
    return dict(lanes=found.get("lanes", 1), seconds=found["step_seconds"], weights=found["weights_bytes"],
                own=found.get("arena_bytes", most - before), most=most)


def row(a, name, size):
    path = FOLDER / f"{name}-{size}.json"
    if a.again or not path.exists():
        path.write_text(json.dumps(measure_row(a, name, size)))
    return SimpleNamespace(**json.loads(path.read_text()))


def measure_rows(a):
    FOLDER.mkdir(parents=True, exist_ok=True)
    bench.write_model(bench.FOLDER / "model")
    print("| px | a step by | lanes | seconds | seconds a lane | weights | a step's own memory | all |\n|" + " --- |" * 8, flush=True)
    for size, name in product(a.size, a.only):
        r = row(a, name, size)
        print(f"| {size} | {name} | {r.lanes} | {r.seconds:.2f} | {r.seconds / r.lanes:.2f} | "
              + " | ".join(f"{x / 1e6:,.0f} MB" for x in (r.weights, r.own, r.most)) + " |", flush=True)


# -------------------------------------------------------------------------------- passes that gradients need


def measure_passes(a):
    """Textual inversion on toybox's eight subjects, as dataset/toybox/make/measure.py does it, with fewer passes."""
    import torch
    from judge import SUBJECTS, Judge, measure, model, share_of_gain
    torch.set_num_threads(1)
    known = json.loads((TOYBOX / "losses.json").read_text())
    judges = {toy: Judge(SUBJECTS / toy) for toy in sorted(p.name for p in SUBJECTS.iterdir() if p.is_dir())}
    print("| passes | pictures a step | lr | share of the gradients' gain | worst toy |\n|" + " --- |" * 5, flush=True)
    for passes, batch, lr in product(a.passes, a.batch, a.lr):
        shares = []
        for toy, judge in judges.items():
            word = measure.backprop(model(), str(judge.folder), lr=lr, steps=passes // batch, batch=batch)
            shares.append(share_of_gain(judge.start, judge.validation.loss(word), known[toy]["backprop"]))
        print(f"| {passes} | {batch} | {lr:g} | {sum(shares) / len(shares):.1%} | {min(shares):.0%} |", flush=True)


def main():
    p = arguments("Measure gradients beside forward passes.", __doc__)
    names = [*FORWARD, *BACKWARD]
    p.add_argument("--only", choices=names, nargs="*", default=names)
    p.add_argument("--size", type=int, nargs="*", default=[512, 256], help="pixels")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--again", action="store_true", help="measure again what is known")
    p.add_argument("--passes", type=int, nargs="+", help="on toybox instead: what so many passes of gradients learn")
    p.add_argument("--batch", type=int, nargs="*", default=[1, 5], help="pictures a step, of those")
    p.add_argument("--lr", type=float, nargs="*", default=[3e-2, 1e-1], help="their learning rates, falling along a cosine")
    p.add_argument("--child", choices=BACKWARD, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        time_backward(bench.FOLDER / "model", a.child, a.size[0], a.threads)
    elif a.passes:
        measure_passes(a)
    else:
        measure_rows(a)


if __name__ == "__main__":
    main()
