#!/usr/bin/env python3
"""zoodip beside PyTorch and OpenVINO, in one run on the same machine: evaluations a second and peak memory at Stable Diffusion 1.5's
true size, with random weights, 512 px.

    .venv/bin/python tests/bench/bench.py                     all of it (about half an hour on 2 cores)
    .venv/bin/python tests/bench/bench.py --peers torch openvino --tangents 8
    .venv/bin/python tests/bench/bench.py --lanes 1 3 --bits 8 32 --peers torch
    .venv/bin/python tests/bench/bench.py --size 256          quick

An evaluation is one lane of a training step: text encoder, UNet, squared error; a step has (n + 1) * batch of them, and evaluations
a second are lanes times steps a second. zoodip takes whole steps, by differences and by tangents in 8 bits (quant.tangents) with
each of --tangents directions. The peers (peers.py) run the lanes of a difference's step forward in one batch; their time for an
evaluation hardly depends on the number of lanes, so that theirs at 3 lanes are compared with zoodip's at any number.

Each measurement is a separate process; memory is the most it ever held (ru_maxrss), read from outside. The files are made once and
kept in build/bench for the next time: the model in fp16 (2.0 GB), its quantized copy (1.1 GB) from which zoodip loads 8 and 4
bits, OpenVINO's (4.7 GB), and a venv with the packages of requirements.txt (0.2 GB); making them takes ten minutes and, for OpenVINO
int8, 12 GB of memory. --remove deletes them at the end.
"""
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import peers  # noqa: E402
from arguments import arguments  # noqa: E402
from conftest import BUILD, ROOT, SD15, TOYBOX, make_model  # noqa: E402

FOLDER = ROOT / "build" / "bench"
HERE = Path(__file__).resolve().parent


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def write_model(folder):
    """Stable Diffusion 1.5's modules with random weights; the text encoder keeps its 49,408 rows although the tokenizer is
    toybox's."""
    if (folder / "done").exists():
        return folder
    make_model(folder, SD15, "float16")
    (folder / "done").touch()
    return folder


def weights(bits):
    """The folder from which zoodip loads weights of so many bits."""
    folder = FOLDER / f"model-{bits}" if bits in (8, 4) else FOLDER / "model"
    if not folder.exists():
        say(f"quantizing the model to {bits} bits, {folder.relative_to(ROOT)}")
        subprocess.run([BUILD / "zoodip", "quantize", "--model", FOLDER / "model", "--output", folder, "--bits", str(bits), "--quiet"],
                       check=True)
    return folder


def write_config(folder, model, lanes, bits, size):
    """A step of `lanes` lanes: one picture, since only steps are measured, lanes - 1 directions. A step has at least two lanes."""
    config = dict(model=str(model), data=dict(images=[str(TOYBOX / "subjects" / "bear5" / "00.png")], resolution=size, flip=False),
                  token=dict(placeholder="sks", initializer="toy"), zo=dict(n=max(1, lanes - 1)), quant=dict(bits=bits),
                  output=dict(dir=str(folder / "out"), prompts=["a photo of a {}"]))
    path = folder / f"config-{lanes}-{bits}-{size}.json"
    path.write_text(json.dumps(config))
    return path


def peers_python():
    """The Python with this one's packages and OpenVINO's."""
    python, wanted, stamp = FOLDER / "venv" / "bin" / "python", HERE / "requirements.txt", FOLDER / "venv" / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    say(f"installing the packages of {wanted.relative_to(ROOT)} into {(FOLDER / 'venv').relative_to(ROOT)} (log: build/bench/pip.log)")
    (FOLDER / "tmp").mkdir(exist_ok=True)
    with open(FOLDER / "pip.log", "w") as log:
        def logged(*command):
            if subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(FOLDER / "tmp")}).returncode:
                sys.exit(f"bench: {' '.join(map(str, command))} failed, see build/bench/pip.log; without OpenVINO: --peers torch channels_last")
        logged(sys.executable, "-m", "venv", "--clear", FOLDER / "venv")
        own = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True)
        Path(own.stdout.strip(), "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
        logged(python, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "-r", wanted)
    shutil.rmtree(FOLDER / "tmp")
    shutil.copy(wanted, stamp)
    return python


def run_child(command, threads):
    """(output, peak bytes) of a command. Peak: of this one child, as wait4 reports it."""
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, cwd=ROOT,
                               env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}: status {status}")
    return output, usage.ru_maxrss * 1024


