"""Faults during a run, with real processes: ranks are killed or hang, disks fill up or vanish, someone interrupts. Nothing costs
more than the steps since the last checkpoint, and nothing hangs."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from beside import begin, beside_the_others
from conftest import NIGHTLY, ROOT, environment, learned, losses_of, metrics, program, run, train_alone, write_recipe
from live import (TooLate, afresh, caught, has_signal, kill, nearly_done, newest, processes, rank_processes, ranks_of, steps, stop,
                  tell, until)
from live import start as start_by

RUN_SH = str(ROOT / "launch" / "run.sh")
STEPS = 60
KILLS = int(os.environ.get("ZOODIP_KILLS", 20 if NIGHTLY else 4))  # 50 take three or four minutes
CHANGES = dict(optim__steps=STEPS, output__checkpoint_every=5, output__prompts=[], zo__tau=8)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return train_alone(tmp_path_factory.mktemp("quiet"), **CHANGES)


@contextmanager
def small_disk(folder):
    disk = folder / "disk"
    disk.mkdir()
    if run("mount", "-t", "tmpfs", "-o", "size=1m", "zoodip-test", disk, check=False).returncode:
        pytest.skip("no right to mount a tmpfs here")
    try:
        yield disk
    finally:
        run("umount", "-l", disk)


@pytest.fixture(scope="module")
def begun(request, quiet):
    yield from begin(request, 3, quiet=lambda folder: nullcontext(quiet), small_disk=small_disk)


def start(config, *options, ranks=2):
    """A run under launch/run.sh, with options of that."""
    return start_by(ranks, "train", config, launcher=[RUN_SH, "-n", ranks, *options])


def end(process, config, timeout=60):
    """The exit code and stderr; no process of the run may be left."""
    said = process.communicate(timeout=timeout)[1]
    until(lambda: not processes(config), seconds=5)
    return process.returncode, said


def run_through_kills(config, chance, most, seconds):
    """A whole run, one that takes so long undisturbed, with ranks killed at random moments. Returns (kills, exit code, stderr)."""
    process, kills = start(config, "--restarts", "30"), 0
    while process.poll() is None:
        time.sleep(chance.uniform(0.1, seconds))
        victims = rank_processes(config)
        if victims and kills < most:
            try:
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
    return kills, *end(process, config)


@beside_the_others("quiet", "small_disk")
def test_random_kills_end_with_the_bits_of_the_quiet_run(tmp_path, quiet):
    config, _ = write_recipe(tmp_path / "undisturbed", **CHANGES)
    began = time.monotonic()
    assert end(start(config), config)[0] == 0
    seconds = time.monotonic() - began
    chance, kills, run = random.Random(6), 0, 0
    while kills < KILLS and run < 10 + KILLS:
        config, output = write_recipe(tmp_path / str(run), **CHANGES)
        more, code, said = run_through_kills(config, chance, min(KILLS - kills, 20), seconds)
        assert code == 0, said
        struck = said.count("restarting with --resume")  # two kills may hit one start, and a quick run may end before any
        assert struck <= more, said
        assert learned(output) == quiet[0]
        assert losses_of(output) == quiet[1]
        kills, run = kills + struck, run + 1
    assert kills >= KILLS


@beside_the_others("quiet", "small_disk")
def test_a_killed_rank_ends_the_job_within_ten_seconds(tmp_path):
    config, output = write_recipe(tmp_path, **{**CHANGES, "optim__steps": 100000})
    process = start(config, ranks=3)
    until(lambda: steps(output) >= 2, process)
    os.kill(rank_processes(config)[1], signal.SIGKILL)
    began = time.time()
    code, said = end(process, config, timeout=10)
    assert code == 128 + signal.SIGKILL and "ended by signal KILL" in said and time.time() - began < 10


@pytest.mark.parametrize("hanging", [0, 1])
@beside_the_others("quiet", "small_disk")
@afresh
def test_a_rank_that_hangs_is_named_and_the_run_starts_again(tmp_path, quiet, hanging):
    config, output = write_recipe(tmp_path, **CHANGES, cluster__timeout=3)
    process = start(config, "--restarts", "1", ranks=3)
    with caught(process, config, when=lambda: newest(output) >= 5, unless=nearly_done(output, STEPS)) as stopped:
        stopped.remove(ranks_of(config)[hanging])
    if hanging:  # rank 0 is left to tell those who watch
        until(lambda: json.loads((output / "status.json").read_text()).get("reason", "").startswith("rank 1 gave no sign of life"), process)
    code, said = end(process, config)
    assert code == 0, said
    named = re.search(rf"rank {1 - hanging}: rank {hanging} gave no sign of life for 3 s \(cluster.timeout\) after step (\d+)", said)
    assert named and int(named[1]) >= 5, said
    assert "restarting with --resume (1 of 1)" in said and learned(output) == quiet[0]


@beside_the_others("quiet", "small_disk")
@afresh
def test_a_job_that_is_suspended_as_a_whole_goes_on(tmp_path, quiet):
    config, output = write_recipe(tmp_path, **CHANGES, cluster__timeout=2)
    process = start(config)
    with caught(process, config, when=lambda: steps(output) >= 2, unless=nearly_done(output, STEPS)) as stopped:
        late, waiting = sorted(stopped)
        stopped.remove(late)
    time.sleep(0.5)  # now the other rank waits
    os.kill(waiting, signal.SIGSTOP)
    time.sleep(4)
    os.kill(waiting, signal.SIGCONT)
    os.kill(late, signal.SIGCONT)
    code, said = end(process, config)
    assert code == 0 and "sign of life" not in said, said
    assert learned(output) == quiet[0]


@pytest.mark.parametrize("which", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@beside_the_others("quiet", "small_disk")
@afresh
def test_a_signal_to_run_sh_saves_and_does_not_start_again(tmp_path, quiet, which):
    config, output = write_recipe(tmp_path, **CHANGES)
    process = start(config, "--restarts", "3")
    with caught(process, config, when=lambda: steps(output) >= 2, unless=nearly_done(output, STEPS)) as stopped:
        tell(process.pid, which, stopped, as_which=signal.SIGUSR1)
    code, said = end(process, config)
    assert code == 75 and "restarting" not in said, said
    assert newest(output) == steps(output) < STEPS
    run(program("zoodip"), "train", config, "--resume")
    assert learned(output) == quiet[0]


@beside_the_others("quiet", "small_disk")
@afresh
def test_usr1_to_mpirun_or_to_one_rank_saves_and_ends_all(tmp_path):
    for whom in ("mpirun", program("zoodip")):
        config, output = write_recipe(tmp_path / Path(whom).name, **CHANGES)
        process = start(config, ranks=3)
        with caught(process, config, when=lambda: steps(output) >= 2, unless=nearly_done(output, STEPS)) as stopped:
            told = max(p for p, name in processes(config).items() if name == whom)
            tell(told, signal.SIGUSR1, {told} & stopped or stopped)
        code, said = end(process, config)
        assert code == 75 and newest(output) == steps(output) < STEPS, said


@beside_the_others("quiet", "small_disk")
def test_a_second_interrupt_ends_at_once(tmp_path):
    config, output = write_recipe(tmp_path, **{**CHANGES, "optim__steps": 100000})
    process = start(config, "--restarts", "3")
    until(lambda: steps(output) >= 2, process)
    stopped = stop(rank_processes(config)[:1])  # the current step does not end
    tell(process.pid, signal.SIGINT, stopped, as_which=signal.SIGUSR1)
    process.send_signal(signal.SIGINT)
    code, said = end(process, config, timeout=10)
    assert code == 130 and "at once" in said, said


@pytest.mark.parametrize("words, message", [(["--restarts", "x", "true"], "--restarts x"), (["--restarts"], "needs a number"),
                                            (["-n", "0", "true"], "-n 0"), ([], "no command")])
def test_run_sh_refuses_what_it_cannot_read(words, message):
    done = run(RUN_SH, *words, check=False)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("code", [0, 2, 75, 1])
@beside_the_others("quiet", "small_disk")
def test_only_failures_that_may_pass_are_restarted(tmp_path, code):
    done = run(RUN_SH, "-n", "1", "--restarts", "1", "bash", "-c", f'echo "$@" >> {tmp_path}/calls; exit {code}', "bash", "--overwrite", "word",
               check=False)
    assert done.returncode == code
    assert (tmp_path / "calls").read_text() == ("--overwrite word\nword --resume\n" if code == 1 else "--overwrite word\n")


def test_ranks_are_as_many_as_cores_whatever_openmp_was_told():
    done = run(RUN_SH, "bash", "-c", "echo $OMP_NUM_THREADS", env={"OMP_NUM_THREADS": "3"})
    assert done.stdout.split() == ["3"] * len(os.sched_getaffinity(0))


def test_ranks_by_srun(tmp_path):
    """A stand-in for srun prints its arguments, and starts the ranks as mpirun does."""
    srun = tmp_path / "srun"
    srun.write_text(f'#!/bin/bash\necho "srun $*" >&2\nwhile [[ $1 == -* ]]; do shift; done\nexec mpirun --oversubscribe -np 2 "$@"\n')
    srun.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ZOODIP_LAUNCHER": "srun", "SLURM_CPUS_PER_TASK": "3"}
    done = run(RUN_SH, "-n", "2", "bash", "-c", "echo $OMP_NUM_THREADS", env=env)
    assert "srun --mpi=pmix --kill-on-bad-exit=0 --wait=8 --ntasks=2 --cpus-per-task=3 bash -c" in done.stderr
    assert run(RUN_SH, "-n", "2", "true", env={**env, "ZOODIP_LAUNCHER": "rsh"}, check=False).returncode == 2


def stand_in_for_mpirun(folder, text):
    """Writes a Python program of that name into its own folder; returns the environment in which it is found first."""
    path = folder / "mpirun"
    path.write_text("#!/usr/bin/env python3\nimport os, signal, time\n" + text)
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("second, code", [("lambda *_: os._exit(75)", 75), ("signal.SIG_DFL", 1)], ids=["lost at its start", "ending its ranks"])
@beside_the_others("quiet", "small_disk")
def test_a_signal_is_sent_again_only_while_mpirun_hears_it(tmp_path, second, code):
    """It does nothing on the first: it is still starting its ranks and obeys the second, or it is ending them and would be killed by
    the second, which would look like a start that was stopped."""
    env = stand_in_for_mpirun(tmp_path, f"signal.signal(10, lambda *_: signal.signal(10, {second}))\n"
                                        "open(os.path.dirname(__file__) + '/up', 'w')\ntime.sleep(4)\nos._exit(1)\n")
    process = subprocess.Popen([RUN_SH, "-n", "2", "true"], env={**environment(), **env}, stderr=subprocess.PIPE, text=True)
    until((tmp_path / "up").exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == code, process.communicate()


@beside_the_others("quiet", "small_disk")
def test_an_mpirun_that_deadlocks_over_dead_ranks_is_ended_and_restarted(tmp_path):
    env = stand_in_for_mpirun(tmp_path, "here = os.path.dirname(__file__) + '/up'\nif os.path.exists(here):\n    os._exit(0)\n"
                                        "open(here, 'w')\nif os.fork() == 0:\n    os._exit(9)\ntime.sleep(60)\n")
    began = time.time()
    done = run(RUN_SH, "-n", "2", "--restarts", "1", "true", env=env)
    assert "restarting with --resume (1 of 1)" in done.stderr and time.time() - began < 12 + 2


@beside_the_others("quiet", "small_disk")
def test_ranks_whose_run_sh_was_killed_leave_nothing_behind(tmp_path):
    config, output = write_recipe(tmp_path, **{**CHANGES, "optim__steps": 100000})
    process = start(config)
    until(lambda: steps(output) >= 2, process)
    mpirun = next(p for p, name in processes(config).items() if name == "mpirun")
    process.kill()
    os.kill(mpirun, signal.SIGUSR1)
    assert end(process, config)[0] == -signal.SIGKILL and newest(output) == steps(output)


@beside_the_others("quiet", "small_disk")
def test_a_run_whose_run_sh_was_killed_goes_on_to_its_end(tmp_path, quiet):
    config, output = write_recipe(tmp_path, **CHANGES)
    process = start(config)
    until(lambda: steps(output) >= 1, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    until(lambda: not processes(config))
    assert learned(output) == quiet[0] and losses_of(output) == quiet[1]


def segments(folder):
    """What the ranks of an mpirun share in memory, by the folder that it has below TMPDIR."""
    job = int((folder / "contact.txt").read_text().split(".")[0]) + 1
    return list(Path("/dev/shm").glob(f"vader_segment.*.{os.getuid()}.{job:x}.*"))


@beside_the_others("quiet", "small_disk")
def test_the_next_start_clears_what_a_killed_mpirun_left_and_nothing_else(tmp_path):
    env = {"TMPDIR": str(tmp_path)}
    runs = [write_recipe(tmp_path / name, **{**CHANGES, "optim__steps": 100000}) for name in ("killed", "alive")]

    def begin_run(config, output):
        process = start_by(2, "train", config, launcher=[RUN_SH, "-n", 2], env=env)
        until(lambda: steps(output) >= 1, process)
        mpirun = next(p for p, name in processes(config).items() if name == "mpirun")
        folder, = tmp_path.glob(f"ompi.*/pid.{mpirun}")
        assert len(segments(folder)) == 2
        return process, folder

    process, left = begin_run(*runs[0])
    kill(process, runs[0][0])
    others = left.parent / "pid.4194305"  # no process has so great a number, and no note says that it is ours
    others.mkdir()
    (others / "contact.txt").write_text("2863267840.0;tcp://127.0.0.1:1\n4194305\n")
    segment = Path(f"/dev/shm/vader_segment{left.parent.name[4:]}.aaaa0001.0")
    segment.touch()
    try:
        gone = segments(left)
        assert len(gone) == 2
        process, folder = begin_run(*runs[1])
        assert not left.exists() and not any(path.exists() for path in gone)
        assert run(RUN_SH, "-n", "1", "true", env=env, check=False).returncode == 0
        assert len(segments(folder)) == 2 and others.exists() and segment.exists()
    finally:
        segment.unlink()
    process.terminate()
    assert end(process, runs[1][0])[0] == 75
    assert not folder.exists() and not list(Path("/dev/shm").glob(f"zoodip-mpirun.*.{folder.name[4:]}"))


@beside_the_others("quiet", "small_disk")
@afresh
def test_a_rank_asked_to_stop_while_mpi_starts_saves_after_its_first_step(tmp_path):
    config, output = write_recipe(tmp_path, **{**CHANGES, "optim__steps": 100000})
    process = start(config, ranks=3)
    until(lambda: len(ranks_of(config)) == 3, process)
    rank_of = ranks_of(config)
    stop([rank_of[0]])  # the others wait for it
    if steps(output):
        kill(process, config)
        raise TooLate
    until(lambda: has_signal(rank_of[1], signal.SIGUSR1, "SigCgt"), process)
    os.kill(rank_of[1], signal.SIGUSR1)
    os.kill(rank_of[0], signal.SIGCONT)
    code, said = end(process, config)
    assert code == 75 and newest(output) == steps(output) >= 1, said


# ---- disks


def fill(disk):
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def assert_whole_lines(output):
    """Each step's line once, in order and complete."""
    text = (output / "metrics.jsonl").read_text()
    assert text.endswith("\n") and [m["step"] for m in metrics(output)] == list(range(1, text.count("\n") + 1))


