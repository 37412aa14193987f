"""What the batch scripts make of a job, its list and their arguments: as Slurm would run them, on one rank, in a folder whose name has
a blank, with a program that prints its arguments in zoodip's place. tests/test_slurm.py has the real ones."""
import os
import shutil

import pytest

from conftest import ROOT, run


def write_program(path, text):
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def project(tmp_path):
    home = tmp_path / "my project"
    shutil.copytree(ROOT / "launch", home / "launch")
    (home / "build").mkdir()
    write_program(home / "build" / "zoodip", """printf '%s\\n' "$@"; exit ${STATUS:-0}""")
    return home


def batch(project, script, *words, **changes):
    job = {"SLURM_SUBMIT_DIR": str(project), "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "ZOODIP_BUILD": "build", **changes}
    return run(project / f"launch/slurm/{script}.sbatch", *words, env=job, check=False)


@pytest.mark.parametrize("line, words", [
    ("a.json --set data.images=photos/mug", ["a.json", "--set", "data.images=photos/mug"]),
    (""" "my photos/a.json"  --set 'data.images=my cat' b\\ c """, ["my photos/a.json", "--set", "data.images=my cat", "b c"]),
    ("""$(touch x) `y` * ~ $HOME;""", ["$(touch", "x)", "`y`", "*", "~", "$HOME;"]),
    ("a.json --set output.dir=out\r", ["a.json", "--set", "output.dir=out"]),
    ("a.json --set 'open", None), ("", None)])
def test_a_line_of_an_array_s_list_is_words_and_never_code(project, line, words):
    (project / "my list").write_bytes(f"first\n{line}\nthird\n".encode())
    done = batch(project, "array", "my list", "--set", "seed=1", SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == (0 if words else 2), done.stderr
    assert done.stdout.splitlines() == (["train", *words, "--set", "seed=1"] if words else [])


@pytest.mark.parametrize("task, words, message", [
    (dict(SLURM_ARRAY_TASK_ID="0"), ["my list"], "from 1 on"), ({}, ["my list"], "--array=1-N"),
    (dict(SLURM_ARRAY_TASK_ID="1"), ["launch"], "launch: no such list"), (dict(SLURM_ARRAY_TASK_ID="1"), [], "no such list"),
    (dict(SLURM_ARRAY_TASK_ID="2"), ["my list"], "my list: has no line 2"), (dict(SLURM_JOB_ID=""), ["my list"], "submit this with sbatch"),
    (dict(SLURM_SUBMIT_DIR="/"), ["my list"], "from the project's folder")])
def test_an_array_refuses_what_it_cannot_take(project, task, words, message):
    """More tasks than lines among it: the tasks that have one are not touched by those that have none."""
    (project / "my list").write_text("configs/mug.json\n")
    done = batch(project, "array", *words, **task)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("restarts, resumes", [("", False), ("0", False), ("2", True)])
def test_a_job_that_comes_back_resumes(project, restarts, resumes):
    said = batch(project, "train", "my config.json", SLURM_RESTART_COUNT=restarts).stdout.splitlines()
    assert said == ["train", "my config.json"] + ["--resume"] * resumes


@pytest.mark.parametrize("answer", [0, 1])
def test_a_job_that_cannot_be_put_back_says_what_to_do(project, answer):
    (project / "bin").mkdir()
    write_program(project / "bin" / "scontrol", f'echo "$@"; exit {answer}')
    done = batch(project, "train", "config.json", PATH=f"{project}/bin:{os.environ['PATH']}", STATUS="75",
                 OMPI_MCA_odls_base_sigkill_timeout="1")  # mpirun waits twice that after a rank that did not end with 0
    assert done.returncode == 75 and done.stdout.splitlines()[-1] == "requeue 1"
    assert ("submit it again with --resume" in done.stderr) == (answer != 0)
