"""Any error in config, files or arguments gives one clear line from rank 0 only, and exit 2, before any work starts."""
import json
import shutil

import pytest

from conftest import TOYBOX, mpirun, program, recipe, refused, run

QUICK = True
MODEL, BEAR = TOYBOX / "model", TOYBOX / "subjects" / "bear5"

# name -> (keys of the recipe that change, what the line must say)
KEYS = {
    "unknown key": (dict(zo__nn=2), ["zo.nn", "zo.n"]),
    "unknown group": (dict(optimizer={"lr": 1}), ["optimizer"]),
    "wrong type": (dict(zo__n="two"), ["zo.n"]),
    "not whole": (dict(zo__n=1.5), ["zo.n"]),
    "zero directions": (dict(zo__n=0), ["zo.n"]),
    "negative eps": (dict(zo__eps=-1e-3), ["zo.eps"]),
    "three sides": (dict(zo__sides=3), ["zo.sides"]),
    "negative tau": (dict(zo__tau=-1), ["zo.tau"]),
    "nu above one": (dict(zo__nu=1.5), ["zo.nu"]),
    "timesteps backwards": (dict(zo__timesteps=[900, 500]), ["zo.timesteps"]),
    "timesteps empty": (dict(zo__timesteps=[500, 500]), ["zo.timesteps"]),
    "timesteps of one": (dict(zo__timesteps=[500]), ["zo.timesteps"]),
    "timesteps beyond the schedule": (dict(zo__timesteps=[500, 2000]), ["zo.timesteps"]),
    "no steps": (dict(optim__steps=0), ["optim.steps"]),
    "lr as text": (dict(optim__lr="fast"), ["optim.lr"]),
    "negative lr": (dict(optim__lr=-1), ["optim.lr"]),
    "unknown schedule": (dict(optim__schedule="cosin"), ["optim.schedule", "cosine"]),
    "batch of zero": (dict(optim__batch_size=0), ["optim.batch_size"]),
    "beta of one": (dict(optim__beta1=1.0), ["optim.beta1"]),
    "five bits": (dict(quant__bits=5), ["quant.bits"]),
    "two bits": (dict(quant__bits=2), ["quant.bits"]),
    "no model": (dict(model=None), ["model"]),
    "missing model folder": (dict(model="/nowhere/at/all"), ["model", "/nowhere/at/all"]),
    "model is a file": (dict(model=str(MODEL / "model_index.json")), ["model"]),
    "missing pictures": (dict(data__images="/nowhere/photos"), ["data.images"]),
    "empty picture list": (dict(data__images=[]), ["data.images"]),
    "unknown device": (dict(device="tpu"), ["device"]),
    "cuda without cuda": (dict(device="cuda"), ["cuda"]),
    "odd resolution": (dict(data__resolution=63), ["data.resolution"]),
    "unknown fit": (dict(data__fit="stretch"), ["data.fit"]),
    "unknown property": (dict(data__property="thing", use_cc=False), ["data.property"]),
    "flip as text": (dict(data__flip="no"), ["data.flip"]),
    "missing captions": (dict(data__captions="/nowhere/cc.json"), ["cc.json"]),
    "cc without captions": (dict(data__captions=None), ["captions"]),
    "empty placeholder": (dict(token__placeholder=""), ["token.placeholder"]),
    "two words as placeholder": (dict(token__placeholder="my toy"), ["token.placeholder"]),
    "placeholder that files cannot hold": (dict(token__placeholder="__metadata__"), ["token.placeholder"]),
    "two folders": (dict(data__images=[str(BEAR), str(BEAR)]), ["data.images", "folder"]),
    "placeholder that is a token": (dict(token__placeholder="toy</w>"), ["token.placeholder"]),
    "initializer of no tokens": (dict(token__initializer="\u2003"), ["token.initializer"]),
    "no initializer": (dict(token__initializer=None), ["token.initializer"]),
    "no vectors": (dict(token__vectors=0), ["token.vectors"]),
    "no output": (dict(output__dir=None), ["output.dir"]),
    "negative save_every": (dict(output__save_every=-1), ["output.save_every"]),
    "prompts as number": (dict(output__prompts=3), ["output.prompts"]),
    "seed as text": (dict(seed="x"), ["seed"]),
}


