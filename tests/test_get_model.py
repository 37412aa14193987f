"""dataset/get_model.sh brings a model from the hub, whole and as the hub has it, and again what broke off or was damaged; the hub is a
server on this machine that the hub's own client takes for one."""
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
from live import restore_signals

NEEDS = "peers"

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
    """A folder with the script in it, as far as it needs one, and the hub's client in its .venv."""

    def __init__(self, folder, hub):
        (folder / "dataset").mkdir()
        for name in ("get_model.sh", "hub_model.py"):
            shutil.copy(ROOT / "dataset" / name, folder / "dataset")
        (folder / ".venv").symlink_to(sys.prefix)
        self.folder, self.model, self.script = folder, folder / "models/stable-diffusion-v1-5", folder / "dataset/get_model.sh"
        self.env = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "", "HF_HOME": str(folder / "home"), "HF_TOKEN": "", "NO_PROXY": "*",
                    "HF_HUB_DISABLE_TELEMETRY": "1"}

    def get(self, *arguments, **env):
        """Calls it; returns (exit code, the lines on stderr)."""
        done = run("bash", self.script, *(arguments or ["sd-1.5"]), check=False, env={**self.env, **env}, cwd="/")
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr.splitlines()

    def started(self):
        return subprocess.Popen(["bash", self.script, "sd-1.5"], env={**environment(), **self.env}, text=True, stderr=subprocess.PIPE,
                                start_new_session=True, preexec_fn=restore_signals)

    def files(self):
        return {str(path.relative_to(self.model)): path.read_bytes() for path in self.model.rglob("*")
                if path.is_file() and not path.relative_to(self.model).parts[0].startswith(".")}

    def partial(self):
        """What the client has of files in the middle of which it is, or was."""
        return list((self.model / ".partial").rglob("*.incomplete"))


@pytest.fixture
def checkout(tmp_path, hub):
    return Checkout(tmp_path, hub)


def one_line(said, *words):
    assert len(said) == 1 and all(word in said[0] for word in words), said


# -------------------------------------------------------------------------------- all goes well


def test_what_zoodip_needs_comes_and_no_more_and_a_second_call_compares_without_the_network(checkout, hub):
    code, said = checkout.get()
    assert code == 0, said
    assert checkout.files() == toybox() and sorted(hub.fetched()) == sorted(toybox()) and not (checkout.model / ".partial").exists()
    licence, size = (next(i for i, line in enumerate(said) if word in line) for word in ("CreativeML Open RAIL-M, http", "fetching 12 files, 9 MB"))
    assert licence < size and "models/stable-diffusion-v1-5 is complete" in said[-2]
    assert said[-1].startswith("get_model: build/zoodip train configs/sd15-fast.json --set data.images=") and "model=" not in said[-1]
    described = run(BUILD / "zoodip", "inspect", checkout.model).stdout
    assert "block_out_channels [64,128]" in described and "F16" in described
    assert (checkout.model / ".zoodip-source").read_text().startswith(f"# {SD15} {REVISION}\n")
    run("sha256sum", "--check", "--strict", ".zoodip-source", cwd=checkout.model)
    asked = len(hub.asked)
    code, again = checkout.get(HF_ENDPOINT="http://127.0.0.1:1", HF_HUB_OFFLINE="1")
    assert code == 0 and len(hub.asked) == asked and again[-2:] == said[-2:] and not any("fetching" in line for line in again)


def test_what_is_here_already_by_another_way_is_only_compared(checkout, hub):
    for path, data in toybox().items():
        (checkout.model / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout.model / path).write_bytes(data)
    assert checkout.get()[0] == 0 and hub.fetched() == [] and (checkout.model / ".zoodip-source").exists()


def test_what_the_hubs_client_has_in_its_cache_is_taken_unless_it_is_damaged(checkout, hub):
    for path, data in {TEXT: toybox()[TEXT], VAE: b"damaged"}.items():
        cached = checkout.folder / "home/hub" / f"models--{SD15.replace('/', '--')}" / "snapshots" / REVISION / path
        cached.parent.mkdir(parents=True)
        cached.write_bytes(data)
    assert checkout.get()[0] == 0 and checkout.files() == toybox()
    assert sorted(hub.fetched()) == sorted(toybox().keys() - {TEXT})


def with_shards(text, names):
    """Toybox, its text encoder's weights under a name that ends so, its UNet in shards and an index; as far as names go."""
    files = {path: data for path, data in toybox(text).items() if not path.startswith("unet/diffusion")}
    return {**files, **{"unet/diffusion_pytorch_model" + name: name.encode() for name in names}}


