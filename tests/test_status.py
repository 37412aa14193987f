"""`zoodip status`: what runs, queues, arrays and spools do now, as it is seen from another process; and FOLDER/status.json, which a
run writes for it. Whatever lies in these folders is shown or refused, and never trusted."""
import errno
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import time

import pytest

from conftest import mpirun, program, recipe, refused, run, write_recipe
from live import kill, start, until

NEVER = dict(optim__steps=100000, output__prompts=[])
PLAIN = {"step": 352, "steps": 1000, "loss": 0.0214, "validation_first": 0.02, "validation_best": 0.018, "best_step": 300,
         "evaluations_per_second": 14.2}
HOSTILE = ["../../etc", "\x1b[2Jname", "a\nb", "<b>&\"", "", "x" * 100000, "name\u202e", "käse"]


def status(folder, *options, **more):
    return run(program("zoodip"), "status", folder, *options, **more).stdout


def facts(folder):
    return json.loads(status(folder, "--json"))


def rows(folder):
    """{job: its row of the table, and what follows below it}, without the head."""
    found = {}
    for line in re.split(r"^job +state +step.*\n", status(folder), flags=re.MULTILINE)[1].splitlines():
        if line.startswith("    "):
            found[name] += line[3:]
        else:
            name = re.split("  +", line)[0]
            found[name] = line
    return found


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def running(**more):
    """A status.json of a run that goes on, on another machine."""
    now = time.time()
    return {"state": "running", **PLAIN, "seconds_left": 700, "ranks": 4, "host": "elsewhere", "pid": 1, "began": now - 500, "since": now - 500,
            "moved": now - 1, "interval": 5, "written": now - 1, **more}


def ended_process():
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


# ---- a run


def test_a_run_says_what_it_does_from_its_start_to_its_end(tmp_path):
    """Time passes fast for the run, so that it writes at every turn."""
    config, output = write_recipe(tmp_path, optim__steps=3, data__resolution=32, output__sample_steps=20, output__prompts=["a {}", "the {}"])
    process = start(1, "train", config, "--quiet", env={"LD_PRELOAD": program("tests/libhurry.so"), "ZOODIP_HURRY": "200000"})
    seen = []
    while process.poll() is None:
        if (output / "status.json").exists():
            seen.append(json.loads((output / "status.json").read_text()))
    assert process.returncode == 0, process.communicate()[1]
    process.communicate()
    phases = " ".join(dict.fromkeys(s.get("phase", "steps").rstrip("0123456789/ ") for s in seen))
    assert re.search("encoding pictures.* loading unet.* generating pictures.* decoding pictures", phases), phases
    assert any(re.fullmatch(r"generating pictures \d/4", s.get("phase", "")) for s in seen)
    assert {s["state"] for s in seen[:-1]} <= {"running", "done"} and all(s["pid"] == process.pid for s in seen)
    last = json.loads((output / "status.json").read_text())
    assert last["state"] == "done" and "phase" not in last and last["step"] == last["steps"] == 3 and last["loss"] > 0
    assert last["began"] <= last["since"] == last["moved"] <= last["written"] and last["interval"] >= 5
    assert facts(output)["state"] == "done" and facts(output)["kind"] == "run"


def test_steps_are_written_every_five_seconds_at_most(tmp_path):
    """And phases every second: how often the file is renamed into place, by the clock."""
    config, output = write_recipe(tmp_path, optim__steps=60, output__prompts=[])
    count = {"LD_PRELOAD": program("tests/libfaults.so"), "ZOODIP_FAULTS": f"rename {errno.EIO} 0 0 status.json",
             "ZOODIP_FAULTS_COUNT": str(tmp_path / "calls")}
    began = time.monotonic()
    run(program("zoodip"), "train", config, env=count)
    seconds = time.monotonic() - began
    assert 2 <= len((tmp_path / "calls").read_text().splitlines()) <= 2 + seconds < 60


