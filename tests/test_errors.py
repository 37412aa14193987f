"""What a disk or the network does is not the user's mistake: it is tried again some times, and then ends the run with 1, so that
--restarts and Slurm try again. What is wrong with a path is 2, at once."""
import errno
import json
import os
import resource
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import ROOT, TOYBOX, learned, program, refused, run, slice_of, train_alone, write_recipe
from live import start, steps, until

TINY = dict(optim__steps=4, output__prompts=[], output__checkpoint_every=1, zo__tau=2)
ENDLESS = {**TINY, "optim__steps": 100000, "output__checkpoint_every": 1000}


def faults(calls, code, part, first=1, last=1000000):
    """The environment in which these calls on paths with `part` fail with that errno, from the first to the last of them."""
    return {"LD_PRELOAD": program("tests/libfaults.so"), "ZOODIP_FAULTS": f"{calls} {getattr(errno, code)} {first} {last} {part}"}


def train(config, *options, env=None):
    return run(program("zoodip"), "train", config, *options, env=env, check=False)


def said_again(done):
    return [line.split("; trying again ")[1] for line in done.stderr.splitlines() if "; trying again " in line]


ALL_TRIES = ["in 0.1 s (1 of 5)", "in 0.2 s (2 of 5)", "in 0.4 s (3 of 5)", "in 0.8 s (4 of 5)", "in 1.6 s (5 of 5)"]
READ = [("open", "bear5/02.png"), ("stat", "cc.json"), ("read", "bear5/02.png"), ("opendir", "subjects/bear5"), ("stat", "subjects/bear5"),
        ("read", "subjects/cc.json"), ("readdir", "subjects/bear5"), ("stat", "unet/diffusion"), ("open", "unet/config.json"),
        ("open", "vae/diffusion"), ("fstat", "vocab.json"), ("stat", "toybox/model"), ("open", "/config.json"), ("read", "merges.txt")]


@pytest.mark.parametrize("call, part", slice_of(READ, 4))
def test_a_fault_that_passes_is_tried_again(tmp_path, call, part):
    config, _ = write_recipe(tmp_path, **{**TINY, "optim__steps": 1})
    done = train(config, env=faults(call, "ESTALE", part, last=2))
    assert done.returncode == 0 and said_again(done) == ALL_TRIES[:2], done.stderr
    assert "Stale file handle; trying again" in done.stderr


def test_which_errors_are_the_users(tmp_path):
    """Those that say that a path is wrong; all others may pass."""
    passing = ["ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO", "EIO", "ENOLINK", "ENOTCONN", "ECONNRESET", "EAGAIN",
               "ENOMEM", "ENFILE", "EMFILE", "EBUSY", "ENETDOWN", "EKEYEXPIRED"]
    wrong = ["ENOENT", "ENOTDIR", "EACCES", "EPERM", "ELOOP", "ENAMETOOLONG", "ENXIO", "ENODEV"]
    path = tmp_path / "in.json"
    path.write_text("{}")
    with ThreadPoolExecutor(len(passing)) as pool:
        ends = list(pool.map(lambda code: run(program("tests/config"), path, env=faults("open", code, "in.json"), check=False), passing + wrong))
    for code, done in zip(passing + wrong, ends):
        assert done.returncode == (1 if code in passing else 2), (code, done.stderr)
        assert done.stderr.splitlines()[-1].endswith(f"{path}: cannot open: {os.strerror(getattr(errno, code))}"), done.stderr
        assert said_again(done) == (ALL_TRIES if code in passing else []), (code, done.stderr)


def test_a_disk_that_stays_away_is_the_same_wherever_it_is_noticed(tmp_path):
    """No `no such file`, no other file in its place, no start at step 0; and the run goes on when the disk is back."""
    config, output = write_recipe(tmp_path, **TINY)
    train(config, "--set", "optim.steps=2")
    before = learned(output)
    cases = [("stat", "subjects/bear5"), ("stat", "toybox/model"), ("stat", "unet/diffusion_pytorch_model.safetensors"),
             ("mmap", "unet/diffusion"), ("stat", "tokenizer/tokenizer.json"), ("stat", "cc.json"), ("stat", "/checkpoints"),
             ("open", "checkpoints/step"), ("stat", "metrics.jsonl")]

    def resume(case):
        copy = shutil.copytree(output, tmp_path / str(cases.index(case)))
        return copy, train(config, "--resume", "--set", f"output.dir={copy}", env=faults(case[0], "EHOSTDOWN", case[1]))

    with ThreadPoolExecutor(len(cases)) as pool:
        ends = list(pool.map(resume, cases))
    for case, (copy, done) in zip(cases, ends):
        assert done.returncode == 1 and "Host is down" in done.stderr.splitlines()[-1], (case, done.stderr)
        assert ALL_TRIES[4] in said_again(done), (case, done.stderr)
        assert learned(copy) == before, case
    assert train(config, "--resume").returncode == 0 and learned(output) == train_alone(tmp_path / "alone", **TINY)[0]


