#!/usr/bin/env python3
"""How a queue of many subjects starts, what memory it takes, and what it saves over a run for each subject.

    .venv/bin/python tests/bench/queue_scale.py                     everything, in at most five minutes
    .venv/bin/python tests/bench/queue_scale.py start --jobs 1 1000

Toybox at 32 px, two steps a job, two ranks in two groups. **start**: queues of so many jobs, until all are done or a quarter of a
minute has gone since the first steps (then SIGUSR1 ends them). Peak memory is the kernel's (VmHWM), of the rank that has more;
growth is over the smallest queue, when the first jobs had learned their first step, and at the end. **list**: 100,000 jobs are
read, shown, begun, and looked at by `zoodip status`. **files**: what it costs to keep summary.json, index.html and status.json up to
date, by strace, from the opening of a file to its new name: the median write, and with the mean time between two its share of the
time of the rank that writes the most. One job is long, the others take about a second, and each that ends is news; of a file that was
written once, the time to the next is what the program would wait (5 or 30 s, or 1,000 writes). **peers**: 16 subjects as a queue, by a shell's loop, and by GNU parallel, which load the model for each.

Writes results/queue-scale.json, and of the starts results/queue-scale.png.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from math import log10
from statistics import median
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from arguments import arguments  # noqa: E402
from conftest import ROOT, TOYBOX, environment, program, recipe  # noqa: E402
from live import ranks_of  # noqa: E402

RANKS = 2
PAUSE = 0.01  # seconds between two looks at a run
SUBJECTS = sorted(p for p in (TOYBOX / "subjects").iterdir() if p.is_dir())
LITTLE = dict(data__resolution=32, zo__n=1, zo__tau=0, output__prompts=[], data__flip=False)


def table(*head):
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))


def row(*cells):
    print("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |", flush=True)


def shown(value, form=".2f"):
    return None if value is None else format(value, form)


def write_jobs(folder, count, steps=lambda i: 3 if i < RANKS else 2):
    """A jobs file; steps: of each job. The first job of each group is the longest, so that it begins first."""
    folder.mkdir(parents=True)
    jobs = [{"name": f"subject-{i}", "data": {"images": [str(SUBJECTS[i % len(SUBJECTS)] / "00.png")]},
             "optim": {"steps": steps(i)}} for i in range(count)]
    path = folder / "jobs.json"
    path.write_text(json.dumps({"defaults": recipe(folder / "out", **LITTLE), "jobs": jobs}))
    return path


# -------------------------------------------------------------------------------- a run that is watched


class Watched:
    """A queue's run: when it loaded the model and learned its first step, and the peaks of its ranks' memory."""

    def __init__(self, path, *tracer):
        self.path, self.output, self.peaks, self.ranks = path, path.parent / "out", {}, {}
        self.loads = self.steps = None
        self.log = path.parent / "log"
        self.began = time.time()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(["mpirun", "--oversubscribe", "-np", str(RANKS), *tracer, program("zoodip"), "run", str(path),
                                             "--groups", str(RANKS)],
                                            cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)

    def look(self):
        """Looks once; whether the run goes on."""
        if len(self.ranks) < RANKS:
            self.ranks = ranks_of(self.path)
        for rank, process in self.ranks.items():
            try:
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
            except OSError:
                continue
            if found:
                self.peaks[rank] = max(self.peaks.get(rank, 0), int(found[1]) * 1024)
        now = time.time() - self.began
        if self.loads is None and "loading text encoder" in self.log.read_text(errors="replace"):
            self.loads = now
        if self.steps is None and any(self.has_step(i) for i in range(RANKS)):
            self.steps = now
        return self.process.poll() is None

    def has_step(self, job):
        try:
            return (self.output / f"subject-{job}" / "metrics.jsonl").stat().st_size > 0
        except OSError:
            return False

    def watch(self, until, seconds):
        """Looks until that is true, the run has ended, or so long after its start; whether it was true."""
        while self.look() and not until():
            if time.time() - self.began > seconds:
                return False
            time.sleep(PAUSE)
        return until()

    def peak(self):
        return max(self.peaks.values(), default=None)

    def stop(self, seconds=30):
        """Asks the run to end, and ends it if it does not; returns the exit code, or None."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)
            end = time.time() + seconds
            while self.look() and time.time() < end:
                time.sleep(PAUSE)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return None
        if self.process.returncode not in (0, 75):
            sys.exit(self.log.read_text(errors="replace")[-3000:])
        return self.process.returncode


def jobs_done(output):
    return sum('"done"' in job.read_text() for job in output.glob("*/job.json"))


# -------------------------------------------------------------------------------- start


def measure_start(folder, count, seconds):
    queue = Watched(write_jobs(folder / str(count), count))
    found = dict(jobs=count, first_step=None, since_load=None, bytes_at_first_step=None)
    if queue.watch(lambda: queue.steps is not None, seconds):
        found.update(first_step=queue.steps, bytes_at_first_step=queue.peak(), since_load=None if queue.loads is None else queue.steps - queue.loads)
        queue.watch(lambda: False, queue.steps + seconds / 4)
    worked = time.time() - queue.began - (queue.steps or 0)
    queue.stop()
    return {**found, "bytes": queue.peak(), "done": jobs_done(queue.output), "seconds_of_steps": worked}


