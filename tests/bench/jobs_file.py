#!/usr/bin/env python3
"""How long a jobs file is read and checked, and the memory for it, for several numbers of jobs.

    .venv/bin/python tests/bench/jobs_file.py
    .venv/bin/python tests/bench/jobs_file.py 1000 100000

Each job has a name, a word, and keys of its own over toybox's recipe. The model does not exist, which is found next, so that the
run ends when all jobs are read and checked.
"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arguments import arguments  # noqa: E402
from conftest import ROOT, environment, program, recipe  # noqa: E402

FOLDER = ROOT / "build" / "bench-jobs"


def write_jobs(path, count, **more):
    jobs = [{"name": f"subject {i:06d}", "seed": i, "zo": {"n": 1 + i % 3}, "optim": {"steps": 100 + i}, "token": {"placeholder": f"<w{i}>"}}
            for i in range(count)]
    path.write_text(json.dumps({"defaults": recipe(FOLDER / "out", **more), "jobs": jobs}))


def main():
    parser = arguments("Measures how long a jobs file is checked.", __doc__)
    parser.add_argument("counts", metavar="JOBS", type=int, nargs="*", default=[1000, 10000, 100000])
    FOLDER.mkdir(parents=True, exist_ok=True)
    print("| jobs | MB of the file | s | processor s | KB of memory per job |\n| --- | --- | --- | --- | --- |")
    for count in parser.parse_args().counts:
        path = FOLDER / "jobs.json"
        write_jobs(path, count, model="/nowhere")
        began = time.time()
        process = subprocess.Popen([program("zoodip"), "run", path], env=environment(), stderr=subprocess.PIPE, text=True)
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status) != 2 or "defaults: model: " not in said:
            sys.exit(said)
        print(f"| {count:,} | {path.stat().st_size / 1e6:.1f} | {time.time() - began:.2f} | {used.ru_utime + used.ru_stime:.2f} | "
              f"{used.ru_maxrss / count:.1f} |", flush=True)


if __name__ == "__main__":
    main()