def test_a_killed_run_is_gone_and_one_that_resumes_begins_anew_until_it_is_stopped(tmp_path):
    config, output = write_recipe(tmp_path, output__checkpoint_every=1, **NEVER)
    process = start(1, "train", config)
    until(lambda: (output / "status.json").exists() and facts(output)["state"] == "running", process)
    until(lambda: list((output / "checkpoints").glob("step-*")), process)
    kill(process, config)
    shown, seen = status(output), facts(output)
    assert seen["gone"] and "gone on " in shown and re.search(r"its process is gone since \d\d:\d\d", shown)
    began = seen["began"]
    process = start(1, "train", config, "--resume")
    seen = until(lambda: (s := facts(output))["began"] > began and s["step"] and s, process)
    assert seen["state"] == "running" and not seen["gone"] and seen["steps"] == 100000 and seen["pid"] == process.pid
    process.send_signal(signal.SIGUSR1)
    process.communicate()
    seen = facts(output)
    assert process.returncode == 75 and seen["state"] == "stopped" and seen["step"] >= 1 and seen["seconds_left"] is None
    assert "run, stopped since" in status(output)


def test_a_run_that_fails_says_why(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=4, output__prompts=[])
    full = {"LD_PRELOAD": program("tests/libfaults.so"), "ZOODIP_FAULTS": f"all {errno.ENOSPC} 1 1000000 report.html"}
    done = run(program("zoodip"), "train", config, check=False, env=full)
    seen = facts(output)
    assert done.returncode == 1 and seen["state"] == "failed" and f"zoodip: {seen['reason']}\n" in done.stderr
    assert seen["reason"] in rows(output)["out"]


def test_no_other_rank_than_the_first_writes_and_none_is_asked(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=2, output__prompts=[])
    mpirun(2, program("zoodip"), "train", config)
    assert facts(output)["ranks"] == 2
    assert len(json.loads(mpirun(2, program("zoodip"), "status", output, "--json").stdout)["jobs"]) == 1


def test_a_status_that_cannot_be_written_disturbs_nothing(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=2, output__prompts=[])
    (output / "status.json").mkdir(parents=True)
    assert "warning" not in run(program("zoodip"), "train", config).stderr
    assert "done" in status(output), "of what else is there"


def test_a_run_of_an_earlier_version_is_seen_by_its_records(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=3, output__prompts=[])
    run(program("zoodip"), "train", config)
    (output / "status.json").unlink()
    seen = facts(output)
    assert seen["step"] == 3 and seen["state"] == "done" and seen["loss"] > 0 and seen["validation_first"] > 0


def test_who_has_not_moved_for_long_gives_no_news(tmp_path):
    now = time.time()
    write(tmp_path / "a/status.json", running(moved=now - 90, written=now - 90, interval=10))
    write(tmp_path / "b/status.json", running(moved=now - 110, written=now - 110, interval=10))
    assert not facts(tmp_path / "a")["silent"] and facts(tmp_path / "b")["silent"]
    when = time.strftime("%H:%M", time.localtime(now - 110))
    assert f"no news since {when}" in status(tmp_path / "b") and "no news" not in status(tmp_path / "a")


def test_time_that_has_passed_since_is_not_left(tmp_path):
    write(tmp_path / "status.json", running(written=time.time() - 30))
    assert 668 <= facts(tmp_path)["seconds_left"] <= 670


# ---- a queue


def summary(jobs, **more):
    now = time.time()
    return {"state": "running", "began": now - 900, "written": now - 3, "moved": now - 3, "interval": 5, "seconds_left": 3600, "ranks": 8,
            "groups": 2, "host": "elsewhere", "pid": 1, "jobs": jobs, **more}


def result(name, state, **more):
    return {"name": name, "state": state, "steps": 352, "steps_wanted": 1000, "loss": 0.0214, "validation_first": 0.02, "validation_best": 0.018,
            "best_step": 300, **more}


def test_a_queue_is_shown_with_what_runs_first(tmp_path):
    now = time.time()
    write(tmp_path / "summary.json", summary([
        result("waits", "waiting"), result("old", "done", finished=now - 800), result("new", "done", finished=now - 100),
        result("bad", "failed", reason="photos/mug: does not exist", finished=now - 50),
        result("dog", "running", phase="generating pictures 3/8", group=1, ranks=4, host="node7", since=now - 300, seconds_left=70)]))
    shown = status(tmp_path)
    assert list(rows(tmp_path)) == ["dog", "bad", "waits", "new", "old"]
    assert "queue, running since" in shown and "8 ranks in 2 groups" in shown and "1 running, 1 failed, 1 waiting, 2 done" in shown
    assert "1:00:0" in shown or "59:5" in shown, "the time left"
    dog = rows(tmp_path)["dog"]
    assert all(word in dog for word in ("352/1000", "0.01800 -10.0 %", "generating pictures 3/8", "group 1, 4 ranks, node7", "1:0"))
    assert "photos/mug: does not exist" in rows(tmp_path)["bad"]