def test_a_restart_goes_on_where_the_network_came_back(tmp_path):
    config, output = write_recipe(tmp_path, **TINY)
    done = run(ROOT / "launch/run.sh", "-n", "1", "--restarts", "1", program("zoodip"), "train", config,
               env={"OMPI_MCA_mca_base_env_list": "LD_PRELOAD;ZOODIP_FAULTS"} | faults("open", "ETIMEDOUT", f"{tmp_path}/config.json", last=1), check=False)
    assert done.returncode == 0 and said_again(done) == ALL_TRIES[:1], done.stderr


def test_whichever_call_fails_for_a_moment_the_word_has_the_same_bits_or_it_is_said(tmp_path):
    """Every call that reads or looks, once: never 2, never other bits."""
    subjects = shutil.copytree(TOYBOX / "subjects", tmp_path / "subjects")
    paths = dict(model=str(shutil.copytree(TOYBOX / "model", tmp_path / "model")), data__images=str(subjects / "bear5"),
                 data__captions=str(subjects / "cc.json"))
    calls, count = "open,read,stat,fstat,mmap,opendir,readdir", tmp_path / "count"

    def failing(name, code, k, **env):
        config, output = write_recipe(tmp_path / name, **{**TINY, **paths, "optim__steps": 1})
        return output, train(config, env={**faults(calls, code, f"{tmp_path}/", k, k), **env})

    output, done = failing("quiet", "EIO", 0, ZOODIP_FAULTS_COUNT=str(count))
    assert done.returncode == 0
    for k in slice_of(range(1, len(count.read_text().splitlines()) + 1), 60):
        failed, done = failing(str(k), "EHOSTDOWN", k)
        if done.returncode == 0:
            assert learned(failed) == learned(output), k
        else:
            assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith("Host is down"), (k, done.stderr)


def results_in(folder):
    for name in ("learned_embeds.safetensors", "metrics.jsonl", "checkpoints/step-3.safetensors", "samples/step-3-0.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def texts(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


@pytest.mark.parametrize("way", ["new", "overwrite"])
def test_results_on_a_disk_that_fails_for_a_moment_are_not_taken_for_none(tmp_path, way):
    """Whichever call fails: nothing is lost, and what was not begun can be."""
    out, calls = tmp_path / "out", "open,stat,readdir,rename,mkdir,unlink,fsync"
    before = texts(results_in(out))
    count = tmp_path / "count"
    run(program("tests/previous"), out, way, env={**faults(calls, "EIO", "/out", 0, 0), "ZOODIP_FAULTS_COUNT": str(count)}, check=False)
    for k in slice_of(range(1, len(count.read_text().splitlines()) + 1), 3):
        shutil.rmtree(out)
        results_in(out)
        done = run(program("tests/previous"), out, way, env=faults(calls, "EHOSTDOWN", "/out", k, k), check=False)
        assert done.returncode in ((1, 2) if way == "new" else (0, 1)), (k, done.stderr)
        if way == "overwrite":
            run(program("tests/previous"), out, way)
        assert texts(out / "previous" if way == "overwrite" else out) == before, (k, done.stderr)


# ---- limits and quotas


def limited(bytes_):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


@pytest.mark.parametrize("calls, code", [("write", "EDQUOT"), ("fwrite,fflush", "EDQUOT")])
def test_a_quota_is_a_full_disk(tmp_path, calls, code):
    config, output = write_recipe(tmp_path, **TINY)
    done = train(config, env=faults(calls, code, f"{output}/", first=10 if calls == "fwrite,fflush" else 3))
    assert done.returncode == 1 and "training continues and tries again at the next save" in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "the last save failed" in last and last.endswith(os.strerror(getattr(errno, code))), done.stderr
    assert train(config, "--resume").returncode == 0 and learned(output) == train_alone(tmp_path / "alone", **TINY)[0]


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path):
    changes = {**TINY, "optim__steps": 40, "output__checkpoint_every": 5}
    config, output = write_recipe(tmp_path, **changes)
    with open(tmp_path / "said", "w") as said:
        code = subprocess.run([program("zoodip"), "train", config], stderr=said, cwd=ROOT, preexec_fn=limited(8 << 10)).returncode
    said = (tmp_path / "said").read_text()
    assert code == 1 and "File too large; training continues" in said and "the last save failed" in said, said
    assert (output / "checkpoints/step-40.safetensors").exists()
    lines = (output / "metrics.jsonl").read_text()
    assert lines.endswith("\n") and all(json.loads(line) for line in lines.splitlines())
    assert learned(output) == train_alone(tmp_path / "alone", **changes)[0]


