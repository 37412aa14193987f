"""An error about a key names the source of its value (the config, a job, the queue's defaults, --set), then the key, and never an
unrelated file. An error about a file's contents names only that file."""
import json
import shutil
import signal

import pytest

from conftest import ROOT, TOYBOX, nested, program, recipe, run, write_recipe
from live import start, until

QUICK = True
MODEL, BEAR = TOYBOX / "model", TOYBOX / "subjects" / "bear5"

# key -> (a wrong value, what the line says about it): found by the table of keys, by the model, on the disk
WRONG = {
    "zo.n": (0, "is 0, expected a whole number from 1 to 1024"),
    "optim.schedule": ("foo", 'is "foo", expected "constant", "constant_with_warmup", "linear", "cosine", '
                              '"cosine_with_restarts", "polynomial" or "warmup_stable_decay"'),
    "zo.timesteps": ([5, 2000], "[5, 2000] goes beyond the 1000 timesteps of the model's scheduler"),
    "data.resolution": (63, "is 63, expected a multiple of 4, the VAE's factor"),
    "data.images": ("/nope", '"/nope": no such file or folder'),
    "data.captions": ("/nope.json", '"/nope.json": no such file'),
    "token.initializer": ("mug.pt", '"mug.pt": is taken for a file, and only a learned word in .safetensors is read; expected that, or words without '
                                    "a slash"),
    "token.placeholder": ("toy</w>", '"toy</w>" is already a token of this model; choose another word'),
    "prediction": ("x", 'is "x", expected "epsilon", "v" or null'),
    "tokenizer": ("/nope", "/nope: no such folder"),
    "model": ("/nope", '"/nope": no such folder; expected a diffusers model folder, or a checkpoint in FILE.safetensors'),
}
SHARED = ["model", "tokenizer"]  # by all jobs of a queue
keys = pytest.mark.parametrize("key", WRONG)


def as_set(key):
    return ["--set", f"{key}={json.dumps(WRONG[key][0])}"]


def line(source, key):
    return f"zoodip: {source}: {key}: {WRONG[key][1]}"


def last_line(*command, code=2):
    done = run(program("zoodip"), *command, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()[-1]


def with_key(folder, key):
    """Writes the recipe with one wrong key."""
    config, output = write_recipe(folder, **{key.replace(".", "__"): WRONG[key][0]})
    return config, output


@keys
def test_a_value_in_the_config_is_the_configs_fault(tmp_path, key):
    config, output = with_key(tmp_path, key)
    assert last_line("train", config) == line(config, key)
    assert not output.exists()


@keys
def test_a_value_set_on_the_command_line_is_its_fault(tmp_path, key):
    config, output = write_recipe(tmp_path)
    assert last_line("train", config, *as_set(key)) == line("--set", key)
    assert not output.exists()


def test_the_last_to_give_a_value_is_to_blame_for_it(tmp_path):
    config, _ = with_key(tmp_path, "data.images")
    assert last_line("train", config, "--set", "zo.n=1") == line(config, "data.images")
    assert last_line("train", config, "--set", f"data.images={BEAR}", "--set", "seed=-1").startswith("zoodip: --set: seed: ")
    assert last_line("bench", config, *as_set("data.images")) == line("--set", "data.images")


@keys
def test_bench_blames_as_train_does(tmp_path, key):
    config, _ = with_key(tmp_path, key)
    assert last_line("bench", config) == line(config, key)


@keys
def test_inspect_blames_as_train_does(tmp_path, key):
    config, _ = write_recipe(tmp_path)
    done = run(program("zoodip"), "inspect", config, *as_set(key), check=False)
    plan = line("--set", key).replace("zoodip: ", "zoodip: no memory plan: ")  # the config is shown nevertheless
    told = done.stderr.splitlines()
    assert told[-1] == (plan if done.returncode == 0 else line("--set", key))
    assert [words.split(":")[1] for words in told[:-1]] == [" evaluations"] * (done.returncode == 0)


def write_queue(folder, defaults=None, job=None):
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps({"defaults": recipe(folder / "out", **(defaults or {})), "jobs": [{"name": "bear", **nested(job or {})}]}))
    return jobs


@keys
def test_a_value_in_a_queues_defaults_or_in_a_job_or_set_for_all(tmp_path, key):
    changes = {key.replace(".", "__"): WRONG[key][0]}
    for where, source in (("defaults", "{}: defaults"), ("job", "{}: bear")):
        jobs = write_queue(tmp_path, **{where: changes})
        done = run(program("zoodip"), "run", jobs, "--job", "1", check=False)
        assert done.returncode in (1, 2) and done.stderr.splitlines()[-1] == line(source.format(jobs), key)
    done = run(program("zoodip"), "run", write_queue(tmp_path), "--job", "1", *as_set(key), check=False)
    assert done.returncode in (1, 2) and done.stderr.splitlines()[-1] == line("--set", key)


def test_a_queue_keeps_the_blame_with_each_job(tmp_path):
    jobs = tmp_path / "jobs.json"
    wrong = {key: value for key, value in WRONG.items() if key not in SHARED}
    jobs.write_text(json.dumps({"defaults": recipe(tmp_path / "out", optim__steps=1, output__prompts=[]),
                                "jobs": [{"name": "good"}, *({"name": key, key: value} for key, (value, _) in wrong.items())]}))
    done = run(program("zoodip"), "run", jobs, check=False)
    assert done.returncode == 1
    told = {job["name"]: job.get("reason") for job in json.loads((tmp_path / "out" / "summary.json").read_text())["jobs"]}
    assert told == {"good": None, **{key: f"{jobs}: {key}: {key}: {text}" for key, (_, text) in wrong.items()}}


