"""The progress line: redrawn on a terminal, plain and rare elsewhere."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

from conftest import program, run

QUICK = True


def on_terminal(*arguments, columns=100):
    """What the program writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen([program("tests/progress"), *map(str, arguments)], stderr=theirs,
                             env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 4096):
            text += part
    except OSError:  # how a terminal reports that its other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    return text.decode()


def test_a_pipe_gets_the_last_step_in_one_plain_line():
    done = run(program("tests/progress"), 0, 50, 50, 2)
    assert done.stdout == ""
    assert re.fullmatch(r"learning sks \[#{20}\] 50/50, loss 0\.0214, 0:00 left \(0:0\d so far\)\n", done.stderr)


def test_a_dumb_terminal_is_a_pipe():
    done = run(program("tests/progress"), 0, 10, 10, 1, env={"TERM": "dumb"})
    assert "\r" not in done.stderr and done.stderr.count("\n") == 1


def test_work_that_stops_early_shows_where():
    done = run(program("tests/progress"), 0, 1000, 30, 1)
    assert "[....................] 30/1000" in done.stderr and done.stderr.count("\n") == 1


def test_time_left_counts_only_the_steps_of_this_run():
    done = run(program("tests/progress"), 900, 1000, 902, 500)
    assert "902/1000" in done.stderr and "[##################..]" in done.stderr
    minutes, seconds = re.search(r"(\d+):(\d+) left", done.stderr).groups()
    assert 45 <= 60 * int(minutes) + int(seconds) <= 75  # 98 steps of half a second


def test_a_terminal_is_drawn_over():
    text = on_terminal(0, 100, 100, 10)
    lines = text.rstrip("\r\n").split("\r\033[K")
    assert 3 <= len(lines) - 1 <= 15 and "100/100" in lines[-1]
    assert text.count("\n") == 1 and text.endswith("\n")


def test_a_narrow_terminal_loses_the_bar_then_the_end():
    for columns, bar in [(90, True), (70, False), (40, False), (20, False)]:
        lines = on_terminal(0, 100, 100, 2, columns=columns).rstrip("\r\n").split("\r\033[K")
        assert max(map(len, lines)) < columns
        assert ("[####" in lines[-1]) == bar, lines[-1]
        assert lines[-1].startswith("learning sks ")
