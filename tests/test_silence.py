"""Whatever takes longer than two seconds says what it does, how far it is and how long it will take. Time passes thousands of times
as fast for the program here (tests/helpers/hurry.c), so that each of its phases, some of which take a millisecond, is a long one."""
import json
import os
import re
import socket

import pytest

from conftest import ROOT, TOYBOX, mpirun, program, run, unstamped, write_recipe
from test_progress import on_terminal

QUICK = True
MODEL = TOYBOX / "model"
# a run of a moment: a word that nobody needs
SMALL = dict(optim__steps=3, zo__n=1, data__resolution=16, output__checkpoint_minutes=0, output__sample_steps=2, output__prompts=["a {}"],
             cluster__timeout=1000000)
CHECKING = "checking the model's weights"
LEARNING = ["loading text_encoder", "loading unet", "preparing the steps", "validating", "learning sks"]
PICTURES = ["generating pictures", "loading vae", "decoding pictures"]


def hurried(factor=200000):
    return {"LD_PRELOAD": program("tests/libhurry.so"), "ZOODIP_HURRY": str(factor), "OMPI_MCA_mca_base_env_list": "LD_PRELOAD;ZOODIP_HURRY"}


def phases(text):
    """What the live lines are about, each once, in the order of their first ones; lines must say how long it has taken."""
    found = {}
    for line in unstamped(text).splitlines():
        if line.startswith("zoodip: "):
            continue
        named = re.fullmatch(r"(.+?) (?:\[[#.]{20}\] \d+/\d+(?: MB)?(?:, .+)? )?\((?:\d+:)?\d+:\d\d so far\)", line)
        assert named, line
        found.setdefault(named[1], []).append(line)
    return found


def in_order(found, expected):
    """All of them are there, in that order, others between them."""
    names = list(found)
    assert [name for name in names if name in expected] == expected, names


def test_every_phase_of_train_is_named(tmp_path):
    config, _ = write_recipe(tmp_path, **SMALL)
    found = phases(run(program("zoodip"), "train", config, env=hurried()).stderr)
    in_order(found, ["reading pictures", CHECKING, "loading vae", "encoding pictures", *LEARNING,
                     "writing learned_embeds.safetensors", "generating pictures", "decoding pictures", "writing the report"])
    for name in ("reading pictures", "encoding pictures", "learning sks", "generating pictures", "decoding pictures"):
        assert any(" left (" in line for line in found[name]), found[name]


@pytest.mark.parametrize("command, expected", [
    (["generate", "--model", MODEL, "--prompt", "a toy", "--steps", 2, "--output", "OUT/toy.png"],
     ["loading text_encoder", "loading unet", *PICTURES]),
    (["quantize", "--model", MODEL, "--output", "OUT"],
     [CHECKING, "quantizing text_encoder", "quantizing unet", "writing diffusion_pytorch_model.safetensors", "quantizing vae"]),
    (["bench", "CONFIG", "--evaluations", 6], ["reading pictures", "encoding pictures", *LEARNING[:3], "measuring steps"]),
    (["inspect", "CONFIG"], ["planning GPU memory"]),
], ids=lambda p: p[0] if isinstance(p[0], str) else "")
def test_every_phase_of_other_commands_is_named(tmp_path, command, expected):
    config, _ = write_recipe(tmp_path, **SMALL)
    words = [str(w).replace("OUT", str(tmp_path / "made")).replace("CONFIG", str(config)) for w in command]
    text = run(program("zoodip"), *words, env=hurried()).stderr
    live = [line for line in text.splitlines() if " so far)" in line]  # a table of memory stands there, too
    in_order(phases("\n".join(live)), expected)
    assert command[0] != "inspect" or list(phases("\n".join(live))) == expected, "the trial's own phases are not shown"


def test_nothing_is_said_of_quick_phases_or_under_quiet(tmp_path):
    config, _ = write_recipe(tmp_path, **SMALL)
    for name, lines in phases(run(program("zoodip"), "train", config).stderr).items():  # on a busy machine any may take its two seconds
        assert name == "learning sks" or not any("(0:00 so far)" in line or "(0:01 so far)" in line for line in lines), lines
    config, _ = write_recipe(tmp_path / "quiet", **SMALL)
    assert run(program("zoodip"), "train", config, "--quiet", env=hurried()).stderr == ""


