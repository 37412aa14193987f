"""output.on_end: the program hears once of every end of a run that began, and changes nothing in it."""
import os
import signal
import time
from pathlib import Path

import pytest

from conftest import learned, mpirun, program, refused, run, write_recipe
from live import afresh, caught, start, steps

SHORT = dict(optim__steps=2, output__prompts=[])


def make_hook(folder, *then):
    """A program that notes what it is given, and then does something else; returns it and its notes."""
    hook, notes = folder / "my hook", folder / "notes"
    hook.write_text("\n".join(["#!/bin/sh", f'echo "$# $1 $2" >>"{notes}"', "echo heard of it", *then, ""]))
    hook.chmod(0o755)
    return hook, notes


def train(folder, hook, *options, ranks=1, check=True, env=None, **changes):
    config, output = write_recipe(folder, **{**SHORT, "output__on_end": str(hook), **changes})
    return mpirun(ranks, program("zoodip"), "train", config, *options, check=check, env=env), output


def warnings(done):
    return [line.removeprefix("zoodip: warning: ") for line in done.stderr.splitlines() if line.startswith("zoodip: warning: ")]


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_hears_once_of_a_run_that_is_done(tmp_path, ranks):
    """When all is written and others may go on in the folder, and whoever waits for it may start zoodip, and ranks of it."""
    inspect = f'"{program("zoodip")}" inspect "$1" >"{tmp_path}/inspected" && mpirun --oversubscribe -np 2 "{program("zoodip")}" inspect "$1"'
    hook, notes = make_hook(tmp_path, "cat", inspect)
    done, output = train(tmp_path, hook, ranks=ranks)
    assert notes.read_text() == f"2 {output} done\n" and "steps             2" in (tmp_path / "inspected").read_text()
    assert done.stdout == "" and done.stderr.count("heard of it") == 1 and done.stderr.count(": a run\n") == 1 and not warnings(done)


def test_a_name_is_found_on_path_and_another_one_may_come_with_resume(tmp_path):
    hook, notes = make_hook(tmp_path)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    _, output = train(tmp_path, "true")
    assert not notes.exists()
    train(tmp_path, hook.name, "--resume", "--set", "optim.steps=4", env=path)
    assert notes.read_text() == f"2 {output} done\n" and steps(output) == 4


@afresh
def test_it_hears_that_a_run_was_stopped(tmp_path):
    hook, notes = make_hook(tmp_path)
    config, output = write_recipe(tmp_path, optim__steps=400, output__prompts=[], output__on_end=str(hook))
    process = start(2, "train", config)
    with caught(process, config, when=lambda: steps(output) >= 3, unless=lambda: steps(output) > 350):
        process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and notes.read_text() == f"2 {output} stopped\n", said


def test_it_hears_that_a_run_has_failed_and_not_of_one_that_never_began(tmp_path):
    hook, notes = make_hook(tmp_path)
    (tmp_path / "out" / "loss.png" / "in the way").mkdir(parents=True)
    done, output = train(tmp_path, hook, check=False)
    assert done.returncode == 1 and notes.read_text() == f"2 {output} failed\n", done.stderr
    assert "loss.png" in done.stderr.splitlines()[-1]
    done, _ = train(tmp_path, hook, check=False)  # there are results now
    assert done.returncode == 2 and notes.read_text().count("\n") == 1


@pytest.mark.parametrize("then, said", [("exit 3", "ended with exit code 3"), ("kill -9 $$", "killed by signal 9")])
def test_one_that_fails_is_a_warning(tmp_path, then, said):
    hook, notes = make_hook(tmp_path, then)
    done, output = train(tmp_path, hook, "--quiet")
    assert warnings(done) == [f"output.on_end: {hook}: {said} for {output}"] and notes.exists() and len(learned(output)) > 0


def test_one_that_cannot_be_started_is_a_warning(tmp_path):
    """It is no script and no program."""
    hook = tmp_path / "hook"
    hook.write_text("hello\n")
    hook.chmod(0o755)
    done, output = train(tmp_path, hook)
    assert warnings(done) == [f"output.on_end: {hook}: cannot be started for {output}: Exec format error"]


def test_one_that_is_not_there_is_refused_before_anything_begins(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    for hook, said in [(tmp_path / "none", "cannot run: No such file or directory"), (tmp_path, "cannot run: Is a directory"),
                       (plain, "cannot run: Permission denied"), ("no-such-program-here", "no such program on PATH")]:
        done, output = train(tmp_path, hook, check=False, ranks=2 if hook == plain else 1)
        refused(done, f"{tmp_path}/config.json: output.on_end: {hook}: {said}")
        assert not output.exists()


def test_one_that_goes_on_is_left_to_itself_in_a_session_of_its_own(tmp_path):
    """With every signal as it is for a program that nobody prepared; zoodip waits for half of the ranks' patience here."""
    notes = tmp_path / "process"
    hook, _ = make_hook(tmp_path, f'echo $$ >"{notes}"', "exec sleep 60 >/dev/null 2>&1")
    began = time.monotonic()
    done, output = train(tmp_path, hook, ranks=2, cluster__timeout=2)
    took, process = time.monotonic() - began, int(notes.read_text())
    try:
        about = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        assert about["Name"] == "sleep" and os.getsid(process) == process and os.readlink(f"/proc/{process}/fd/0") == "/dev/null"
        assert int(about["SigBlk"], 16) == 0 and int(about["SigIgn"], 16) & (1 << 31) - 1 == 0  # above are the C library's own
        assert [line for line in warnings(done) if "on_end" in line] == [f"output.on_end: {hook}: still runs after 1 s for {output}, and is left to itself"]
        assert took < 20
    finally:
        os.kill(process, signal.SIGKILL)