@pytest.mark.parametrize("name", KEYS)
def test_config_keys(tmp_path, name):
    changes, words = KEYS[name]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(tmp_path / "out", **changes)))
    refused(run(program("zoodip"), "train", config, check=False), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model": "x",}', '{"seed": 1, "seed": 2}', "\x00\x01", '{"a":' * 5000])
def test_config_that_is_no_json_object(tmp_path, text):
    config = tmp_path / "config.json"
    config.write_text(text)
    refused(run(program("zoodip"), "train", config, check=False), "config.json")


def test_missing_config(tmp_path):
    refused(run(program("zoodip"), "train", tmp_path / "none.json", check=False), "none.json")
    refused(run(program("zoodip"), "train", tmp_path, check=False), str(tmp_path))


@pytest.mark.parametrize("arguments,words", [
    ([], ["command"]), (["trian"], ["trian"]), (["train"], ["CONFIG"]), (["train", "a", "b"], ["b"]), (["train", "--fast"], ["--fast"]),
    (["train", "configs/toybox.json", "--set"], ["--set"]), (["train", "configs/toybox.json", "--set", "zo.n"], ["zo.n"]),
    (["train", "configs/toybox.json", "--set", "zo.m=3"], ["zo.m"]), (["quantize"], ["--model"]),
    (["quantize", "--model", "/nowhere", "--output", "/tmp/never"], ["/nowhere"]), (["inspect"], ["PATH"]),
    (["inspect", "/nowhere"], ["/nowhere"]), (["bench"], ["CONFIG"]), (["generate"], ["--model"]),
    (["generate", "--model", str(MODEL), "--prompt", "a toy"], ["--output"]),
    (["generate", "--model", str(MODEL), "--prompt", "a toy", "--output", "/tmp/x.png", "--scheduler", "magic"], ["magic"]),
    (["generate", "--model", str(MODEL), "--prompt", "a toy", "--output", "/tmp/x.png", "--size", "64"], ["--size"]),
    (["generate", "--model", str(MODEL), "--prompt", "a toy", "--output", "/tmp/x.png", "--steps", "0"], ["--steps"]),
    (["generate", "--model", str(MODEL), "--prompt", "a toy", "--output", "/tmp/x.png", "--embedding", "/nowhere.safetensors"],
     ["/nowhere.safetensors"])])
def test_command_lines(arguments, words):
    refused(run(program("zoodip"), *arguments, check=False), *words)


@pytest.mark.parametrize("arguments,line", [
    (["trian"], "trian: no such command; did you mean train? See zoodip --help"),
    (["quantise", "--model", "m"], "quantise: no such command; did you mean quantize? See zoodip --help"),
    (["hlep"], "hlep: no such command; did you mean help? See zoodip --help"),
    (["--hlep"], "--hlep: no such option; did you mean --help? See zoodip --help"),
    (["--verison"], "--verison: no such option; did you mean --version? See zoodip --help"),
    (["learn"], "learn: no such command; see zoodip --help"),
    (["--json"], "--json: no such option; see zoodip --help"),
    (["--version", "--json"], "--json: unexpected argument; zoodip --version takes none"),
    (["help", "trian"], "trian: no such command; did you mean train? See zoodip --help"),
    (["help", "train", "bench"], "bench: unexpected argument; expected zoodip help COMMAND"),
    (["train", "c.json", "--reusme"], "--reusme: no such option; did you mean --resume? See zoodip train --help"),
    (["train", "c.json", "-resume"], "-resume: no such option; did you mean --resume? See zoodip train --help"),
    (["generate", "--embeding=x"], "--embeding=x: no such option; did you mean --embedding? See zoodip generate --help"),
    (["run", "--spol", "x"], "--spol: no such option; did you mean --spool? See zoodip run --help"),
    (["train", "c.json", "--learning_rate=1"],
     "--learning_rate=1: no such option; did you mean --set optim.lr=VALUE? See zoodip train --help"),
    (["quantize", "--learning_rate=1"], "--learning_rate=1: no such option; see zoodip quantize --help"),
    (["run", "x", "--job", "A", "--job=B"], "--job: is given twice"),
    (["generate", "--seed", "1", "--quiet", "--quiet", "--seed", "1"], "--seed: is given twice"),
    (["run", "x", "--log-format", "plain", "--groups", "1", "--log-format=plain"], "--log-format: is given twice"),
    (["train", "c.json", "zo.n=3"], "zo.n=3: unexpected argument; did you mean --set zo.n=3? See zoodip train --help"),
    (["train", "c.json", "d.json"], "d.json: unexpected argument; see zoodip train --help"),
    (["bench", "c.json", "--colour"], "--colour: no such option; see zoodip bench --help")])
def test_a_slip_in_a_command_line_is_answered_with_what_was_meant(arguments, line):
    done = run(program("zoodip"), *arguments, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"zoodip: {line}\n")


@pytest.mark.parametrize("command", [["generate", "--prompt", "a toy", "--output", "{}/x.png"], ["quantize", "--output", "{}/q"],
                                     ["bench", "configs/toybox.json"]], ids=lambda c: c[0])
@pytest.mark.parametrize("make,said", [
    (lambda path: None, "no such folder"), (lambda path: path.write_text("{}"), "exists but is a file"),
    (lambda path: path.mkdir(), "has no text_encoder, unet or vae")], ids=["nothing", "a file", "another folder"])
def test_a_folder_that_holds_no_model_is_called_that_and_nothing_is_written(tmp_path, command, make, said):
    folder = tmp_path / "model"
    make(folder)
    option, source = (["--set", f"model={folder}"], "--set: model") if command[0] == "bench" else (["--model", folder], "--model")
    done = run(program("zoodip"), *(word.format(tmp_path) for word in command), *option, check=False)
    assert (done.returncode, done.stderr) == (2, f'zoodip: {source}: "{folder}": {said}; expected a diffusers model folder, or a checkpoint in FILE.safetensors\n')
    assert not (tmp_path / "x.png").exists() and not (tmp_path / "q").exists()


def copy_model(folder):
    shutil.copytree(MODEL, folder)
    return folder


def drop(path):
    path.unlink()


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path):
    path.write_bytes(b"")


