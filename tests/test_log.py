"""Lines of a log: with the time in front, except on a terminal and in a command's last word; or, with --log-format json, objects that
any program reads, whatever texts are in them."""
import json
import os
import re
import shutil
from datetime import datetime, timedelta, timezone

import pytest

from conftest import TOYBOX, program, recipe, refused, run, write_recipe
from test_progress import on_terminal
from test_silence import SMALL, hurried

QUICK = True
SHORT = dict(optim__steps=2, output__prompts=[])
STAMPED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (zoodip: |learning sks \[)")
HOSTILE = 'a "b" \\n \x1b[31m\x7f\t\u2028\u0085 é \U0001f600'.encode() + b"\xff\xc3"  # quotes, controls, line ends, bytes that are not UTF-8
SHOWN = 'a "b" \\n ?[31m??\u2028?? é \U0001f600??'  # controls and wrong bytes are a ? each


def train(folder, *options, check=True, env=None, **changes):
    config, output = write_recipe(folder, **{**SHORT, **changes})
    return run(program("zoodip"), "train", config, *options, check=check, env=env), output


def objects(text):
    """The lines of a JSON log, each of which must be one object with time, level and text."""
    found = [json.loads(line) for line in text.split("\n")[:-1]]
    assert found and text.endswith("\n")
    for line in found:
        assert line["level"] in ("info", "detail", "progress", "warning", "error") and line["text"], line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    return found


# -------------------------------------------------------------------------------- the time in front


def test_every_line_begins_with_the_machines_time(tmp_path):
    began = datetime.now(timezone.utc).replace(microsecond=0)
    done, _ = train(tmp_path, env={"TZ": "ABC-5:30"})
    ended = datetime.now(timezone.utc)
    lines = done.raw_stderr.splitlines()
    assert len(lines) > 5 and all(STAMPED.match(line) for line in lines), done.raw_stderr
    times = [datetime.strptime(STAMPED.match(line)[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone(timedelta(hours=5.5))) for line in lines]
    assert times == sorted(times) and began <= times[0] and times[-1] <= ended


def test_a_queues_lines_and_a_jobs_log_have_it_and_the_table_has_not(tmp_path):
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"defaults": recipe(tmp_path / "out", **SHORT), "jobs": [{"name": "a"}]}))
    done = run(program("zoodip"), "run", jobs)
    told = done.raw_stderr.splitlines()
    assert any(STAMPED.match(line) and line.endswith("zoodip: a: running, 2 steps") for line in told), told
    assert {line.split()[0] for line in told if not STAMPED.match(line)} == {"subject", "a"}
    log = (tmp_path / "out" / "a" / "log.txt").read_text().splitlines()
    assert len(log) >= 3 and all(STAMPED.match(line) for line in log), log


def test_the_error_that_a_command_ends_with_has_none(tmp_path):
    done = run(program("zoodip"), "train", tmp_path / "none.json", check=False)
    assert done.returncode == 2 and done.raw_stderr == f"zoodip: {tmp_path}/none.json: cannot open: No such file or directory\n"


def test_on_a_terminal_there_is_none(tmp_path):
    config, _ = write_recipe(tmp_path, **SHORT)
    text = on_terminal(program("zoodip"), "train", config)
    assert "zoodip: wrote" in text and "learning sks" in text and not re.search(r"\d\d:\d\d:\d\d", text)


# -------------------------------------------------------------------------------- objects


def test_json_says_what_is_done_and_left(tmp_path):
    began = datetime.now(timezone.utc).replace(microsecond=0)
    done, _ = train(tmp_path, "--log-format", "json")
    lines = objects(done.stderr)
    assert all(began <= datetime.fromisoformat(line["time"].replace("Z", "+00:00")) <= datetime.now(timezone.utc) for line in lines)
    last = [line for line in lines if line["level"] == "progress"][-1]
    assert (last["what"], last["done"], last["total"], last["seconds_left"]) == ("learning sks", 2, 2, 0)
    assert last["text"].startswith("learning sks 2/2, loss ")
    said = [line["text"] for line in lines if line["level"] == "info"]
    assert any(text.startswith('learned "sks": ') for text in said) and "zoodip: " not in done.stderr


