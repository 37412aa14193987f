"""--quiet: only warnings and errors reach stderr; results on stdout and in files are what they are without it."""
import json

import pytest

from conftest import TOYBOX, mpirun, program, recipe, run, write_recipe

QUICK = True
MODEL = TOYBOX / "model"
SHORT = dict(optim__steps=2, output__prompts=[])


@pytest.fixture(scope="module")
def word(tmp_path_factory):
    """A word that a quiet run learned."""
    config, output = write_recipe(tmp_path_factory.mktemp("word"), **SHORT)
    done = run(program("zoodip"), "train", config, "--quiet")
    assert done.stdout == done.stderr == ""
    return output / "learned_embeds.safetensors"


def test_ranks_learn_quietly_and_leave_the_same_word(tmp_path, word):
    config, output = write_recipe(tmp_path, **SHORT)
    assert mpirun(2, program("zoodip"), "train", "--quiet", config).stderr == ""
    assert (output / "report.html").exists() and (output / word.name).read_bytes() == word.read_bytes()


def test_pictures_are_drawn_quietly(tmp_path, word):
    picture = tmp_path / "a.png"
    done = run(program("zoodip"), "generate", "--model", MODEL, "--embedding", word, "--prompt", "a sks", "--steps", 1, "--quiet",
               "--output", picture)
    assert done.stdout == done.stderr == "" and picture.exists()


def test_warnings_are_not_silenced(tmp_path, word):
    done = run(program("zoodip"), "generate", "--quiet", "--model", MODEL, "--embedding", word, "--prompt", "a toy", "--steps", 1,
               "--output", tmp_path / "a.png")
    assert done.stderr == f'zoodip: warning: the prompt does not contain "sks", the word of {word}\n'


def test_errors_are_not_silenced(tmp_path):
    done = run(program("zoodip"), "train", "--quiet", tmp_path / "none.json", check=False)
    assert done.returncode == 2 and done.stderr.startswith("zoodip: ") and done.stderr.count("\n") == 1


def test_a_bench_prints_its_line_alone(tmp_path):
    config, _ = write_recipe(tmp_path)
    done = run(program("zoodip"), "bench", config, "--evaluations", 1, "--quiet")
    assert json.loads(done.stdout)["evaluations"] >= 1 and done.stderr == ""


@pytest.mark.parametrize("path", ["configs/toybox.json", str(MODEL)])
def test_inspect_prints_its_page_alone(path):
    loud, quiet = run(program("zoodip"), "inspect", path), run(program("zoodip"), "inspect", path, "--quiet")
    assert quiet.stdout == loud.stdout != "" and quiet.stderr == ""


def test_a_model_is_quantized_quietly(tmp_path):
    done = run(program("zoodip"), "quantize", "--model", MODEL, "--output", tmp_path / "int8", "--quiet")
    assert done.stdout == done.stderr == "" and (tmp_path / "int8" / "model_index.json").exists()


def test_a_queue_tells_of_jobs_that_fail_and_keeps_the_logs_of_the_others(tmp_path):
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"defaults": recipe(tmp_path / "out", **SHORT),
                                "jobs": [{"name": "good"}, {"name": "bad", "data.images": "/nowhere"}]}))
    done = run(program("zoodip"), "run", jobs, "--quiet", check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and done.stdout == "" and len(lines) == 2
    assert lines[0].startswith("zoodip: bad: failed, ") and lines[1].startswith("zoodip: 1 of 2 jobs failed, first bad: ")
    log = (tmp_path / "out" / "good" / "log.txt").read_text()
    assert "learning sks" in log and "2/2" in log


def test_quiet_takes_no_value():
    done = run(program("zoodip"), "train", "c.json", "--quiet=yes", check=False)
    assert done.returncode == 2 and done.stderr == "zoodip: --quiet: takes no value\n"