# ---- files in memory


@pytest.mark.parametrize("ranks", [1, 2])
def test_weights_that_are_cut_short_meanwhile_end_the_run_with_a_line(tmp_path, ranks):
    model = shutil.copytree(TOYBOX / "model", tmp_path / "model")
    config, output = write_recipe(tmp_path, model=str(model), **ENDLESS)
    process = start(ranks, "train", config)
    until(lambda: steps(output) >= 1, process)
    os.truncate(model / "text_encoder/model.safetensors", 100)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1, said
    assert f"zoodip: {model}/text_encoder/model.safetensors: cannot be read any more: it was cut short" in said, said


# ---- what was not fetched, or is something else


def pointer(path):
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 3438167536\n")


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "tokenizer/merges.txt",
                                  "tokenizer/vocab.json", "00.png"])
def test_a_git_lfs_pointer_is_called_that(tmp_path, file):
    model, photos = shutil.copytree(TOYBOX / "model", tmp_path / "model"), shutil.copytree(TOYBOX / "subjects/bear5", tmp_path / "bear5")
    path = (photos if file == "00.png" else model) / file
    path.chmod(0o644)
    pointer(path)
    config, _ = write_recipe(tmp_path, model=str(model), data__images=str(photos), **TINY)
    refused(train(config), f"{path}: is a git-lfs pointer, not the file itself; run `git lfs pull`")


def hub_cache(model, root):
    """The folder that Hugging Face's libraries keep for a model: files by their hash, and links to them."""
    snapshot = root / "snapshots" / ("f" * 40)
    (root / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(p for p in model.rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "blobs" / str(number))
        link.symlink_to(os.path.relpath(root / "blobs" / str(number), link.parent))
    (root / "refs").mkdir()
    (root / "refs/main").write_text("f" * 40)
    return snapshot


def test_a_folder_above_the_model_is_answered_with_the_model(tmp_path):
    snapshot = hub_cache(TOYBOX / "model", tmp_path / "hub/models--x--toy")
    config, _ = write_recipe(tmp_path, **TINY)
    for above in (tmp_path / "hub/models--x--toy", tmp_path / "hub/models--x--toy/snapshots"):
        refused(train(config, "--set", f"model={above}"), f'--set: model: "{above}": holds a model one folder further down; expected that one: {snapshot}')
    assert train(config, "--set", f"model={snapshot}").returncode == 0


@pytest.mark.parametrize("part, name", [("text_encoder", "pytorch_model.bin"), ("unet", "diffusion_pytorch_model.bin"), ("vae", "vae.pt"),
                                        ("unet", "diffusion_pytorch_model.fp16.bin"), ("unet", "diffusion_pytorch_model.ckpt")])
def test_pickled_weights_are_called_that(tmp_path, part, name):
    model = shutil.copytree(TOYBOX / "model", tmp_path / "model")
    next((model / part).glob("*.safetensors")).rename(model / part / name)
    config, _ = write_recipe(tmp_path, model=str(model), **TINY)
    refused(train(config), f"{model}/{part}: only pickled weights here ({name})", "safe_serialization=True")
    refused(run(program("zoodip"), "generate", "--model", model, "--prompt", "a toy", "--output", tmp_path / "x.png", check=False), name)


def test_a_link_to_weights_that_were_not_fetched_is_called_that(tmp_path):
    model = shutil.copytree(TOYBOX / "model", tmp_path / "model")
    path = model / "unet/diffusion_pytorch_model.safetensors"
    path.unlink()
    path.symlink_to("../../blobs/nothing")
    config, _ = write_recipe(tmp_path, model=str(model), **TINY)
    refused(train(config), f"{path}: is a link that leads nowhere")


def test_a_pickled_word_is_called_that(tmp_path):
    word = tmp_path / "learned_embeds.bin"
    word.write_bytes(b"PK\3\4\0\0\x08\x08\0\0\0\0archive/data.pkl")
    refused(run(program("zoodip"), "generate", "--model", TOYBOX / "model", "--embedding", word, "--prompt", "a toy", "--output", tmp_path / "x.png",
                check=False), f"{word}: is pickled", "safetensors.torch.save_file")
