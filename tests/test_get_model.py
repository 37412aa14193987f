"""dataset/get_model.sh brings a model from the hub, whole and as the hub has it, and again what broke off or was damaged; the hub is a
server on this machine that the hub's own client takes for one."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hub as hubs
from conftest import BUILD, ROOT, TOYBOX, environment, run
from hub import REVISION
from live import restore_signals, until

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
UNET, VAE, TEXT = "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"
NOT_NEEDED = {"README.md": b"licence: ...", "v1-5-pruned.ckpt": b"x", "safety_checker/config.json": b"{}", "tokenizer/notes.txt": b"x",
              "unet/diffusion_pytorch_model.safetensors": b"floats", "unet/diffusion_pytorch_model.non_ema.fp16.safetensors": b"other",
              "vae/diffusion_pytorch_model.bin": b"pickle", "../../outside": b"x"}


def toybox(suffix=".fp16.safetensors"):
    """Toybox's model, its weights under names that end so."""
    model = TOYBOX / "model"
    return {str(path.relative_to(model)).replace(".safetensors", suffix): path.read_bytes() for path in model.rglob("*") if path.is_file()}


@pytest.fixture
def hub():
    with hubs.serving(SD15, {**NOT_NEEDED, **toybox()}) as serving:
        yield serving


class Checkout:
    """A folder with the script in it, as far as it needs one."""

    def __init__(self, folder, hub):
        (folder / "dataset").mkdir()
        for name in ("get_model.sh", "hub_model.py"):
            shutil.copy(ROOT / "dataset" / name, folder / "dataset")
        self.folder, self.model = folder, folder / "models/stable-diffusion-v1-5"
        self.env = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "", "HF_HOME": str(folder / "home"), "HF_TOKEN": "", "NO_PROXY": "*"}

    def get(self, *arguments, **env):
        """Calls it; returns (exit code, the lines on stderr)."""
        done = run("bash", self.folder / "dataset/get_model.sh", *(arguments or ["sd-1.5"]), check=False, env={**self.env, **env}, cwd="/")
        return done.returncode, done.stderr.splitlines()

    def files(self):
        return {str(path.relative_to(self.model)): path.read_bytes() for path in self.model.rglob("*")
                if path.is_file() and not path.relative_to(self.model).parts[0].startswith(".")}


@pytest.fixture
def checkout(tmp_path, hub):
    return Checkout(tmp_path, hub)


def one_line(said, *words):
    assert len(said) == 1 and all(word in said[0] for word in words), said


# -------------------------------------------------------------------------------- all goes well


def test_what_zoodip_needs_comes_and_no_more(checkout, hub):
    code, said = checkout.get()
    assert code == 0, said
    assert checkout.files() == toybox()
    described = run(BUILD / "zoodip", "inspect", checkout.model).stdout
    assert "block_out_channels [64,128]" in described and "F16" in described
    assert hub.tokens == {None}


def test_licence_and_size_are_said_before_the_first_file_and_the_command_last(checkout, hub):
    _, said = checkout.get()
    licence, size = (next(i for i, line in enumerate(said) if word in line) for word in ("CreativeML Open RAIL-M, http", "fetching 12 files, 9 MB"))
    assert licence < size and "models/stable-diffusion-v1-5 is complete" in said[-2]
    assert said[-1].startswith("get_model: build/zoodip train configs/sd15-fast.json --set data.images=") and "model=" not in said[-1]