@pytest.mark.parametrize("arguments, folder, files", [
    (["--repo=someone/toys_2.0"], "toys_2.0", with_shards(".fp16.safetensors", [
        "-00001-of-00002.fp16.safetensors", "-00002-of-00002.fp16.safetensors", ".safetensors.index.fp16.json"])),
    (["sd-1.5", "--repo", "someone/toys_2.0"], "stable-diffusion-v1-5", with_shards(".safetensors", [
        ".fp16-00001-of-00002.safetensors", ".fp16-00002-of-00002.safetensors", ".safetensors.index.fp16.json"])),
], ids=["its own folder", "a known model's folder"])
def test_another_repository_comes_at_its_newest_revision(checkout, hub, arguments, folder, files):
    hub.repository, hub.files = "someone/toys_2.0", files
    code, said = checkout.get(*arguments, HF_TOKEN="hf_mine")
    checkout.model = checkout.folder / "models" / folder
    assert code == 0 and checkout.files() == files, said
    assert ("--set model=models/toys_2.0 --set data.resolution=0 " in said[-1]) == (folder == "toys_2.0")
    assert hub.tokens == {"Bearer hf_mine"} and hub.told == {None}
    assert checkout.get(*arguments, HF_ENDPOINT="http://127.0.0.1:1")[0] == 0
    code, said = checkout.get("--repo", f"other/{folder}")
    one_line(said, "holds someone/toys_2.0")


# -------------------------------------------------------------------------------- it breaks off


def test_a_connection_that_breaks_is_taken_up_again_in_the_same_call(checkout, hub):
    hub.cut, hub.files[UNET] = {UNET}, bytes(range(256)) * (24 << 12)  # the client writes pieces of 10 MiB
    assert checkout.get()[0] == 0 and checkout.files() == {**toybox(), UNET: hub.files[UNET]}
    assert [asked[2] for asked in hub.asked if asked[0] == "GET" and asked[1].endswith(UNET)] == [None, f"bytes={10 << 20}-"]


def test_after_a_kill_or_ctrl_c_complete_files_stay_and_nothing_of_the_one_in_the_middle(checkout, hub):
    hub.stalled = {UNET}
    process = checkout.started()
    assert hub.reached.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    hub.reached.clear()
    complete = checkout.files()
    assert TEXT in complete and UNET not in complete and checkout.partial()
    process = checkout.started()
    assert hub.reached.wait(60)
    assert len(checkout.partial()) == 1  # what the killed call left is gone
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted: the same command goes on" in said and "Traceback" not in said
    assert checkout.files() == complete and not checkout.partial()
    hub.stalled = set()
    assert checkout.get()[0] == 0 and checkout.files() == toybox() and hub.fetched().count(TEXT) == 1


def test_a_disk_that_fills_up_is_said_and_what_came_is_kept(checkout, hub):
    """A limit on files' sizes stands for a full disk."""
    done = run("bash", "-c", f"ulimit -f 2000; trap '' XFSZ; exec bash {checkout.script} sd-1.5", check=False, env=checkout.env)
    assert done.returncode == 1 and "File too large; the same command goes on" in done.stderr and "Traceback" not in done.stderr
    assert TEXT in checkout.files() and UNET not in checkout.files()


def test_a_disk_without_room_is_said_before_the_first_file(checkout, hub):
    hub.sizes = {UNET: 10**16}
    code, said = checkout.get()
    assert code == 1 and "needs 1000000" in said[-1] and "MB left" in said[-1] and hub.fetched() == []


# -------------------------------------------------------------------------------- wrong files


def test_a_file_with_a_wrong_hash_is_named_and_fetched_again_by_the_next_call(checkout, hub):
    """Where the list of files has no hashes, the files' own answers tell them."""
    hub.altered, hub.bare = {VAE}, True
    code, said = checkout.get()
    assert code == 1 and VAE in said[-1] and "hash" in said[-1] and VAE not in checkout.files()
    assert not (checkout.model / ".zoodip-source").exists()
    hub.altered = set()
    before = len(hub.fetched())
    assert checkout.get()[0] == 0 and checkout.files() == toybox() and hub.fetched()[before:] == [VAE]


def test_a_file_with_a_wrong_size_is_named(checkout, hub):
    hub.sizes = {TEXT: len(toybox()[TEXT]) + 1}
    code, said = checkout.get()
    assert code == 1 and TEXT in said[-1] and "size" in said[-1] and TEXT not in checkout.files()


def test_files_that_were_damaged_here_are_fetched_again(checkout, hub):
    checkout.get()
    data = toybox()[UNET]
    (checkout.model / UNET).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    (checkout.model / "tokenizer/merges.txt").write_bytes(b"")
    (checkout.model / TEXT).unlink()
    before = len(hub.fetched())
    code, said = checkout.get()
    assert code == 0 and checkout.files() == toybox() and sorted(hub.fetched()[before:]) == [TEXT, "tokenizer/merges.txt", UNET]
    assert any(UNET in line and "damaged" in line for line in said)