def test_a_file_in_a_spool_is_blamed_by_the_name_it_was_given(tmp_path):
    spool, defaults = tmp_path / "inbox", tmp_path / "defaults.json"
    spool.mkdir()
    defaults.write_text(json.dumps(recipe(tmp_path / "out")))
    for key, (value, _) in WRONG.items():
        (spool / f"{key}.json").write_text(json.dumps({key: value}))
    (spool / "cut.json").write_text("{")
    process = start(1, "run", defaults, "--spool", str(spool))
    until(lambda: len(list(spool.glob("failed/*.json"))) == len(WRONG) + 1, process)
    process.send_signal(signal.SIGUSR1)
    assert "failed" in process.communicate(timeout=60)[1] and process.returncode == 75
    said = {path.stem: path.read_text() for path in (spool / "failed").glob("*.txt")}
    assert said == {"cut": f"{spool}/cut.json: line 1, column 2: is not valid JSON\n",
                    **{key: f"{spool}/{key}.json: {key}: {text}\n" for key, (_, text) in WRONG.items()},
                    **{key: f"{spool}/{key}.json: {key}: differs from the loaded model's\n" for key in SHARED}}  # another job's error came first


def test_a_spools_defaults_are_blamed_by_their_own_name_before_any_job_arrives(tmp_path):
    spool = tmp_path / "inbox"
    spool.mkdir()
    defaults, _ = with_key(tmp_path, "zo.n")
    assert last_line("run", defaults, "--spool", spool) == line(defaults, "zo.n")
    assert last_line("run", "--spool", spool, *as_set("zo.n")) == line("--set", "zo.n")


def test_a_missing_key_is_blamed_on_the_source_that_should_have_it(tmp_path):
    config, _ = write_recipe(tmp_path)
    lacking = json.loads(config.read_text())
    del lacking["token"]["initializer"]
    config.write_text(json.dumps(lacking))
    said = "token.initializer: is missing, expected where learning starts: a known word, several, or the path of a learned word's .safetensors"
    assert last_line("train", config) == f"zoodip: {config}: {said}"
    assert last_line("train", ROOT / "configs" / "toybox.json", "--set", "token.initializer=null") == f"zoodip: --set: {said}"
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"defaults": lacking, "jobs": [{"name": "bear"}]}))
    assert last_line("run", jobs) == f"zoodip: {jobs}: bear: {said}"


def test_a_folder_that_cannot_be_made_is_the_fault_of_who_named_it(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    config, _ = write_recipe(tmp_path, output__dir=str(blocked))
    said = f"output.dir: {blocked}: is a file, expected a folder"
    assert last_line("train", config) == f"zoodip: {config}: {said}"
    good, _ = write_recipe(tmp_path / "good")
    assert last_line("train", good, "--set", f"output.dir={blocked}") == f"zoodip: --set: {said}"
    jobs = write_queue(tmp_path, defaults=dict(output__dir=str(blocked)))
    assert last_line("run", jobs) == f"zoodip: {jobs}: defaults: {said}"


@pytest.mark.parametrize("file,change,said", [
    ("unet/config.json", {"act_fn": "gelu"}, "act_fn: "), ("vae/config.json", {"latent_channels": "x"}, "latent_channels"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "magic"}, "beta_schedule: ")])
def test_an_error_in_a_models_file_names_that_file_alone(tmp_path, file, change, said):
    model = shutil.copytree(MODEL, tmp_path / "model")
    path = model / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    config, _ = write_recipe(tmp_path, model=str(model))
    jobs = write_queue(tmp_path, defaults=dict(model=str(model)))
    for command in (["train", config], ["train", config, "--set", f"model={model}"], ["bench", config], ["run", jobs]):
        told = last_line(*command)
        assert told.startswith(f"zoodip: {path}: {said}") and str(config) not in told and str(jobs) not in told


def test_an_error_in_a_photo_names_that_photo_alone(tmp_path):
    photos = shutil.copytree(BEAR, tmp_path / "bear5")
    (photos / "02.png").write_bytes(b"no picture")
    config, _ = write_recipe(tmp_path, data__images=str(photos))
    for options in ([], ["--set", f"data.images={photos}"]):
        told = last_line("train", config, *options)
        assert told.startswith(f"zoodip: {photos}/02.png: is not a picture: expected one of PNG, JPEG, WebP")


def test_an_error_in_the_captions_file_names_that_file_alone(tmp_path):
    captions = tmp_path / "cc.json"
    config, _ = write_recipe(tmp_path, data__captions=str(captions))
    for text, said in [("{", "line 1, column 2: is not valid JSON"), ('{"bear5": {}}', "bear5: no caption for picture 00.png"),
                       (json.dumps({"bear5": {f"{i:02}.png": "long " * 80 + "{}" for i in range(9)}}), '"long long ')]:
        captions.write_text(text)
        assert last_line("train", config).startswith(f"zoodip: {captions}: {said}")
