"""The pages and --help are correct: every file, link, command, option and key that they name exists, and every zoodip command
that they show runs, in a folder where toybox replaces Stable Diffusion 1.5 and its toys replace photos, cut to a few steps."""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from conftest import BUILD, ROOT, SCRIPTS, environment, run

PAGES = sorted(p for p in ROOT.glob("*.md")) + sorted(p for room in ("src", "launch", "configs", "dataset", "results", "tests")
                                                      for p in (ROOT / room).rglob("*.md"))
ROOMS = ("src", "kernels", "launch", "configs", "dataset", "results", "tests", "build")
MADE = ("results/", "build/", "dataset/dreambooth")  # written by commands, so missing from a checkout
NOT_OURS = {"--mpi=pmix", "--mpi=pmi2", "--signal=B:USR1@120", "--signal=B:USR1@600", "--gpus-per-node=0"}  # Slurm's
SHORT = ["--set", "optim.steps=2", "--set", "output.prompts=[]", "--set", "data.resolution=0", "--set", "zo.tau=0"]


def name(page):
    return str(page.relative_to(ROOT))


@cache
def zoodip_help(command=None):
    return run(BUILD / "zoodip", *([command] if command else []), "--help").stdout


COMMANDS = re.findall(r"^  (\w+) {2,}", zoodip_help().split("examples")[0], re.M) if (BUILD / "zoodip").exists() else []
HELP = {c: zoodip_help(c) for c in COMMANDS if c not in ("help", "version")}
KEYS = set(re.findall(r"^  ([a-z][a-z0-9_.]+) {2,}", HELP["train"].split("config keys:")[1], re.M)) if HELP else set()


