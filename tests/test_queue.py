"""A queue of subjects: every job ends with the bits of `zoodip train` of that job alone, in any number of groups and however
often the queue is interrupted; an error in one job concerns only that job; nothing is written outside the queue's folder."""
import html.parser
import json
import os
import re
import resource
import shutil
import signal
import time
from contextlib import nullcontext
from urllib.parse import unquote

import pytest

from beside import begin, beside_the_others
from conftest import ROOT, TOYBOX, learned, losses_of, metrics, mpirun, nested, program, recipe, refused, run, train_alone
from live import afresh, caught, kill, nearly_done, ranks_of, start, steps, tell, until

SUBJECTS = TOYBOX / "subjects"
COMMON = dict(zo__tau=4, zo__n=1, output__checkpoint_every=5, output__prompts=[])
JOBS = {  # name -> keys that differ
    "short": dict(optim__steps=6),
    "long": dict(optim__steps=24, zo__n=2),
    "styled": dict(optim__steps=9, token__vectors=2, token__placeholder="<my-toy>", optim__lr=0.01, seed=3),
    "batch of two": dict(optim__steps=8, optim__batch_size=2, data__images=str(SUBJECTS / "ball1")),
}
STEPS = {name: changes["optim__steps"] for name, changes in JOBS.items()}


def write_jobs(folder, jobs=None, raw=None, **changes):
    """Writes a jobs file of {name: changes}, or of a list as it is; returns (its path, the queue's folder)."""
    folder.mkdir(parents=True, exist_ok=True)
    path, output = folder / "jobs.json", folder / "out"
    jobs = [{"name": name, **nested(own)} for name, own in (JOBS if jobs is None else jobs).items()] if raw is None else raw
    path.write_text(json.dumps({"defaults": recipe(output, **{**COMMON, **changes}), "jobs": jobs}))
    return path, output


def queue(ranks, path, *options, **more):
    return mpirun(ranks, program("zoodip"), "run", path, *options, **more)


def summary(output):
    whole = json.loads((output / "summary.json").read_text())
    return {job["name"]: job for job in whole["jobs"]}, whole


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """name -> (the learned word, its losses), each job trained by itself."""
    return {name: train_alone(tmp_path_factory.mktemp("alone"), **{**COMMON, **changes}) for name, changes in JOBS.items()}


@pytest.fixture(scope="module")
def begun(request, alone):
    yield from begin(request, 3, alone=lambda folder: nullcontext(alone))


def assert_all_as_alone(output, alone):
    for name, (word, losses) in alone.items():
        assert learned(output / name) == word, name
        assert losses_of(output / name) == losses, name


@pytest.mark.parametrize("ranks,groups,threads", [(1, "1", 1), (2, "1", 1), (2, "2", 2), (3, "2", 1), (3, "auto", 1), (7, "3", 2)])
def test_jobs_end_with_the_bits_of_train(tmp_path, alone, ranks, groups, threads):
    path, output = write_jobs(tmp_path)
    queue(ranks, path, "--groups", groups, threads=threads)
    assert_all_as_alone(output, alone)
    jobs, whole = summary(output)
    assert whole["ranks"] == ranks and all(job["state"] == "done" for job in jobs.values())
    if groups != "auto":
        assert whole["groups"] == int(groups)


def test_the_longest_goes_first_and_every_job_leaves_its_files(tmp_path):
    path, output = write_jobs(tmp_path, jobs={"short": dict(optim__steps=2), "long": dict(optim__steps=6)})
    done = queue(1, path)
    lines = [line for line in done.stderr.splitlines() if ": running, " in line]
    assert lines[0].startswith("zoodip: long: running") and any(line.startswith("zoodip: short: running") for line in lines)
    for name in ("short", "long"):
        made = {p.name for p in (output / name).iterdir()}
        assert {"learned_embeds.safetensors", "metrics.jsonl", "loss.png", "grid.png", "thumbnail.jpg", "report.html", "log.txt", "job.json",
                "checkpoints"} <= made
        assert "learning sks" in (output / name / "log.txt").read_text()
    assert "learning" not in done.stderr, "a job's own lines belong to its log"


def test_summary_says_what_became_of_each_job(tmp_path):
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=4), "b": dict(optim__steps=3, zo__n=3)})
    began = time.time()
    queue(2, path, "--groups", "2")
    jobs, whole = summary(output)
    assert [job["name"] for job in whole["jobs"]] == ["a", "b"]
    assert began - 1 < whole["submitted"] < time.time()
    for name, made, lanes in (("a", 4, 2), ("b", 3, 4)):
        job, lines = jobs[name], metrics(output / name)
        assert (job["steps"], job["steps_wanted"], job["evaluations"]) == (made, made, made * lanes)
        assert job["seconds"] == pytest.approx(sum(m["seconds"] for m in lines))
        assert job["loss"] == pytest.approx(sum(m["loss"] for m in lines) / made)
        assert job["validation_last"] == lines[-1]["validation_loss"] and job["validation_first"] > 0
        assert 0 < job["turnaround"] < time.time() - began + 1