def test_the_hubs_own_client_brings_the_same_files(checkout, hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    checkout.get()
    theirs = ["--include", *"*.json tokenizer/*.txt *.fp16.safetensors".replace(" ", " --include ").split(), "--exclude", "safety_checker/*",
              "--exclude", "*non_ema*", "--exclude", "*notes*"]
    run(Path(sys.executable).with_name("hf"), "download", SD15, *theirs, "--revision", REVISION, "--local-dir", tmp_path / "theirs", env=checkout.env)
    for path, data in checkout.files().items():
        assert (tmp_path / "theirs" / path).read_bytes() == data
    assert sorted(p.name for p in (tmp_path / "theirs").rglob("*.safetensors")) == sorted(p.name for p in checkout.model.rglob("*.safetensors"))


def test_a_second_call_compares_without_the_network(checkout, hub):
    _, first = checkout.get()
    asked = len(hub.asked)
    code, said = checkout.get(HF_ENDPOINT="http://127.0.0.1:1", HF_HUB_OFFLINE="1")
    assert code == 0 and len(hub.asked) == asked and said[-2:] == first[-2:] and not any("fetching" in line for line in said)


def test_the_list_of_hashes_is_one_that_sha256sum_takes(checkout):
    checkout.get()
    head, *lines = (checkout.model / ".zoodip-source").read_text().splitlines()
    assert head == f"# {SD15} {REVISION}"
    assert dict(line.split("  ")[::-1] for line in lines) == {path: hashlib.sha256(data).hexdigest() for path, data in toybox().items()}
    run("sha256sum", "--check", "--strict", ".zoodip-source", cwd=checkout.model)


@pytest.mark.parametrize("kept", ["environment", "file"])
def test_the_token_goes_to_the_hub_and_nowhere_else(checkout, hub, kept):
    (checkout.folder / "home").mkdir()
    (checkout.folder / "home/token").write_text("hf_kept\n" if kept == "file" else "hf_other\n")
    code, _ = checkout.get(**({"HF_TOKEN": "hf_kept"} if kept == "environment" else {}))
    assert code == 0 and hub.tokens == {"Bearer hf_kept"} and hub.told == {None}


def test_a_model_that_is_here_already_by_another_way_is_only_compared(checkout, hub):
    for path, data in toybox().items():
        (checkout.model / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout.model / path).write_bytes(data)
    code, said = checkout.get()
    assert code == 0 and hub.fetched() == [] and (checkout.model / ".zoodip-source").exists()


def shards(suffix):
    """Toybox with its UNet in two shards and an index; as far as names go."""
    files = {path: data for path, data in toybox(".safetensors").items() if path != "unet/diffusion_pytorch_model.safetensors"}
    names = {"": ["-00001-of-00002.safetensors", "-00002-of-00002.safetensors", ".safetensors.index.json"],
             "fp16": [".fp16-00001-of-00002.safetensors", ".fp16-00002-of-00002.safetensors", ".safetensors.index.fp16.json"],
             "new fp16": ["-00001-of-00002.fp16.safetensors", "-00002-of-00002.fp16.safetensors", ".safetensors.index.fp16.json"]}[suffix]
    return {**files, **{"unet/diffusion_pytorch_model" + name: name.encode() for name in names}}


@pytest.mark.parametrize("files", [toybox(".safetensors"), shards(""), shards("fp16"), shards("new fp16")], ids=["floats", "shards", "fp16 shards", "new"])
def test_another_repository_comes_into_a_folder_of_its_name_at_its_newest_revision(checkout, hub, files):
    hub.repository, hub.files = "someone/toys_2.0", files
    code, said = checkout.get("--repo", "someone/toys_2.0")
    checkout.model = checkout.folder / "models/toys_2.0"
    assert code == 0 and checkout.files() == files
    assert "--set model=models/toys_2.0 --set data.resolution=0 " in said[-1]
    code, said = checkout.get("--repo=someone/toys_2.0", HF_ENDPOINT="http://127.0.0.1:1")
    assert code == 0, said


def test_another_copy_of_a_known_model_comes_into_its_folder_but_not_over_it(checkout, hub):
    checkout.get()
    hub.repository = "someone/sd15"
    one_line(checkout.get("sd-1.5", "--repo", "someone/sd15")[1], f"holds {SD15}")
    shutil.rmtree(checkout.model)
    assert checkout.get("sd-1.5", "--repo", "someone/sd15")[0] == 0 and checkout.files() == toybox()


# -------------------------------------------------------------------------------- it breaks off


def test_a_transfer_that_breaks_off_goes_on_at_its_end_in_the_same_call(checkout, hub):
    hub.cut = {UNET}
    assert checkout.get()[0] == 0 and checkout.files() == toybox()
    assert [asked[2] for asked in hub.asked if asked[1].startswith("/store/") and asked[1].endswith(UNET)] == [None, f"bytes={len(toybox()[UNET]) // 2}-"]


def test_after_ctrl_c_the_same_command_goes_on_where_it_was(checkout, hub):
    hub.stalled = {UNET}
    process = subprocess.Popen(["bash", checkout.folder / "dataset/get_model.sh", "sd-1.5"], env={**environment(), **checkout.env}, text=True,
                               stderr=subprocess.PIPE, start_new_session=True, preexec_fn=restore_signals)
    assert hub.reached.wait(60)
    part = checkout.model / ".partial" / hashlib.sha256(toybox()[UNET]).hexdigest()
    until(lambda: part.stat().st_size > 0, process)  # what was sent may still be on its way
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted: the same command goes on" in said and "Traceback" not in said
    assert UNET not in checkout.files()
    before, had = hub.fetched(), part.stat().st_size
    code, said = checkout.get()
    assert code == 0 and checkout.files() == toybox() and any("of which" in line for line in said)
    assert set(hub.fetched()[len(before):]) & set(before) == {UNET}
    assert f"bytes={had}-" in [asked[2] for asked in hub.asked] and not (checkout.model / ".partial").exists()


def test_a_disk_that_fills_up_is_said_and_what_came_is_kept(checkout, hub):
    """A limit on files' sizes stands for a full disk."""
    command = f"ulimit -f 2000; trap '' XFSZ; exec bash {checkout.folder}/dataset/get_model.sh sd-1.5"
    done = run("bash", "-c", command, check=False, env=checkout.env)
    assert done.returncode == 1 and "File too large; the same command goes on" in done.stderr and "Traceback" not in done.stderr
    assert TEXT in checkout.files() and UNET not in checkout.files()
    assert checkout.get()[0] == 0 and hub.fetched().count(TEXT) == 1


def test_a_disk_without_room_is_said_before_the_first_file(checkout, hub):
    hub.sizes = {UNET: 10**16}
    code, said = checkout.get()
    assert code == 1 and "needs 1000000" in said[-1] and "MB left" in said[-1] and hub.fetched() == []


# -------------------------------------------------------------------------------- wrong files


def test_a_file_with_a_wrong_hash_is_named_and_fetched_again_by_the_next_call(checkout, hub):
    hub.altered = {VAE}
    code, said = checkout.get()
    assert code == 1 and VAE in said[-1] and "hash" in said[-1] and VAE not in checkout.files()
    assert not (checkout.model / ".zoodip-source").exists()
    hub.altered = set()
    before = len(hub.fetched())
    assert checkout.get()[0] == 0 and checkout.files() == toybox() and hub.fetched()[before:] == [VAE]


@pytest.mark.parametrize("path, harm", [(TEXT, "a bit"), ("tokenizer/merges.txt", "cut"), (TEXT, "gone")])
def test_a_file_that_was_damaged_here_is_fetched_again(checkout, hub, path, harm):
    checkout.get()
    data = toybox()[path]
    (checkout.model / path).write_bytes({"a bit": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "gone": b""}[harm])
    if harm == "gone":
        (checkout.model / path).unlink()
    before = len(hub.fetched())
    code, said = checkout.get()
    assert code == 0 and checkout.files() == toybox() and hub.fetched()[before:] == [path] and any(path in line for line in said)


def test_a_file_of_another_origin_is_not_replaced(checkout, hub):
    (checkout.model / "unet").mkdir(parents=True)
    (checkout.model / UNET).write_bytes(b"of a model of one's own")
    code, said = checkout.get()
    assert code == 2 and UNET in said[-1] and "away" in said[-1]
    assert (checkout.model / UNET).read_bytes() == b"of a model of one's own" and hub.fetched() == []


# -------------------------------------------------------------------------------- no hub, no model, no sense


@pytest.mark.parametrize("status, words", [(401, ["--repo OWNER/MODEL", "HF_TOKEN", "401"]), (404, ["--repo OWNER/MODEL", "404"]), (503, ["503", "later"])])
def test_a_repository_that_is_not_there_is_said(checkout, hub, status, words):
    hub.status = status
    code, said = checkout.get()
    assert code == 1 and not checkout.model.exists()
    one_line(said, SD15, *words)


def test_no_network_is_said(checkout):
    code, said = checkout.get(HF_ENDPOINT="http://127.0.0.1:1")
    assert code == 1
    one_line(said, "cannot be reached", "network")
    one_line(checkout.get(HF_HUB_OFFLINE="1")[1], "HF_HUB_OFFLINE")


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"\xff\xfe", b"[]", b'{"siblings": 3}', b'{"siblings": [{}]}'])
def test_an_answer_that_is_not_the_hubs_is_said(checkout, hub, body):
    hub.body = body
    code, said = checkout.get()
    assert code == 1 and not checkout.model.exists()
    one_line(said, hub.address)