def bench_zoodip(a, lanes, bits, tangents=False):
    """For one lane: two ranks with a lane each share the cores; memory is that of the larger rank."""
    ranks, config = (2 if lanes == 1 else 1), write_config(FOLDER, weights(bits), lanes, bits, a.size)
    launcher = [] if ranks == 1 else [ROOT / "launch" / "run.sh", "-n", ranks]
    sets = ["--set", f"zo.derivative={'tangent' if tangents else 'difference'}", "--set", "quant.tangents=8"]
    output, peak = run_child([*launcher, BUILD / "zoodip", "bench", config, *sets, "--evaluations", a.evaluations], max(1, a.threads // ranks))
    name = f"zoodip {'int8' if bits == 8 else f'{bits} bits'}" + (", 2 ranks" if ranks == 2 else "") + (", tangents in 8 bits" if tangents else "")
    return dict(json.loads(output.splitlines()[-1]), name=name, lanes=lanes, peak_bytes=peak)


def peer_command(peer, *options):
    python = peers_python() if peer in peers.OPENVINO else sys.executable
    return [python, HERE / "peers.py", *options, peer, FOLDER / "model"]


def bench_peer(a, peer, lanes):
    command = peer_command(peer, "--lanes", lanes, "--evaluations", a.evaluations, "--size", a.size, "--threads", a.threads)
    output, peak = run_child(command, a.threads)
    return dict(json.loads(output.splitlines()[-1]), peak_bytes=peak)


def print_table(rows):
    """Ratios: to the peer's row with as many lanes, or else with the most."""
    print("| n + 1 lanes | program | evaluations/s | of PyTorch | of OpenVINO fp32 | s a step | peak memory | weights | arena | loading |")
    print("|" + " --- |" * 10)

    def share(r, peer):
        rates = {other["lanes"]: other["evaluations_per_second"] for other in rows if other["name"] == peers.TITLES[peer]}
        return f"{r['evaluations_per_second'] / rates.get(r['lanes'], rates[max(rates)]):.2f}" if rates else ""

    def mega(r, key):
        return f"{r[key] / 1e6:,.0f} MB" if r.get(key) else ""
    for r in rows:
        print(f"| {r['lanes']} | {r['name']} | {r['evaluations_per_second']:.4f} | {share(r, 'torch')} | {share(r, 'openvino')} | "
              f"{r['step_seconds']:.2f} | {mega(r, 'peak_bytes')} | {mega(r, 'weights_bytes')} | {mega(r, 'arena_bytes')} | "
              f"{r['loading_seconds']:.0f} s |")


def measure(a, chosen):
    """The rows; of several rounds each one's best."""
    best = {}

    def add(row):
        print(json.dumps(row), file=sys.stderr, flush=True)
        key = row["name"], row["lanes"]
        best[key] = max(best.get(key, row), row, key=lambda r: r["evaluations_per_second"])
    for _ in range(a.rounds):
        for bits in a.bits:
            for lanes in a.lanes:
                add(bench_zoodip(a, lanes, bits))
            for n in a.tangents:
                add(bench_zoodip(a, n + 1, bits, tangents=True))
        for lanes in a.lanes:
            for peer in chosen:
                add(bench_peer(a, peer, lanes))
    return list(best.values())


def main():
    p = arguments("Measure zoodip beside PyTorch and OpenVINO.", __doc__)
    p.add_argument("--lanes", type=int, nargs="*", default=[3], help="of a step by differences, and of the peers")
    p.add_argument("--bits", type=int, nargs="*", default=[8], choices=[4, 8, 16, 32], help="zoodip's weights")
    p.add_argument("--tangents", type=int, nargs="*", default=[2, 8], metavar="N", help="directions of steps by tangents in 8 bits")
    p.add_argument("--peers", nargs="*", default=list(peers.TITLES), choices=peers.TITLES, metavar="PEER", help=", ".join(peers.TITLES))
    p.add_argument("--evaluations", type=int, default=6, help="at least so many are measured, each time")
    p.add_argument("--rounds", type=int, default=1, help="measure everything so many times in turn, and print the best of each")
    p.add_argument("--size", type=int, default=512, help="pixels")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--skip-torch", action="store_true", help="zoodip alone, as --peers without a name")
    p.add_argument("--remove", action="store_true", help="delete build/bench at the end")
    a = p.parse_args()
    if not (BUILD / "zoodip").exists():
        sys.exit(f"bench: {BUILD / 'zoodip'} is missing; launch/setup.sh builds it")
    FOLDER.mkdir(parents=True, exist_ok=True)
    # in children, so that this process stays small
    if not (FOLDER / "model" / "done").exists():
        say("making the model with random weights, build/bench/model")
        subprocess.run([sys.executable, "-c", "import bench; bench.write_model(bench.FOLDER / 'model')"], check=True,
                       env={**os.environ, "PYTHONPATH": str(HERE)})
    chosen = [] if a.skip_torch else a.peers
    for peer in [p for p in chosen if p in peers.OPENVINO]:
        if not peers.prepared(peer, FOLDER / "model"):
            say(f"making the files of {peers.TITLES[peer]}, build/bench/model/openvino")
            subprocess.run(peer_command(peer, "--prepare"), check=True)
    print_table(measure(a, chosen))
    if a.remove:
        shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