@beside_the_others("alone")
def test_a_summary_is_kept_up_to_date_while_jobs_run(tmp_path):
    path, output = write_jobs(tmp_path, jobs={name: dict(optim__steps=100000) for name in ("a", "b", "c")})
    process = start(2, "run", path, "--groups", "2")
    try:
        until(lambda: (output / "summary.json").exists() and summary(output)[0]["a"]["steps"] > 0, process)
        jobs, whole = summary(output)
        process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert whole["state"] == "running" and whole["counts"] == {**dict.fromkeys(whole["counts"], 0), "running": 2, "waiting": 1}
    assert whole["seconds_left"] > 60 and 0 <= whole["written"] - whole["moved"] < 5 and whole["interval"] >= 5 and whole["ranks"] == 2
    assert [jobs[name]["state"] for name in "abc"] == ["running", "running", "waiting"]
    for number, name in enumerate("ab"):
        job = jobs[name]
        assert job["group"] == number and job["ranks"] == 1 and job["host"] == os.uname().nodename and job["since"] < job["moved"]
    jobs, whole = summary(output)
    assert whole["state"] == "stopped" and whole["seconds_left"] is None and jobs["a"]["state"] == jobs["b"]["state"] == "stopped"


def peak(process):
    return int(re.search(r"VmHWM:\s+(\d+) kB", open(f"/proc/{process}/status").read())[1]) * 1024


@beside_the_others("alone")
def test_jobs_that_wait_take_no_memory(tmp_path):
    """Neither photos nor tokenizer nor anything else of 3,000 jobs but their names and keys, and those on rank 0 alone."""
    peaks = {}
    for count in (2, 3000):
        path, output = write_jobs(tmp_path / str(count), jobs={f"{i:04d}": dict(optim__steps=100000) for i in range(count)})
        process = start(2, "run", path, "--groups", "2")
        try:
            until(lambda: steps(output / "0000") and steps(output / "0001"), process)
            peaks[count] = {rank: peak(one) for rank, one in ranks_of(path).items()}
            process.send_signal(signal.SIGUSR1)
            process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert peaks[3000][0] - peaks[2][0] < 30e6 and peaks[3000][1] - peaks[2][1] < 5e6, peaks


@beside_the_others("alone")
def test_a_program_hears_of_each_job_and_of_the_queue(tmp_path):
    hook, notes = tmp_path / "hook", tmp_path / "notes"
    hook.write_text(f'#!/bin/sh\necho "$1 $2" >>"{notes}"\nexit 3\n')
    hook.chmod(0o755)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("no picture")
    path, output = write_jobs(tmp_path, jobs={
        "a": dict(optim__steps=2), "b": dict(optim__steps=1, data__images=str(tmp_path / "photos"), use_cc=False),
        "never begun": dict(optim__steps=1, data__images="none")}, output__on_end=str(hook))
    done = queue(2, path, "--groups", "2", check=False)
    assert done.returncode == 1 and sorted(notes.read_text().splitlines()) == sorted([f"{output / 'a'} done", f"{output / 'b'} failed", f"{output} failed"])
    notes.unlink()
    queue(1, path, "--job", "a", "--set", "optim.steps=3", "--resume")
    assert notes.read_text() == f"{output / 'a'} done\n"
    refused(queue(1, path, "--resume", "--set", "output.on_end=/none/at/all", check=False), "output.on_end", "/none/at/all")


