#!/usr/bin/env python3
"""Where a training step's time goes on the CPU, by family of layers and kind of work, and how close each family comes to the
processor's peaks. Needs perf, and a build with symbols (the default).

    .venv/bin/python tests/bench/families.py build/bench/config-3-8-512.json          what bench.py writes (a minute on 2 cores)
    .venv/bin/python tests/bench/families.py build/bench/config-9-8-512.json --set zo.derivative=tangent --set quant.tangents=8

perf samples `zoodip bench` with the calls that led to each sample; counted are those of the main thread, which works as the others
do, in the timed steps. Seconds are the processor's in that thread, which other work on the machine changes less than the clock's. GFLOP/s:
of all threads, the products that evaluations of a step's lanes for one picture ask for (roofline.py), whether a lane is an evaluation or
a tangent, in floats or in codes; convolutions count all their taps, so that Winograd's may exceed a peak. Peaks:
build/tests/peaks with as many threads, the best unit.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import roofline  # noqa: E402
from arguments import arguments  # noqa: E402
from conftest import BUILD, ROOT  # noqa: E402

SAMPLES = 199  # a second
FAMILIES = {"op_linear": "linear layers", "op_conv": "convolutions", "op_attention": "attention", "op_norm": "norms"}
# By the innermost function of a sample that one of these finds.
KINDS = {"to codes": "^encode|^attention8_keys", "weights to floats": "^widen", "Winograd's transforms": "^winograd_(source|weights|result)",
         "products of codes": "^(multiply(512|_amx|_vnni|_avx2|_tiles)|tile(256|512))", "epilogues": "^finish_|^product_finish",
         "float products": "^tile"}


class Products(roofline.Step):
    """Counts products by the family that computes them; a resnet's shortcut is a convolution, a transformer's ends are linear layers."""

    def product(self, family, lanes, positions, out, channels, taps=1, **more):
        conv = taps > 1 or family == "1 x 1 convolutions" and out != channels
        super().product("convolutions" if conv else "linear layers", lanes, positions, out, channels, taps, **more)

    def attention(self, family, *shape, **more):
        super().attention("attention", *shape, **more)


def operations(model, lanes, size):
    """family -> floating-point operations of a step."""
    text, unet = (json.loads((Path(model) / part / "config.json").read_text()) for part in ("text_encoder", "unet"))
    step = Products(8, 1, 1)
    roofline.text_encoder(step, text, lanes)
    roofline.UNet(step, unet, lanes, size // 8).walk()
    return {family: work.useful for family, work in step.families.items()}


def profile(command, threads):
    """(the result of zoodip bench, [functions from the innermost] of each sample of its timed steps)."""
    if not shutil.which("perf"):
        sys.exit("families: perf is missing (Debian: linux-perf)")
    with tempfile.TemporaryDirectory() as folder:
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES), "--call-graph", "dwarf,16384", "-o", f"{folder}/perf.data"]
        done = subprocess.run([*record, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT,
                              env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        if done.returncode:
            sys.exit("families: the run failed, or perf may not sample (see /proc/sys/kernel/perf_event_paranoid)")
        script = ["perf", "script", "-i", f"{folder}/perf.data", "--no-inline", "-F", "pid,tid,time,ip,sym"]
        text = subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    result, samples = json.loads(done.stdout.splitlines()[-1]), []
    for head, *calls in (block.strip().split("\n") for block in text.strip().split("\n\n")):
        pid, tid, time = re.match(r"\s*(\d+)/(\d+)\s+([\d.]+):", head).groups()
        if pid == tid:
            samples.append((float(time), [call.split(None, 1)[1] for call in calls if " " in call.strip()]))
    end = max((time for time, calls in samples if any(c.startswith("op_") for c in calls)), default=0)
    return result, [calls for time, calls in samples if end - result["seconds"] <= time <= end]


def family_of(calls):
    op = next((c for c in calls if c.startswith("op_")), "")
    return FAMILIES.get(op, "copies and other ops" if op else "rest")


def kind_of(calls):
    return next((kind for call in calls for kind, name in KINDS.items() if re.match(name, call)), "rest")


def main():
    p = arguments("Measure where a step's time goes.", __doc__)
    p.add_argument("config", type=Path)
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for zoodip bench")
    p.add_argument("--evaluations", type=int, default=18, help="at least so many are sampled")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    a = p.parse_args()
    for path in (BUILD / "zoodip", BUILD / "tests" / "peaks", a.config):
        if not path.exists():
            sys.exit(f"families: {path} is missing; " + ("bench.py writes such" if path == a.config else "launch/setup.sh --tests= builds it"))
    peaks = {}
    for line in subprocess.run([BUILD / "tests" / "peaks", str(a.threads)], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
        peak = json.loads(line)
        print(f"{peak['numbers']} by {peak['unit']}: at most {peak['best']:,.0f} Gop/s of a core, {a.threads * peak['best']:,.0f} in all")
        peaks[peak["numbers"]] = max(peaks.get(peak["numbers"], 0), a.threads * peak["best"])
    sets = [word for s in a.set for word in ("--set", s)]
    result, samples = profile([BUILD / "zoodip", "bench", a.config.resolve(), *sets, "--evaluations", str(a.evaluations), "--quiet"], a.threads)
    model = next((s.split("=", 1)[1] for s in a.set if s.startswith("model=")), json.loads(a.config.read_text())["model"])
    useful = operations(ROOT / model, result["lanes"], result["resolution"])
    counts = Counter((family_of(calls), kind_of(calls)) for calls in samples)
    families = Counter(family_of(calls) for calls in samples)
    kinds = [*KINDS, "rest"]
    print(f"\n{result['derivative']}, {result['lanes']} lanes, {result['step_seconds']:.2f} s a step by the clock, {len(samples)} samples\n")
    print("| family | share | " + " | ".join(kinds) + " | s a step | GFLOP/s | of the fp32 peak | of the int8 peak |")
    print("|" + " --- |" * (len(kinds) + 6))
    for family, count in [*families.most_common(), ("all", len(samples))]:
        share = [sum(n for (f, k), n in counts.items() if family in (f, "all") and k == kind) / len(samples) for kind in kinds]
        seconds = count / SAMPLES / result["steps"]
        rate = (sum(useful.values()) if family == "all" else useful.get(family, 0)) / seconds / 1e9
        of = [f"{rate / peaks[numbers]:.0%}" if rate and numbers in peaks else "" for numbers in ("fp32", "int8")]
        print(f"| {family} | {count / len(samples):.1%} | " + " | ".join(f"{s:.1%}" if s else "" for s in share)
              + f" | {seconds:.2f} | {f'{rate:,.0f}' if rate else ''} | {' | '.join(of)} |")


if __name__ == "__main__":
    main()
