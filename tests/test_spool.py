"""A spool: a folder whose files are the jobs. It ends for a signal and for nothing that lies in it, follows no link, and does each
job once."""
import errno
import json
import os
import shutil
import signal
import socket
from contextlib import contextmanager, nullcontext, suppress

import pytest

from beside import begin, beside_the_others
from conftest import TOYBOX, learned, mpirun, nested, program, recipe, refused, run, train_alone, unstamped
from test_faults import small_disk
from live import afresh, caught, nearly_done, newest, rank_processes, start, steps, tell, until

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
    yield from begin(request, 3, alone=lambda folder: nullcontext(alone), small_disk=small_disk)


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
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []


@pytest.mark.parametrize("ranks", [1, 3])
@beside_the_others("alone", "small_disk")
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


@beside_the_others("alone", "small_disk")
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


@beside_the_others("alone", "small_disk")
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
    assert process.returncode == 75 and "a: cancelled, since its file was removed" in stderr, stderr
    assert names(spool / "done") == ["b.json"] and names(spool / "failed") == ["c.json", "c.txt"]


def test_a_spool_must_be_a_folder_that_no_link_leads_out_of(tmp_path):
    refused(run(program("zoodip"), "run", "--spool", tmp_path / "none", check=False), "none", "folder")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "done").symlink_to(tmp_path / "elsewhere")
    refused(run(program("zoodip"), "run", "--spool", tmp_path / "spool", check=False), "leads out")


@beside_the_others("alone", "small_disk")
def test_two_runs_do_not_watch_one_spool(tmp_path):
    (tmp_path / "spool").mkdir()
    first = start(1, "run", "--spool", tmp_path / "spool")
    until(lambda: (tmp_path / "spool" / "running").exists(), first)
    second = mpirun(1, program("zoodip"), "run", "--spool", tmp_path / "spool", check=False)
    first.send_signal(signal.SIGUSR1)
    first.communicate(timeout=60)
    assert second.returncode == 1 and "another run" in second.stderr, second.stderr


# ---- files that come and go while it works


@pytest.mark.parametrize("ranks", [2, 3])
@beside_the_others("alone", "small_disk")
def test_a_group_takes_the_next_file_as_soon_as_it_is_free(tmp_path, alone, ranks):
    """While another group works on a long job; and each file is moved when its own job ends."""
    spool, defaults = make_spool(tmp_path)
    with watching(spool, defaults, ranks, groups=2) as process:
        drop(spool, "endless", dict(optim__steps=100000))
        until(lambda: steps(tmp_path / "out" / "endless") > 0, process)
        for name in ("short", "styled"):
            drop(spool, name, JOBS[name])
            until(lambda: f"{name}.json" in names(spool / "done"), process)
        drop(spool, "bad", "{")
        until(lambda: names(spool / "failed") == ["bad.json", "bad.txt"], process)
        assert names(spool / "running") == ["endless.json"]
    assert names(spool / "running") == ["endless.json"]
    for name in ("short", "styled"):
        assert learned(tmp_path / "out" / name) == alone[name][0]


@pytest.mark.parametrize("ranks", [1, 2])
@beside_the_others("alone", "small_disk")
def test_a_job_whose_file_is_removed_is_cancelled_and_goes_on_if_it_comes_back(tmp_path, ranks):
    """With the bits of a run that was never cancelled. The others are not touched; one that has not begun leaves nothing."""
    spool, defaults = make_spool(tmp_path)
    out, said = tmp_path / "out" / "a", []
    with watching(spool, defaults, ranks, said=said, groups=ranks) as process:
        drop(spool, "a", dict(optim__steps=100000))
        until(lambda: steps(out) > 0, process)
        if ranks == 2:
            drop(spool, "b", dict(optim__steps=100000))
            until(lambda: steps(tmp_path / "out" / "b") > 0, process)
        drop(spool, "never", dict(optim__steps=2))
        until(lambda: "never.json" in names(spool / "running"), process)
        for name in ("never", "a"):
            (spool / "running" / f"{name}.json").unlink()
        until(lambda: read_state(out) == "cancelled", process)
        done = steps(out)
        assert newest(out) == done and not (tmp_path / "out" / "never").exists()
        drop(spool, "a", dict(optim__steps=done + 2))
        until(lambda: names(spool / "done") == ["a.json"], process)
    assert said[0].count("a: cancelled, since its file was removed") == said[0].count("never: cancelled, since its file was removed") == 1
    assert names(spool / "running") == (["b.json"] if ranks == 2 else []) and names(spool / "failed") == []
    assert f"resuming after step {done}" in (out / "log.txt").read_text()
    assert learned(out) == train_alone(tmp_path, **{**COMMON, "optim__steps": done + 2})[0]