@pytest.mark.parametrize("part, wrong", [("sha", "main"), ("hash", "../../x"), ("hash", 3), ("size", -1)])
def test_a_listing_with_a_hash_or_a_size_that_is_none_is_said(checkout, hub, part, wrong):
    told = hub.listing()
    unet = next(file for file in told["siblings"] if file["rfilename"] == UNET)["lfs"]
    told, unet = ({**told, "sha": wrong}, unet) if part == "sha" else (told, unet.update({"sha256" if part == "hash" else part: wrong}))
    hub.body = json.dumps(told).encode()
    code, said = checkout.get()
    assert code == 1 and not checkout.model.exists()
    one_line(said, hub.address, "form")


@pytest.mark.parametrize("path", [UNET, "vae/config.json", "tokenizer/vocab.json", "model_index.json"])
def test_a_repository_that_is_no_such_model_is_said(checkout, hub, path):
    hub.files = {name: data for name, data in toybox().items() if name != path}
    one_line(checkout.get()[1], SD15, path.replace(".fp16", ""))


@pytest.mark.parametrize("words, expected", [(["sd-3"], "sd-1.5 or sd-2.1"), ([""], "sd-1.5 or sd-2.1"), (["--repo", "name"], "OWNER/MODEL"),
                                             (["--repo", "a/../b"], "OWNER/MODEL"), (["sd-1.5", "sd-2.1"], "sd-2.1"), (["--force"], "--force")])
def test_bad_arguments_are_said(checkout, words, expected):
    code, said = checkout.get(*words)
    assert code == 2
    one_line(said, expected, "--help")


def test_the_list_names_repositories_licences_and_sizes():
    listed = run(ROOT / "dataset/get_model.sh", "--list").stdout
    for words in ("sd-1.5  2.1 GB  " + SD15, "sd-2.1  2.6 GB  sd2-community/", "Open RAIL-M", "Open RAIL++-M"):
        assert words in listed
