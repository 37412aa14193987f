"""launch/bundle.sh makes one file for machines without packages or network: unpacked in a root with only a shell and the C
library, and with no network but the loopback, two ranks learn what the checkout learns."""
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from conftest import BUILD, ROOT, learned, program, run

NEEDS = "bundle"
pytestmark = pytest.mark.skipif(not shutil.which("patchelf"), reason="not installed: patchelf")

RECIPE = ["configs/toybox.json", "--set", "optim.steps=12", "--set", "output.prompts=[]", "--set"]
C_LIBRARY = re.compile(r"(linux-vdso|ld-linux.*|lib(c|m|dl|rt|pthread|util|resolv))\.so\.\d")

# Runs in its own namespaces: brings the loopback up, enters the root, drops root's privileges, and runs the command there.
ENTER = """
import fcntl, os, socket, struct, subprocess, sys
root, folder, user, *command = sys.argv[1:]
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up and running
for place in ("proc", "dev", "sys"):
    subprocess.run(["mount", "--rbind", "/" + place, f"{root}/{place}"], check=True)
os.chroot(root)
os.chdir(folder)
if int(user):
    os.setgroups([]), os.setgid(int(user)), os.setuid(int(user))
os.execve(command[0], command, {"PATH": "/usr/bin", "HOME": "/tmp", "OMP_NUM_THREADS": "1"})
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    file = tmp_path_factory.mktemp("made here") / "zoodip.tar.gz"
    run(ROOT / "launch/bundle.sh", "--output", file, env={"ZOODIP_BUILD": str(BUILD)})
    return file


def unpack(bundle, folder):
    """Unpacks the bundle; returns its one folder."""
    folder.mkdir(parents=True)
    with tarfile.open(bundle) as tar:
        tar.extractall(folder)
    (unpacked,) = folder.iterdir()
    return unpacked


def libraries(*files, **env):
    """{name: where the loader finds it} for everything that these files load; "not found" is a place too."""
    return {Path(line.split()[0]).name: line.split("=>")[-1].split(" (0x")[0].strip()
            for line in run("ldd", *files, env=env).stdout.splitlines() if "(0x" in line or "=>" in line}


def bare_root(root):
    """A shell, the coreutils that launch/run.sh calls, and the C library."""
    for place in ("usr/bin", "proc", "dev", "sys", "tmp"):
        (root / place).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    programs = [shutil.which(name, path="/usr/bin:/bin") for name in
                ("bash", "basename", "cat", "dirname", "env", "nproc", "readlink", "realpath", "rm", "sleep")]
    for path in programs:
        shutil.copy(path, root / "usr/bin")
    needed = {**libraries(*programs), **{k: v for k, v in libraries(program("zoodip")).items() if C_LIBRARY.fullmatch(k)}}
    for path in needed.values():
        if path.startswith("/"):
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path[1:])


@pytest.fixture(scope="module")
def machine(bundle, tmp_path_factory):
    """A function that runs a command in the unpacked folder on such a machine, as an ordinary user; its `.root` as seen from here."""
    root = tmp_path_factory.mktemp("machine") / "root"
    bare_root(root)
    folder = unpack(bundle, root / "shared software")
    namespaces = ["unshare", "--mount", "--net", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    tried = subprocess.run([*namespaces, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"neither root nor namespaces for users here: {tried.stderr.strip()}")

    def command(*words):
        return run(*namespaces, sys.executable, "-c", ENTER, root, f"/{folder.relative_to(root)}", 0 if os.geteuid() else 65534, *words)
    command.root = root
    return command


def test_two_ranks_on_a_bare_machine_learn_the_same_bits(machine, tmp_path):
    done = machine("/usr/bin/bash", "launch/run.sh", "-n", "2", "build/zoodip", "train", *RECIPE, "output.dir=/tmp/out")
    strange = [line for line in done.stderr.splitlines() if not line.startswith(("zoodip: ", "learning "))]
    assert "2 ranks" in done.stderr and not strange
    run(program("zoodip"), "train", *RECIPE, f"output.dir={tmp_path}")
    assert learned(machine.root / "tmp/out") == learned(tmp_path)


def test_the_program_starts_by_itself_too(machine):
    assert machine("build/zoodip", "--version").stdout.splitlines()[0] == run(program("zoodip"), "--version").stdout.splitlines()[0]


def test_nothing_but_the_c_library_comes_from_the_system(bundle, tmp_path):
    """Not even where LD_LIBRARY_PATH names other libraries of the same names, as a cluster's modules do."""
    folder = unpack(bundle, tmp_path / "moved")
    files = [p for p in folder.rglob("*") if p.is_file() and p.read_bytes()[:4] == b"\x7fELF"]
    theirs = {Path(p).parent for p in libraries(program("zoodip")).values() if p.startswith("/")}
    found = libraries(*files, LD_LIBRARY_PATH=":".join(map(str, theirs)))
    assert {"libmpi.so.40", "libcjson.so.1"} <= set(found) and len(files) > 50
    assert not {k: v for k, v in found.items() if not C_LIBRARY.fullmatch(k) and not Path(v).is_relative_to(folder)}


def test_a_bundle_names_what_it_is_made_of(bundle, tmp_path):
    folder = unpack(bundle, tmp_path / "moved")
    notice = (folder / "NOTICE").read_text()
    assert [p.name for p in (folder / "lib").iterdir() if p.name not in notice] == []
    assert re.search(r"GNU C library 2\.\d+", notice) and list((folder / "share/licenses").glob("libopenmpi*"))


def test_another_kind_of_file_is_refused(tmp_path):
    done = run(ROOT / "launch/bundle.sh", "--output", tmp_path / "zoodip.zip", check=False)
    assert done.returncode == 2 and ".tar.gz" in done.stderr and not list(tmp_path.iterdir())