def test_a_summary_is_utf8_whatever_a_reason_was_cut_at(tmp_path):
    """Reasons and the names in them are cut at some number of bytes, and a file's name may be anything."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "good.png").write_bytes(b"no picture")
    os.rename(photos / "good.png", os.fsencode(photos) + b"/a\xff\xc2\x9bb.png")
    path, output = write_jobs(tmp_path, jobs={
        "good": dict(optim__steps=1), "bytes": dict(data__images=str(photos), use_cc=False), "quoted": dict(token__placeholder="x" + "é" * 60 + " y"),
        **{f"cut {n}": dict(data__images="/" + "x" * n + "é" * 300) for n in range(2)}})
    queue(1, path, check=False)
    jobs, _ = summary(output)
    assert [job["state"] for job in jobs.values()] == ["done"] + ["failed"] * 4
    assert "a???b.png" in jobs["bytes"]["reason"] and "white space" in jobs["quoted"]["reason"], jobs


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_page_leads_to_pictures_and_reports(tmp_path):
    name = "<script>alert('1')&"
    path, output = write_jobs(tmp_path, jobs={name: dict(optim__steps=2, output__prompts=["a photo of a {}"]),
                                              "b\"onload=": dict(optim__steps=2), "failed": dict(data__images="/nowhere")})
    queue(1, path, check=False)
    page = Page()
    page.feed((output / "index.html").read_text())
    assert name in page.words and "b\"onload=" in page.words and "out: 2 of 3 done" in page.words, "names are shown"
    assert any("/nowhere" in word for word in page.words)
    leads = [attributes.get("href") or attributes["src"] for tag, attributes in page.tags if tag in ("a", "img")]
    assert {unquote(link) for link in leads} == {f"{job}/{file}" for job in (name, "b\"onload=") for file in ("report.html", "thumbnail.jpg")}
    assert all((output / unquote(link)).exists() for link in leads) and not any(set(link) & set("<>\"'&") for link in leads)


@beside_the_others("alone")
def test_a_wrong_job_fails_alone(tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(SUBJECTS / "bear5", photos)
    (photos / "02.png").write_bytes(b"no picture")
    path, output = write_jobs(tmp_path, jobs={
        "unknown key": dict(zo__nn=2), "bad value": dict(zo__n=0), "missing photos": dict(data__images="/nowhere/at/all"),
        "broken photo": dict(data__images=str(photos), use_cc=False), "no word": dict(token__initializer="no/word"),
        "blocked": dict(optim__steps=3), "good": dict(optim__steps=3)})
    (output / "blocked" / "learned_embeds.safetensors").mkdir(parents=True)  # the word cannot be written
    done = queue(2, path, "--groups", "2", check=False, timeout=60)
    assert done.returncode == 1 and "6 of 7 jobs failed" in done.stderr
    jobs, _ = summary(output)
    reasons = {name: job["reason"] for name, job in jobs.items() if job["state"] == "failed"}
    assert jobs["good"]["state"] == "done" and set(reasons) == set(jobs) - {"good"}
    for name, word in {"unknown key": "zo.nn", "bad value": "zo.n", "missing photos": "data.images", "broken photo": "02.png",
                       "no word": "token.initializer", "blocked": "the last save failed"}.items():
        assert word in reasons[name]
        assert f"zoodip: {name}: failed, " in done.stderr
    assert len(learned(output / "good")) > 0


def test_a_job_that_fails_on_one_rank_lets_the_group_continue(tmp_path, alone):
    """Only rank 0 saves the word, and fails; both ranks leave the job together."""
    path, output = write_jobs(tmp_path, jobs={"stuck": dict(optim__steps=30),
                                              "short": JOBS["short"]})
    (output / "stuck" / "learned_embeds.safetensors" / "a folder where a file should be").mkdir(parents=True)
    done = queue(2, path, "--groups", "1", check=False, timeout=60)
    jobs, _ = summary(output)
    assert done.returncode == 1
    assert jobs["stuck"]["state"] == "failed" and "save" in jobs["stuck"]["reason"]
    assert learned(output / "short") == alone["short"][0]


def differing(**changes):
    return [{"name": "a"}, {"name": "b", **nested(changes)}]


@pytest.mark.parametrize("raw,words", [
    ([], ["jobs"]), ({"name": "a"}, ["jobs"]), (["a"], ["jobs[0]"]), ([{}], ["name"]), ([{"name": 3}], ["name"]),
    ([{"name": ""}], ["name"]), ([{"name": ".."}], ["name"]), ([{"name": "."}], ["name"]), ([{"name": ".hidden"}], ["name"]),
    ([{"name": "../out2"}], ["name"]), ([{"name": "/tmp/elsewhere"}], ["name"]), ([{"name": "a/b"}], ["name"]),
    ([{"name": "a\nb"}], ["name"]), ([{"name": "\x1b[2J"}], ["name"]), ([{"name": "x" * 201}], ["name"]),
    ([{"name": "summary.json"}], ["summary.json"]), ([{"name": "a"}, {"name": "a"}], ["a", "twice"]),
    (differing(model="/nowhere"), ["b", "model"]), (differing(quant__bits=4), ["b", "quant.bits"]),
    (differing(device="cpu"), ["b", "device"]), (differing(output__dir="/tmp/elsewhere"), ["b", "output.dir"]),
    ([{"name": "a", "output.dir": "/tmp/elsewhere"}], ["output.dir"]),
    ([{"name": "a", "zo": {"n": 0}}, {"name": "b", "zo": {"m": 1}}], ["zo.n"])], ids=str)
def test_what_is_refused_before_anything_runs(tmp_path, raw, words):
    path, output = write_jobs(tmp_path, raw=raw)
    refused(queue(1, path, check=False), *words)
    assert not output.exists()


@pytest.mark.parametrize("text,words", [
    ("", ["empty"]), ("[]", ["object"]), ('{"jobs": 3}', ["jobs"]), ('{"job": []}', ["job"]),
    ('{"defaults": {"zo": {"m": 1}}, "jobs": [{"name": "a"}]}', ["defaults", "zo.m"]),
    ('{"defaults": 3, "jobs": [{"name": "a"}]}', ["defaults"])])
def test_invalid_jobs_files(tmp_path, text, words):
    path = tmp_path / "jobs.json"
    path.write_text(text)
    refused(queue(1, path, check=False), "jobs.json", *words)


def many_jobs(count, **changes):
    """As many jobs, with these changes in one of them: {place: keys}."""
    jobs = [{"name": f"{i:06d}", "seed": i, "zo": {"n": 1 + i % 3}, "optim": {"steps": 100 + i}} for i in range(count)]
    for place, keys in changes.items():
        jobs[int(place[1:])].update(keys)
    return jobs


def test_a_hundred_thousand_jobs_are_checked_in_seconds(tmp_path):
    """The last job has the name of the first, which is found when all names are read; the one before changes what none may change."""
    path, output = write_jobs(tmp_path, raw=many_jobs(100000, _99999=dict(name="000000")))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    refused(queue(1, path, check=False), 'jobs[99999]: name: "000000" is given twice')
    write_jobs(tmp_path, raw=many_jobs(100000, _99998=dict(device="cpu")))
    refused(queue(1, path, check=False), "099998", "device: differs from 000000's")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 12 and not output.exists()


def test_wrong_jobs_among_many_are_named(tmp_path):
    path, output = write_jobs(tmp_path, raw=many_jobs(3000, _7=dict(zo=dict(n=0)), _2999=dict(optim=dict(stepz=1))))
    for number, words in ((8, "000007: zo.n: is 0"), (3000, "002999: optim.stepz: unknown key")):
        done = queue(1, path, "--job", str(number), check=False)
        assert done.returncode == 1 and words in done.stderr.splitlines()[-1], done.stderr
    jobs, _ = summary(output)
    assert len(jobs) == 3000 and [name for name, job in jobs.items() if job["state"] == "failed"] == ["000007", "002999"]


@pytest.mark.parametrize("options,words", [
    ([], ["JOBS"]), (["none.json"], ["none.json"]), (["j", "--groups", "0"], ["--groups"]), (["j", "--groups", "2"], ["--groups"]),
    (["j", "--groups", "some"], ["--groups"])])
def test_command_lines(options, words):
    refused(run(program("zoodip"), "run", *options, check=False), *words)


@pytest.mark.parametrize("inside", [".", "checkpoints", "metrics.jsonl", "checkpoints/step-3.safetensors"])
def test_links_that_lead_out_are_not_followed(tmp_path, inside):
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=3), "b": dict(optim__steps=3)})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = output / "a" / inside
    link.parent.mkdir(parents=True) if inside != "." else output.mkdir()
    (output / "a" if inside == "." else link).symlink_to(elsewhere / "file" if "." in inside[1:] else elsewhere)
    done = queue(1, path, check=False)
    jobs, _ = summary(output)
    assert done.returncode == 1 and jobs["a"]["state"] == "failed" and "leads out" in jobs["a"]["reason"]
    assert jobs["b"]["state"] == "done" and list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("ranks,groups", [(1, "1"), (3, "2")])
@beside_the_others("alone")
@afresh
def test_kill_9_and_resume(tmp_path, alone, ranks, groups):
    path, output = write_jobs(tmp_path)
    # the other group may be through with its jobs when the long one is killed
    for attempt, (name, more) in enumerate([("long", 13), ("styled", 6) if groups == "1" else ("long", 4)]):
        made = steps(output / name) + more
        process = start(ranks, "run", path, "--groups", groups, *(["--resume"] if attempt else []))
        with caught(process, path, when=lambda: steps(output / name) >= made, unless=nearly_done(output / name, STEPS[name], to_go=1)):
            kill(process, path)
    queue(ranks, path, "--groups", groups, "--resume")
    assert_all_as_alone(output, alone)
    jobs, _ = summary(output)
    assert all(job["state"] == "done" and job["steps"] == len(alone[name][1]) for name, job in jobs.items())
    assert "resuming after step" in (output / "long" / "log.txt").read_text()


def test_finished_jobs_stay_finished(tmp_path, alone):
    path, output = write_jobs(tmp_path)
    queue(2, path, "--groups", "2")
    first, whole = summary(output)
    stamps = {name: os.stat(output / name / "learned_embeds.safetensors").st_mtime_ns for name in JOBS}
    (output / "short" / "job.json").unlink()  # as if it had been killed just before its end
    done = queue(2, path, "--resume")
    again, later = summary(output)
    for name in set(JOBS) - {"short"}:
        assert os.stat(output / name / "learned_embeds.safetensors").st_mtime_ns == stamps[name]
        assert again[name] == first[name]
    assert later["submitted"] == whole["submitted"] and ": long: running" not in done.stderr
    assert again["short"]["state"] == "done"
    for key in ("validation_first", "validation_last", "validation_best", "best_step", "word"):
        assert again["short"].get(key) == first["short"].get(key), key  # its checkpoint knows
    assert_all_as_alone(output, alone)
    queue(1, path, "--resume", "--set", "optim.steps=26")  # prolonged: all jobs are open again
    assert all(job["steps"] == job["steps_wanted"] for job in summary(output)[0].values())


def test_a_job_without_its_whole_word_is_not_done(tmp_path, alone):
    """Removed, cut short, or exchanged for that of another step, be it the best or the last: it comes back from the job's
    checkpoint."""
    path, output = write_jobs(tmp_path, output__save_every=4)
    queue(1, path)
    last = output / "batch of two" / "learned_embeds-last.safetensors"
    content = last.read_bytes()
    last.unlink()
    (output / "short" / "learned_embeds.safetensors").unlink()
    (output / "long" / "learned_embeds.safetensors").write_bytes(alone["long"][0][:-1])
    shutil.copy(output / "styled" / "learned_embeds-steps-4.safetensors", output / "styled" / "learned_embeds.safetensors")
    queue(2, path, "--groups", "2", "--resume")
    assert_all_as_alone(output, alone)
    assert last.read_bytes() == content
    for name in JOBS:
        assert "written anew" in (output / name / "log.txt").read_text()


@pytest.mark.parametrize("ranks", [1, 3])
@beside_the_others("alone")
@afresh
def test_a_signal_checkpoints_every_group_and_exits_75(tmp_path, alone, ranks):
    path, output = write_jobs(tmp_path)
    process = start(ranks, "run", path, "--groups", str(ranks))
    with caught(process, path, when=lambda: steps(output / "long") >= 3 and (ranks == 1 or steps(output / "batch of two") >= 1),
                unless=nearly_done(output / "long", STEPS["long"])) as stopped:
        tell(process.pid, signal.SIGUSR1, stopped)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75, stderr
    jobs, _ = summary(output)
    assert any(job["state"] == "stopped" for job in jobs.values()) and "--resume" in stderr
    for name, job in jobs.items():
        if job["state"] == "stopped":
            assert (output / name / "checkpoints" / f"step-{steps(output / name)}.safetensors").exists()
            assert job["turnaround"] is None
    queue(2, path, "--groups", "2", "--resume")
    assert_all_as_alone(output, alone)


@pytest.mark.parametrize("rank", [0, 3])
@beside_the_others("alone")
def test_a_signal_to_one_rank_reaches_all_groups(tmp_path, rank):
    """A stop reaches all: from rank 0 to the other group, and from a rank that leads no group to rank 0."""
    path, output = write_jobs(tmp_path, jobs={name: dict(optim__steps=100000) for name in ("a", "b")})
    process = start(4, "run", path, "--groups", "2")
    try:
        until(lambda: steps(output / "a") and steps(output / "b"), process)
        os.kill(ranks_of(path)[rank], signal.SIGUSR1)
        stderr = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 75, stderr
    for name, job in summary(output)[0].items():
        assert job["state"] == "stopped"
        assert (output / name / "checkpoints" / f"step-{job['steps']}.safetensors").exists()


# ---- a rank that hangs, and what only looks like one


def silent(rank, step=r"\d+"):
    return rf"rank {rank}, which leads its group, gave no sign of life for 1 s \(cluster.timeout\) after step {step} of its job"


@beside_the_others("alone")
@afresh
def test_a_group_that_hangs_is_named_and_the_queue_restarts(tmp_path, alone):
    path, output = write_jobs(tmp_path, cluster__timeout=1)
    process = start(2, "run", path, "--groups", "2", launcher=[ROOT / "launch/run.sh", "-n", "2", "--restarts", "1"])
    with caught(process, path, when=lambda: steps(output / "long") >= 1 and steps(output / "batch of two") >= 1,
                unless=nearly_done(output / "long", STEPS["long"])) as stopped:
        stopped.remove(ranks_of(path)[1])
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "restarting" in stderr, stderr
    assert re.search(f"rank 0: {silent(1)}", stderr), stderr
    assert_all_as_alone(output, alone)


@pytest.mark.parametrize("hanging, idle_before", [(0, 3.5), (1, 0)])
@beside_the_others("alone")
def test_idle_ranks_watch_and_are_watched(tmp_path, hanging, idle_before):
    """One job for two groups: the second group idles for longer than the limit, without an alarm."""
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=100000)}, cluster__timeout=1)
    process = start(2, "run", path, "--groups", "2")
    until(lambda: steps(output / "a") >= 3, process)
    time.sleep(idle_before)
    assert process.poll() is None
    os.kill(ranks_of(path)[hanging], signal.SIGSTOP)
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert re.search([f"rank 1: {silent(0, '[1-9][0-9]*')}", f"rank 0: {silent(1)}"][hanging], stderr), stderr
    if hanging == 1:  # rank 0 is left to tell those who watch
        whole, status = (json.loads((output / name).read_text()) for name in ("summary.json", "a/status.json"))
        assert whole["state"] == status["state"] == "failed" and re.search(silent(1), whole["reason"]) and re.search(silent(1), status["reason"])
        assert whole["jobs"][0]["state"] == "stopped"


@pytest.mark.parametrize("wanted, pause", [(40, 0), (120, 0.5)])
@beside_the_others("alone")
@afresh
def test_a_rank_without_work_that_hangs_is_named_at_the_end(tmp_path, wanted, pause):
    """Without the pause its leader may still be waiting to be told that there is no work, and group and queue would notice at the
    same time."""
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=wanted)}, cluster__timeout=1)
    process = start(4, "run", path, "--groups", "2")
    until(lambda: steps(output / "a") >= 3, process)
    time.sleep(pause)
    with caught(process, path, when=lambda: True, unless=nearly_done(output / "a", wanted)) as stopped:
        stopped.remove(ranks_of(path)[3])
    stderr = process.communicate(timeout=60)[1]
    told = re.findall(r"rank (\d): (.+) gave no sign of life", stderr)
    assert process.returncode == 1 and {named for _, named in told} == {"rank 3"}, stderr
    assert pause == 0 or (told[0][0] == "0" and steps(output / "a") == wanted), stderr


@beside_the_others("alone")
@afresh
def test_a_queue_that_is_suspended_as_a_whole_goes_on(tmp_path, alone):
    path, output = write_jobs(tmp_path, cluster__timeout=1)
    process = start(3, "run", path, "--groups", "3")
    with caught(process, path, when=lambda: steps(output / "long") >= 2, unless=nearly_done(output / "long", STEPS["long"])):
        time.sleep(4.5)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "sign of life" not in stderr, stderr
    assert_all_as_alone(output, alone)


@beside_the_others("alone")
@afresh
def test_a_signal_while_pictures_are_drawn_is_followed_at_once(tmp_path, alone):
    """Group 1 draws while group 0 learns; the signal goes to a rank of group 1 that is not its leader."""
    path, output = write_jobs(tmp_path, jobs={"long": dict(optim__steps=100000),
                                              "short": dict(output__prompts=["a photo of a {}"] * 40, **JOBS["short"])})
    process = start(4, "run", path, "--groups", "2")
    log = output / "short" / "log.txt"
    with caught(process, path, when=lambda: log.exists() and "generating 80 pictures" in log.read_text(),
                unless=(output / "short" / "grid.png").exists):
        os.kill(ranks_of(path)[3], signal.SIGUSR1)
    began = time.time()
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and time.time() - began < 5, stderr
    jobs, _ = summary(output)
    assert jobs["short"]["state"] == jobs["long"]["state"] == "stopped" and jobs["short"]["steps"] == 6
    assert not (output / "short" / "grid.png").exists()
    queue(2, path, "--resume", "--groups", "2", "--set", "output.prompts=[\"a {}\"]", "--set", "optim.steps=6", check=False)
    assert learned(output / "short") == alone["short"][0] and (output / "short" / "grid.png").exists()


def test_a_summary_that_cannot_be_written_is_reported_and_the_table_still_shown(tmp_path):
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=2)})
    (output / "index.html").mkdir(parents=True)
    done = queue(1, path, check=False)
    assert done.returncode == 1 and "index.html: " in done.stderr.splitlines()[-1], done.stderr
    assert re.search(r"^a +done +2/2 ", done.stderr, re.MULTILINE) and "wrote" not in done.stderr, done.stderr


# -------------------------------------------------------------------------------- one job of a file


def test_runs_of_one_job_each_end_as_the_queue_does(tmp_path, alone):
    """All at the same time, as in a Slurm array: the last one to end reports all."""
    path, output = write_jobs(tmp_path)
    runs = [start(1 + number % 2, "run", path, "--job", str(number)) for number in range(1, len(JOBS) + 1)]
    for process in runs:
        stderr = process.communicate(timeout=120)[1]
        assert process.returncode == 0, stderr
    assert_all_as_alone(output, alone)
    jobs, _ = summary(output)
    assert list(jobs) == list(JOBS)
    for name, job in jobs.items():
        assert job["state"] == "done" and job["steps"] == JOBS[name]["optim__steps"] and job["turnaround"] > 0, job
    page = (output / "index.html").read_text()
    assert all(name in page for name in JOBS)


def test_runs_whose_processes_have_one_number_share_a_queue_folder(tmp_path):
    """As in containers or on several machines: all write the summary at about the same time."""
    if run("unshare", "-pf", "true", check=False).returncode != 0:
        pytest.skip("this machine allows no process namespaces")
    path, output = write_jobs(tmp_path, jobs={name: dict(optim__steps=1) for name in "abcdef"})
    runs = [start(1, "run", path, "--job", str(number), launcher=["unshare", "-pf"]) for number in range(1, 7)]
    for process in runs:
        stderr = process.communicate(timeout=120)[1]
        assert process.returncode == 0, stderr
    assert [job["state"] for job in summary(output)[0].values()] == ["done"] * 6
    assert not list(output.glob("**/*.tmp"))


@afresh
def test_a_run_of_one_job_touches_no_other_and_continues_its_own(tmp_path, alone):
    path, output = write_jobs(tmp_path)
    process = start(1, "run", path, "--job", "2")
    with caught(process, path, when=lambda: steps(output / "long") >= 5, unless=nearly_done(output / "long", STEPS["long"])) as stopped:
        tell(process.pid, signal.SIGUSR1, stopped)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert [entry.name for entry in output.iterdir() if entry.is_dir()] == ["long"]
    done = queue(2, path, "--job", "long", "--resume")
    assert "long: done" in done.stderr and learned(output / "long") == alone["long"][0]
    assert [job["state"] for job in summary(output)[0].values()] == ["waiting", "done", "waiting", "waiting"]
    assert re.search(r"^short +waiting +0/6 +- +- +0.0 +-$", done.stderr, re.MULTILINE), done.stderr


def test_a_job_by_name_and_digits_as_a_number(tmp_path):
    """Exactly that name; a job named 1 is not the first, and no array task learns it in place of the first."""
    path, output = write_jobs(tmp_path, jobs={name: dict(optim__steps=1) for name in ("2", "dog6", "dog", "batch 1")})
    for which, name in (("dog", "dog"), ("batch 1", "batch 1"), ("2", "dog6"), ("01", "2")):
        queue(1, path, "--job", which)
        done = [n for n, job in summary(output)[0].items() if job["state"] == "done"]
        assert name in done and (output / name / "report.html").exists()
    assert sorted(done) == ["2", "batch 1", "dog", "dog6"]


def test_a_job_that_fails_by_itself_is_told_by_the_others(tmp_path):
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=2), "b": dict(data__images="/nowhere"), "c": dict(optim__steps=0)})
    for number, reason in (("2", "b: "), ("3", "optim.steps")):
        done = queue(1, path, "--job", number, check=False)
        assert done.returncode == 1 and reason in done.stderr.splitlines()[-1], done.stderr
    queue(1, path, "--job", "1")
    jobs = summary(output)[0]
    assert jobs["a"]["state"] == "done"
    assert jobs["b"]["state"] == jobs["c"]["state"] == "failed"
    assert "/nowhere" in jobs["b"]["reason"] and "optim.steps" in jobs["c"]["reason"]


@beside_the_others("alone")
def test_a_run_of_one_job_tells_what_the_queue_before_it_left(tmp_path):
    """Including jobs that failed before their first step, jobs that were submitted long ago, and damaged files."""
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=2), "b": dict(data__images="/nowhere"), "c": dict(optim__steps=30)})
    queue(2, path, "--groups", "2", check=False)
    before = summary(output)[0]
    time.sleep(1)
    queue(1, path, "--job", "1")
    jobs = summary(output)[0]
    assert jobs["b"]["state"] == "failed" and jobs["b"]["reason"] == before["b"]["reason"]
    assert jobs["c"]["state"] == "done" and jobs["c"]["turnaround"] == before["c"]["turnaround"] > 0
    (output / "c" / "thumbnail.jpg").unlink()
    with open(output / "c" / "metrics.jsonl", "a") as lines:
        lines.write("no line\n")
    queue(1, path, "--job", "1", "--resume")
    page = (output / "index.html").read_text()
    assert "<td>30/30</td>" in page and re.findall('src="([^"]*)"', page) == ["a/thumbnail.jpg"]


def test_a_run_of_one_job_reads_of_the_others_only_what_has_changed(tmp_path):
    """A job that had ended an hour before the summary was written is as it says there, until its job.json is written again, is gone, or
    belongs to another recipe than the file's now."""
    path, output = write_jobs(tmp_path, jobs={name: dict(optim__steps=1) for name in "abcd"})
    for number in "123":
        queue(1, path, "--job", number)
    before = summary(output)[0]
    for name in "abc":
        job = output / name / "job.json"
        job.write_text(json.dumps(json.loads(job.read_text()) | dict(state="failed", reason="written again", finished=2e9)))
        if name == "a":
            os.utime(job, (time.time() - 3600,) * 2)
    (output / "c" / "job.json").unlink()
    queue(1, path, "--job", "4")
    jobs = summary(output)[0]
    assert jobs["a"] == before["a"] and before["a"]["state"] == "done" and before["a"]["finished"] > 0
    assert (jobs["b"]["state"], jobs["b"]["reason"]) == ("failed", "written again")
    assert (jobs["c"]["state"], jobs["d"]["state"]) == ("waiting", "done")
    queue(1, write_jobs(tmp_path, jobs={name: dict(optim__steps=1, seed=9 if name == "a" else 0) for name in "abcd"})[0], "--job", "d")
    assert summary(output)[0]["a"]["state"] == "waiting"