def read_state(folder):
    try:
        return json.loads((folder / "job.json").read_text())["state"]
    except FileNotFoundError:
        return None


@beside_the_others("alone", "small_disk")
def test_a_job_that_was_cancelled_before_it_went_on_may_come_back(tmp_path):
    """It was interrupted, and its file taken away while it waited, or while nobody watched."""
    spool, defaults = make_spool(tmp_path)
    with watching(spool, defaults) as process:
        drop(spool, "a", dict(optim__steps=100000))
        until(lambda: steps(tmp_path / "out" / "a") > 0, process)
    done = steps(tmp_path / "out" / "a")
    (spool / "running" / "a.json").rename(tmp_path / "a.json")
    drop(spool, "b", dict(optim__steps=100000))
    with watching(spool, defaults) as process:  # a is not there
        until(lambda: steps(tmp_path / "out" / "b") > 0, process)
        drop(spool, "a", dict(optim__steps=done + 1))
        until(lambda: (spool / "running" / "a.json").exists(), process)  # and waits
    with watching(spool, defaults) as process:
        (spool / "running" / "b.json").unlink(missing_ok=True)
        until(lambda: names(spool / "done") == ["a.json"], process)
    assert "resuming after step" in (tmp_path / "out" / "a" / "log.txt").read_text() and steps(tmp_path / "out" / "a") == done + 1


@beside_the_others("alone", "small_disk")
def test_many_files_that_come_while_a_job_is_learned_are_judged_one_by_one(tmp_path):
    """Their names have results of others, so each is refused; the job that is learned goes on."""
    spool, defaults = make_spool(tmp_path)
    with watching(spool, defaults) as process:
        drop(spool, "endless", dict(optim__steps=100000))
        until(lambda: steps(tmp_path / "out" / "endless") > 0, process)
        for number in range(90):
            (tmp_path / "out" / f"old{number}").mkdir()
            (tmp_path / "out" / f"old{number}" / "learned_embeds.safetensors").write_text("old")
        for number in range(90):
            drop(spool, f"old{number}", dict(optim__steps=1))
        until(lambda: len(names(spool / "failed")) == 180, process)
        assert names(spool / "running") == ["endless.json"]
        learns_beside = steps(tmp_path / "out" / "endless")
        until(lambda: steps(tmp_path / "out" / "endless") > learns_beside, process)
    shown = json.loads(run(program("zoodip"), "status", spool, "--json").stdout)
    assert len(shown["jobs"]) == 91
    assert "old5" not in unstamped((tmp_path / "out" / "endless" / "log.txt").read_text())


@beside_the_others("alone", "small_disk")
def test_what_a_finished_job_left_stays_when_another_of_its_name_is_refused(tmp_path):
    """As after a crash just before it would have been refused: its file is in running/ then."""
    spool, defaults = make_spool(tmp_path)
    with watching(spool, defaults) as process:
        learns(spool, process, "a", tmp_path / "out")
    before = (tmp_path / "out" / "a" / "job.json").read_text()
    (spool / "running" / "a.json").write_text(json.dumps(nested(dict(zo__n=3))))
    with watching(spool, defaults) as process:
        until(lambda: names(spool / "failed") == ["a.json", "a.txt"], process)
    assert (tmp_path / "out" / "a" / "job.json").read_text() == before