def start(options, folder):
    table("jobs", "s to the first step", "s of them since the model's loading began", "MB at the first step", "MB at the end",
          "KB more a job", "jobs done", "s for them")
    all_found = []
    for count in sorted(options.jobs):
        found = measure_start(folder, count, 60)
        all_found.append(found)
        base, at_first, at_end = all_found[0], found["bytes_at_first_step"], found["bytes"]
        more = None if count == base["jobs"] or not at_end or not base["bytes"] else (at_end - base["bytes"]) / (count - base["jobs"]) / 1e3
        row(f"{count:,}", shown(found["first_step"]), shown(found["since_load"]), shown(at_first and at_first / 1e6, ".1f"),
            shown(at_end and at_end / 1e6, ".1f"), shown(more, ".1f"), f"{found['done']:,}", shown(found["seconds_of_steps"], ".1f"))
    print()
    draw([f for f in all_found if f["bytes"] and f["bytes_at_first_step"]], ROOT / "results" / "queue-scale.png")
    return all_found


def draw(found, path):
    """A rank's memory over the number of jobs, in powers of ten."""
    if not found:
        return
    width, height, left, bottom, right = 720, 440, 70, 50, 30
    image = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    top = 1.15 * max(f["bytes"] for f in found) / 1e6
    step = next(s for s in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if top / s <= 8 or s == 10000)
    most = max(log10(max(f["jobs"] for f in found)), 1)

    def place(jobs, size):
        return left + log10(jobs) / most * (width - left - right), height - bottom - size / top * (height - bottom - 60)
    for size in range(0, int(top) + 1, step):
        _, y = place(1, size)
        pen.line([(left, y), (width - right, y)], fill="#e4e4e4")
        pen.text((left - 8, y), f"{size}", fill="black", font=font, anchor="rm")
    for jobs in sorted({f["jobs"] for f in found}):
        x, y = place(jobs, 0)
        pen.text((x, y + 8), f"{jobs:,}", fill="black", font=font, anchor="mt")
    for k, (key, text, colour) in enumerate((("bytes_at_first_step", "at the first step", "#2a9d4a"), ("bytes", "at the end", "#1f5fbf"))):
        points = [place(f["jobs"], f[key] / 1e6) for f in found]
        pen.line(points, fill=colour, width=2)
        for x, y in points:
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        pen.text((left + 14, 34 + 20 * k), text, fill=colour, font=font)
    pen.text((left, 10), "MB of a rank at most", fill="black", font=font)
    pen.text((width - right, height - 10), "jobs in the queue", fill="black", font=font, anchor="rb")
    image.save(path)


# -------------------------------------------------------------------------------- list


def timed(*command, limit=120):
    """Seconds of a command, or None if it takes longer than the limit."""
    began = time.time()
    try:
        done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return time.time() - began


def has_command(name):
    return subprocess.run([program("zoodip"), name, "--help"], env=environment(), capture_output=True).returncode == 0


def long_list(options, folder):
    path = write_jobs(folder / "list", options.long)
    found = {"jobs": options.long, "file_bytes": path.stat().st_size, "inspect": timed(program("zoodip"), "inspect", path)}
    queue = Watched(path)
    found["first_step"] = queue.steps if queue.watch(lambda: queue.steps is not None, 60) else None
    found["bytes"] = queue.peak()
    began = time.time()
    found["stopped"] = time.time() - began if queue.stop() == 75 else None
    if has_command("status") and (queue.output / "summary.json").exists():
        found["status"] = timed(program("zoodip"), "status", queue.output)
    table("what", f"{options.long:,} jobs, a file of {found['file_bytes'] / 1e6:.0f} MB")
    row("`zoodip inspect JOBS.json`", f"{shown(found['inspect'])} s")
    row("`zoodip run`, from its start to the first step", "more than 60 s" if found["first_step"] is None else f"{found['first_step']:.2f} s")
    row("memory of its rank 0 then", f"{shown(found['bytes'] and found['bytes'] / 1e6, '.0f')} MB")
    row("from SIGUSR1 to its end, everything saved", "more than 30 s" if found["stopped"] is None else f"{found['stopped']:.2f} s")
    if "status" in found:
        row("`zoodip status` of its folder", f"{shown(found['status'])} s")
    print()
    return found


# -------------------------------------------------------------------------------- files


# The files that are kept up to date, and the least seconds between two of a kind.
KEPT = {"summary.json": 5, "index.html": 30, "status.json": 5}
TRACER = ["strace", "-DD", "-ff", "--seccomp-bpf", "-qq", "-ttt", "-T", "-s", "4096", "-e", "signal=none", "-e", "trace=openat,?rename,?renameat,renameat2"]
OPENED = re.compile(r'([\d.]+) openat\(.*"(?:[^"]*/)?(?:(\S+)\.\d+\.tmp|\.unfinished)".*\) = \d')
NAMED = re.compile(r'([\d.]+) rename(?:at2?)?\(.*"(?:[^"]*/)?([^"/]+)"(?:, \w+)?\) = 0 <([\d.]+)>')