@pytest.mark.parametrize("options, words", [
    (["--job", "5"], ["--job: 5", "has 4 jobs"]), (["--job", "0"], ["--job: 0", "counted from 1"]),
    (["--job", "99999999999999999999"], ["has 4 jobs"]), (["--job", "shrot"], ["--job: shrot", "no job of that name; did you mean short?"]),
    (["--job", "Long"], ["--job: Long", "did you mean long?"]), (["--job", "-1"], ["--job: -1: ", "no job of that name"]),
    (["--job="], ["no job of that name"]), (["--job", "nothing like it"], ["jobs.json has no job of that name"]),
    (["--job", "1", "--groups", "1"], ["--groups"]),
])
def test_a_job_that_the_file_does_not_have_is_refused(tmp_path, options, words):
    path, output = write_jobs(tmp_path)
    refused(queue(1, path, *options, check=False), *words)
    assert not output.exists()


# -------------------------------------------------------------------------------- results from before

TWO = {"a": dict(optim__steps=2), "b": dict(optim__steps=3)}


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def results_of(output):
    """What the jobs' folders hold, without what the queue writes about all of them."""
    return {p: text for p, text in contents(output).items() if p.parent != output}


def test_finished_jobs_are_left_as_they_are_and_that_is_said(tmp_path):
    path, output = write_jobs(tmp_path, jobs=TWO)
    queue(1, path)
    before = results_of(output)
    done = queue(1, path)
    assert results_of(output) == before and "2 jobs finished before: left as they are" in done.stderr and "warning" not in done.stderr, done.stderr
    done = queue(1, path, "--set", "optim.lr=0.5")
    assert results_of(output) == before and done.stderr.count("with another recipe than it has now: optim.lr is 0.03 there and 0.5 here") == 2, done.stderr
    assert "a: is finished and stays as it is" in done.stderr and "--overwrite" in done.stderr
    done = queue(1, path, "--set", "optim.steps=3")  # more steps for one of them, which --resume would make
    assert results_of(output) == before and done.stderr.count("optim.steps is 2 there and 3 here") == 1, done.stderr
    assert [job["state"] for job in summary(output)[0].values()] == ["done", "done"]
    done = queue(1, path, "--set", "optim.lr=0.5", "--resume")  # finished, and not to be gone on with
    assert results_of(output) == before and done.stderr.count("with another recipe") == 2, done.stderr
    for options in (["--resume"], []):  # fewer steps than there are
        done = queue(1, path, "--set", "optim.steps=1", *options)
        assert results_of(output) == before and "optim.steps is 2 there and 1 here" in done.stderr, done.stderr
    write_jobs(tmp_path, jobs={**TWO, "new": dict(optim__steps=1)})
    done = queue(1, path)
    assert results_of(output).items() >= before.items() and summary(output)[0]["new"]["state"] == "done"