def garble(path):
    path.write_bytes(b"\xff" * 200)


DAMAGE = [(file, harm) for file in ("text_encoder/model.safetensors", "text_encoder/config.json", "unet/config.json",
                                    "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
                                    "vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt")
          for harm in (drop, cut, empty, garble)
          if (file, harm) not in (("tokenizer/merges.txt", cut), ("tokenizer/merges.txt", empty))]  # still valid lists of merges


@pytest.mark.parametrize("file,harm", DAMAGE, ids=lambda v: getattr(v, "__name__", v))
def test_damaged_model_files(tmp_path, file, harm):
    model = copy_model(tmp_path / "model")
    harm(model / file)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(tmp_path / "out", model=str(model))))
    refused(run(program("zoodip"), "train", config, check=False), file.split("/")[0])


def test_config_that_does_not_fit_the_weights(tmp_path):
    model = copy_model(tmp_path / "model")
    path = model / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 2}))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(tmp_path / "out", model=str(model))))
    refused(run(program("zoodip"), "train", config, check=False), "diffusion_pytorch_model.safetensors", "missing")


@pytest.mark.parametrize("harm", [cut, empty, garble], ids=lambda h: h.__name__)
def test_damaged_picture(tmp_path, harm):
    photos = tmp_path / "bear5"
    shutil.copytree(BEAR, photos)
    harm(photos / "02.png")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(tmp_path / "out", data__images=str(photos))))
    refused(run(program("zoodip"), "train", config, check=False), "02.png")


def test_hidden_files_and_folders_are_no_pictures(tmp_path):
    photos = tmp_path / "bear5"
    shutil.copytree(BEAR, photos)
    (photos / "._00.png").write_bytes(b"left by a file manager")
    (photos / "more.png").mkdir()
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(tmp_path / "out", data__images=str(photos), optim__steps=1, output__prompts=[])))
    run(program("zoodip"), "train", config)


def test_picture_without_a_caption(tmp_path):
    photos = tmp_path / "bear5"
    shutil.copytree(BEAR, photos)
    shutil.copy(photos / "00.png", photos / "99.png")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(tmp_path / "out", data__images=str(photos))))
    refused(run(program("zoodip"), "train", config, check=False), "99.png")


def test_ranks_fail_together_with_one_line(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(tmp_path / "out", model="/nowhere")))
    refused(mpirun(3, program("zoodip"), "train", config, check=False, timeout=60), "/nowhere")
