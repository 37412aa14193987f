"""mpirun --hostfile over two hosts: two network namespaces with a virtual cable between them, each with its own address."""
import os

import pytest

from conftest import learned, losses_of, program, run, train_alone, write_recipe

QUICK = True
CHANGES = dict(optim__steps=20, output__prompts=[], zo__tau=8)
NAMES = [f"zoodip{os.getpid()}{end}" for end in "ab"]
ADDRESSES = ["10.213.77.1", "10.213.77.2"]


def ip(*words):
    return run("ip", *words, check=False)


def lay_cable():
    cables = [f"zd{os.getpid()}{end}" for end in "ab"]
    commands = [["netns", "add", name] for name in NAMES]
    commands += [["link", "add", cables[0], "type", "veth", "peer", "name", cables[1]]]
    for name, cable, address in zip(NAMES, cables, ADDRESSES):
        commands += [["link", "set", cable, "netns", name], ["-n", name, "addr", "add", f"{address}/24", "dev", cable],
                     ["-n", name, "link", "set", "lo", "up"], ["-n", name, "link", "set", cable, "up"]]
    for command in commands:
        done = ip(*command)
        if done.returncode:
            pytest.skip(f"no network namespaces here: ip {' '.join(command)}: {done.stderr.strip()}")


@pytest.fixture
def hosts():
    try:
        try:
            lay_cable()
        except FileNotFoundError:
            pytest.skip("no network namespaces here: ip is not installed")
        yield NAMES
    finally:
        for name in NAMES:
            try:
                ip("netns", "del", name)
            except FileNotFoundError:
                pass


def test_two_hosts_end_with_the_bits_of_one(hosts, tmp_path):
    quiet = train_alone(tmp_path / "one", **CHANGES)
    config, output = write_recipe(tmp_path / "two", **CHANGES)
    (tmp_path / "hosts").write_text("".join(f"{a} slots=2\n" for a in ADDRESSES))
    agent = tmp_path / "agent"  # in place of ssh HOST COMMAND, found by name, since mpirun splits a path at spaces
    agent.write_text(f'#!/bin/bash\nshift\nexec ip netns exec {hosts[1]} unshare --uts bash -c "hostname {hosts[1]}; $*"\n')
    agent.chmod(0o755)
    # the hosts share one memory, so its transport for one host must not be used
    mpirun = ["mpirun", "--hostfile", tmp_path / "hosts", "-np", "3", "--map-by", "node", "--mca", "plm", "rsh", "--mca", "plm_rsh_agent",
              "agent", "--mca", "btl", "tcp,self", "-x", "OMP_NUM_THREADS"]
    named = ["unshare", "--uts", "bash", "-c", 'hostname "$0"; exec "$@"', hosts[0]]  # ranks tell hosts apart by their names
    done = run("timeout", "60", "ip", "netns", "exec", hosts[0], *named, *mpirun, program("zoodip"), "train", config,
               env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert "3 ranks" in done.stderr
    assert (learned(output), losses_of(output)) == quiet