@beside_the_others("quiet", "small_disk")
@afresh
def test_a_full_disk_is_reported_and_tried_again(tmp_path, quiet, small_disk):
    """The disk is full from the fifth step on, with room again before the end: training continues, and the last save and the list
    of steps are complete, with no line twice."""
    config, output = write_recipe(small_disk / tmp_path.name, **{**CHANGES, "output__checkpoint_every": 3})
    process = start(config)
    with caught(process, config, when=lambda: newest(output) >= 3, unless=nearly_done(output, STEPS, STEPS // 2)):
        fill(small_disk)
    for line in process.stderr:
        if "metrics.jsonl: cannot write: No space left" in line:  # the rest of its last page takes some steps to fill
            break
    assert "training continues and tries again" in line
    assert_whole_lines(output)
    (small_disk / "filler").unlink()
    code, said = end(process, config)
    if "the last save failed" in said:
        raise TooLate
    assert code == 0, said
    assert learned(output) == quiet[0] and newest(output) == STEPS
    assert losses_of(output) == quiet[1]
    assert said.count("metrics.jsonl") <= STEPS // 3, said  # at the saves, not at every step


@beside_the_others("quiet", "small_disk")
def test_a_disk_that_cannot_be_written_on_is_named_at_the_start(small_disk):
    config, output = write_recipe(small_disk, **CHANGES)
    run("mount", "-o", "remount,ro", small_disk)
    done = run(program("zoodip"), "train", config, check=False)
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == (
        f"zoodip: {config}: output.dir: {output}: cannot make the folder: Read-only file system")


@beside_the_others("quiet", "small_disk")
@afresh
def test_a_disk_that_stays_full_fails_at_the_end_and_the_checkpoint_before_stays(tmp_path, quiet, small_disk):
    config, output = write_recipe(small_disk / tmp_path.name, **{**CHANGES, "output__checkpoint_every": 3})
    process = start(config)
    with caught(process, config, when=lambda: newest(output) >= 3, unless=nearly_done(output, STEPS)):
        fill(small_disk)
    code, said = end(process, config)
    assert code == 1 and "the last save failed" in said and "No space left" in said, said
    assert_whole_lines(output)
    (small_disk / "filler").unlink()
    run(program("zoodip"), "train", config, "--resume")
    assert learned(output) == quiet[0]
    assert losses_of(output) == quiet[1]


@beside_the_others("quiet", "small_disk")
@afresh
def test_a_disk_that_becomes_read_only_fails_at_the_end(tmp_path, quiet, small_disk):
    config, output = write_recipe(small_disk / tmp_path.name, **CHANGES)
    process = start(config)
    with caught(process, config, when=lambda: newest(output) >= 5, unless=nearly_done(output, STEPS)):
        # remounting is refused while a file is open for writing; a read-only bind mount onto itself is not
        run("mount", "--bind", output, output)
        run("mount", "-o", "remount,bind,ro", output)
    try:
        code, said = end(process, config)
    finally:
        run("umount", "-l", output)
    assert code == 1 and "Read-only file system" in said and "the last save failed" in said, said
    run(program("zoodip"), "train", config, "--resume")
    assert learned(output) == quiet[0]


@beside_the_others("quiet", "small_disk")
@afresh
def test_a_folder_that_is_removed_comes_back_with_the_next_save(tmp_path, quiet):
    config, output = write_recipe(tmp_path, **CHANGES)
    process = start(config)
    with caught(process, config, when=lambda: newest(output) >= 5, unless=nearly_done(output, STEPS, 10)):  # the next save is before the last
        shutil.rmtree(output)
    code, said = end(process, config)
    assert code == 0 and "metrics.jsonl: was removed" in said and "tries again" in said, said
    assert learned(output) == quiet[0] and newest(output) == STEPS
    assert losses_of(output) == quiet[1][-len(metrics(output)):]


@pytest.mark.parametrize("size", [0, 40])
@beside_the_others("quiet", "small_disk")
def test_a_checkpoint_cut_short_is_skipped(tmp_path, quiet, size):
    config, output = write_recipe(tmp_path, **CHANGES)
    run(program("zoodip"), "train", config, "--set", "optim.steps=20")
    path = output / "checkpoints" / "step-20.safetensors"
    os.truncate(path, size)
    done = run(program("zoodip"), "train", config, "--resume")
    assert "step-20.safetensors" in done.stderr and "resuming after step 15" in done.stderr
    assert learned(output) == quiet[0]


@beside_the_others("quiet", "small_disk")
def test_what_a_kill_left_half_written_is_removed(tmp_path):
    config, output = write_recipe(tmp_path, **CHANGES)
    run(program("zoodip"), "train", config, "--set", "optim.steps=10")
    (output / "checkpoints/step-1.safetensors").mkdir()  # older than those kept
    torn = [output / "checkpoints/step-11.safetensors.4711.tmp", output / "learned_embeds.safetensors.12.tmp"]
    others = [output / "notes.tmp", output / "12.tmp", output / "checkpoints/step-x.tmp"]
    for path in torn + others:
        path.write_text("half")
    run(program("zoodip"), "train", config, "--resume", "--set", "optim.steps=12")
    assert not any(p.exists() for p in torn) and all(p.exists() for p in others) and newest(output) == 12