def test_a_file_of_another_origin_is_not_replaced(checkout, hub):
    (checkout.model / "unet").mkdir(parents=True)
    (checkout.model / UNET).write_bytes(b"of a model of one's own")
    code, said = checkout.get()
    assert code == 2 and UNET in said[-1] and "away" in said[-1]
    assert (checkout.model / UNET).read_bytes() == b"of a model of one's own" and hub.fetched() == []


# -------------------------------------------------------------------------------- no hub, no model, no sense


@pytest.mark.parametrize("status, body, words", [(401, b"{}", [SD15, "--repo OWNER/MODEL", "HF_TOKEN", "401"]), (404, b"{}", [SD15, "OWNER/MODEL", "404"]),
                                                 (503, b"{}", [SD15, "503", "later"]), (200, b"<html>log in</html>", ["login"]),
                                                 (200, b'{"id": "a/b", "siblings": [{}]}', ["HF_ENDPOINT"]),
                                                 (200, b'{"id": "a/b", "sha": "main", "siblings": [{"rfilename": "a"}]}', ["form"])])
def test_an_answer_without_the_model_is_said(checkout, hub, status, body, words):
    hub.status, hub.body = status, body
    code, said = checkout.get()
    assert code == 1 and not checkout.model.exists()
    one_line(said, hub.address, *words)


def test_no_network_is_said(checkout):
    code, said = checkout.get(HF_ENDPOINT="http://127.0.0.1:1")
    assert code == 1
    one_line(said, "cannot be reached", "network")
    code, said = checkout.get(HF_HUB_OFFLINE="1")
    assert code == 2
    one_line(said, "HF_HUB_OFFLINE")


OLD_CLIENT = """
class constants: ENDPOINT = "http://hub"
class errors: OfflineModeIsEnabled = HFValidationError = EOFError
class HfApi:
    def model_info(self, *_, **__):
        error = ConnectionError("no route")
        error.response = None
        raise error
"""


def test_no_network_is_said_with_a_client_that_asks_through_requests(checkout):
    """Its errors have the answer None."""
    (checkout.folder / "old").mkdir()
    (checkout.folder / "old/huggingface_hub.py").write_text(OLD_CLIENT)
    code, said = checkout.get(PYTHONPATH=str(checkout.folder / "old"))
    assert code == 1
    one_line(said, "cannot be reached", "no route")


def test_a_repository_that_is_no_such_model_is_said(checkout, hub):
    del hub.files["vae/config.json"]
    one_line(checkout.get()[1], SD15, "vae/config.json")


@pytest.mark.parametrize("words, expected", [(["sd-3"], "sd-1.5 or sd-2.1"), ([""], "sd-1.5 or sd-2.1"), (["--repo", "a/../b"], "OWNER/MODEL"),
                                             (["sd-1.5", "sd-2.1"], "sd-2.1"), (["--force"], "--force")])
def test_bad_arguments_are_said(checkout, words, expected):
    code, said = checkout.get(*words)
    assert code == 2
    one_line(said, expected, "--help")


def test_the_list_names_repositories_licences_and_sizes():
    listed = run(ROOT / "dataset/get_model.sh", "--list").stdout
    for words in ("sd-1.5  2.1 GB  " + SD15, "sd-2.1  2.6 GB  sd2-community/", "Open RAIL-M", "Open RAIL++-M"):
        assert words in listed


# -------------------------------------------------------------------------------- no client


PYTHON = f"""#!/bin/bash
# A python3 without packages, as Debian's; its environments have this machine's packages once pip installed any.
case "$1 $2" in
    "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip") echo "${{@: -1}}" >>"$0.installed"; exit "${{PIP_FAILS-0}}" ;;
    "-c import ensurepip, venv") exit "${{NO_VENV-0}}" ;;
    *) if [ -e "$0.installed" ]; then exec {sys.executable} "$@"; else exec {sys.executable} -S "$@"; fi ;;
esac
"""


def test_a_client_is_installed_where_there_is_none_once_it_is_needed(checkout, hub):
    (checkout.folder / ".venv").unlink()
    fake = checkout.folder / "bin/python3"
    fake.parent.mkdir()
    fake.write_text(PYTHON)
    fake.chmod(0o755)
    path, own = f"{fake.parent}:{os.environ['PATH']}", checkout.folder / "models/.hub-client"
    assert checkout.get("sd-3", PATH=path)[0] == 2 and checkout.get("--list", PATH=path)[0] == 0 and not own.exists()
    code, said = checkout.get(PATH=path, NO_VENV="1")
    assert code == 2 and not own.exists()
    one_line(said, "python3-venv", "huggingface_hub")
    code, said = checkout.get(PATH=path, PIP_FAILS="1")
    assert code == 1 and "could not be installed" in said[-1]
    (own / "bin/python.installed").unlink()
    code, said = checkout.get(PATH=path)
    assert code == 0 and "huggingface_hub, into models/.hub-client" in said[0] and checkout.files() == toybox()
    assert checkout.get(PATH=path)[0] == 0 and (own / "bin/python.installed").read_text() == "huggingface_hub\n"