def test_a_running_job_is_shown_as_its_own_folder_says(tmp_path):
    now = time.time()
    write(tmp_path / "summary.json", summary([result(name, "running" if name in "ac" else "waiting") for name in "abcd"]))
    write(tmp_path / "a/status.json", running(step=400))
    write(tmp_path / "b/status.json", running(step=1, written=now - 30, moved=now - 30))  # of an array's task: older, but it runs
    write(tmp_path / "c/status.json", {**running(written=now), "state": "done"})
    write(tmp_path / "d/status.json", {**running(written=now - 2000, moved=now - 2000), "state": "stopped"})  # of the last night
    seen = {job["name"]: (job["state"], job["step"]) for job in facts(tmp_path)["jobs"]}
    assert seen == {"a": ("running", 400), "b": ("running", 1), "c": ("done", 352), "d": ("waiting", 352)}


def test_a_queue_whose_process_is_gone_does_not_run(tmp_path):
    here = dict(host=socket.gethostname(), pid=ended_process())
    write(tmp_path / "summary.json", summary([result("a", "running"), result("b", "waiting")], **here))
    seen = facts(tmp_path)
    assert seen["gone"] and [job["gone"] for job in seen["jobs"]] == [True, False] and seen["seconds_left"] is None
    write(tmp_path / "a/status.json", running())  # but a job of an array may
    assert not facts(tmp_path)["gone"] and facts(tmp_path)["state"] == "running"


def test_the_queue_of_this_version_is_shown(tmp_path):
    jobs = tmp_path / "jobs.json"
    defaults = recipe(tmp_path / "out", optim__steps=2, output__prompts=[])
    write(jobs, {"defaults": defaults, "jobs": [{"name": "good"}, {"name": "bad", "data.images": "/nowhere"}]})
    run(program("zoodip"), "run", jobs, check=False)
    seen = facts(tmp_path / "out")
    assert [(j["name"], j["state"]) for j in seen["jobs"]] == [("bad", "failed"), ("good", "done")]
    assert "/nowhere" in rows(tmp_path / "out")["bad"] and "2/2" in rows(tmp_path / "out")["good"]
    told = run(program("zoodip"), "inspect", tmp_path / "out", check=False)
    refused(told, "zoodip status", "a queue's folder")


def test_the_spool_of_this_version_is_shown(tmp_path):
    write(tmp_path / "defaults.json", recipe(tmp_path / "words", optim__steps=2, output__prompts=[]))
    write(tmp_path / "inbox/dog.json", {"seed": 5})
    write(tmp_path / "inbox/bad.json", {"data.images": "/nowhere"})
    process = start(1, "run", tmp_path / "defaults.json", "--spool", str(tmp_path / "inbox"))
    counts = dict.fromkeys(("running", "gone", "stopped", "cancelled", "waiting"), 0) | dict(done=1, failed=1)
    until((tmp_path / "inbox/.zoodip-spool.json").exists, process)
    seen = until(lambda: (s := facts(tmp_path / "inbox"))["counts"] == counts and s, process)
    assert seen["kind"] == "spool" and seen["state"] == "running" and seen["pid"] == process.pid
    process.send_signal(signal.SIGUSR1)
    process.communicate()
    assert facts(tmp_path / "inbox")["state"] == "stopped"


def test_hostile_texts_drive_no_terminal_and_break_no_json(tmp_path):
    write(tmp_path / "summary.json", summary([result(name, "running", reason=name, phase=name, host=name) for name in HOSTILE], host=HOSTILE[1]))
    shown, seen = status(tmp_path), facts(tmp_path)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown) and len(shown.splitlines()) == 3 + len(HOSTILE)
    assert len(seen["jobs"]) == len(HOSTILE) and not re.search(r"\\u00[01]", json.dumps(seen))


WRONG = [{"state": 7, "steps": "x", "loss": {}, "name": []}, {"steps": -1, "steps_wanted": 1e300, "loss": 1e999, "since": 1e300, "name": "n"},
         {"steps": 0.5, "seconds_left": -5, "interval": -1e9, "moved": 1e18, "ranks": 1e30, "name": "m", "state": "running"}, [], 5, None, "x"]


