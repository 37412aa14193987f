"""What `cmake --install` installs works there: program, man page, completion, and a folder like a checkout."""
import os
import re
import shutil

import pytest

from conftest import BUILD, ROOT, learned, run
from test_house import COMMANDS, recipe, tracked

QUICK = True
TRAIN = re.search(r"^launch/run\.sh .* train .*", (ROOT / "launch/demo.sh").read_text(), re.M).group()


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """An installation into a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("installed") / "a prefix"
    run("cmake", "--install", BUILD, "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def page(prefix):
    return prefix / "share/man/man1/zoodip.1"


def shown(page):
    return run("man", "-l", page, env={"MANWIDTH": "200", "MANPAGER": "cat", "LC_ALL": "C.UTF-8"}).stdout


def completed(program, *words):
    """What bash offers to complete the last of these words, split as bash splits them."""
    script = 'source "$1"; shift; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _zoodip "$1" "${!#}" ""; printf "%s\\n" "${COMPREPLY[@]}"'
    completion = program.parent.parent / "share/bash-completion/completions/zoodip"
    return run("bash", "-c", script, "bash", completion, program, *words).stdout.split()


def test_the_program_runs_through_its_link_too(prefix):
    installed, link = prefix / "bin/zoodip", prefix / "share/zoodip/build/zoodip"
    assert link.is_symlink() and not os.path.isabs(os.readlink(link)) and link.resolve() == installed.resolve()
    assert run(installed, "--version").stdout == run(link, "--version").stdout == run(BUILD / "zoodip", "--version").stdout


def test_recipes_toybox_and_launchers_are_where_a_checkout_has_them(prefix):
    for path in tracked("configs", "dataset/clip", "dataset/toybox", "launch/run.sh", "launch/demo.sh", "launch/slurm", "LICENSE", "README.md"):
        ours, installed = ROOT / path, prefix / "share/zoodip" / path
        assert installed.read_bytes() == ours.read_bytes(), path
        assert os.access(installed, os.X_OK) == os.access(ours, os.X_OK), path


def test_the_demos_train_command_runs_in_a_read_only_installation(prefix, tmp_path):
    """The commands of launch/demo.sh, cut to two steps. They write nothing there, and the word has the checkout's bits."""
    for folder, _, _ in os.walk(prefix):
        os.chmod(folder, 0o555)
    before = sorted(prefix.rglob("*"))
    for name, place, program in (("checkout", ROOT, BUILD / "zoodip"), ("installed", prefix / "share/zoodip", "build/zoodip")):
        line = TRAIN.replace(" build/zoodip ", f" '{program}' ")
        run("bash", "-c", f"{line} --set optim.steps=2 --set 'output.prompts=[]'", cwd=place,
            env={"subjects": "dataset/toybox/subjects", "subject": "duck6", "output": str(tmp_path / name)})
    assert sorted(prefix.rglob("*")) == before
    for folder, _, _ in os.walk(prefix):
        os.chmod(folder, 0o755)
    assert learned(tmp_path / "installed") == learned(tmp_path / "checkout")


def test_destdir_stages_an_installation_again_and_again(tmp_path):
    run("cmake", "--install", BUILD, "--prefix", "/opt/zoo", env={"DESTDIR": str(tmp_path)})
    run("cmake", "--install", BUILD, "--prefix", "/opt/zoo", env={"DESTDIR": str(tmp_path)})
    assert [p.name for p in tmp_path.iterdir()] == ["opt"]
    assert (tmp_path / "opt/zoo/share/zoodip/build/zoodip").resolve() == tmp_path.resolve() / "opt/zoo/bin/zoodip"


@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
def test_the_man_page_has_the_help_of_every_command(page):
    words = shown(page).split()
    for asked in (["--help"], *([command, "--help"] for command in COMMANDS)):
        said = run(BUILD / "zoodip", *asked).stdout
        assert set(re.findall(r"--[a-z]+|[a-z]+\.[a-z_]+", said)) <= set(re.findall(r"--[a-z]+|[a-z]+\.[a-z_]+", " ".join(words))), asked
        example = re.search(r"^examples?:\n  (.+)$", said, re.M).group(1)
        assert example in " ".join(words)


@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
def test_the_man_page_has_its_sections_and_the_programs_version(page):
    sections = re.findall(r"^([A-Z][A-Z ]+)$", shown(page), re.M)
    assert sections == ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "CONFIG KEYS", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"]
    version = run(BUILD / "zoodip", "--version").stdout.split()[1].rstrip(",")
    assert re.search(rf"zoodip {re.escape(version)} +\d{{4}}-\d\d-\d\d +ZOODIP\(1\)", shown(page))


@pytest.mark.parametrize("checker", [["groff", "-man", "-ww", "-z", "-Tutf8"], ["mandoc", "-Tlint"]], ids=["groff", "mandoc"])
def test_the_man_page_is_clean(page, checker):
    if not shutil.which(checker[0]):
        pytest.skip(f"{checker[0]} is not installed")
    done = run(*checker, page)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("words, offered", [
    (["in"], ["inspect"]),
    (["help", "q"], ["quantize"]),
    (["--ver"], ["--version"]),
    (["train", "configs/toy"], ["configs/toybox.json"]),
    (["train", "configs/toybox.json", "--res"], ["--resume"]),
    (["train", "configs/toybox.json", "--set", "data.f"], ["data.fit=", "data.flip="]),
    (["bench", "configs/toybox.json", "--set", "data.flip", "="], ["true", "false"]),
    (["run", "jobs.json", "--set", "device", "=", "cu"], ["cuda"]),
    (["run", "jobs.json", "--set", "zo.n", "=", "4", "--gr"], ["--groups"]),
    (["generate", "--model", "dataset/toy"], ["dataset/toybox"]),
    (["generate", "--model", "=", "dataset/toy"], ["dataset/toybox"]),
    (["quantize", "--model", "dataset/toybox/learned/bear5.s"], ["dataset/toybox/learned/bear5.safetensors"]),
    (["quantize", "--output", "dataset/toybox/learned/bear5.s"], []),
    (["status", "dataset/toy"], ["dataset/toybox"]),
    (["status", "dataset/toybox", "--w"], ["--watch"]),
    (["inspect", "dataset/"], [])], ids=" ".join)
def test_bash_completes(prefix, words, offered):
    """If nothing is offered, bash completes file names."""
    assert completed(prefix / "bin/zoodip", *words) == offered


@pytest.mark.parametrize("command", COMMANDS)
def test_bash_offers_every_option_of_a_command(prefix, command):
    said = run(BUILD / "zoodip", command, "--help").stdout
    assert set(completed(prefix / "bin/zoodip", command, "-")) == set(re.findall(r"^  (--[a-z-]+)", said, re.M)) | {"--help"}


def test_bash_offers_every_command_and_every_key(prefix):
    assert set(COMMANDS) <= set(completed(prefix / "bin/zoodip", ""))
    keys = re.search(r"^config keys:\n(.*)", run(BUILD / "zoodip", "train", "--help").stdout, re.M | re.S).group(1)
    assert completed(prefix / "bin/zoodip", "train", "x.json", "--set", "") == [f"{key}=" for key in re.findall(r"^  (\S+)", keys, re.M)]


def test_the_container_recipe_copies_enough_to_configure_a_build_without_werror(tmp_path):
    for line in recipe("files").splitlines():
        source, _ = line.split()
        (tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source).symlink_to(ROOT / source)
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-DZOODIP_CUDA=OFF")
    flags = (tmp_path / "build/CMakeFiles/zoodip_core.dir/flags.make").read_text()
    assert "-Wall" in flags and "-Werror" not in flags
