"""A spool: a folder whose files are the jobs. It ends for a signal and for nothing that lies in it, follows no link, and does each
job once."""
import json
import os
import signal
from contextlib import nullcontext

import pytest

from beside import begin, beside_the_others
from conftest import learned, mpirun, nested, program, recipe, refused, run, train_alone
from live import afresh, caught, nearly_done, start, steps, tell, until

COMMON = dict(zo__tau=4, zo__n=1, output__checkpoint_every=5, output__prompts=[])
JOBS = {  # name -> keys that differ
    "short": dict(optim__steps=6),
    "long": dict(optim__steps=24, zo__n=2),
    "styled": dict(optim__steps=9, token__vectors=2, token__placeholder="<my-toy>", optim__lr=0.01, seed=3),
}
STEPS = {name: changes["optim__steps"] for name, changes in JOBS.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """name -> (the learned word, its losses), each job trained by itself."""
    return {name: train_alone(tmp_path_factory.mktemp("alone"), **{**COMMON, **changes}) for name, changes in JOBS.items()}


@pytest.fixture(scope="module")
def begun(request, alone):
    yield from begin(request, 2, alone=lambda folder: nullcontext(alone))


def drop(spool, name, text):
    """Submits a job as one should: written elsewhere, renamed into the folder."""
    hidden = spool / f".{name}"
    hidden.write_text(text if isinstance(text, str) else json.dumps(nested(text)))
    hidden.rename(spool / f"{name}.json")


def make_spool(folder):
    spool, defaults = folder / "spool", folder / "defaults.json"
    spool.mkdir()
    config = recipe(folder / "out", **COMMON)
    defaults.write_text(json.dumps(config))
    return spool, defaults


def names(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("ranks", [1, 3])
@beside_the_others("alone")
def test_a_spool_takes_files_and_says_how_they_ended(tmp_path, alone, ranks):
    spool, defaults = make_spool(tmp_path)
    process = start(ranks, "run", defaults, "--spool", str(spool))
    drop(spool, "short", JOBS["short"])
    until(lambda: names(spool / "done"), process)
    drop(spool, "styled", JOBS["styled"])
    drop(spool, "not json", "{")
    drop(spool, "bad key", dict(zo__nn=1))
    drop(spool, "other model", dict(quant__bits=4))
    drop(spool, "elsewhere", dict(output__dir=str(tmp_path / "elsewhere")))
    (spool / "link.json").symlink_to(defaults)
    (spool / "note.txt").write_text("no job")
    until(lambda: len(names(spool / "done")) == 2 and len(names(spool / "failed")) == 10, process)
    process.send_signal(signal.SIGUSR1)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75, stderr
    assert names(spool / "done") == ["short.json", "styled.json"]
    for name, word in {"not json": "JSON", "bad key": "zo.nn", "other model": "quant.bits", "elsewhere": "output.dir",
                       "link": "not a regular file"}.items():
        assert word in (spool / "failed" / f"{name}.txt").read_text() and f"{name}.json" in names(spool / "failed")
    assert names(spool) == ["done", "failed", "note.txt", "running"] and names(spool / "running") == []
    assert not (tmp_path / "elsewhere").exists()
    for name in ("short", "styled"):
        assert learned(tmp_path / "out" / name) == alone[name][0]


@beside_the_others("alone")
@afresh
def test_a_drained_spool_continues_where_it_was(tmp_path, alone):
    spool, defaults = make_spool(tmp_path)
    for name in ("long", "short"):
        drop(spool, name, JOBS[name])
    process = start(1, "run", defaults, "--spool", str(spool))
    long = tmp_path / "out" / "long"
    with caught(process, defaults, when=lambda: steps(long) >= 3, unless=nearly_done(long, STEPS["long"])) as stopped:
        tell(process.pid, signal.SIGUSR1, stopped)
    process.communicate(timeout=60)
    assert process.returncode == 75 and names(spool / "running") == ["long.json", "short.json"]
    drop(spool, "short", {**JOBS["short"], "optim__steps": 2})  # waits until the first has ended, and is refused
    process = start(3, "run", defaults, "--spool", str(spool), "--groups", "2")
    until(lambda: len(names(spool / "done")) == 2 and len(names(spool / "failed")) == 2, process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert names(spool / "done") == ["long.json", "short.json"] and names(spool / "failed") == ["short.json", "short.txt"]
    assert f"{tmp_path}/out/short holds results of an earlier job of that name" in (spool / "failed" / "short.txt").read_text()
    assert "resuming after step" in (tmp_path / "out" / "long" / "log.txt").read_text()
    for name in ("long", "short"):
        assert learned(tmp_path / "out" / name) == alone[name][0]
        assert json.loads((tmp_path / "out" / name / "job.json").read_text())["state"] == "done"


def nest(levels):
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("file, text, words", [
    (b"n" * 250 + b".json", "{}", "200 bytes"), (b"\xff.json", "{}", "UTF-8"), ("\x9b2J.json".encode(), "{}", "control characters"),
    (b"deep.json", nest(999), "unknown key"), (b"huge.json", '{"optim": {"lr": 1e999}}', "optim.lr"),
])
def test_no_file_ends_a_spool(tmp_path, file, text, words):
    """Neither its name nor its contents can end the spool: it fails with its reason, and the next job is learned."""
    spool, defaults = make_spool(tmp_path)
    (spool / "hidden").write_text(text)
    os.rename(spool / "hidden", os.fsencode(spool) + b"/" + file)
    (spool / "folder.json").mkdir()
    drop(spool, "good", dict(optim__steps=2))
    process = start(1, "run", defaults, "--spool", str(spool))
    until(lambda: names(spool / "done"), process)
    process.send_signal(signal.SIGUSR1)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75, stderr
    assert names(spool / "done") == ["good.json"] and names(spool / "running") == [] and (spool / "folder.json").is_dir()
    reason, = (spool / "failed").glob("*.txt")
    assert words in reason.read_text(errors="replace") and len(names(spool / "failed")) == 2


@beside_the_others("alone")
@afresh
def test_a_spool_continues_when_someone_removes_its_files(tmp_path):
    spool, defaults = make_spool(tmp_path)
    for name, wanted in (("a", 100), ("b", 2)):
        drop(spool, name, dict(optim__steps=wanted))
    process = start(1, "run", defaults, "--spool", str(spool))
    with caught(process, defaults, when=lambda: steps(tmp_path / "out" / "a") >= 2, unless=nearly_done(tmp_path / "out" / "a", 100)):
        (spool / "running" / "a.json").unlink()
        for folder in ("done", "failed"):
            (spool / folder).rmdir()
    until(lambda: names(spool / "done"), process)
    drop(spool, "c", "{")
    until(lambda: len(names(spool / "failed")) == 2, process)
    process.send_signal(signal.SIGUSR1)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and "a.json: was removed" in stderr, stderr
    assert names(spool / "done") == ["b.json"] and names(spool / "failed") == ["c.json", "c.txt"]


def test_a_spool_must_be_a_folder_that_no_link_leads_out_of(tmp_path):
    refused(run(program("zoodip"), "run", "--spool", tmp_path / "none", check=False), "none", "folder")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "done").symlink_to(tmp_path / "elsewhere")
    refused(run(program("zoodip"), "run", "--spool", tmp_path / "spool", check=False), "leads out")


@beside_the_others("alone")
def test_two_runs_do_not_watch_one_spool(tmp_path):
    (tmp_path / "spool").mkdir()
    first = start(1, "run", "--spool", tmp_path / "spool")
    until(lambda: (tmp_path / "spool" / "running").exists(), first)
    second = mpirun(1, program("zoodip"), "run", "--spool", tmp_path / "spool", check=False)
    first.send_signal(signal.SIGUSR1)
    first.communicate(timeout=60)
    assert second.returncode == 1 and "another run" in second.stderr, second.stderr
