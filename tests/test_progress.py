"""Live lines: redrawn on a terminal, plain and rare elsewhere; long phases are named and say how long they will take, quick ones
say nothing. The helper has a clock of its own, so that minutes pass in a second."""

import fcntl
import os
import pty
import re
import resource
import struct
import subprocess
import termios

import pytest

from conftest import program, run

QUICK = True


def on_terminal(*command, columns=100):
    """What a program writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen([str(c) for c in command], stderr=theirs, env={**os.environ, "TERM": "xterm"})
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


def helper(commands):
    """A line for the helper: _ stands for a blank in a text, - for no text."""
    words = commands.split()
    return [program("tests/progress"), *(w.replace("_", " ").replace("-", "") for w in words)]


def plain(commands, **env):
    return run(*helper(commands), env=env).stderr


def drawn(commands, columns=100):
    """The texts that a terminal's line showed one after the other, and what stayed on the screen."""
    text = on_terminal(*helper(commands), columns=columns)
    states = [part for part in re.split("\r\n|\r\x1b\\[K", text) if part]
    screen = [line.split("\r\x1b[K")[-1] for line in text.split("\r\n")]
    return states, [line for line in screen if line]


def seconds(line, word):
    """A duration of a line: "left" or "so far"."""
    minutes, rest = re.search(rf"(\d+):(\d+) {word}", line).groups()
    return 60 * int(minutes) + int(rest)


# -------------------------------------------------------------------------------- main work


LEARN = "main learning_sks 0 50 "


def test_a_pipe_gets_the_last_step_in_one_plain_line():
    assert plain(LEARN + "steps 50 0.002 end") == "learning sks [####################] 50/50, 0:00 left (0:00 so far)\n"


def test_a_dumb_terminal_is_a_pipe():
    text = run(*helper(LEARN + "steps 10 0.01 step 11 loss_0.0214 end"), env={"TERM": "dumb"}).stderr
    assert "\r" not in text and text.count("\n") == 1 and "11/50, loss 0.0214, 0:0" in text


def test_a_pipe_gets_a_line_every_five_seconds():
    lines = plain(LEARN + "steps 50 1 end").splitlines()
    assert [seconds(line, "so far") for line in lines[:-1]] == list(range(5, 51, 5))
    assert [seconds(line, "left") for line in lines[:-1]] == list(range(45, -1, -5))
    assert lines[-1].endswith("] 50/50, 0:00 left (0:50 so far)")


def test_work_that_stops_early_shows_where():
    text = plain("main learning_sks 0 1000 steps 30 0.001 end")
    assert "[....................] 30/1000" in text and text.count("\n") == 1


def test_time_left_counts_only_the_steps_of_this_run():
    text = plain("main learning_sks 900 1000 steps 2 0.5 end")
    assert "902/1000" in text and "[##################..]" in text and seconds(text, "left") == 49


def test_time_left_does_not_grow_while_a_step_takes_its_time():
    states, _ = drawn("main learning_sks 0 4 wait 2 step 1 - wait 7 step 2 - end")
    assert "left" not in states[0], states[0]  # nothing is known yet
    left = [seconds(s, "left") for s in states if " 1/4" in s]
    assert left[0] == 6 and left[-1] == 0 and left == sorted(left, reverse=True)
    assert seconds(states[-1], "left") == 9


def test_time_left_counts_what_costs_more_and_what_follows():
    # one of ten pieces of work is done in two seconds; five more follow
    text = plain("main learning_sks 0 4 wait 2 weigh 1 9 5 step 1 - end")
    assert "[##..................] 1/4" in text and seconds(text, "left") == 28


def test_a_terminal_is_drawn_over():
    states, screen = drawn("main learning_sks 0 100 steps 100 0.02 end")
    assert 10 <= len(states) <= 25 and "100/100" in states[-1]
    assert screen == states[-1:]


def test_a_narrow_terminal_loses_the_bar_then_the_end():
    for columns, bar in [(110, True), (90, False), (40, False), (20, False)]:
        states, _ = drawn("main learning_sks 0 100 step 99 loss_0.0214,_validation_0.0221 wait 0.5 end", columns=columns)
        assert max(map(len, states)) < columns
        assert ("[####" in states[-1]) == bar, states[-1]
        assert states[-1].startswith("learning sks ")


def test_lines_appear_above_the_live_one():
    text = on_terminal(*helper("main learning_sks 0 9 wait 1 log hello wait 1 end"))
    before, after = text.split("zoodip: hello\r\n")
    assert before.endswith("\r\x1b[K") and after.startswith("learning sks [")
    assert text.count("\n") == 2