@beside_the_others("alone", "small_disk")
def test_what_an_idle_spool_shows_is_true(tmp_path):
    """The page, too, of the jobs that have ended; and a spool that learns nothing leaves what was shown before."""
    spool, defaults = make_spool(tmp_path)
    page, summary = tmp_path / "out" / "index.html", tmp_path / "out" / "summary.json"
    with watching(spool, defaults) as process:
        for name in ("a", "b"):
            drop(spool, name, dict(optim__steps=2))
        until(lambda: names(spool / "done") == ["a.json", "b.json"], process)
        until(lambda: json.loads(summary.read_text())["counts"]["done"] == 2 and "2 of 2 done" in page.read_text(), process, seconds=20)
    shown = page.read_text(), summary.read_text()
    with watching(spool, defaults) as process:
        assert "watching" in process.stderr.readline()
    assert (page.read_text(), summary.read_text()) == shown
    with watching(spool, defaults) as process:  # what ended before goes on being shown, and a name that is used again hides nothing
        drop(spool, "a", dict(optim__steps=3))
        learns(spool, process, "c", tmp_path / "out")
    jobs = json.loads(summary.read_text())["jobs"]
    assert [(job["name"], job["state"], job["steps"]) for job in jobs] == [("a", "done", 2), ("b", "done", 2), ("a", "failed", 0), ("c", "done", 2)]


@beside_the_others("alone", "small_disk")
def test_a_file_of_a_spool_names_no_program(tmp_path):
    spool, defaults = make_spool(tmp_path)
    mark = tmp_path / "mark"
    (tmp_path / "hook").write_text(f'#!/bin/sh\necho "$2" >>"{mark}"\n')
    (tmp_path / "hook").chmod(0o755)
    with watching(spool, defaults) as process:
        for name, key in (("a", dict(output__on_end=str(tmp_path / "hook"))), ("b", {"output.on_end": str(tmp_path / "hook")})):
            drop(spool, name, json.dumps({**nested(dict(optim__steps=1)), **(nested(key) if name == "a" else key)}))
        until(lambda: len(names(spool / "failed")) == 4, process)
    assert all("output.on_end: expected in the defaults" in (spool / "failed" / f"{name}.txt").read_text() for name in "ab")
    assert not mark.exists()
    defaults.write_text(json.dumps(recipe(tmp_path / "out", **COMMON, output__on_end=str(tmp_path / "hook"))))
    with watching(spool, defaults) as process:
        learns(spool, process, "good", tmp_path / "out")
        until(mark.exists, process)
    assert mark.read_text().splitlines() == ["done", "stopped"]  # the job, and the spool


# ---- whatever lies in a spool


@contextmanager
def watching(spool, defaults, ranks=1, said=None, groups="auto", **more):
    """A spool at work, which a signal ends with 75; its stderr is appended to `said`."""
    process = start(ranks, "run", defaults, "--spool", str(spool), "--groups", str(groups), **more)
    try:
        yield process
        process.send_signal(signal.SIGUSR1)
        stderr = process.communicate(timeout=60)[1]
        assert process.returncode == 75, stderr
        if said is not None:
            said.append(stderr)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def learns(spool, process, name, out):
    """A job that arrives now is learned."""
    drop(spool, name, dict(optim__steps=2))
    until(lambda: (file := spool / "done" / f"{name}.json").is_file() and not file.is_symlink(), process)
    assert learned(out / name)