def code(page):
    """The page's shell blocks, fenced or indented, and its text without any block."""
    text = page.read_text()
    fenced = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.M | re.S)
    text = re.sub(r"^ *```\w*\n.*?^ *```", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:^ {4,}(?![-*] )\S.*\n)+", text, re.M) if "```" not in page.read_text() else []
    return fenced + indented, re.sub(r"^ {4,}\S.*$", "", text, flags=re.M) if indented else text


def lines(block):
    """Commands of a block: continued lines joined, comments cut."""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words:
            yield words


def examples(text):
    """The commands that a --help shows after "example"."""
    shown = re.split(r"^examples?:\n", text, flags=re.M)[1:]
    return [words for block in shown for words in lines("\n".join(re.findall(r"^ +.*", block.split("\n\n")[0], re.M)))]


def inline(page):
    """What the page's text sets as code."""
    return re.findall(r"`([^`\n]+)`", code(page)[1])


SHOWN = [(name(p), words) for p in PAGES for block in code(p)[0] for words in lines(block)]
SHOWN += [(f"zoodip {c} --help", words) for c, text in HELP.items() for words in examples(text)]
SHOWN += [("zoodip --help", words) for words in examples(zoodip_help())] if HELP else []
# commands within a sentence
NAMED = [(name(p), words) for p in PAGES for text in inline(p) if re.match(r"(build/)?zoodip |(sbatch )?(launch|tests|dataset)/[^ *]+ ", text)
         for words in lines(text)]


def ours(words):
    """The part of a command line that begins with zoodip, without the launcher before it; None if there is none."""
    for i, word in enumerate(words):
        if word in ("zoodip", "build/zoodip"):
            return words[i:]
    return None


def option_is_known(option, help_text):
    return re.search(rf"(?<![\w-]){re.escape(option.split('=')[0])}(?![\w-])", help_text)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)", file.read_text(), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles], target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_exist(page):
    blocks, _ = code(page)
    named = [w for span in inline(page) for w in span.split()] + [w for block in blocks for words in lines(block) for w in words]
    missing = []
    for path in named:
        path = path.split("::")[0].rstrip("/")
        if not re.match(rf"({'|'.join(ROOMS)})/[\w.*/-]+$", path) or path.startswith(MADE) and not re.match(r"build/(zoodip|tests/)", path):
            continue
        if path.startswith("build/tests/") and not path.startswith("build/tests/cuda"):
            exists = (ROOT / "tests/helpers" / f"{Path(path).name}.c").exists()
        elif path.startswith("build/"):
            exists = (BUILD.parent / path).exists() or path == "build/tests/cuda"
        else:
            exists = any(ROOT.glob(path))
        if not exists:
            missing.append(path)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_keys_and_options_in_a_page_exist(page):
    known = "\n".join([zoodip_help(), *HELP.values(), *((ROOT / p).read_text() for p in SCRIPTS),
                       *(p.read_text() for p in (ROOT / "tests").rglob("*.py"))])
    for words in inline(page):
        for key in re.findall(r"\b((?:data|token|zo|optim|quant|output|cluster)\.[a-z_0-9]+)\b(?![./(])", words):
            assert key in KEYS, key
        for key in re.findall(r"^([a-z][a-z_.]*)=[^= ]*$", words):
            assert key in KEYS, words
        if words.startswith("--") and words.split()[0] not in NOT_OURS:
            assert option_is_known(words.split()[0], known), words


def keys_of(value):
    """The dotted names of an object's keys."""
    return {f"{key}.{inner}" for key, held in value.items() if isinstance(held, dict) for inner in keys_of(held)} | {
        key for key, held in value.items() if not isinstance(held, dict)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_keys_in_a_jobs_file_that_a_page_shows_exist(page):
    for block in re.findall(r"^```json\n(.*?)^```", page.read_text(), re.M | re.S):
        shown = json.loads(block)
        for part in (shown["defaults"], *shown["jobs"]) if "jobs" in shown else ():
            assert keys_of(part) - {"name"} <= KEYS


@pytest.mark.parametrize("where, words", SHOWN + NAMED, ids=lambda v: v if isinstance(v, str) else " ".join(v)[:70])
def test_commands_and_options_shown_exist(where, words):
    zoodip = ours(words)
    if zoodip and len(zoodip) > 1:
        if not zoodip[1].startswith("-"):
            assert zoodip[1] in [*COMMANDS, "help", "version"]
        text = HELP.get(zoodip[1], zoodip_help())
        for option in (w for w in zoodip[2:] if w.startswith("--") and w != "--help"):
            assert option_is_known(option, text), option
    for before, value in zip(words, words[1:]):
        if before == "--set" and value != "KEY=VALUE":
            assert value.split("=")[0] in KEYS, value
    start = words[:len(words) - len(zoodip)] if zoodip else words
    script = next((w for w in start if w in SCRIPTS or re.match(r"tests/.*\.py$|launch/slurm/", w)), None)
    if script and (ROOT / script).suffix in (".py", ".sh", ""):
        assert (ROOT / script).exists(), script
        for option in (w for w in start[start.index(script):] if w.startswith("--")):
            assert option_is_known(option, (ROOT / script).read_text()), option
    if words[0] == "cmake":
        for option in re.findall(r"-D(ZOODIP_\w+)", " ".join(words)):
            assert option in (ROOT / "CMakeLists.txt").read_text(), option


# -------------------------------------------------------------------------------- they run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Like a user's checkout after following the first pages: a model, photos, a jobs file, a learned word."""
    here = tmp_path_factory.mktemp("pages")
    for room in ("configs", "dataset", "launch"):
        (here / room).symlink_to(ROOT / room)
    (here / "build").symlink_to(BUILD)
    (here / "models").mkdir()
    for model in ("models/stable-diffusion-v1-5", "stable-diffusion-v1-5"):
        (here / model).symlink_to(ROOT / "dataset/toybox/model")
    (here / "photos").mkdir()
    for photos, toy in (("mug", "cube2"), ("dog6", "bear5")):
        (here / "photos" / photos).symlink_to(ROOT / "dataset/toybox/subjects" / toy)
    (here / "inbox").mkdir()
    jobs = json.loads(re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1])
    for job in (jobs["defaults"], *jobs["jobs"]):
        job["token"] = {"initializer": "toy"}  # one of the words that toybox knows
        job.pop("optim", None)
    jobs["jobs"].append({**jobs["jobs"][0], "name": "third"})
    (here / "jobs.json").write_text(json.dumps(jobs))
    (here / "defaults.json").write_text(json.dumps(jobs["defaults"]))
    run(BUILD / "zoodip", "train", "configs/toybox.json", *SHORT, "--set", "output.dir=results/toybox", cwd=here)
    for other in ("mug", "dog6"):
        shutil.copytree(here / "results/toybox", here / "results" / other)
    return here


def can_run(words):
    """zoodip commands, alone or under mpirun or launch/run.sh, that name existing files; not usage templates."""
    zoodip = ours(words)
    return (zoodip and len(zoodip) > 1 and words[0] in ("zoodip", "build/zoodip", "mpirun", "launch/run.sh")
            and not re.search(r"\[|\.\.\.|\b[A-Z]{3,}\b(?!=)", " ".join(w for w in zoodip if " " not in w)))


def without(words, option):
    """The words without an option and its value."""
    return [w for before, w in zip(["", *words], words, strict=False) if option not in (before, w)]


def shortened(words):
    """The same command, on toybox and for two steps."""
    zoodip = ours(words)
    command, more = zoodip[1], []
    if command in ("train", "run", "bench"):
        more = SHORT + (["--set", "token.initializer=toy"] if command != "run" else [])
    if command == "train" and "--resume" not in zoodip:
        more += ["--overwrite"]  # what another command of the pages left
    if command == "bench":
        words, more = without(words, "--evaluations"), [*more, "--evaluations", "6"]
    if command == "generate":
        words, more = without(words, "--steps"), ["--steps", "2"]
    words = [str(BUILD / "zoodip") if w in ("zoodip", "build/zoodip") else w for w in words]
    # eight ranks share the machine's few cores
    return (["mpirun", "--oversubscribe", *words[1:]] if words[0] == "mpirun" else words) + more


# of those within a sentence only the complete ones
RUNS = {tuple(shortened(words)): where for where, words in SHOWN + [(p, w) for p, w in NAMED if w[-1].endswith(".json") or "--set" in w]
        if can_run(words)}


@pytest.mark.parametrize("words", RUNS, ids=lambda words: " ".join(w.split("/")[-1] for w in words)[:90])
def test_commands_of_the_pages_run(folder, words):
    if "--spool" in words:
        return spool_starts_and_stops(folder, words)
    run(*words, cwd=folder, timeout=120)


def spool_starts_and_stops(folder, words):
    """It runs until it is asked to stop."""
    (folder / words[words.index("--spool") + 1]).mkdir(exist_ok=True)
    with subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True) as going:
        said = ""
        while "watching" not in said and going.poll() is None:
            said += os.read(going.stderr.fileno(), 4096).decode()
        time.sleep(0.2)
        going.send_signal(signal.SIGUSR1)
        said += going.stderr.read()
        assert going.wait(60) == 75, said