def test_a_job_that_was_begun_is_refused_before_anything_runs(tmp_path, alone):
    path, output = write_jobs(tmp_path, jobs={name: JOBS[name] for name in ("short", "long", "styled")})
    queue(1, path, "--set", "optim.steps=3", "--set", "output.checkpoint_every=1")
    for name in ("long", "styled"):
        (output / name / "job.json").unlink()  # as if they had been killed just before their end
    shutil.rmtree(output / "short")
    before = contents(output)
    # even before the model is looked for
    done = queue(1, path, "--set", "model=/nowhere", check=False)
    refused(done, str(path), "long", str(output / "long"), "(and 1 more)", "--resume", "--overwrite")
    assert contents(output) == before
    refused(queue(1, path, "--job", "3", check=False), "styled", "--resume", "--overwrite")
    assert contents(output) == before
    queue(1, path, "--job", "1")  # judges its own folder alone
    assert learned(output / "short") == alone["short"][0]
    queue(1, path, "--job", "2", "--resume")
    queue(1, path, "--job", "3", "--overwrite")
    for name in ("short", "long", "styled"):
        assert (learned(output / name), losses_of(output / name)) == alone[name], name
        assert not (output / name / "previous").exists()


def test_a_queue_overwrites_every_job_and_keeps_old_results_of_those_that_do_not_begin(tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(SUBJECTS / "bear5", photos)
    path, output = write_jobs(tmp_path, jobs={**TWO, "c": dict(optim__steps=2, data__images=str(photos), use_cc=False)})
    queue(1, path)
    before = contents(output)
    (output / "a" / "notes.txt").write_text("mine")
    shutil.rmtree(photos)
    done = queue(2, path, "--overwrite", "--set", "seed=7", "--groups", "2", check=False)
    assert done.returncode == 1 and "1 of 3 jobs failed, first c: " in done.stderr, done.stderr
    for name in TWO:
        old = before[output / name / "learned_embeds.safetensors"]
        assert learned(output / name) != old and not (output / name / "previous").exists()
        assert "resuming" not in (output / name / "log.txt").read_text()
    assert (output / "a" / "notes.txt").read_text() == "mine"
    assert {p: t for p, t in contents(output).items() if p.parent.name == "c"} == {p: t for p, t in before.items() if p.parent.name == "c"}


@beside_the_others("alone")
@afresh
def test_a_queue_that_is_killed_keeps_the_old_results_of_jobs_without_a_checkpoint(tmp_path, alone):
    path, output = write_jobs(tmp_path, jobs={name: JOBS[name] for name in ("short", "long")})
    queue(1, path, "--set", "optim.steps=2")
    old = {name: learned(output / name) for name in ("short", "long")}
    process = start(1, "run", path, "--overwrite")  # the long one goes first
    long = output / "long"
    with caught(process, path, when=lambda: (long / "previous" / ".moved").exists() and steps(long) >= 2, unless=lambda: steps(long) >= 5):
        kill(process, path)
    for place in (long / "previous", output / "short"):  # the short one has not begun
        assert (place / "learned_embeds.safetensors").read_bytes() == old["long" if place.name == "previous" else "short"]
        assert (place / "job.json").exists() and (place / "log.txt").exists()
    refused(queue(1, path, check=False), "--resume", "--overwrite")
    queue(1, path, "--resume")
    for name in old:
        assert (learned(output / name), losses_of(output / name)) == alone[name], name
        assert not (output / name / "previous").exists()
        assert f"{output}/{name}/previous: holds the results from before --overwrite" in (output / name / "log.txt").read_text()


def test_a_job_that_left_no_results_needs_no_option(tmp_path):
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=2, data__images=str(tmp_path / "later"), use_cc=False)})
    assert queue(1, path, check=False).returncode == 1 and (output / "a" / "job.json").exists()
    shutil.copytree(SUBJECTS / "bear5", tmp_path / "later")
    queue(1, path)
    assert summary(output)[0]["a"]["state"] == "done"