def test_wrong_types_and_sizes_are_not_known(tmp_path):
    write(tmp_path / "summary.json", json.dumps(summary(WRONG, pid=1e40, groups="x", seconds_left=[1], state={})).replace("Infinity", "1e999"))
    assert len(facts(tmp_path)["jobs"]) == 3 and len(rows(tmp_path)) == 3


def test_a_job_that_is_gone_is_counted_so_and_leaves_no_time_for_the_whole(tmp_path):
    here = dict(host=socket.gethostname(), pid=ended_process())
    write(tmp_path / "summary.json", summary([result(name, "running") for name in "ab"]))
    write(tmp_path / "a/status.json", running())
    assert facts(tmp_path)["seconds_left"] > 3500
    write(tmp_path / "b/status.json", running(**here))
    seen = facts(tmp_path)
    assert (seen["counts"]["running"], seen["counts"]["gone"], seen["seconds_left"]) == (1, 1, None)
    assert "\n1 running, 1 gone\n" in status(tmp_path) and [j["name"] for j in seen["jobs"]] == ["a", "b"]


def test_a_queue_without_news_counts_no_time_down(tmp_path):
    long_ago = dict.fromkeys(("written", "moved"), time.time() - 600)
    write(tmp_path / "summary.json", summary([result("a", "running", moved=time.time() - 600)], **long_ago))
    seen = facts(tmp_path)
    assert seen["silent"] and seen["seconds_left"] is None and " left," not in status(tmp_path)


def test_a_row_whose_facts_are_old_says_how_old(tmp_path):
    write(tmp_path / "summary.json", summary([result(name, "running") for name in "ab"]))
    for name, age in (("a", 10), ("b", 200)):
        write(tmp_path / name / "status.json", running(written=time.time() - age, moved=time.time() - age, interval=30, phase="decoding pictures"))
    assert "ago" not in rows(tmp_path)["a"] and re.search("decoding pictures, 3:2. ago", rows(tmp_path)["b"])


def test_what_has_ended_says_when_how_long_it_took_and_where_its_log_is(tmp_path):
    at = time.mktime((2024, 11, 28, 23, 41, 0, 0, 0, -1))
    write(tmp_path / "summary.json", summary([result("good", "done", seconds=754, finished=at, evaluations_per_second=7),
                                              result("bad", "failed", seconds=0, reason="no", finished=at)], state="failed", seconds=5025, written=at))
    write(tmp_path / "bad/log.txt", "")
    shown, seen = status(tmp_path), rows(tmp_path)
    assert re.search(r"queue, failed since 11-28 23:41", shown) and "1 failed, 1 done; took 1:23:45\n" in shown
    assert re.search(r" -  +12:34  11-28 23:41$", seen["good"]) and f"log: {tmp_path}/bad/log.txt" in re.sub(r"\s+", " ", seen["bad"])
    write(tmp_path / "run/status.json", {**running(began=at - 65, since=at), "state": "done", "seconds_left": None})
    assert facts(tmp_path / "run")["seconds"] == 65 and " 1:05 " in rows(tmp_path / "run")["run"] and "\ntook 1:05\n" in status(tmp_path / "run")


