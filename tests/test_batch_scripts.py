"""How the batch scripts treat a job and their arguments: run as Slurm would, on one rank, in a folder with a space in its name,
with a program in zoodip's place that prints its arguments. tests/test_slurm.py uses the real Slurm and zoodip."""
import os
import shutil

import pytest

from conftest import ROOT, run

QUICK = True


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


def test_a_task_of_an_array_learns_the_job_of_its_number(project):
    """The arguments after the jobs file reach the program unchanged, without passing through a shell."""
    (project / "my jobs.json").write_text("[]")
    settings = ["--set", "data.images=photos/my cat", "--set", "output.dir=$(touch x)"]
    done = batch(project, "array", "my jobs.json", *settings, SLURM_ARRAY_TASK_ID="2")
    assert done.stdout.splitlines() == ["run", "my jobs.json", "--job", "2", *settings], done.stderr


@pytest.mark.parametrize("task, words, message", [
    (dict(SLURM_ARRAY_TASK_ID="0"), ["my jobs.json"], "counted from 1"), ({}, ["my jobs.json"], "--array=1-N"),
    (dict(SLURM_ARRAY_TASK_ID="1"), ["launch"], "launch: no such jobs file"),
    (dict(SLURM_ARRAY_TASK_ID="1"), [], "no such jobs file"), (dict(SLURM_JOB_ID=""), ["my jobs.json"], "submit this with sbatch"),
    (dict(SLURM_SUBMIT_DIR="/"), ["my jobs.json"], "from the project's folder")])
def test_an_array_refuses_what_it_cannot_take(project, task, words, message):
    (project / "my jobs.json").write_text("[]")
    done = batch(project, "array", *words, **task)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("restarts, resumes", [("", False), ("0", False), ("2", True)])
def test_a_job_that_comes_back_resumes(project, restarts, resumes):
    said = batch(project, "train", "my config.json", SLURM_RESTART_COUNT=restarts).stdout.splitlines()
    assert said == ["train", "my config.json"] + ["--resume"] * resumes
    said = batch(project, "train", "my config.json", "--overwrite", "--set", "seed=1", SLURM_RESTART_COUNT=restarts).stdout.splitlines()
    assert said == ["train", "my config.json", *(["--set", "seed=1", "--resume"] if resumes else ["--overwrite", "--set", "seed=1"])]


def test_a_script_of_ones_own_that_comes_back_does_not_overwrite_again(project):
    """launch/run.sh by itself in a requeued job; what has no --overwrite stays as it is."""
    for words, said in ((["--overwrite", "a b"], "a b --resume"), (["--overwrite", "--resume"], "--resume"), (["a b"], "a b")):
        done = run(project / "launch/run.sh", "-n", "1", "echo", *words, env={"SLURM_RESTART_COUNT": "1"})
        assert done.stdout.strip() == said


@pytest.mark.parametrize("answer", [0, 1])
def test_a_job_that_cannot_be_put_back_says_what_to_do(project, answer):
    (project / "bin").mkdir()
    write_program(project / "bin" / "scontrol", f'echo "$@"; exit {answer}')
    done = batch(project, "train", "config.json", PATH=f"{project}/bin:{os.environ['PATH']}", STATUS="75",
                 OMPI_MCA_odls_base_sigkill_timeout="1")  # mpirun waits twice as long after a rank that did not end with 0
    assert done.returncode == 75 and done.stdout.splitlines()[-1] == "requeue 1"
    assert ("submit it again with --resume" in done.stderr) == (answer != 0)