def put_odd_things(folder, elsewhere):
    """{name of a file: a word of the reason for which it is no job}."""
    (folder / "link.json").symlink_to(elsewhere / "file")
    (folder / "dangling.json").symlink_to(elsewhere / "nothing")
    (folder / "into.json").symlink_to(elsewhere)
    os.mkfifo(folder / "pipe.json")
    with socket.socket(socket.AF_UNIX) as own:
        here = os.open(folder, os.O_RDONLY)
        own.bind(f"/proc/self/fd/{here}/socket.json")  # which has few bytes, as it must
        os.close(here)
    with open(folder / "huge.json", "w") as file:
        file.truncate(1 << 40)
    return {"link": "link", "dangling": "link", "into": "link", "pipe": "not a regular file", "socket": "not a regular file",
            "huge": "1099511627776 bytes"}


@pytest.mark.parametrize("place", [".", "running"])
@beside_the_others("alone", "small_disk")
def test_odd_things_are_set_aside_with_their_reasons(tmp_path, place):
    """In the spool, or left in running/; and what already lies in done/ and failed/ under the names that are needed is replaced, never
    followed. A next start is no different."""
    spool, defaults = make_spool(tmp_path)
    elsewhere, said = tmp_path / "elsewhere", []
    elsewhere.mkdir()
    (elsewhere / "file").write_text("{}")
    for part in ("running", "done", "failed"):
        (spool / part).mkdir()
    odd = put_odd_things(spool / place, elsewhere)
    for part, name in (("done", "good.json"), ("failed", "link.json"), ("failed", "pipe.txt"), ("failed", "unrelated.json")):
        (spool / part / name).symlink_to(elsewhere / "file")
    os.mkfifo(spool / "failed" / "link.txt")
    os.mkfifo(spool / "done" / "pipe.json")
    (spool / place / "folder.json").mkdir()
    (spool / "done" / "folder").mkdir()
    for attempt in ("good", "better"):
        with watching(spool, defaults, said=said) as process:
            learns(spool, process, attempt, tmp_path / "out")
            until(lambda: len(names(spool / "failed")) == 2 * len(odd) + 1, process)
    for name, word in odd.items():
        assert word in (spool / "failed" / f"{name}.txt").read_text(), name
        (spool / "failed" / f"{name}.json").lstat()
    assert (spool / "failed" / "link.json").is_symlink() and (spool / place / "folder.json").is_dir()
    assert all(stderr.count("folder.json: is a folder") == 1 for stderr in said), said
    assert names(elsewhere) == ["file"] and (elsewhere / "file").read_text() == "{}"


@beside_the_others("alone", "small_disk")
def test_a_job_whose_file_cannot_be_moved_is_not_learned_again(tmp_path):
    spool, defaults = make_spool(tmp_path)
    (spool / "done" / "a.json").mkdir(parents=True)
    (spool / "failed" / "b.json" / "full").mkdir(parents=True)
    said = []
    with watching(spool, defaults, said=said) as process:
        drop(spool, "a", dict(optim__steps=2))
        drop(spool, "b", "{")
        learns(spool, process, "c", tmp_path / "out")
        learns(spool, process, "d", tmp_path / "out")
        assert names(spool / "running") == ["a.json", "b.json"]
        (spool / "done" / "a.json").rmdir()
        until(lambda: names(spool / "running") == ["b.json"], process)
    assert said[0].count("a: running") == 1 and said[0].count("a.json: cannot move") == said[0].count("b.json: cannot move") == 1, said
    with watching(spool, defaults) as process:
        learns(spool, process, "e", tmp_path / "out")
        shutil.rmtree(spool / "failed" / "b.json")
        until(lambda: names(spool / "running") == [], process)
    assert names(spool / "done") == ["a.json", "c.json", "d.json", "e.json"] and names(spool / "failed") == ["b.json", "b.txt"]


