"""How the batch scripts treat a job and their arguments: run as Slurm would, on one rank, in a folder with a space in its name,
with a program in zoodip's place that prints its arguments. tests/test_slurm.py uses the real Slurm and zoodip."""
import json
import os
import shutil
from pathlib import Path

import pytest

from conftest import ROOT, program, recipe, run

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


def test_a_task_of_a_later_array_learns_a_later_job(project):
    (project / "jobs.json").write_text("[]")
    done = batch(project, "array", "jobs.json", "--offset", "1000", "--resume", SLURM_ARRAY_TASK_ID="2")
    assert done.stdout.splitlines() == ["run", "jobs.json", "--job", "1002", "--resume"], done.stderr
    done = batch(project, "array", "jobs.json", "--offset", "x", SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 2 and "--offset x" in done.stderr


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


# -------------------------------------------------------------------------------- submit.sh


NAMES = ["mug", "dog6", "two words", "7", "a*", "é", "last"]


@pytest.fixture
def cluster(project):
    """A project with a jobs file, and a cluster whose sbatch writes down what it was given, an array a line."""
    (project / "bin").mkdir()
    write_program(project / "bin" / "sbatch", """printf '%s\\t' "$@" >> sbatch.log; echo >> sbatch.log; n=$(wc -l < sbatch.log)
        [ "$n" -le "${TAKES:-9}" ] || { echo "sbatch: error: too many" >&2; exit 1; }
        echo "$((100 + n));here" """)
    write_program(project / "bin" / "scontrol", 'echo "MaxArraySize            = ${SIZE:-1001}"')
    (project / "dataset").symlink_to(ROOT / "dataset")
    write_file(project)
    return project


def write_file(project, *more):
    jobs = [{"name": name} for name in NAMES] + list(more)
    (project / "my jobs.json").write_text(json.dumps(dict(defaults=recipe("results/a night"), jobs=jobs)))


def submit(project, *words, check=True, **env):
    (project / "sbatch.log").unlink(missing_ok=True)
    done = run(project / "launch/slurm/submit.sh", *words, cwd=project, check=check,
               env={"PATH": f"{project}/bin:{os.environ['PATH']}", "ZOODIP_BUILD": str(Path(program("zoodip")).parent), **env})
    log = project / "sbatch.log"
    return done, [line.split("\t")[:-1] for line in log.read_text().splitlines()] if log.exists() else []


SCRIPT = ["launch/slurm/array.sbatch", "my jobs.json", "--offset"]


def test_submit_counts_the_jobs(cluster):
    done, given = submit(cluster, "my jobs.json", "-p", "gpu", "--job-name=a b", "--", "--set", "output.dir=else where", "--resume")
    assert given == [["--parsable", "-p", "gpu", "--job-name=a b", "--array=1-7", *SCRIPT, "0", "--set", "output.dir=else where", "--resume"]]
    assert "array 101: tasks 1-7\n" in done.stdout and "zoodip status else\\ where, squeue -j 101\n" in done.stdout
    assert "reads my jobs.json when it starts" in done.stdout and not done.stderr


@pytest.mark.parametrize("words, tasks", [
    (["--job", "dog6"], "2"), (["--job=last,mug,dog6"], "1-2,7"), (["--job", "4,two words", "--job", "3", "--job", "é"], "3-4,6"), (["--job", "a*"], "5")])
def test_submit_finds_the_numbers_of_names(cluster, words, tasks):
    assert [a for a in submit(cluster, "my jobs.json", *words)[1][0] if a.startswith("--array")] == [f"--array={tasks}"]


@pytest.mark.parametrize("size, words, arrays", [
    (4, [], [("1-3", "0", ""), ("1-3", "3", ""), ("1", "6", "")]), (8, [], [("1-7", "0", "")]), (7, [], [("1-6", "0", ""), ("1", "6", "")]),
    (4, ["--max-running", "2"], [("1-3%2", "0", ""), ("1-3%2", "3", "afterany:101"), ("1%2", "6", "afterany:102")]),
    (4, ["--job", "mug,é,last"], [("1", "0", ""), ("3", "3", ""), ("1", "6", "")]), (3, ["--max-running=1", "--job", "4,3"], [("1-2%1", "2", "")])])
def test_submit_splits_what_one_array_cannot_hold(cluster, size, words, arrays):
    given = submit(cluster, "my jobs.json", *words, SIZE=str(size))[1]
    assert given == [["--parsable", *([f"--dependency={after}"] if after else []), f"--array={tasks}", *SCRIPT, offset] for tasks, offset, after in arrays]


def test_submit_says_which_arrays_were_taken(cluster):
    done, given = submit(cluster, "my jobs.json", SIZE="4", TAKES="2", check=False)
    assert done.returncode == 2 and len(given) == 3 and done.stderr.splitlines()[-1] == "submit.sh: sbatch took 2 of 3 arrays: 101 102"


def test_submit_leaves_out_jobs_that_would_fail_and_names_them(cluster):
    write_file(cluster, {"name": "no photos", "data": {"images": "nowhere"}}, {"name": "wrong"}, {"name": "mistyped", "stpes": 3})
    done, given = submit(cluster, "my jobs.json")
    assert "--array=1-7,9" in given[0]
    first, *wrong = done.stderr.splitlines()
    assert "2 of 10 jobs are wrong and left out" in first and first.endswith("submit them with --job 8,10")
    assert "no photos" in wrong[0] and '"nowhere": no such file' in wrong[0] and "mistyped" in wrong[1] and len(wrong) == 2
    done, given = submit(cluster, "my jobs.json", "--job", "8", check=False)
    assert done.returncode == 2 and not given and "no job is right" in done.stderr


def test_submit_names_the_first_of_many_wrong_jobs(cluster):
    write_file(cluster, *({"name": f"wrong {i}", "stpes": 3} for i in range(12)))
    done, given = submit(cluster, "my jobs.json")
    assert "--array=1-7" in given[0] and done.stderr.count("unknown key") == 10 and done.stderr.splitlines()[-1].startswith("  and more; see ")


def test_submit_says_in_one_line_that_slurm_does_not_answer(cluster):
    write_program(cluster / "bin" / "scontrol", 'for i in 1 2 3; do echo "try $i" >&2; done; echo "slurm_load_ctl_conf error: Unable to contact" >&2; exit 1')
    done, given = submit(cluster, "my jobs.json", check=False)
    assert done.returncode == 1 and not given and not done.stdout
    assert done.stderr == "submit.sh: Slurm does not answer here: slurm_load_ctl_conf error: Unable to contact\n"


@pytest.mark.parametrize("words, message", [
    ([], "the jobs file comes first"), (["--max-running", "3", "my jobs.json"], "the jobs file comes first"), (["none.json"], "none.json: no such jobs file"),
    (["my jobs.json", "--job", "mgu"], "did you mean mug?"), (["my jobs.json", "--job"], "--job needs"), (["my jobs.json", "--max-running", "0"], "--max-running 0"),
    (["my jobs.json", "--array=1-2"], "--array=1-2: is chosen here"), (["my jobs.json", "--set", "seed=1"], "--set: an option of run comes after --"),
    (["my jobs.json", "--", "--groups", "2"], "--groups: each task"), (["my jobs.json", "--", "--set", "seed=x"], "seed"),
    (["config.json"], "config.json: is no jobs file"), (["broken.json"], "broken.json: line 1")])
def test_submit_refuses_in_one_line(cluster, words, message):
    (cluster / "config.json").write_text(json.dumps(recipe("out")))
    (cluster / "broken.json").write_text("{")
    done, given = submit(cluster, *words, check=False)
    assert done.returncode == 2 and not given and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_submit_refuses_where_nothing_can_be_submitted(cluster):
    (cluster / "bare").mkdir()
    for tool in ("bash", "sed", "awk", "sort"):
        (cluster / "bare" / tool).symlink_to(shutil.which(tool))
    for env, message in ((dict(SIZE="0"), "takes no arrays"), (dict(ZOODIP_BUILD="nowhere"), "nowhere/zoodip: no such program"),
                         (dict(PATH=f"{cluster}/bare"), "no sbatch here")):
        done, given = submit(cluster, "my jobs.json", check=False, **env)
        assert done.returncode == 2 and not given and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