# -------------------------------------------------------------------------------- phases


ENCODE = "phase encoding_pictures 10 - "


@pytest.mark.parametrize("commands", [ENCODE + "steps 10 0.19 end", "phase writing 0 - wait 1.9 end", "main learning 0 9 " + ENCODE + "wait 1.9 end step 9 - end"])
def test_a_quick_phase_says_nothing(commands):
    assert "encoding" not in (text := plain(commands)) and "writing" not in text
    assert not any("encoding" in s or "writing" in s for s in drawn(commands)[0])


def test_a_slow_phase_has_a_bar_and_the_time_left_and_its_last_line_stays():
    states, screen = drawn(ENCODE + "steps 10 0.5 end")
    assert states[0].startswith("encoding pictures [######..............] 3/10, 0:03 left (0:02 so far)"), states[0]
    assert screen == ["encoding pictures [####################] 10/10, 0:00 left (0:05 so far)"]


def test_a_slow_phase_has_lines_elsewhere():
    lines = plain(ENCODE + "steps 10 1.2 end").splitlines()
    assert [seconds(line, "so far") for line in lines] == [2, 7, 12, 12]
    assert [re.search(r"\d+/10", line)[0] for line in lines] == ["1/10", "5/10", "9/10", "10/10"]


def test_a_single_long_piece_is_named_too():
    """In a piece that takes minutes, the phase is named after two seconds, and gives a sign of life every minute."""
    lines = plain("phase writing_the_report 0 - wait 130 end").splitlines()
    assert lines == ["writing the report (0:02 so far)", "writing the report (1:02 so far)", "writing the report (2:02 so far)"]
    states, screen = drawn("phase loading_the_UNet 860 MB wait 3 end")
    assert states[0] == "loading the UNet [....................] 0/860 MB (0:02 so far)" and len(screen) == 1


def test_a_phase_inside_other_work_takes_its_line_and_gives_it_back():
    commands = "main learning_sks 0 9 wait 1 step 1 - phase validating 60 - steps 30 0.1 brief end wait 1 step 2 - end"
    states, screen = drawn(commands)
    what = [s.split()[0] for s in states]
    first, last = what.index("validating"), len(what) - 1 - what[::-1].index("validating")
    assert set(what[:first]) == set(what[last + 1:]) == {"learning"} and set(what[first:last + 1]) == {"validating"}
    assert len(screen) == 1 and screen[0].startswith("learning sks")


def test_a_quick_phase_inside_a_slow_one_leaves_its_line_alone():
    states, _ = drawn("phase planning 3 - steps 2 1.5 phase opening 0 - wait 1 end end")
    assert states and all(s.startswith("planning") for s in states)


def test_what_is_muted_or_quiet_says_nothing():
    for first in ("quiet", "mute"):
        assert plain(f"{first} main learning_sks 0 9 steps 9 1 {ENCODE} steps 10 1 brief end end") == ""
    # what has begun before goes on: the phase that a trial is a part of
    lines = plain(f"phase planning 0 - wait 3 mute {ENCODE} steps 10 6 end end").splitlines()
    assert lines and all(line.startswith("planning") for line in lines)


def test_who_shows_it_elsewhere_learns_what_is_under_way():
    out = run(*helper(f"brief main learning_sks 0 9 step 1 - brief {ENCODE} steps 1 1 brief steps 1 3 brief end end")).stdout
    assert out.splitlines() == ["|-1", "|0", "|0", "encoding pictures 2/10|16"]


@pytest.mark.parametrize("hidden", ["", "quiet ", "mute "])
def test_who_shows_it_elsewhere_learns_of_work_that_is_not_shown_here(hidden):
    out = run(*helper(f"{hidden}main learning_sks 0 9 step 1 - {ENCODE} steps 1 4 brief end brief end brief")).stdout
    assert out.splitlines() == ["encoding pictures 1/10|36", "|0", "|-1"]


@pytest.mark.parametrize("hidden", ["", "quiet ", "mute "])
def test_a_listener_hears_of_each_begin_step_and_end(hidden):
    out = run(*helper(f"{hidden}phase opening 0 - end listen main learning_sks 0 9 step 1 - {ENCODE} steps 2 0.1 end end unlisten phase writing 0 - end"))
    encoding = [f"encoding pictures {k}/10|" for k in range(3)]
    assert out.stdout.splitlines() == ["|", "|", *encoding, "|", "|"]


def test_a_step_costs_next_to_nothing():
    """A thousandth of toybox's steps, 4 ms, at most: measured on 200,000 of them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    plain("main learning_sks 0 200000 steps 200000 0 end")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 200000 * 4e-6
