#!/usr/bin/env python3
"""zoodip beside PyTorch, in the same run on the same machine: evaluations a second and peak memory at Stable Diffusion 1.5's true
size, with random weights, 512 px. An evaluation is one lane of a training step: text encoder, UNet, squared error.

    .venv/bin/python tests/bench/bench.py                     1 and 3 lanes, int8 and fp32 (about 20 minutes on 2 cores)
    .venv/bin/python tests/bench/bench.py --lanes 3 --bits 8 --evaluations 6
    .venv/bin/python tests/bench/bench.py --size 256          quick

Each measurement is a separate process; memory is the most it ever held (ru_maxrss), read from outside. The model's files
(fp16, 2.0 GB) are made in build/bench and kept there for the next time; --remove deletes them at the end.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arguments import arguments  # noqa: E402
from conftest import BUILD, ROOT, SD15, TOYBOX, make_model  # noqa: E402

FOLDER = ROOT / "build" / "bench"


def write_model(folder):
    """Stable Diffusion 1.5's modules with random weights; the text encoder keeps its 49,408 rows although the tokenizer is
    toybox's."""
    if (folder / "done").exists():
        return folder
    make_model(folder, SD15, "float16")
    (folder / "done").touch()
    return folder


def write_config(folder, model, lanes, bits, size):
    """A step of `lanes` lanes: one picture, lanes - 1 directions. A step has at least two lanes."""
    config = dict(model=str(model), data=dict(images=str(TOYBOX / "subjects" / "bear5"), resolution=size, flip=False),
                  token=dict(placeholder="sks", initializer="toy"), zo=dict(n=max(1, lanes - 1)), quant=dict(bits=bits),
                  output=dict(dir=str(folder / "out"), prompts=["a photo of a {}"]))
    path = folder / f"config-{lanes}-{bits}-{size}.json"
    path.write_text(json.dumps(config))
    return path


def run_child(command, threads):
    """(output, peak bytes) of a command. Peak: of this one child, as wait4 reports it."""
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, cwd=ROOT,
                               env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}: status {status}")
    return output, usage.ru_maxrss * 1024


def bench_zoodip(a, model, lanes, bits):
    """For one lane: two ranks with a lane each share the cores; memory is that of the larger rank."""
    ranks, config = (2 if lanes == 1 else 1), write_config(FOLDER, model, lanes, bits, a.size)
    launcher = [] if ranks == 1 else [ROOT / "launch" / "run.sh", "-n", ranks]
    output, peak = run_child([*launcher, BUILD / "zoodip", "bench", config, "--evaluations", a.evaluations], max(1, a.threads // ranks))
    name = f"zoodip {'int8' if bits == 8 else f'{bits} bits'}" + (", 2 ranks" if ranks == 2 else "")
    return dict(json.loads(output.splitlines()[-1]), name=name, lanes=lanes, peak_bytes=peak)


def bench_torch(a, model, lanes):
    output, peak = run_child([sys.executable, __file__, "--child", model, "--lanes", lanes, "--evaluations", a.evaluations,
                              "--size", a.size, "--threads", a.threads], a.threads)
    return dict(json.loads(output.splitlines()[-1]), name="PyTorch fp32", peak_bytes=peak)


def time_torch(model, lanes, evaluations, size, threads):
    """The same work in eager PyTorch, fp32. A first batch is not counted."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel
    torch.set_num_threads(threads)
    began = time.perf_counter()
    text = CLIPTextModel.from_pretrained(f"{model}/text_encoder", dtype=torch.float32).eval()
    unet = UNet2DConditionModel.from_pretrained(f"{model}/unet", torch_dtype=torch.float32).eval()
    loading = time.perf_counter() - began
    noisy, noise = torch.randn(2, 1, 4, size // 8, size // 8).unbind()
    ids, timestep = torch.randint(0, 1500, (lanes, 77)), torch.full((lanes,), 700)

    @torch.inference_mode()
    def step():
        hidden = text(ids).last_hidden_state
        middle = time.perf_counter()
        predicted = unet(noisy.expand(lanes, -1, -1, -1), timestep, hidden).sample
        (predicted - noise).square().flatten(1).mean(1)
        return middle

    step()
    steps, in_text, began = -(-evaluations // lanes), 0.0, time.perf_counter()
    for _ in range(steps):
        start = time.perf_counter()
        in_text += step() - start
    seconds = time.perf_counter() - began
    print(json.dumps(dict(lanes=lanes, evaluations=steps * lanes, seconds=seconds, step_seconds=seconds / steps, loading_seconds=loading,
                          evaluations_per_second=steps * lanes / seconds, text_encoder_share=in_text / seconds)))


def print_table(rows):
    print("| lanes | program | evaluations/s | of PyTorch | s a step | peak memory | weights | arena | loading |")
    print("|" + " --- |" * 9)
    base = {r["lanes"]: r["evaluations_per_second"] for r in rows if r["name"].startswith("PyTorch")}
    for r in rows:
        share = f"{r['evaluations_per_second'] / base[r['lanes']]:.2f}" if r["lanes"] in base else ""

        def mega(key):
            return f"{r[key] / 1e6:,.0f} MB" if r.get(key) else ""
        print(f"| {r['lanes']} | {r['name']} | {r['evaluations_per_second']:.4f} | {share} | {r['step_seconds']:.2f} | {mega('peak_bytes')} | "
              f"{mega('weights_bytes')} | {mega('arena_bytes')} | {r['loading_seconds']:.0f} s |")


def main():
    p = arguments("Measure zoodip beside PyTorch.", __doc__)
    p.add_argument("--lanes", type=int, nargs="*", default=[1, 3])
    p.add_argument("--bits", type=int, nargs="*", default=[8, 32], help="zoodip's weights")
    p.add_argument("--evaluations", type=int, default=6, help="at least so many are measured, each time")
    p.add_argument("--size", type=int, default=512, help="pixels")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--skip-torch", action="store_true", help="zoodip alone")
    p.add_argument("--remove", action="store_true", help="delete the model's files at the end")
    p.add_argument("--child", metavar="MODEL", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        time_torch(a.child, a.lanes[0], a.evaluations, a.size, a.threads)
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); from bench import *; write_model(FOLDER / 'model')",
                    str(Path(__file__).parent)], check=True)
    rows = []
    for lanes in a.lanes:
        for bits in a.bits:
            rows.append(bench_zoodip(a, FOLDER / "model", lanes, bits))
        if not a.skip_torch:
            rows.append(bench_torch(a, FOLDER / "model", lanes))
    for r in rows:
        print(json.dumps(r), file=sys.stderr)
    print_table(rows)
    if a.remove:
        shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