@pytest.mark.parametrize("part", ["running", "done", "failed"])
@beside_the_others("alone", "small_disk")
def test_a_file_in_place_of_a_folder_is_set_aside(tmp_path, part):
    spool, defaults = make_spool(tmp_path)
    (spool / part).write_text("a file")
    said = []
    with watching(spool, defaults, said=said) as process:
        learns(spool, process, "a", tmp_path / "out")
        (spool / part).rename(tmp_path / "before")
        (spool / part).write_text("another file")
        learns(spool, process, "b", tmp_path / "out") if part != "done" else until((spool / part).is_dir, process)
        drop(spool, "c", "{")
        until(lambda: (spool / "failed" / "c.json").exists(), process)
    assert (spool / "failed" / part).read_text() == "another file" and "is a file" in (spool / "failed" / f"{part}.txt").read_text()
    assert said[0].count("it was set aside") == 2, said


@beside_the_others("alone", "small_disk")
@afresh
def test_folders_that_are_swapped_for_links_are_not_written_through(tmp_path):
    spool, defaults = make_spool(tmp_path)
    elsewhere, said = tmp_path / "elsewhere", []
    elsewhere.mkdir()
    drop(spool, "a", dict(optim__steps=100))
    with watching(spool, defaults, said=said) as process:
        with caught(process, defaults, when=lambda: steps(tmp_path / "out" / "a") >= 2, unless=nearly_done(tmp_path / "out" / "a", 100)):
            for part in ("done", "failed"):
                (spool / part).rename(tmp_path / part)
                (spool / part).symlink_to(elsewhere)
        until(lambda: names(spool / "done") == ["a.json"] and not (spool / "done").is_symlink(), process)
        (spool / "running").rmdir()
        (spool / "running").symlink_to(elsewhere)
        drop(spool, "b", "{")
        learns(spool, process, "c", tmp_path / "out")
        until(lambda: (spool / "failed" / "b.txt").exists(), process)
    assert names(elsewhere) == [] and names(tmp_path / "done") == names(tmp_path / "failed") == []
    assert all((spool / "failed" / part).is_symlink() for part in ("running", "done", "failed"))


@pytest.mark.parametrize("swapped", ["out", "out/a", "out/a/checkpoints"])
@beside_the_others("alone", "small_disk")
@afresh
def test_results_are_not_written_through_folders_that_are_swapped_for_links(tmp_path, swapped):
    spool, defaults = make_spool(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "a" / "checkpoints").mkdir(parents=True)
    drop(spool, "a", dict(optim__steps=60, output__save_every=10))
    out = tmp_path / "out" / "a"
    with watching(spool, defaults) as process:
        with caught(process, defaults, when=lambda: newest(out) >= 5, unless=nearly_done(out, 60)):
            (tmp_path / swapped).rename(tmp_path / "before")
            (tmp_path / swapped).symlink_to(elsewhere / swapped.removeprefix("out").removeprefix("/"))
        until(lambda: names(spool / "failed"), process)
        (tmp_path / swapped).unlink()
        learns(spool, process, "b", tmp_path / "out")
    assert "no longer the folder" in (reason := (spool / "failed" / "a.txt").read_text()) or "leads out" in reason, reason
    assert [path.name for path in elsewhere.rglob("*")] == ["a", "checkpoints"]


@beside_the_others("alone", "small_disk")
def test_a_spool_may_hold_its_own_results(tmp_path):
    spool, defaults = make_spool(tmp_path)
    process = start(1, "run", defaults, "--spool", str(spool), "--set", f"output.dir={spool}")
    learns(spool, process, "a", spool)
    learns(spool, process, "b", spool)
    drop(spool, "done", {})
    until(lambda: names(spool / "failed") == ["done.json", "done.txt"], process)
    process.send_signal(signal.SIGUSR1)
    assert "is that of one of the spool's folders" in process.communicate(timeout=60)[1]
    assert names(spool) == ["a", "b", "done", "failed", "index.html", "running", "summary.json"] and names(spool / "done") == ["a.json", "b.json"]
    for part in ("running", "done", "failed"):
        (spool / "link").unlink(missing_ok=True)
        (spool / "link").symlink_to(part)
        refused(run(program("zoodip"), "run", defaults, "--spool", spool, "--set", f"output.dir={spool}/link", check=False),
                "--set: output.dir", f"own folder {part}/")