def test_messages_under_troubleshooting_are_the_programs():
    table = (ROOT / "README.md").read_text().split("## Troubleshooting")[1].split("\n## ")[0]
    messages = [m for row in table.splitlines()[3:] if row.startswith("|") for m in re.findall(r"`([^`]+)`", row.split("|")[1])]
    # a text in C may continue on the next line, in new quotes
    said = re.sub(r'"\s*\n\s*"', "", "\n".join(p.read_text() for room in ("src", "kernels", "launch") for p in (ROOT / room).rglob("*.*")
                                              if p.suffix in (".c", ".h", ".cu", ".sh")))
    assert len(messages) >= 8
    assert [m for m in messages if m not in said] == []


@pytest.mark.parametrize("script", ["roofline.py", "gpu_model.py", "ablation_report.py"])
def test_a_table_on_the_page_is_the_one_that_its_command_prints(script):
    """The scripts of the pages that take no time and are in no other test; the others there run for minutes, or are tests."""
    page = (ROOT / "results/README.md").read_text()
    assert f".venv/bin/python tests/bench/{script}" in page
    rows = [line for line in run(sys.executable, f"tests/bench/{script}").stdout.splitlines() if line.startswith("|")]
    assert len(rows) > 2 and [row for row in rows if row not in page] == []
