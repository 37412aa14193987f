"""Runs that are under way: started in the background, waited for, and caught in the middle.

A run may end by itself before a test has looked. So a test that signals, kills or inspects a run of limited length does so inside
`caught`, where the ranks are stopped (SIGSTOP) at a step that is known, and is marked `afresh`: if it came too late, it begins again.

    @afresh
    def test_of_a_run_that_is_killed(tmp_path):
        process = start(2, "train", config)
        with caught(process, config, when=lambda: steps(output) >= 3, unless=lambda: steps(output) > 50):
            kill(process, config)
"""
import functools
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from conftest import ROOT, environment, program, unstamped

TRIES = 8
# A step may be under way when the ranks are stopped, the next one carries a signal to all ranks, and one is left to do.
TO_GO = 3


class Started(subprocess.Popen):
    """A process whose lines come without their times, as those of conftest's run."""

    def communicate(self, *args, **options):
        out, err = super().communicate(*args, **options)
        return out, unstamped(err)


def start(ranks, command, path, *options, zoodip=program("zoodip"), launcher=None, env=None):
    """Starts a zoodip command in its own process group, its stderr a pipe; by mpirun if there are several ranks, or by the words
    of `launcher`."""
    if launcher is None:
        launcher = ["mpirun", "--oversubscribe", "-np", ranks] if ranks > 1 else []
    return Started([*map(str, launcher), zoodip, command, str(path), *options], cwd=ROOT, env={**environment(), **(env or {})},
                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=restore_signals)


def restore_signals():
    """In a shell's background SIGINT is ignored, and under nohup SIGHUP; every process started from there would inherit that."""
    for which in (signal.SIGINT, signal.SIGHUP):
        signal.signal(which, signal.SIG_DFL)


def processes(file):
    """{process id: first word of its command} of everything that was started with this config or jobs file, launchers too."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(file) in words:
            found[int(path.name)] = words[0]
    return found


def rank_processes(file):
    """The process ids of the ranks among them."""
    return sorted(p for p, name in processes(file).items() if Path(name).name == "zoodip")


def ranks_of(file):
    """{rank: process id} of those that mpirun started."""
    found = {}
    for process in rank_processes(file):
        try:
            rank = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", Path(f"/proc/{process}/environ").read_bytes())
        except OSError:
            continue
        if rank:
            found[int(rank[1])] = process
    return found


def steps(output):
    """Steps whose line is in the metrics file."""
    try:
        return len((output / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def nearly_done(output, wanted, to_go=TO_GO):
    """Has a run of so many steps, at the time of the call, fewer to go?"""
    return lambda: steps(output) > wanted - to_go


def newest(output):
    """The step of the newest checkpoint."""
    return max((int(p.stem.split("-")[1]) for p in (output / "checkpoints").glob("step-*.safetensors")), default=0)


def until(true, process=None, seconds=60, pause=0.01, what=lambda: ""):
    """Waits for a condition and returns its value. It fails if that takes longer, or if the process ends without it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        if process and process.poll() is not None and not true():
            pytest.fail(f"it ended early, with {process.returncode}: {process.communicate()[1]}")
        assert time.monotonic() < end, f"not within {seconds} s: {what()}"
        time.sleep(pause)
    return value


def kill(process, file):
    """SIGKILL to a run and all of its ranks; returns when they are gone."""
    for each in processes(file):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    process.communicate()
    until(lambda: not processes(file), seconds=10)


# ---- caught in the middle


class TooLate(Exception):
    """The run was past the moment at which it should have been caught."""


def afresh(case):
    """A test that comes too late begins again, in another folder."""
    @functools.wraps(case)
    def tried(tmp_path, **given):
        for number in range(TRIES):
            folder = tmp_path / f"try{number}"
            folder.mkdir()
            with suppress(TooLate):
                return case(tmp_path=folder, **given)
        pytest.fail(f"it came too late {TRIES} times")
    return tried


def status(process, field):
    """A field of /proc/ID/status, None when the process is gone."""
    try:
        return re.search(rf"^{field}:\s*(\w+)", Path(f"/proc/{process}/status").read_text(), re.M)[1]
    except (FileNotFoundError, ProcessLookupError):
        return None


def has_signal(process, which, *fields):
    """Is the signal in one of these sets of the process: SigPnd and ShdPnd it will get, SigCgt it has a handler for?"""
    return any(int(status(process, field) or "0", 16) >> (which - 1) & 1 for field in fields)


def is_stopped(process):
    return status(process, "State") == "T"


def stop(ranks):
    """Stops processes; returns those that did not end instead."""
    for each in ranks:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGSTOP)
    until(lambda: all(status(each, "State") in ("T", "Z", "X", None) for each in ranks))
    return {each for each in ranks if is_stopped(each)}


@contextmanager
def caught(process, file, when, unless):
    """Waits until `when` holds and stops the ranks; yields the set of their process ids, and lets them go on at the end. Who is
    removed from the set stays stopped. If by now `unless` holds or the run has ended, it was too late."""
    until(lambda: when() or process and process.poll() == 0, process)  # a run that has ended well meanwhile was too fast
    stopped = stop(rank_processes(file))
    try:
        if not stopped or process and process.poll() is not None or unless():
            raise TooLate
        yield stopped
    except TooLate:
        if process:
            kill(process, file)
        raise
    finally:
        for each in stopped:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)


def tell(process, which, stopped, as_which=None):
    """Sends a signal to a process id, and waits until it has reached each of these stopped ranks, perhaps as another signal."""
    os.kill(process, which)
    until(lambda: all(has_signal(each, as_which or which, "SigPnd", "ShdPnd") for each in stopped))