def test_json_names_phases_and_how_long_they_will_take(tmp_path):
    config, _ = write_recipe(tmp_path, **SMALL)
    lines = [line for line in objects(run(program("zoodip"), "train", config, "--log-format=json", env=hurried()).stderr)
             if line["level"] == "progress"]
    encoding = [line for line in lines if line["what"] == "encoding pictures"]
    assert encoding and all(line["total"] == 5 for line in encoding) and encoding[-1]["done"] == 5
    assert any(line.get("seconds_left", 0) > 0 for line in lines)
    assert any("total" not in line and "seconds_left" not in line for line in lines if line["what"] == "preparing the steps")


def test_json_of_a_queue_names_the_job_and_its_state_and_has_no_table(tmp_path):
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"defaults": recipe(tmp_path / "out", **SHORT), "jobs": [{"name": 'a "b"'}, {"name": "bad", "data.images": "/nowhere"}]}))
    done = run(program("zoodip"), "run", jobs, "--log-format", "json", check=False)
    lines = objects(done.stderr)
    states = [(line["job"], line["state"]) for line in lines if "job" in line]
    assert ("bad", "failed") in states and [state for job, state in states if job == 'a "b"'][-1] == "done"
    assert [line["done"] for line in lines if line.get("state") == "done"] == [2]
    assert lines[-1]["level"] == "error" and lines[-1]["code"] == done.returncode == 1
    log = objects((tmp_path / "out" / 'a "b"' / "log.txt").read_text())
    assert any(line["level"] == "progress" and line["done"] == 2 for line in log)


def test_json_holds_any_text(tmp_path):
    """A warning names a file whose name drives terminals and is no UTF-8; the plain line and the object show the same."""
    word = tmp_path / os.fsdecode(HOSTILE)
    shutil.copy(train(tmp_path)[1] / "learned_embeds.safetensors", word)
    draw = [program("zoodip"), "generate", "--model", TOYBOX / "model", "--embedding", word, "--prompt", "a toy", "--steps", 1,
            "--output", tmp_path / "a.png", "--quiet"]
    told = run(*draw, "--log-format", "json").stderr
    warned, = objects(told)
    assert warned["level"] == "warning" and warned["text"].endswith(f"/{SHOWN}") and "\u2028" not in told
    assert run(*draw).stderr == f"zoodip: warning: {warned['text']}\n"


@pytest.mark.parametrize("words", [["inspect", "--log-format=json"], ["what", "--log-format=json"], ["train", "--log-format", "json"]], ids=" ".join)
def test_json_holds_the_error_that_a_command_ends_with(words):
    name = os.fsdecode(HOSTILE)
    done = run(program("zoodip"), *words, name, check=False)
    last = objects(done.stderr)[-1]
    assert last["level"] == "error" and last["code"] == done.returncode == 2
    assert done.stdout == "" and "\n" not in last["text"] and (SHOWN in last["text"] or words[0] == "what")


def test_json_draws_no_live_line_on_a_terminal(tmp_path):
    config, _ = write_recipe(tmp_path, **SHORT)
    text = on_terminal(program("zoodip"), "train", config, "--log-format", "json")
    assert "\x1b" not in text and objects(text.replace("\r\n", "\n"))[-1]["level"] == "info"


def test_json_keeps_the_plan_of_inspect_to_itself(tmp_path):
    config, _ = write_recipe(tmp_path, **SHORT)
    done = run(program("zoodip"), "inspect", config, "--log-format", "json")
    assert "memory" in done.stdout and "one GPU that evaluates" not in done.stderr


def test_quiet_json_is_silent_and_another_format_is_refused(tmp_path):
    assert train(tmp_path, "--quiet", "--log-format", "json")[0].stderr == ""
    refused(run(program("zoodip"), "train", "c.json", "--log-format", "xml", check=False), '--log-format: "xml": expected plain or json')
    refused(run(program("zoodip"), "train", "c.json", "--log-formt", "json", check=False), "did you mean --log-format?")
