"""Real Slurm: its daemons run here, with two nodes on this machine, and the jobs of launch/slurm/ are preempted, cancelled, run
out of time and lose a node. Whatever happens, the learned word has the bits of an undisturbed run."""
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from beside import begin, beside_the_others
from conftest import ROOT, learned, losses_of, program, recipe, run, train_alone, write_recipe
from live import afresh, caught, has_signal, is_stopped, nearly_done, rank_processes, steps, until

NEEDS = "slurm"
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch"]
MISSING = [p for p in PROGRAMS if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin")]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurm-wlm, munge)")

STEPS = 50
CHANGES = dict(optim__steps=STEPS, output__checkpoint_every=1000, output__prompts=[], zo__tau=8, zo__n=3)
AT_ONCE = 4

CONFIG = """
ClusterName=zoodip
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
KillWait=6
MaxArraySize=5
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=2 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=2 Gres=gpu:2
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1
PartitionName=grace Nodes=n1,n2 PriorityTier=1 GraceTime=10
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Slurm:
    """The daemons, in their own folder; stopped by their process ids."""

    def __init__(self, folder):
        self.folder, self.daemons = folder, []
        # two nodes on one host look remote to each other but share its memory, which Open MPI's transport for it cannot know
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin",
                    "OMPI_MCA_btl": "tcp,self", "OMPI_MCA_btl_tcp_if_include": "lo", "OMP_NUM_THREADS": "1",
                    "ZOODIP_BUILD": str(Path(program("zoodip")).parent)}

    def start(self):
        folder = self.folder
        folder.chmod(0o711)  # munge's socket must be reachable for all
        for name in ("state", "spool-n1", "spool-n2", "tmp-n1", "tmp-n2"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        ports = free_ports(3)
        (folder / "slurm.conf").write_text(CONFIG.format(host=socket.gethostname().split(".")[0], user=getpass.getuser(), folder=folder,
                                                         port=ports[0], port1=ports[1], port2=ports[2]))
        for gpu in range(2):
            (folder / f"gpu{gpu}").touch()
        # slurmd looks at the mounted cgroup hierarchy to find its kind, and exits if there is none, as in a bare chroot
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={folder}/gpu[0-1]\n")
        self.daemon("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}", f"--pid-file={folder}/munged.pid",
                    f"--seed-file={folder}/munged.seed", f"--log-file={folder}/munged.log")
        until((folder / "munge.socket").exists, seconds=10, what=lambda: (folder / "munged.out").read_text())
        self.daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.daemon("slurmd", "-D", "-N", node)
        self.until(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split().count("idle") == 6, 30)

    def daemon(self, name, *options):
        log = open(self.folder / f"{'-'.join([name, *options[2:]]) if name == 'slurmd' else name}.out", "w")
        self.daemons.append(subprocess.Popen([name, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env))

    def stop(self):
        if len(self.daemons) > 2:
            self.ask("scancel", "--user", getpass.getuser())
            end = time.time() + 20
            while self.ask("squeue", "-h") and time.time() < end:
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def until(self, true, seconds=60, log=None):
        """Waits for a condition; Slurm and the job's log say why it did not come."""
        return until(true, seconds=seconds, pause=0.1, what=lambda: self.state() + (log.read_text() if log and log.exists() else ""))

    def ask(self, *command):
        return subprocess.run(list(map(str, command)), env=self.env, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout

    def state(self):
        return self.ask("squeue", "-a") + self.ask("sinfo") + "".join(p.read_text()[-1500:] for p in self.folder.glob("*.out"))

    def submit(self, script, *arguments, log, launcher="mpirun", **options):
        options = {"nodes": 2, "ntasks_per_node": 1, "gpus_per_node": 1, "cpus_per_task": 1, "time": 5, **options}
        words = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
        done = subprocess.run(["sbatch", "--parsable", f"--output={log}", *words, *map(str, [script, *arguments])],
                              env={**self.env, "ZOODIP_LAUNCHER": launcher}, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number):
        """What Slurm knows about a job: {"JobState": ..., "Restarts": ...}."""
        return dict(word.split("=", 1) for word in self.ask("scontrol", "show", "job", number).split() if "=" in word)

    def wait(self, number, *states, seconds=90):
        # a requeued job may be told to wait for its old credentials to run out
        return self.until(lambda: self.job(number).get("JobState") in states, seconds)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return train_alone(tmp_path_factory.mktemp("quiet"), **CHANGES)


@pytest.fixture(scope="module")
def begun(request, quiet):
    """The cases wait for Slurm's clocks most of the time: AT_ONCE of them are under way, each of these in a cluster of its own."""
    here, clusters = threading.local(), []

    def cluster(folder):
        if not hasattr(here, "slurm"):
            here.slurm = Slurm(Path(tempfile.mkdtemp(prefix="zoodip-")))
            clusters.append(here.slurm)
            here.slurm.start()
        return nullcontext(here.slurm)

    yield from begin(request, AT_ONCE, slurm=cluster, quiet=lambda folder: nullcontext(quiet))
    for each in clusters:
        each.stop()
        shutil.rmtree(each.folder, ignore_errors=True)


def write_jobs(tmp_path, *jobs):
    """A jobs file of the same recipe; returns (its path, the queue's folder)."""
    path, output = tmp_path / "jobs.json", tmp_path / "queue"
    path.write_text(json.dumps(dict(defaults=recipe(output, **CHANGES), jobs=jobs)))
    return path, output


@contextmanager
def training(slurm, tmp_path, **options):
    """A job that learns, its ranks stopped after some steps; they go on at the end."""
    config, output = write_recipe(tmp_path, **CHANGES)
    number = slurm.submit("launch/slurm/train.sbatch", config, log=tmp_path / "log", **options)
    slurm.until(lambda: steps(output) >= 3, log=tmp_path / "log")
    with caught(None, config, when=lambda: True, unless=nearly_done(output, STEPS)) as stopped:
        yield number, output, stopped


def wait_until_asked(slurm, log, stopped):
    """Waits until the job has been told to end and its ranks have the signal before them, or Slurm has let them go on with it."""
    slurm.until(lambda: log.exists() and "asking the ranks" in log.read_text())
    until(lambda: all(has_signal(each, signal.SIGUSR1, "SigPnd", "ShdPnd") or not is_stopped(each) for each in stopped))


def with_job(number, ranks):
    """Those that learn this job of a jobs file."""
    return [each for each in ranks if f"--job\0{number}\0".encode() in Path(f"/proc/{each}/cmdline").read_bytes()]


def finish(slurm, number, output, quiet, tmp_path):
    slurm.wait(number, "COMPLETED")
    log = (tmp_path / "log").read_text()
    assert learned(output) == quiet[0], log
    assert losses_of(output) == quiet[1]
    return log


needs_pmix = pytest.mark.skipif(not list(Path("/usr/lib").glob("*/slurm*/mpi_pmix.so")), reason="this Slurm has no PMIx plugin")


@beside_the_others("slurm", "quiet")
@afresh
def test_a_job_out_of_time_goes_back_into_the_queue(slurm, tmp_path, quiet):
    """Slurm checks time limits twice a minute, at moments of its own choosing: the ranks are held until it has acted. This takes longest
    and begins first."""
    config, output = write_recipe(tmp_path, **CHANGES)
    log = tmp_path / "log"
    number = slurm.submit("launch/slurm/train.sbatch", config, log=log, time=1, signal="B:USR1@50")
    slurm.until(lambda: log.exists() and (steps(output) or "asking the ranks" in log.read_text()))
    with caught(None, config, when=lambda: True, unless=nearly_done(output, STEPS)) as stopped:
        wait_until_asked(slurm, log, stopped)
    slurm.until(lambda: "everything is saved; requeueing job" in log.read_text())
    slurm.ask("scontrol", "update", f"jobid={number}", "timelimit=10")
    said = finish(slurm, number, output, quiet, tmp_path)
    assert "resuming after step" in said or "no checkpoint to resume from" in said, said


@pytest.mark.parametrize("launcher, each", [("mpirun", 1), pytest.param("srun", 2, marks=needs_pmix)])
@beside_the_others("slurm", "quiet")
def test_a_job_over_two_nodes(slurm, tmp_path, quiet, launcher, each):
    config, output = write_recipe(tmp_path, **CHANGES)
    number = slurm.submit("launch/slurm/train.sbatch", config, log=tmp_path / "log", launcher=launcher, ntasks_per_node=each)
    log = finish(slurm, number, output, quiet, tmp_path)
    assert f"{2 * each} ranks" in log and slurm.job(number)["NumNodes"] == "2"


@needs_pmix
@beside_the_others("slurm", "quiet")
@afresh
def test_a_rank_killed_under_srun_is_started_again(slurm, tmp_path, quiet):
    with training(slurm, tmp_path, launcher="srun") as (number, output, _):
        os.kill(rank_processes(tmp_path / "config.json")[-1], signal.SIGKILL)
    slurm.until(lambda: "restarting with --resume" in (tmp_path / "log").read_text(), 15)
    assert "Killed" in finish(slurm, number, output, quiet, tmp_path)


@needs_pmix
@beside_the_others("slurm", "quiet")
def test_ranks_under_srun_that_end_one_after_the_other_all_exit_with_75(slurm, tmp_path):
    """One rank may take longer to end than another; the job is requeued nevertheless."""
    number = slurm.submit("--wrap=launch/run.sh bash -c 'sleep $((2 * SLURM_PROCID)); exit 75'", log=tmp_path / "log", launcher="srun")
    slurm.wait(number, "FAILED")
    assert slurm.job(number)["ExitCode"] == "75:0", (tmp_path / "log").read_text()


@pytest.mark.parametrize("partition, launcher", [("low", "mpirun"), ("grace", "mpirun"), pytest.param("low", "srun", marks=needs_pmix)])
@beside_the_others("slurm", "quiet")
@afresh
def test_a_preempted_job_saves_waits_and_goes_on(slurm, tmp_path, quiet, partition, launcher):
    """Without a grace time SIGTERM comes at once; with one, SIGUSR1 comes first. No step is lost either way: with a checkpoint
    every thousand steps, continuing from the same step shows that it saved when it was told to."""
    with training(slurm, tmp_path, partition=partition, launcher=launcher) as (number, output, stopped):
        urgent = slurm.submit("--wrap=true", log=tmp_path / "urgent.log", partition="high", cpus_per_task=2)
        wait_until_asked(slurm, tmp_path / "log", stopped)
    slurm.wait(urgent, "COMPLETED")
    log = finish(slurm, number, output, quiet, tmp_path)
    assert slurm.job(number)["Restarts"] == "1"
    resumed = re.search(r"resuming after step (\d+)", log)
    assert resumed and int(resumed[1]) >= 3, log


@beside_the_others("slurm", "quiet")
@afresh
def test_a_cancelled_job_saves_and_stays_away(slurm, tmp_path, quiet):
    with training(slurm, tmp_path) as (number, output, stopped):
        slurm.ask("scancel", number)
        wait_until_asked(slurm, tmp_path / "log", stopped)
    slurm.wait(number, "CANCELLED")
    slurm.until(lambda: not slurm.ask("squeue", "-h", "-j", number), 30)
    assert list((output / "checkpoints").glob("step-*")), (tmp_path / "log").read_text()
    time.sleep(1)
    assert slurm.job(number)["JobState"] == "CANCELLED"
    run(program("zoodip"), "train", tmp_path / "config.json", "--resume")
    assert learned(output) == quiet[0]


@beside_the_others("slurm", "quiet")
@afresh
def test_a_node_that_fails_costs_the_steps_since_the_last_checkpoint(slurm, tmp_path, quiet):
    with training(slurm, tmp_path) as (number, output, _):
        slurm.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")
        slurm.wait(number, "PENDING", "COMPLETING", seconds=30)
    slurm.ask("scontrol", "update", "nodename=n2", "state=resume")
    finish(slurm, number, output, quiet, tmp_path)
    assert slurm.job(number)["Restarts"] == "1"


@beside_the_others("slurm", "quiet")
@afresh
def test_an_array_gives_each_job_of_a_jobs_file_to_a_task(slurm, tmp_path, quiet):
    """One of them is lost once, and one is told to stop: both continue where they were, though all were to overwrite old results."""
    path, output = write_jobs(tmp_path, *({"name": f"seed {seed}", "seed": seed} for seed in range(4)))
    for seed in range(4):
        (output / f"seed {seed}").mkdir(parents=True)
        (output / f"seed {seed}" / "learned_embeds.safetensors").write_text("old")
    logs = [tmp_path / f"log-{task}" for task in range(1, 5)]
    number = slurm.submit("launch/slurm/array.sbatch", path, "--overwrite", "--set", "output.checkpoint_every=5", log=f"{tmp_path}/log-%a",
                          nodes=1, array="1-4")
    slurm.until(lambda: steps(output / "seed 0") >= 3)
    with caught(None, path, when=lambda: True, unless=nearly_done(output / "seed 0", STEPS)) as stopped:
        os.kill(with_job(1, stopped)[0], signal.SIGKILL)  # a rank of the task that is not told to stop
    slurm.until(lambda: steps(output / "seed 3") >= 3, 120)
    with caught(None, path, when=lambda: True, unless=nearly_done(output / "seed 3", STEPS)) as stopped:
        slurm.ask("scancel", "--batch", "--signal=USR1", f"{number}_4")
        wait_until_asked(slurm, logs[3], with_job(4, stopped))
    slurm.until(lambda: not slurm.ask("squeue", "-h", "-j", number), 240)
    said = [log.read_text() for log in logs]
    assert sum("restarting with --resume" in text for text in said) == 1 and "everything is saved; requeueing job" in said[3], said
    assert len({learned(output / f"seed {seed}") for seed in range(4)}) == 4
    assert learned(output / "seed 0") == quiet[0]
    assert losses_of(output / "seed 0") == quiet[1]
    assert "resuming after step" in (output / "seed 3" / "log.txt").read_text() and not list(output.glob("*/previous"))
    jobs = json.loads((output / "summary.json").read_text())["jobs"]
    assert [(job["name"], job["state"]) for job in jobs] == [(f"seed {seed}", "done") for seed in range(4)]


@beside_the_others("slurm", "quiet")
def test_submit_gives_each_job_to_a_task_of_arrays_as_large_as_the_site_allows(slurm, tmp_path, quiet):
    """MaxArraySize 5: tasks 1 to 4. The fifth job is the first of a second array, and has the recipe of the first."""
    path, output = write_jobs(tmp_path, *({"name": f"job {i}", **({} if i in (1, 5) else {"seed": i})} for i in range(1, 7)))
    done = subprocess.run(["launch/slurm/submit.sh", path, "--job", "job 1,3,job 5", "--max-running=2", "--nodes=1", "--gpus-per-node=1", "--time=5",
                           f"--output={tmp_path}/log-%A_%a", "--", "--set", "output.checkpoint_every=20"],
                          env=slurm.env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    numbers = re.findall(r"^array (\d+): ", done.stdout, re.M)
    assert len(numbers) == 2, done.stdout + done.stderr
    slurm.until(lambda: not slurm.ask("squeue", "-h", "-j", ",".join(numbers)), 120)
    jobs = {job["name"]: job["state"] for job in json.loads((output / "summary.json").read_text())["jobs"]}
    said = "".join(log.read_text() for log in tmp_path.glob("log-*"))
    assert [name for name, state in jobs.items() if state == "done"] == ["job 1", "job 3", "job 5"], said
    assert learned(output / "job 1") == learned(output / "job 5") == quiet[0] != learned(output / "job 3")


@beside_the_others("slurm", "quiet")
def test_a_job_without_arguments_fails_with_2(slurm, tmp_path):
    for script in ("train", "array", "queue"):
        number = slurm.submit(f"launch/slurm/{script}.sbatch", log=tmp_path / "log", nodes=1)
        slurm.wait(number, "FAILED")
        assert slurm.job(number)["ExitCode"] == "2:0"


@beside_the_others("slurm", "quiet")
@afresh
def test_a_queue_comes_back_and_leaves_finished_subjects_alone(slurm, tmp_path, quiet):
    """Two subjects, one after the other on both ranks; told to stop in the second one, as before the time limit."""
    path, output = write_jobs(tmp_path, dict(name="long"), dict(name="short", optim=dict(steps=30)))  # the longest job goes first
    log = tmp_path / "log"
    number = slurm.submit("launch/slurm/queue.sbatch", path, "--groups", "1", log=log)
    slurm.until(lambda: steps(output / "short") >= 2, 90, log)
    with caught(None, path, when=lambda: True, unless=nearly_done(output / "short", 30)) as stopped:
        finished = (output / "long" / "learned_embeds.safetensors").stat().st_mtime_ns
        slurm.ask("scancel", "--batch", "--signal=USR1", number)
        wait_until_asked(slurm, log, stopped)
    slurm.until(lambda: "everything is saved; requeueing job" in log.read_text())
    slurm.wait(number, "COMPLETED")
    assert learned(output / "long") == quiet[0]
    assert (output / "long" / "learned_embeds.safetensors").stat().st_mtime_ns == finished
    assert losses_of(output / "short") == quiet[1][:30]
    assert [job["state"] for job in json.loads((output / "summary.json").read_text())["jobs"]] == ["done", "done"]