def test_who_waits_for_another_run_to_end_says_so(tmp_path):
    config, output = write_recipe(tmp_path, **SMALL)
    output.mkdir()
    folder = output.stat()
    with socket.socket(socket.AF_UNIX) as other:  # what another run's claim of the folder is (src/files/claim.h)
        other.bind(f"\0zoodip {folder.st_dev:x} {folder.st_ino:x}")
        done = run(program("zoodip"), "train", config, env=hurried(100), check=False)
    assert done.returncode == 1 and "another run is writing here" in done.stderr
    waiting = [line for line in done.stderr.splitlines() if line.startswith("waiting for another run")]
    assert waiting and waiting[0].endswith("to end (0:02 so far)"), done.stderr


def test_who_waits_for_a_program_at_the_end_says_so(tmp_path):
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\nunset LD_PRELOAD\nexec sleep 0.4\n")
    hook.chmod(0o755)
    config, _ = write_recipe(tmp_path, **SMALL, output__on_end=str(hook))
    done = run(program("zoodip"), "train", config, env=hurried(20))
    assert re.search(r"^waiting for output.on_end \(0:02 so far\)$", done.stderr, re.M) and "warning" not in done.stderr, done.stderr


def test_one_rank_speaks_for_all(tmp_path):
    config, _ = write_recipe(tmp_path, **SMALL)
    assert mpirun(2, program("zoodip"), "train", config).stderr.count("] 3/3, ") == 1
    config, _ = write_recipe(tmp_path / "hurried", **SMALL)
    found = phases(mpirun(2, program("zoodip"), "train", config, env=hurried(20000)).stderr)
    assert "encoding pictures" in found and "generating pictures" in found


def test_a_terminal_keeps_only_what_is_over(tmp_path, monkeypatch):
    config, _ = write_recipe(tmp_path, **SMALL)
    for name, value in hurried(20000).items():
        monkeypatch.setenv(name, value)
    screen = [line.split("\r\x1b[K")[-1] for line in on_terminal(program("zoodip"), "train", config, columns=200).split("\r\n")]
    kept = list(phases("\n".join(line for line in screen if line)))
    assert "learning sks" in kept and "encoding pictures" in kept
    assert "validating" not in kept or kept.index("validating") < kept.index("learning sks")


def test_the_time_left_counts_the_pictures_at_the_end(tmp_path):
    for prompts, more in ([], False), (["a {}"] * 4, True):
        config, _ = write_recipe(tmp_path / str(len(prompts)), **{**SMALL, "optim__steps": 20, "output__sample_steps": 20, "output__prompts": prompts})
        last = phases(run(program("zoodip"), "train", config, env=hurried(100)).stderr)["learning sks"][-1]
        assert "20/20" in last and (", 0:00 left" not in last) == more, last


def jobs_file(folder, names, **changes):
    """A queue of small jobs."""
    config, output = write_recipe(folder, **{**SMALL, **changes})
    (folder / "jobs.json").write_text(json.dumps({"defaults": json.loads(config.read_text()), "jobs": [{"name": name} for name in names]}))
    return folder / "jobs.json", output


def test_every_phase_of_a_queue_is_named(tmp_path):
    path, output = jobs_file(tmp_path, ["a", "b"])
    text = run(program("zoodip"), "run", path, env=hurried()).stderr
    live = phases("\n".join(line for line in text.splitlines() if line.endswith(" so far)")))
    in_order(live, ["checking the jobs' words and photos", "loading unet"])
    assert not {"encoding pictures", "learning sks", "generating pictures"} & set(live)
    assert {"encoding pictures", *LEARNING[2:], *PICTURES} <= set(phases((output / "a" / "log.txt").read_text()))


def test_a_queues_display_names_what_a_job_does(tmp_path, monkeypatch):
    """Between a job's last step and its end the table shows its pictures, not the last step's rate again."""
    path, output = jobs_file(tmp_path, ["a"], output__sample_steps=20, output__prompts=["a {}"] * 4)
    for name, value in hurried(100).items():
        monkeypatch.setenv(name, value)
    text = on_terminal(program("zoodip"), "run", path, columns=150)
    assert re.search(r"running +group 0 +3/3, generating pictures \d/8, \d+:\d\d left", text), text
    assert not re.search(r"running .*evaluations/s", text.split("generating pictures")[-1])
    log = (output / "a" / "log.txt").read_text()
    assert "generating pictures [" in log and "\r" not in log