# -------------------------------------------------------------------------------- one folder, one run


@pytest.mark.parametrize("options", [[], ["--resume"]])
@beside_the_others("alone")
def test_two_runs_do_not_write_one_folder(tmp_path, options):
    """The second one ends, and the first one's results are as if it had been alone; then the folder is free."""
    path, output = write_jobs(tmp_path, jobs={"a": dict(optim__steps=100000)}, cluster__timeout=2)
    first = start(2, "run", path)
    until(lambda: steps(output / "a") >= 10, first)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(output / "a", **{**COMMON, "optim__steps": 5, "cluster__timeout": 2})))
    for command, source, folder in (("run", path, output), ("train", config, output / "a")):
        second = mpirun(2, program("zoodip"), command, source, *options, check=False)
        assert second.returncode == 1 and f"{folder}: another run is writing here" in second.stderr, second.stderr
    assert first.poll() is None
    os.kill(ranks_of(path)[0], signal.SIGUSR1)
    stderr = first.communicate(timeout=60)[1]
    assert first.returncode == 75, stderr
    made = [m["step"] for m in metrics(output / "a")]
    assert made == list(range(1, len(made) + 1)) and json.loads((output / "a" / "job.json").read_text())["state"] == "stopped"
    queue(1, path, "--set", f"optim.steps={len(made) + 1}", "--resume")
