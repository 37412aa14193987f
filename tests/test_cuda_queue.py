"""A queue on GPUs, the stand-in's: groups whose ranks are joined by NCCL, have a GPU each, or share one end with the bits of
`zoodip train`; a failed call costs one job or, if NCCL joins the group, the run, which can be resumed."""
import json
import signal

import pytest

from conftest import cuda_program, learned, losses_of, mpirun, needs_cuda, nested, recipe, run
from live import start, until

NEEDS = "peers standin"
pytestmark = needs_cuda
ZOODIP = cuda_program("zoodip")
JOBS = {"two directions": dict(optim__steps=4, zo__n=2), "another seed": dict(optim__steps=3, seed=3)}


@pytest.fixture(scope="module")
def tiny(random_models):
    return dict(model=str(random_models("plain")), device="cuda", data__resolution=16, zo__tau=3, zo__n=1, output__prompts=[],
                output__checkpoint_every=1, cluster__timeout=5)


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """name -> (the learned word, its losses), each job trained by itself."""
    made = {}
    for name, changes in JOBS.items():
        folder = tmp_path_factory.mktemp("alone")
        (folder / "config.json").write_text(json.dumps(recipe(folder / "out", **{**tiny, **changes})))
        run(ZOODIP, "train", folder / "config.json")
        made[name] = learned(folder / "out"), losses_of(folder / "out")
    return made


def queue(folder, tiny, ranks, gpus, groups, *options, before=(), **more):
    jobs = [{"name": name, **nested(changes)} for name, changes in JOBS.items()]
    (folder / "jobs.json").write_text(json.dumps({"defaults": recipe(folder / "out", **tiny), "jobs": jobs}))
    return mpirun(ranks, *before, ZOODIP, "run", folder / "jobs.json", "--groups", groups, *options,
                  env={"ZOODIP_STANDIN_DEVICES": str(gpus)}, **more)


def assert_all_as_alone(folder, alone, names=JOBS):
    for name in names:
        assert (learned(folder / "out" / name), losses_of(folder / "out" / name)) == alone[name], name


@pytest.mark.parametrize("ranks, gpus, groups", [(2, 1, 2), (3, 3, 2)])
def test_jobs_end_with_the_bits_of_train(tmp_path, tiny, alone, ranks, gpus, groups):
    done = queue(tmp_path, tiny, ranks, gpus, groups)
    assert ("each rank has a GPU: NCCL" in done.stderr) == (ranks > groups)
    assert_all_as_alone(tmp_path, alone)


def test_a_call_that_fails_in_a_group_of_one_rank_fails_one_job(tmp_path, tiny, alone):
    """A failed job leaves nothing on the GPU that would disturb the next."""
    done = queue(tmp_path, tiny, 1, 1, 1, before=["env", "ZOODIP_STANDIN_FAIL=900"], check=False)
    assert done.returncode == 1 and "1 of 2 jobs failed, first two directions: " in done.stderr, done.stderr
    assert_all_as_alone(tmp_path, alone, ["another seed"])
    queue(tmp_path, tiny, 2, 2, 2, "--resume")
    assert_all_as_alone(tmp_path, alone)


def test_a_call_that_fails_in_a_joined_group_names_job_and_rank_and_the_run_goes_on(tmp_path, tiny, alone):
    failing = ["sh", "-c", '[ $OMPI_COMM_WORLD_RANK != 1 ] || export ZOODIP_STANDIN_FAIL=1300; exec "$0" "$@"']
    done = queue(tmp_path, tiny, 2, 2, 1, before=failing, check=False, timeout=60)
    assert done.returncode == 1 and any(f"zoodip: {name}: rank 1: " in done.stderr for name in JOBS), done.stderr
    queue(tmp_path, tiny, 2, 2, 1, "--resume")
    assert_all_as_alone(tmp_path, alone)


def test_groups_with_and_without_a_gpu_are_refused(tmp_path, tiny):
    blind = ["sh", "-c", '[ $OMPI_COMM_WORLD_RANK != 1 ] || export CUDA_VISIBLE_DEVICES=; exec "$0" "$@"']
    done = queue(tmp_path, {**tiny, "device": "auto"}, 2, 2, 2, before=blind, check=False, timeout=60)
    assert done.returncode == 2 and "rank 0 computes on a GPU and rank 1 does not" in done.stderr, done.stderr


def test_a_job_that_does_not_fit_a_gpu_fails_alone_in_a_spool(tmp_path, tiny, alone):
    spool, defaults = tmp_path / "spool", tmp_path / "defaults.json"
    spool.mkdir()
    defaults.write_text(json.dumps(recipe(tmp_path / "out", **tiny)))
    for name, changes in {**JOBS, "large": dict(data__resolution=512)}.items():
        (spool / f"{name}.json").write_text(json.dumps(nested(changes)))
    process = start(1, "run", defaults, "--spool", str(spool), zoodip=ZOODIP, env={"ZOODIP_STANDIN_MEMORY": str(24 << 20)})
    until(lambda: len(list((spool / "done").glob("*"))) == len(JOBS), process)
    process.send_signal(signal.SIGUSR1)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and "lower data.resolution" in (spool / "failed" / "large.txt").read_text(), stderr
    assert_all_as_alone(tmp_path, alone)