# ---- a full disk, and calls that fail


@contextmanager
def filled(disk):
    """A disk without room, until the end."""
    filler = disk / "filler"
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    yield
    filler.unlink()


@pytest.mark.parametrize("ranks, on_disk", [(2, "results"), (1, "spool and results")])
@beside_the_others("alone", "small_disk")
def test_a_spool_waits_for_room_on_the_disk(tmp_path, alone, small_disk, ranks, on_disk):
    """It says so once, takes no job for failed, and then learns the bits of a run that never waited. A file that is no config goes to
    failed/ once its reason can be written."""
    spool, defaults = make_spool(small_disk if on_disk == "spool and results" else tmp_path)
    good = ["short.json", "styled.json"]
    for name in ("short", "styled"):
        drop(spool, name, JOBS[name])
    drop(spool, "bad", "{")
    with filled(small_disk):
        process = start(ranks, "run", defaults, "--spool", str(spool), "--set", f"output.dir={small_disk}/out")
        told = [process.stderr.readline()]
        while "waits until there is room" not in told[-1]:
            assert told[-1], told
            told.append(process.stderr.readline())
        assert names(spool / "running") == (good if on_disk == "results" else ["bad.json", *good])
    until(lambda: names(spool / "done") == good and names(spool / "failed") == ["bad.json", "bad.txt"], process)
    os.kill(rank_processes(defaults)[0], signal.SIGUSR1)
    said = "".join(told) + process.communicate(timeout=60)[1]
    assert process.returncode == 75 and said.count("waits until there is room") == said.count("bad: failed") == 1, said
    for name in ("short", "styled"):
        assert learned(small_disk / "out" / name) == alone[name][0]


@pytest.mark.parametrize("calls, code, last, end", [
    ("rename", errno.ENOSPC, 2, "done"), ("rename", errno.EDQUOT, 1, "done"), ("rename", errno.EACCES, 3, "done"), ("open", errno.EIO, 1, "done"),
    ("read", errno.ESTALE, 1, "done"), ("open", errno.EACCES, 1, "failed")])
@beside_the_others("alone", "small_disk")
def test_a_call_that_fails_on_a_file_is_tried_again_and_said_once(tmp_path, calls, code, last, end):
    spool, defaults = make_spool(tmp_path)
    drop(spool, "a", dict(optim__steps=2))
    said = []
    env = dict(LD_PRELOAD=program("tests/libfaults.so"), ZOODIP_FAULTS=f"{calls} {code} 1 {last} a.json")
    with watching(spool, defaults, said=said, env=env) as process:
        until(lambda: names(spool / end), process)
    assert said[0].count(os.strerror(code)) == 1 and (end == "done" or os.strerror(code) in (spool / "failed" / "a.txt").read_text()), said


@beside_the_others("alone", "small_disk")
def test_files_that_vanish_while_they_are_read_do_no_harm(tmp_path):
    spool, defaults = make_spool(tmp_path)
    with watching(spool, defaults) as process:
        for number in range(60):
            drop(spool, f"n{number}", "{")
        until(lambda: names(spool / "running") or names(spool / "failed"), process, pause=0)
        while any(name.startswith("n") for name in names(spool)):
            for folder in (spool, spool / "running"):
                for path in folder.glob("n*.json"):
                    path.unlink(missing_ok=True)
        learns(spool, process, "good", tmp_path / "out")
    assert names(spool / "running") == []


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@beside_the_others("alone", "small_disk")
def test_a_model_that_cannot_be_loaded_fails_its_jobs_alone(tmp_path, number):
    """Whenever that is found; the next batch opens the model anew."""
    spool, defaults = make_spool(tmp_path)
    env = dict(LD_PRELOAD=program("tests/libfaults.so"), ZOODIP_FAULTS=f"mmap {errno.EACCES} {number} {number} unet")
    with watching(spool, defaults, env=env) as process:
        drop(spool, "first", dict(optim__steps=2))
        until(lambda: names(spool / "failed") or names(spool / "done"), process)
        learns(spool, process, "good", tmp_path / "out")
    assert names(spool / "failed") == ["first.json", "first.txt"] or number > 2
    assert all("cannot map" in path.read_text() for path in (spool / "failed").glob("*.txt"))