def writes(trace, end):
    """{file: [(when it began, its seconds)...]} of a thread, until then."""
    found, began = {name: [] for name in KEPT}, {}
    for line in trace.read_text(errors="replace").splitlines():
        if opened := OPENED.match(line):
            began[opened[2] or "status.json"] = float(opened[1])
        elif (named := NAMED.match(line)) and named[2] in KEPT and named[2] in began and float(named[1]) < end:
            found[named[2]].append((began[named[2]], float(named[1]) + float(named[3]) - began[named[2]]))
    return found


def cost(name, each):
    """Of one thread's writes of a file."""
    took = median(seconds for _, seconds in each)
    pause = (each[-1][0] - each[0][0]) / (len(each) - 1) if len(each) > 1 else max(KEPT[name], 0 if name == "status.json" else 1000 * took)
    return dict(writes=len(each), milliseconds=took * 1e3, seconds_between=pause, share=took / pause)


def measure_files(folder, count, seconds):
    path = write_jobs(folder / str(count), count, lambda i: 1000000 if i == 0 else 200)
    queue = Watched(path, *TRACER, "-o", str(path.parent / "trace"))
    if queue.watch(lambda: queue.steps is not None, 60):
        queue.watch(lambda: False, queue.steps + seconds)
    end = time.time()
    queue.stop()
    threads = [writes(trace, end) for trace in path.parent.glob("trace.*")]
    found = {name: max((cost(name, thread[name]) for thread in threads if thread[name]), key=lambda c: c["share"], default=None) for name in KEPT}
    return dict(jobs=count, seconds=end - queue.began, done=jobs_done(queue.output), **found)


def files(options, folder):
    if subprocess.run(["bash", "-c", "strace -f --seccomp-bpf -o /dev/null true"], capture_output=True).returncode:
        print("no strace here, or it may not look at programs\n")
        return None
    table("jobs", *(f"ms a write of {name}" for name in KEPT), *(f"% of the time, {name}" for name in KEPT), "jobs done", "s")
    all_found = []
    for count in sorted(options.files):
        found = measure_files(folder / "files", count, options.seconds)
        all_found.append(found)
        costs = [found[name] for name in KEPT]
        row(f"{count:,}", *(shown(c and c["milliseconds"]) for c in costs), *(shown(c and 100 * c["share"], ".3f") for c in costs),
            f"{found['done']:,}", shown(found["seconds"], ".0f"))
    print()
    return all_found


# -------------------------------------------------------------------------------- peers


def peers(options, folder):
    count = options.subjects
    path = write_jobs(folder / "peers", count)
    jobs = json.loads(path.read_text())
    configs = []
    for job in jobs["jobs"]:
        config = {**jobs["defaults"], "output": {**jobs["defaults"]["output"], "dir": str(folder / "peers" / "alone" / job["name"])},
                  "data": {**jobs["defaults"]["data"], **job["data"]}, "optim": {**jobs["defaults"]["optim"], **job["optim"]}}
        configs.append(folder / "peers" / f"{job['name']}.json")
        configs[-1].write_text(json.dumps(config))
    ways = {"a queue, 2 ranks in 2 groups": ["mpirun", "--oversubscribe", "-np", RANKS, program("zoodip"), "run", path, "--groups", RANKS],
            "a shell's loop, one after the other": ["bash", "-c", 'for c in "${@:2}"; do "$1" train "$c" || exit; done', "-", program("zoodip"), *configs]}
    if shutil.which("parallel"):
        ways["GNU parallel, two at a time"] = ["parallel", "--will-cite", "-j", RANKS, program("zoodip"), "train", ":::", *configs]
    found = {}
    table(f"{count} subjects of two steps", "s", "s a subject")
    for name, command in ways.items():
        shutil.rmtree(folder / "peers" / "alone", ignore_errors=True)
        found[name] = timed(*command)
        row(name, shown(found[name]), shown(found[name] and found[name] / count, ".3f"))
    print()
    return {"subjects": count, "seconds": found}


PARTS = {"start": start, "list": long_list, "files": files, "peers": peers}


def main():
    parser = arguments("Measure queues of many subjects.", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when not given")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 10, 100, 1000], help="queues to start")
    parser.add_argument("--long", type=int, default=100000, help="jobs of the long list")
    parser.add_argument("--files", type=int, nargs="+", default=[1, 200, 1000, 10000], help="queues whose files' cost is measured")
    parser.add_argument("--seconds", type=float, default=15, help="of their steps that are watched")
    parser.add_argument("--subjects", type=int, default=16, help="for the peers")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    results = ROOT / "results" / "queue-scale.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    with tempfile.TemporaryDirectory(prefix="zoodip-") as folder:
        for name in options.parts or PARTS:
            found[name] = PARTS[name](options, Path(folder))
            results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
