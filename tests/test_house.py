"""House rules: each folder uses only those below it, headers explain themselves, files stay short and formatted, and every
command has a help text."""
import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rooms
from conftest import BUILD, ROOT, SCRIPTS, mpirun, run

QUICK = True
if not shutil.which("git") or not (ROOT / ".git").exists():
    pytest.skip("the house's rules are about the files that git tracks", allow_module_level=True)

COMMANDS = ["train", "run", "generate", "quantize", "inspect", "status", "bench"]
BATCH_SCRIPTS = [f"launch/slurm/{name}.sbatch" for name in ("train", "array", "queue")]


def tracked(*patterns):
    """The project's files that match, as paths below its root; those under dataset/ and results/ only if named."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]  # whoever the checkout belongs to
    listed = subprocess.run([*git, "ls-files", "-z", *patterns], capture_output=True, text=True, check=True)
    return [p for p in listed.stdout.split("\0") if p and (ROOT / p).exists()]


def text(path):
    return (ROOT / path).read_text(errors="replace")


SOURCES = tracked("src/*.c", "src/*.h", "tests/*.c", "tests/*.cpp", "tests/*.cu", "tests/*.h", "kernels/*.cu", "kernels/*.h")
HEADERS = [p for p in SOURCES if p.endswith(".h")]
WRITTEN = tracked("*.c", "*.h", "*.cpp", "*.cu", "*.py", "*.sh", "*.sbatch", "*.def", "*.md", "*.json", "*.txt", ".ci/run", ":!:dataset/toybox/model/*",
                  ":!:dataset/clip/*.txt")


def test_includes_are_named_from_the_tree():
    wrong = [f"{path}: {used}" for path, content in rooms.product().items() for used in rooms.includes(content)
             if "/" not in used or not ((ROOT / "src" / used).exists() or (ROOT / used).exists())]
    assert not wrong, "\n".join(wrong)


def test_a_room_uses_only_those_below_it():
    wrong = [f"{path}: {used}" for path, content in rooms.product().items() for used in rooms.includes(content)
             if rooms.room_of(used) not in [rooms.room_of(path), *rooms.USES[rooms.room_of(path)]]]
    assert not wrong, "\n".join(wrong)


def test_rooms_and_files_stay_small():
    files = rooms.product()
    lines = rooms.lines_of(files)
    large = {room: count for room, count in lines.items() if count > rooms.ROOM_SHARE * lines.total()}
    long = {path: text.count("\n") for path, text in files.items() if text.count("\n") > rooms.FILE_LINES}
    assert not large and not long, (large, long)


def test_what_ships_knows_nothing_of_the_stand_in():
    named = [p for p in tracked("src/*.c", "src/*.h", "kernels/*.cu", "kernels/*.h") if re.search("stand-?in|ZOODIP_STANDIN", text(p), re.I)]
    assert not named


def test_a_header_begins_with_a_page_about_itself():
    bare = []
    for path in HEADERS:
        comment = re.match(r"/\*(.*?)\*/", text(path), re.S)
        named = path.removeprefix("src/")
        if not comment or named not in comment.group(1) or len(comment.group(1).split()) < 12:
            bare.append(path)
    assert not bare, "no leading comment with the header's name and what it is for: " + ", ".join(bare)


def test_files_stay_below_a_thousand_lines():
    long = {p: n for p in WRITTEN if (n := text(p).count("\n")) >= 1000}
    assert not long


def test_no_path_of_a_single_machine():
    # /tmp may be named, if a test or script makes its own folder there; other absolute paths may not
    machine = re.compile(r"(?<![\w.])/(?:home|Users|work|root|farm|mnt|scratch)/[\w.]+")
    found = [f"{p}: {m.group()}" for p in WRITTEN for m in machine.finditer(text(p))]
    assert not found, "\n".join(found)


def test_nothing_is_left_to_do():
    marks = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
    found = [f"{p}:{i}" for p in WRITTEN for i, line in enumerate(text(p).splitlines(), 1) if marks.search(line)]
    assert not found, "\n".join(found)


# What a test file names, and what it needs for that (tests/README.md); other packages than LIGHT need "peers".
MARKS = {"peers": "make_model|random_models", "standin": "needs_cuda|cuda_program|cuda-asan", "slurm": "slurmctld", "clang": "build-clang",
         "fuzz": "fuzz/run.sh", "bundle": "patchelf"}
LIGHT = {"numpy", "PIL", "pytest", *sys.stdlib_module_names}


def packages(path, seen):
    """The packages that a Python file imports, directly or through files beside it."""
    found = set()
    for node in ast.walk(ast.parse(text(path))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in {n.split(".")[0] for n in names} - seen:
            beside = next((ROOT / "tests").rglob(f"{name}.py"), None)
            if name != "conftest":
                found |= packages(beside.relative_to(ROOT), seen | {name}) if beside else {name}
    return found


def test_a_test_file_says_what_it_needs():
    wrong = []
    for path in tracked("tests/test_*.py", ":!:tests/test_house.py"):
        said, quick = set(" ".join(re.findall(r'^NEEDS = "(.+)"$', text(path), re.M)).split()), "\nQUICK = True\n" in text(path)
        needs = {need for need, words in MARKS.items() if re.search(rf"\b({words})\b", text(path))}
        needs |= {"peers"} if packages(path, set()) - LIGHT else set()
        if not needs <= said <= set(MARKS) or quick and said:
            wrong.append(f"{path} says {sorted(said)}{' and that it is quick' if quick else ''}, but needs {sorted(needs)}")
    assert not wrong, "\n".join(wrong)


def test_help_lists_every_command():
    said = run(BUILD / "zoodip", "--help").stdout
    assert all(re.search(rf"^\s+{c}\s+\w", said, re.M) for c in COMMANDS)
    assert "example" in said and "exit codes" in said


@pytest.mark.parametrize("asked,same", [
    (["help"], ["--help"]), (["-h"], ["--help"]), (["help", "help"], ["--help"]), (["help", "version"], ["--help"]),
    (["help", "train"], ["train", "--help"]), (["--help", "bench"], ["bench", "--help"]), (["run", "jobs.json", "-h"], ["run", "--help"]),
    (["version"], ["--version"]), (["version", "--help"], ["--help"]), (["-V"], ["--version"])])
def test_help_and_version_can_be_asked_for_in_many_ways(asked, same):
    assert run(BUILD / "zoodip", *asked).stdout == run(BUILD / "zoodip", *same).stdout != ""


@pytest.mark.parametrize("asked", [["help"], ["help", "train"], ["train", "--help"], ["version"]])
def test_ranks_answer_a_call_for_help_once(asked):
    assert mpirun(3, BUILD / "zoodip", *asked).stdout == run(BUILD / "zoodip", *asked).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_examples(command):
    done = run(BUILD / "zoodip", command, "--help")
    assert done.stdout.startswith(f"usage: zoodip {command}") and done.stderr == ""
    examples = done.stdout.split("example", 1)[1:]
    assert examples and f"zoodip {command}" in examples[0]


@pytest.mark.parametrize("script", SCRIPTS + BATCH_SCRIPTS)
def test_help_of_a_script_is_its_first_comment(script):
    done = run(ROOT / script, "--help")
    assert script in done.stdout and len(done.stdout.splitlines()) >= 3


def test_version_says_what_it_was_built_with():
    said = run(BUILD / "zoodip", "--version").stdout
    assert re.match(r"zoodip \d+\.\d+\.\d+", said) and "cpu" in said.lower() and "mpi" in said.lower()


def test_batch_scripts_can_be_put_back_into_the_queue():
    lines = ["--requeue", "--signal=B:USR1@120", "--open-mode=append", "--nodes=", "--ntasks-per-node=", "--gpus-per-node=", "--time="]
    scripts = tracked("launch/slurm/*.sbatch")
    assert len(scripts) == 3
    for script in scripts:
        told = re.findall(r"^#SBATCH (\S+)", text(script), re.M)
        assert all(any(t.startswith(line) for t in told) for line in lines), script


def recipe(section):
    """A section's commands in the container recipe, lines that go on joined."""
    return re.search(rf"%{section}\n(.*?)(\n\n|\Z)", text("launch/zoodip.def"), re.S).group(1).replace("\\\n", " ")


