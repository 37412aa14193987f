#!/usr/bin/env python3
"""What a queue saves: toybox's eight subjects started one by one, and as a queue in 1, 2, ... groups on the same ranks.

    .venv/bin/python tests/bench/many_subjects.py                        2 ranks, 100 steps a subject
    .venv/bin/python tests/bench/many_subjects.py --ranks 4 --steps 300

A table of total times, the time of the steps alone (from metrics.jsonl, divided by the groups: no queue can be faster), their
ratio, and the subjects' mean turnaround. Pictures are not drawn.
"""
import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arguments import arguments  # noqa: E402
from conftest import ROOT, TOYBOX, mpirun, program, recipe  # noqa: E402

FOLDER = ROOT / "build" / "bench-queue"
SUBJECTS = sorted(p.name for p in (TOYBOX / "subjects").iterdir() if p.is_dir())


def seconds_in_steps(folder):
    return sum(json.loads(line)["seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines())


def show(name, whole, steps, groups, turnaround):
    print(f"| {name} | {whole:.1f} | {steps / groups:.1f} | {whole / (steps / groups):.2f} | {turnaround:.1f} |", flush=True)


def config_of(subject, steps):
    return recipe(FOLDER / "out" / subject, data__images=str(TOYBOX / "subjects" / subject), optim__steps=steps, output__prompts=[])


def one_by_one(ranks, steps):
    began, ends = time.time(), []
    for subject in SUBJECTS:
        path = FOLDER / f"{subject}.json"
        path.write_text(json.dumps(config_of(subject, steps)))
        mpirun(ranks, program("zoodip"), "train", path)
        ends.append(time.time() - began)
    show("one by one", ends[-1], sum(seconds_in_steps(FOLDER / "out" / s) for s in SUBJECTS), 1, sum(ends) / len(ends))


def as_queue(ranks, groups, steps):
    output = FOLDER / f"queue-{groups}"
    jobs = [{"name": s, "data": {"images": str(TOYBOX / "subjects" / s)}} for s in SUBJECTS]
    path = FOLDER / "jobs.json"
    path.write_text(json.dumps({"defaults": recipe(output, optim__steps=steps, output__prompts=[]), "jobs": jobs}))
    began = time.time()
    mpirun(ranks, program("zoodip"), "run", path, "--groups", groups)
    whole = time.time() - began
    done = json.loads((output / "summary.json").read_text())["jobs"]
    show(f"queue, {groups} group{'s' * (groups > 1)}", whole, sum(j["seconds"] for j in done), groups,
         sum(j["turnaround"] for j in done) / len(done))


def main():
    parser = arguments("Measure what a queue saves.", __doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    print(f"{options.ranks} ranks, {len(SUBJECTS)} subjects of {options.steps} steps\n")
    print("| | whole, s | steps alone, s | ratio | mean turnaround, s |\n| --- | --- | --- | --- | --- |")
    one_by_one(options.ranks, options.steps)
    groups = 1
    while groups <= options.ranks:
        as_queue(options.ranks, groups, options.steps)
        groups *= 2
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