@beside_the_others("alone", "small_disk")
def test_what_lies_among_the_results_concerns_one_job_at_most(tmp_path):
    spool, defaults = make_spool(tmp_path)
    for name in ("summary.json", "index.html"):
        (tmp_path / "out" / name / "full").mkdir(parents=True)
    os.mkfifo(tmp_path / "out" / "pipe")
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    drop(spool, "pipe", dict(optim__steps=2))
    drop(spool, "link", dict(optim__steps=2))
    with watching(spool, defaults) as process:
        learns(spool, process, "good", tmp_path / "out")
        (tmp_path / "out").rename(tmp_path / "results")
        (tmp_path / "out").write_text("a file")
        drop(spool, "late", dict(optim__steps=2))
        until(lambda: (spool / "failed" / "late.json").exists(), process)
        (tmp_path / "out").unlink()
        learns(spool, process, "later", tmp_path / "out")
    assert names(spool / "failed") == sorted(f"{name}.{end}" for name in ("late", "link", "pipe") for end in ("json", "txt"))


@beside_the_others("alone", "small_disk")
def test_a_spool_that_is_removed_ends_and_says_so(tmp_path):
    spool, defaults = make_spool(tmp_path)
    process = start(1, "run", defaults, "--spool", str(spool))
    until(lambda: (spool / "failed").exists(), process)
    while spool.exists():  # it may still write there
        shutil.rmtree(spool, ignore_errors=True)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and f"{spool}: was removed" in stderr, stderr


@beside_the_others()
def test_a_model_that_is_exchanged_under_a_spool_is_noticed(tmp_path):
    """Its tokenizer and VAE would be read anew for each batch. A file that is merely touched is read again, and all goes on."""
    spool, defaults = make_spool(tmp_path)
    shutil.copytree(TOYBOX / "model", tmp_path / "model")
    defaults.write_text(json.dumps(recipe(tmp_path / "out", **COMMON, model=str(tmp_path / "model"), optim__steps=1)))
    weights = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    good = weights.read_bytes()
    process = start(2, "run", defaults, "--spool", str(spool))

    def learn(name):
        drop(spool, name, {})
        until(lambda: f"{name}.json" in names(spool / "done") + names(spool / "failed"), process)
        return f"{name}.json" in names(spool / "done")

    def replace(data):
        (tmp_path / "new").write_bytes(data)
        (tmp_path / "new").rename(weights)
    assert learn("first")
    replace(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    assert not learn("second")
    assert "holds another model than the one that was loaded from there" in (spool / "failed" / "second.txt").read_text()
    replace(good)
    assert learn("third")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_a_spool_overwrites_nothing(tmp_path):
    spool, defaults = make_spool(tmp_path)
    refused(run(program("zoodip"), "run", defaults, "--spool", spool, "--overwrite", check=False), "--overwrite", "--spool")
    for folder, name in ((tmp_path / "out" / "word", "learned_embeds.safetensors"), (tmp_path / "out" / "lines", "metrics.jsonl")):
        folder.mkdir(parents=True)
        (folder / name).write_text("old")
    for name in ("word", "lines", "new"):
        drop(spool, name, dict(optim__steps=1))
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.is_file()}
    process = start(1, "run", defaults, "--spool", str(spool))
    until(lambda: names(spool / "done") and len(names(spool / "failed")) == 4, process)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert names(spool / "done") == ["new.json"]
    for name in ("word", "lines"):
        assert "holds results of an earlier job of that name" in (spool / "failed" / f"{name}.txt").read_text()
    assert all(p.read_bytes() == text for p, text in before.items())