def test_a_file_that_is_cut_short_is_said_refused_or_passed_over(tmp_path):
    whole = json.dumps(summary([result("a", "running"), result("b", "done")]))
    for size in range(0, len(whole), 37):
        write(tmp_path / "q/summary.json", whole[:size])
        assert "summary.json: is no queue's summary" in facts(tmp_path / "q")["warning"]
    write(tmp_path / "q/summary.json", whole)
    own = json.dumps(running(step=5))
    for size in (0, 1, len(own) // 2, len(own) - 1):
        write(tmp_path / "q/a/status.json", own[:size])
        assert facts(tmp_path / "q")["jobs"][0]["step"] == 352
    write(tmp_path / "r/status.json", own[:50])
    refused(run(program("zoodip"), "status", tmp_path / "r", check=False), "expected")


def test_a_hundred_thousand_jobs_are_listed_in_seconds(tmp_path):
    states = ["running", "failed"] + ["waiting"] * 20000
    write(tmp_path / "summary.json", summary([result(f"subject-{i:06d}", states[i] if i < len(states) else "done", reason="r" * 100)
                                              for i in range(100000)], written=1))  # so old that each one that waits is looked at
    began = time.monotonic()
    shown = status(tmp_path)
    assert time.monotonic() - began < 10 and shown.count("\n") == 100004, "and a failure's reason"


# ---- other folders


def test_an_array_without_a_summary_is_its_jobs(tmp_path):
    write(tmp_path / "one/status.json", running())
    write(tmp_path / "two/job.json", result("two", "done"))
    write(tmp_path / "other/notes.txt", "")
    seen = facts(tmp_path)
    assert [(j["name"], j["state"]) for j in seen["jobs"]] == [("one", "running"), ("two", "done")] and seen["state"] == "running"
    assert "jobs, running" in status(tmp_path) and "1 running, 1 done" in status(tmp_path)


def test_an_array_is_what_its_tasks_are_whoever_wrote_the_summary(tmp_path):
    """The task that ended last says that it was stopped, on one rank, and knows nothing of those that began since."""
    jobs = [result("a", "done", finished=time.time() - 60), result("b", "stopped"), result("c", "waiting"), result("d", "waiting"),
            result("e", "failed", reason="no")]
    write(tmp_path / "summary.json", summary(jobs, array=True, state="stopped", ranks=1, groups=1, pid=ended_process(), host=socket.gethostname()))
    assert "jobs, waiting\n1 failed, 1 stopped, 2 waiting, 1 done\n" in status(tmp_path) and facts(tmp_path)["tasks"] == 0
    for name in "bce":  # two that were queued again, and one that was not
        write(tmp_path / name / "status.json", running(ranks=4))
    seen, shown = facts(tmp_path), status(tmp_path)
    assert (seen["state"], seen["tasks"], seen["ranks"], seen["seconds_left"]) == ("running", 3, 12, None) and not seen["gone"]
    assert "jobs, running" in shown and ", 3 tasks with 12 ranks in all\n3 running, 1 waiting, 1 done\n" in shown
    write(tmp_path / "d/status.json", running(seconds_left=900))
    assert 890 < facts(tmp_path)["seconds_left"] < 901, "when none waits: the longest of the tasks"
    for name in "bcde":
        write(tmp_path / name / "status.json", running(host=socket.gethostname(), pid=ended_process()))
    assert "jobs, gone" in status(tmp_path) and "4 gone, 1 done" in status(tmp_path)


def test_without_a_summary_that_can_be_read_the_jobs_are_those_that_have_a_folder(tmp_path):
    write(tmp_path / "one/status.json", running())
    write(tmp_path / "two/job.json", result("two", "done"))
    write(tmp_path / "summary.json", json.dumps(summary([result(name, "waiting") for name in ("one", "two", "three")]))[:-30])
    shown = status(tmp_path)
    assert "\nwarning: " in shown and "summary.json: is no queue's summary" in shown and list(rows(tmp_path)) == ["one", "two"]
    assert facts(tmp_path)["state"] == "running"
    write(tmp_path / "summary.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git-lfs" in facts(tmp_path)["warning"]


@pytest.fixture
def spool(tmp_path):
    """A spool with a job in each of its folders, and one that waits."""
    results = tmp_path / "words"
    for part, name in (("", "new"), ("running", "dog"), ("running", "taken"), ("done", "old"), ("done", "older"), ("failed", "bad")):
        write(tmp_path / part / f"{name}.json", {})
    write(tmp_path / "failed/bad.txt", "bad.json: optim.stepz: unknown key\nmore\n")
    write(tmp_path / ".zoodip-spool.json", {"results": str(results), "pid": os.getpid(), "host": socket.gethostname(), "began": time.time() - 9})
    write(results / "summary.json", summary([result("dog", "running"), result("old", "done")]))
    write(results / "dog/status.json", running(step=7))
    return tmp_path


def test_a_spool_is_its_files_and_their_results(spool):
    seen = facts(spool)
    assert seen["kind"] == "spool" and seen["state"] == "running" and seen["pid"] == os.getpid()
    assert {j["name"]: j["state"] for j in seen["jobs"]} == {"dog": "running", "bad": "failed", "new": "waiting", "taken": "waiting", "old": "done",
                                                            "older": "done"}
    assert seen["jobs"][0]["step"] == 7 and "optim.stepz: unknown key" in rows(spool)["bad"]


def test_a_name_of_a_spool_that_was_used_twice_is_two_rows(spool):
    """old was done and then refused; older was done, refused, and the spool started again since; bad failed before it was done."""
    now = time.time()
    write(spool / "words/summary.json", summary([result("old", "failed", reason="finished before", finished=now)]))
    for name, since, refusal in (("old", now - 100, now), ("older", now - 100, now), ("bad", now, now - 100)):
        write(spool / "words" / name / "status.json", {**running(), "state": "done", "since": since})
        for file in (f"done/{name}.json", f"failed/{name}.json", f"failed/{name}.txt"):
            write(spool / file, f"{name} was finished\n")
            os.utime(spool / file, (refusal, refusal))
    seen = {j["name"]: (j["state"], j.get("reason")) for j in facts(spool)["jobs"]}
    assert seen["old"] == seen["older"] == seen["bad"] == ("done", None) and "bad (again)" not in seen
    assert seen["old (again)"] == ("failed", "finished before") and seen["older (again)"] == ("failed", "older was finished")
    assert "failed" in rows(spool)["old (again)"] and "352/1000" in rows(spool)["old"]
    both = [result("old", "done", finished=now - 100), result("old", "failed", reason="finished before", finished=now)]
    write(spool / "words/summary.json", summary(both))
    assert [j["name"] for j in facts(spool)["jobs"] if j["name"].startswith("old (") or j["name"] == "old"] == ["old (again)", "old"]


def test_a_cancelled_job_says_how_it_goes_on(spool):
    write(spool / "words/summary.json", summary([result("cat", "cancelled")]))
    assert "put its file into the spool again to go on" in rows(spool)["cat"]


def test_a_spool_that_is_idle_runs_and_one_without_a_process_was_stopped(spool):
    write(spool / "words/summary.json", summary([result("old", "done")], state="done", moved=time.time() - 5000))
    for name in ("running/dog", "running/taken", "new"):
        (spool / f"{name}.json").unlink()
    assert (facts(spool)["state"], facts(spool)["silent"]) == ("running", False)
    note = json.loads((spool / ".zoodip-spool.json").read_text())
    write(spool / ".zoodip-spool.json", {**note, "pid": ended_process()})
    assert facts(spool)["state"] == "stopped"


def test_a_spool_of_an_earlier_version_has_its_results_in_out(tmp_path):
    for part in ("running", "done", "failed"):
        (tmp_path / part).mkdir()
    write(tmp_path / "out/summary.json", summary([result("old", "done")]))
    assert list(rows(tmp_path)) == ["old"] and facts(tmp_path)["kind"] == "spool"


def test_a_folder_that_is_none_of_these_says_what_was_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "file", "")
    for name, words in (("empty", "expected the output.dir"), ("file", "is a file, expected the folder"), ("none", "does not exist")):
        refused(run(program("zoodip"), "status", tmp_path / name, check=False), words)
    refused(run(program("zoodip"), "status", check=False), "expected one DIR")


# ---- watching


def test_watching_ends_when_all_has_ended(tmp_path):
    write(tmp_path / "status.json", running())
    watcher = subprocess.Popen([program("zoodip"), "status", tmp_path, "--watch", "0.1"], stdout=subprocess.PIPE, text=True)
    for _ in range(2):
        assert "run, running" in watcher.stdout.readline()
        while watcher.stdout.readline().strip():
            pass
    write(tmp_path / "new.json", {**running(), "state": "done"})
    (tmp_path / "new.json").rename(tmp_path / "status.json")
    rest = watcher.communicate(timeout=10)[0]
    assert watcher.returncode == 0 and rest.count("run, done") == 1


def test_watching_ends_with_ctrl_c(tmp_path):
    write(tmp_path / "status.json", running())
    watcher = subprocess.Popen([program("zoodip"), "status", tmp_path, "--watch=60"], stdout=subprocess.PIPE, text=True)
    watcher.stdout.readline()
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait(timeout=10) == 0


def test_seconds_are_checked(tmp_path):
    refused(run(program("zoodip"), "status", tmp_path, "--watch", "0", check=False), "--watch: 0: expected 0.1 to 3600 seconds")
    refused(run(program("zoodip"), "status", tmp_path, "--watch=soon", check=False), '--watch: "soon": expected a number')


def test_an_array_is_watched_until_all_of_its_jobs_have_ended(tmp_path):
    """What is stopped, or gone, may be queued again; and the summary is whose task ended last."""
    write(tmp_path / "summary.json", summary([result("a", "done"), result("b", "stopped"), result("c", "waiting")], array=True, state="stopped"))
    watcher = subprocess.Popen([program("zoodip"), "status", tmp_path, "--watch", "0.1"], stdout=subprocess.PIPE, text=True)
    assert "jobs, waiting" in watcher.stdout.readline()
    for name in "bc":
        write(tmp_path / name / "status.json", {**running(), "state": "done"})
    rest = watcher.communicate(timeout=10)[0]
    assert watcher.returncode == 0 and "\n3 done" in rest.split(str(tmp_path))[-1] and "again" not in rest


@pytest.mark.parametrize("file, facts", [("summary.json", summary([result("a", "running")])), ("status.json", running())])
def test_watching_ends_with_what_is_gone_and_says_so(tmp_path, file, facts):
    write(tmp_path / file, {**facts, "host": socket.gethostname(), "pid": ended_process()})
    shown = status(tmp_path, "--watch", "0.1", timeout=10)
    assert shown.endswith("\nits process is gone: nothing will change here until it is run again\n")
    assert shown.count("left/took") == 1


def screen(folder, height, width):
    """What is on a terminal of this size before it is drawn a second time, over the first, in lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    child = subprocess.Popen([program("zoodip"), "status", folder, "--watch", "0.1"], stdout=theirs, env={**os.environ, "TERM": "xterm"})
    text = b""
    while b"\x1b[J" not in text:
        text += os.read(ours, 4096)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=10) == 0
    os.close(ours)
    os.close(theirs)
    lines = text.decode().split("\x1b[")[0].split("\r\n")[:-1]
    assert len(lines) < height and max(map(len, lines)) < width and f"\x1b[{len(lines)}A\x1b[J" in text.decode()
    return lines


def test_on_a_terminal_the_rest_is_counted_and_lines_fit(tmp_path):
    jobs = [result(f"{state}{i}", state, reason="r" * 200) for state in ("done", "running", "waiting") for i in range(9)]
    write(tmp_path / "summary.json", summary(jobs))
    lines = screen(tmp_path, 18, 70)
    table = lines[1 + next(i for i, line in enumerate(lines) if line.startswith("job ")):]
    shown = len(table) - 1  # the longer the folder's path, the more lines the head has
    assert 9 < shown < 18 and [line.split()[0] for line in table[:-1]] == [f"{state}{i}" for state in ("running", "waiting") for i in range(9)][:shown]
    assert table[-1] == f"... {18 - shown} waiting, 9 done not shown; see --json" and len(lines) == 17


def test_a_narrow_terminal_shows_fewer_columns_and_all_of_a_reason(tmp_path):
    why = "photos/mug: does not exist, expected a folder with pictures, or one picture, to learn the word from"
    write(tmp_path / "q/summary.json", summary([result("subject-with-a-long-name", "failed", reason=why), result("b", "running", seconds_left=75)],
                                               reason="aborted: no news from rank 3"))
    titles = {40: ["job", "state", "step"], 60: ["job", "state", "step", "left/took"], 80: ["job", "state", "step", "left/took", "since"],
              140: ["job", "state", "step", "loss", "best validation", "rate", "left/took", "since"]}
    for width, expected in titles.items():
        lines = screen(tmp_path / "q", 40, width)
        at = next(i for i, line in enumerate(lines) if line.startswith("job "))
        assert re.split("  +", lines[at]) == expected
        assert "aborted: no news from rank 3" in re.sub("\\s+", " ", " ".join(lines[:at])), "the head is whole, too"
        assert re.match(r"b +running +352/1000" + (" .* 1:1" if width >= 60 else ""), lines[at + 1])
        assert lines[at + 2].startswith("subject-with-") and all(line.startswith("    ") for line in lines[at + 3:])
        assert " ".join(line.strip() for line in lines[at + 3:]) == why
    assert re.search(f"^    {why}$", status(tmp_path / "q"), re.MULTILINE), "in a pipe, too"