def test_the_container_recipe_takes_what_the_build_needs_to_where_it_builds():
    copied = dict(line.split() for line in recipe("files").splitlines())
    assert all((ROOT / source).exists() and target == f"/opt/zoodip/{source}" for source, target in copied.items())
    assert {"CMakeLists.txt", "src", "kernels", "launch"} <= set(copied)
    links = dict(re.findall(r"ln -s (\S+) (\S+)", recipe("post")))
    for target, link in links.items():
        assert link == f"/usr/local/bin/{Path(target).name}"
        assert target == "/opt/zoodip/build/zoodip" or (ROOT / target.removeprefix("/opt/zoodip/")).stat().st_mode & 0o100


def test_the_container_has_the_packages_that_setup_installs():
    """libjpeg-dev is Debian's libjpeg62-turbo-dev and Ubuntu's libjpeg-turbo8-dev; g++ is for nvcc, ssh for mpirun over hosts; AVIF and
    HEIC are read in the container, too."""
    asked = re.search(r"program_packages='\n(.*?)'", text("launch/setup.sh"), re.S).group(1)
    needed = {line.split()[0] for line in asked.splitlines()}
    installed = set(re.search(r"apt-get install (.*)", recipe("post")).group(1).split()) - {"-y", "--no-install-recommends"}
    assert installed - {"libjpeg-dev", "g++", "openssh-client", "libavif-dev", "libheif-dev"} == needed - {"libjpeg62-turbo-dev"}
    assert "libjpeg-dev" in installed
