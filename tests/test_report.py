"""What a run leaves for people to read: metrics.jsonl, TensorBoard events, loss.png, report.html; and what `inspect` says about
it."""
import base64
import io
import json
import math
import re
import shutil
import socket
import struct
import time
import zlib
from datetime import datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, TOYBOX, program, run, write_recipe

QUICK = True
HOSTILE = "<script>alert(1)</script> & \"quotes\" 'and' \x1b[2J end"


def write(folder, from_step, count):
    run(program("tests/report"), "write", folder, from_step, count)


def lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_lines_read_back_to_the_same_doubles(tmp_path):
    write(tmp_path, 0, 60)
    read = lines(tmp_path)
    assert [line["step"] for line in read] == list(range(1, 61))
    third = read[2]
    assert list(third) == ["step", "loss", "losses", "slopes", "grad_norm", "removed", "lr", "seconds", "evaluations_per_second"]
    loss = (0.02 + 0.01 * math.exp(-3 / 200)) * (0.4 + 1.2 * math.fmod(3 * 0.6180339887498949, 1))
    assert third["loss"] == pytest.approx(loss, rel=1e-15)
    assert third["losses"] == [third["loss"], third["loss"] / 3, 0.1 + 1e-17 * 3]
    assert third["slopes"] == [third["loss"] / 7, -1 / third["loss"]]
    assert third["grad_norm"] == 1 / 3 and third["lr"] == 0.03
    assert [line["step"] for line in read if "validation_loss" in line] == [1, 51]
    assert {line["step"]: line["slope_noise"] for line in read if "slope_noise" in line} == {s: math.exp(-s / 200) / 50 for s in (2, 22, 42)}
    assert read[6]["loss"] is None, "infinity is no JSON number"


def test_resume_cuts_what_the_checkpoint_does_not_know(tmp_path):
    write(tmp_path, 0, 60)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 61, "lo')  # torn by a kill
    write(tmp_path, 40, 20)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    write(tmp_path, 0, 3)
    assert len(lines(tmp_path)) == 3, "a run from step 0 starts anew"


def test_resume_without_lines_is_a_start(tmp_path):
    write(tmp_path / "new" / "folder", 5, 2)
    assert [line["step"] for line in lines(tmp_path / "new" / "folder")] == [6, 7]


# TensorBoard's file, read by the format's own description


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    while data:
        length, check = struct.unpack("<QI", data[:12])
        assert check == masked(data[:8])
        record, (check,) = data[12:12 + length], struct.unpack("<I", data[12 + length:16 + length])
        assert len(record) == length and check == masked(record)
        yield record
        data = data[16 + length:]


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def fields(data):
    """Protobuf wire format: (field number, value)."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
        else:
            size, at = varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = data[at:at + size], at + size
        yield key >> 3, value


def events(path):
    """[(step, {tag: value})] of a file, and its other contents."""
    scalars, others = [], []
    for record in records(path.read_bytes()):
        event = dict(fields(record))
        assert 1.6e9 < struct.unpack("<d", event[1])[0] < 1e10, "wall time"
        if 5 not in event:
            others.append((event[2], event.get(3), event.get(7)))
            continue
        values = {}
        for number, value in fields(event[5]):
            inner = dict(fields(value))
            values[inner[1].decode()] = struct.unpack("<f", inner[2])[0]
        scalars.append((event[2], values))
    return scalars, others


def test_check_sum_is_castagnoli():
    assert crc32c(b"123456789") == 0xE3069283


def test_events_say_what_the_lines_say(tmp_path):
    write(tmp_path, 0, 60)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    scalars, others = events(path)
    assert others == [(0, b"brain.Event:2", None)]
    assert [step for step, _ in scalars] == list(range(61))
    assert scalars[0] == (0, {"validation_loss": np.float32(lines(tmp_path)[0]["validation_start"])})
    for (_, values), line in zip(scalars[1:], lines(tmp_path)):
        assert set(values) == ({"loss", "lr", "grad_norm", "evaluations_per_second"} |
                               ({"validation_loss"} if "validation_loss" in line else set()))
        for tag, value in values.items():
            assert value == np.float32(math.inf if line[tag] is None else line[tag]), tag


def test_a_resumed_run_adds_a_file_that_takes_back_later_steps(tmp_path):
    write(tmp_path, 0, 60)
    write(tmp_path, 40, 20)
    first, second = sorted(tmp_path.glob("events.out.tfevents.*"))
    scalars, others = events(second)
    assert [step for step, _ in scalars] == list(range(41, 61))
    assert others[1] == (41, None, b"\x08\x01"), "session START: forget everything from step 41 on"
    (tmp_path / "events.out.tfevents.1.other").write_text("not ours")
    write(tmp_path, 0, 1)
    assert len(list(tmp_path.glob("*.zoodip"))) == 1 and (tmp_path / "events.out.tfevents.1.other").exists()


def pictures_in(path):
    """[(step, tag, (height, width, colours), PNG)] of a file."""
    found = []
    for record in records(path.read_bytes()):
        event = dict(fields(record))
        for _, value in fields(event.get(5, b"")):
            inner = dict(fields(value))
            if 4 in inner:
                image = dict(fields(inner[4]))
                found.append((event[2], inner[1].decode(), (image[1], image[2], image[3]), image[4]))
    return found


@pytest.mark.parametrize("tag, shown", [("samples/1: a photo", "samples/1: a photo"), (HOSTILE, HOSTILE.replace("\x1b", "?")),
                                        ("字" * 100, "字" * 66), ("", "")])
def test_tensorboard_gets_pictures(tmp_path, tag, shown):
    run(program("tests/report"), "picture", tmp_path, 70000, tag)
    (path,) = tmp_path.glob("events.out.tfevents.*")
    ((step, name, shape, png),) = pictures_in(path)
    assert (step, name, shape) == (70000, shown, (48, 64, 3))
    assert (np.asarray(Image.open(io.BytesIO(png))).ravel() == np.arange(3 * 64 * 48) * 7 % 256).all()


def test_tensorboard_itself_reads_all(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, 0, 60)
    first = next(tmp_path.glob("events.out.tfevents.*"))
    run(program("tests/report"), "picture", tmp_path / "other", 60, "samples/1: a photo")
    with open(first, "ab") as file:
        file.write(b"".join(path.read_bytes() for path in (tmp_path / "other").glob("events.*")))
    read = accumulator.EventAccumulator(str(tmp_path), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert [event.step for event in read.Scalars("loss")] == list(range(1, 61)) and len(read.Scalars("validation_loss")) == 3
    (image,) = read.Images("samples/1: a photo")
    assert (image.step, image.width, image.height) == (60, 64, 48) and image.encoded_image_string.startswith(b"\x89PNG")


def test_a_run_s_samples_are_in_page_and_tensorboard(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=3, output__sample_every=1, output__sample_steps=2,
                                  output__prompts=["a {} & a {}", "a <i>{}</i> 漢字"])
    run(program("zoodip"), "train", config)
    (path,) = output.glob("events.out.tfevents.*")
    seen = pictures_in(path)
    assert [(step, tag) for step, tag, _, _ in seen] == [(step, tag) for step in (1, 2)
                                                         for tag in ("samples/1: a ... & a ...", "samples/2: a <i>...</i> 漢字")]
    for step, tag, _, png in seen:
        assert (np.asarray(Image.open(io.BytesIO(png))) == np.asarray(Image.open(output / f"samples/step-{step}-{tag[8]}.png"))).all()
    text = (output / "report.html").read_text()
    shown = Reader(text)
    assert shown.alt.count('start word "toy"') == shown.alt.count('learned word "sks"') == 2
    assert [word for word in shown.text if re.fullmatch(r"start|learned|step \d+", word)] == 2 * ["start", "step 1", "step 2", "learned"]
    assert "".join(shown.text).count("a <i>...</i> 漢字") == 2 and "i" not in shown.tags


# The pictures of it


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write(folder, 0, 600)
    run(program("tests/report"), "page", folder, HOSTILE, 3, 7)
    return folder


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_loss_picture_shows_points_line_and_marks(page):
    picture = pixels(page / "loss.png")
    assert picture.shape == (720, 1280, 3)
    plot = picture[100:620, 140:1230]
    line = (abs(plot - [29, 78, 216]) < 20).all(-1)
    marks = (abs(plot - [217, 84, 20]) < 20).all(-1)
    assert line.any(0)[20:].mean() > 0.9, "the mean runs from left to right"
    assert 11 * 40 < marks.sum() < 13 * 110, "12 validation losses"
    best = np.argwhere(marks[:, plot.shape[1] // 2:].sum(0) > 12).ravel() + plot.shape[1] // 2
    assert abs(best.mean() + 140 - (130 + 551 / 600 * 1110)) < 8, "the ring of the best one, at step 551"
    height = np.array([np.flatnonzero(column).mean() for column in line.T if column.any()])
    assert height[:100].mean() + 50 < height[-100:].mean(), "a falling loss falls"
    outside = picture.copy()
    outside[75:635, 125:1245] = 255
    assert (outside.min(-1) < 128).sum() > 500, "there are numbers at the axes"


@pytest.mark.parametrize("prompts", [0, 1, 8, 9, 64])
def test_grid_puts_before_and_after_under_each_other(tmp_path, prompts):
    write(tmp_path, 0, 1)
    run(program("tests/report"), "page", tmp_path, "so", 2, prompts)
    picture = pixels(tmp_path / "grid.png")
    columns, bands = max(2, min(prompts, 8)), -(-prompts // 8)
    assert picture.shape[1] == 6 + columns * (128 + 6) and picture.shape[0] > 128 + bands * 256
    for i in {0, 7, 8, prompts - 1} & set(range(prompts)):  # each in its own shade
        before, after = (np.argwhere((picture == shade + i).all(-1)) for shade in (70, 160))
        assert (np.ptp(before, 0) == 127).all() and (np.ptp(after, 0) == 127).all()
        assert (before[:, 1] == after[:, 1]).all() and 128 < after[0, 0] - before[0, 0] < 160
        assert before[0, 1] == 6 + i % 8 * 134


def test_grid_has_labels_in_any_script(tmp_path):
    """Letters lose their accents; of what the pen cannot write, every character is a box."""
    def bands(text):
        run(program("tests/report"), "page", tmp_path, text, 1, 1)
        return pixels(tmp_path / "grid.png")[:, :200]
    write(tmp_path, 0, 1)
    assert (bands("Müller cafe\u0301") == bands("Muller caf\u00e9")).all()
    boxes, same, other, letters = bands("漢字"), bands("ไท"), bands("ไทย"), bands("ab")
    assert (boxes == same).all() and (boxes != other).any() and (boxes != letters).any()
    assert (bands("word " * 40) != 255).any(-1)[-60:].any(0).sum() > 80, "a long prompt is written in lines"
    everything = bands("".join(map(chr, range(32, 127))))
    assert everything.shape[0] > boxes.shape[0]


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text, self.alt, self.classes = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        self.alt += [value for name, value in attributes if name == "alt"]
        self.classes += [value for name, value in attributes if name == "class"]

    def handle_data(self, data):
        self.text.append(data)


def test_page_holds_everything_itself_and_runs_nothing(page):
    text = (page / "report.html").read_text()
    read = Reader(text)
    assert "script" not in read.tags and not re.search(r"https?:|url\(|@import| on[a-z]+=", text)
    assert {link[:22] for link in read.links} == {"data:image/png;base64,"} and len(read.links) == 3 + 2 * 7
    shown = HOSTILE.replace("\x1b", "\ufffd")
    assert "".join(read.text).count(shown) == 3 + 3 * 7 + 2 + 1, "head, a column's labels and prompt, fact, config"
    assert read.alt == 3 * [shown] + 14 * [shown]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(read.links[0].split(",")[1]))))
    assert (picture.ravel() == np.arange(3 * 64 * 48) * 7 % 256).all() and picture.shape == (48, 64, 3)
    assert {"svg", "table", "figure", "pre"} <= set(read.tags)


def test_page_has_a_column_for_each_prompt(page):
    """The word that learning started from above the learned one, whatever the number of columns beside it."""
    text = (page / "report.html").read_text()
    columns = re.findall(r"<figure>(<p class=\"row\">.*?)</figure>", text, re.S)
    assert len(columns) == 7
    for i, column in enumerate(columns):
        shades = [np.asarray(Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))))[0, 0, 0] for link in Reader(column).links]
        assert shades == [70 + i, 160 + i] and re.findall("<(p|img|figcaption)", column) == ["p", "img", "p", "img", "figcaption"]


def test_page_marks_the_best_validation(page, tmp_path):
    def marks(folder):
        text = (folder / "report.html").read_text()
        return len(re.findall('class="mark" d', text)), re.findall(r"best: step (\d+), ([\d.]+)", text), re.findall('class="ring" d="M([0-9.]+)', text)
    assert marks(page) == (1 + 12, [("551", "0.02479")], [f"{1000 * 551 / 600:.1f}"]), "the start's, and 12"
    for start, values, best in [(None, [3, 2, 2, 4], "2"), (None, [1, 2], "1"), (None, [5], None), (None, [None, None], None),
                                (6, [None, 5], "2"), (4, [None, 5], "0"), (4, [None], None)]:
        (tmp_path / "metrics.jsonl").write_text("".join(
            json.dumps({"step": i + 1, "loss": 1, "validation_loss": value, "validation_start": start if i == 0 else None}) + "\n"
            for i, value in enumerate(values)))
        run(program("tests/report"), "page", tmp_path, "t", 1, 0)
        count, named, ring = marks(tmp_path)
        assert count == sum(value is not None for value in [start, *values])
        assert [step for step, _ in named] == ([best] if best else []) and len(ring) == len(named)


def test_page_shows_what_was_generated_on_the_way(tmp_path):
    """Strips from start to end: of many steps some, of a damaged picture the reason, of later steps nothing."""
    write(tmp_path, 0, 2)
    (tmp_path / "samples").mkdir()
    for step in range(5, 700, 5):
        for prompt in (1, 2):
            Image.new("RGB", (300, 300), (step % 256, step // 256, prompt)).save(tmp_path / f"samples/step-{step}-{prompt}.png")
    for name in ("mine.png", "step-7-1.png.tmp", "step--7-1.png", "step-99999999999999999999-1.png"):
        (tmp_path / "samples" / name).write_text("no picture")
    (tmp_path / "samples/step-600-2.png").write_text("<damaged>")
    run(program("tests/report"), "page", tmp_path, "p", 1, 2)
    text = (tmp_path / "report.html").read_text()
    first, second = re.findall('<div class="film">(.*?)</div>', text, re.S)
    steps = re.findall("<figcaption>(.*?)</figcaption>", first)
    assert steps[0] == "start" and steps[1] == "step 5" and steps[-2:] == ["step 600", "learned"] and len(steps) == 26
    assert "24 of 120 steps" in text and "step-600-2.png: is not a picture" in second
    frame = Image.open(io.BytesIO(base64.b64decode(Reader(second).links[2].split(",")[1])))
    assert frame.size == (160, 160) and frame.getpixel((80, 80))[2] == 2
    run(program("tests/report"), "page", tmp_path, "p", 1, 0)
    assert "film" not in Reader((tmp_path / "report.html").read_text()).classes


@pytest.mark.parametrize("count", [0, 1, 2])
def test_short_runs_have_pages_too(tmp_path, count):
    write(tmp_path, 0, count)
    run(program("tests/report"), "page", tmp_path, "t", 0, 0)
    assert ("<svg" in (tmp_path / "report.html").read_text()) == (count > 0)
    Image.open(tmp_path / "loss.png").load()


@pytest.mark.parametrize("line", ["{}", "[]", "x", '{"step": -1}', '{"step": 1e300}', '{"step": "1"}'])
def test_invalid_lines_are_named(tmp_path, line):
    write(tmp_path, 0, 2)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(line + "\n")
    done = run(program("tests/report"), "page", tmp_path, "t", 1, 1, check=False)
    assert done.returncode == 2 and "metrics.jsonl: line 3" in done.stderr


def test_values_at_the_ends_of_the_numbers_do_no_harm(tmp_path):
    values = ["1e308", "-1e308", "null", "5e-324", "0"]
    (tmp_path / "metrics.jsonl").write_text("".join(
        f'{{"step": {2 ** (10 * i)}, "loss": {v}, "validation_loss": {v}, "seconds": {v}}}\n' for i, v in enumerate(values)))
    run(program("tests/report"), "page", tmp_path, "t", 1, 1)


def test_a_run_s_report_names_model_and_word_by_hash(tmp_path):
    """With the program's version, date and host; a copy of the model has the same hash, another model another."""
    def facts(folder, **changes):
        config, output = write_recipe(folder, optim__steps=1, output__prompts=[], **changes)
        run(program("zoodip"), "train", config)
        shown = Reader((output / "report.html").read_text()).text
        return {name: shown[at + 1] for at, name in enumerate(shown[:-1]) if name in ("word", "model", "zoodip", "date", "host", "device")}, output
    shutil.copytree(TOYBOX / "model", tmp_path / "copy")
    shutil.copytree(TOYBOX / "model", tmp_path / "other")
    weights = tmp_path / "other/unet/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    first, output = facts(tmp_path / "a")
    assert first["word"] == f"CRC-32 {zlib.crc32((output / 'learned_embeds.safetensors').read_bytes()):08x} (learned_embeds.safetensors)"
    assert re.fullmatch("CRC-32 [0-9a-f]{8}", first["model"])
    assert first["zoodip"] in run(program("zoodip"), "--version").stdout and first["host"] == socket.gethostname()
    assert abs(datetime.strptime(first["date"], "%Y-%m-%d %H:%M:%S %z").timestamp() - time.time()) < 60
    assert facts(tmp_path / "b", model=str(tmp_path / "copy"))[0]["model"] == first["model"]
    assert facts(tmp_path / "c", model=str(tmp_path / "other"))[0]["model"] != first["model"]


# inspect


def inspect(path, *arguments, check=True):
    return run(program("zoodip"), "inspect", path, *arguments, check=check)


def test_inspect_says_what_a_path_holds(page, tmp_path):
    model = inspect(TOYBOX / "model").stdout
    for part in ["493920 parameters", "3173124 parameters", "954567 parameters", "block_out_channels [64,128]", "F16",
                 "not quantized", "PNDMScheduler"]:
        assert part in model
    word = inspect(TOYBOX / "learned" / "bear5.safetensors").stdout
    assert re.search(r"sks +F32 +\[1, 96\] +5\.36", word) and "format = pt" in word
    seen = inspect(page).stdout
    assert "600, in 6.0 s" in seen and "at step 551" in seen and "report.html" in seen
    config = json.loads(inspect(ROOT / "configs" / "toybox.json", "--set", "zo.n=4").stdout)
    assert config["zo"]["n"] == 4
    assert "examples:" in inspect("--help").stdout


def test_inspect_of_a_quantized_model_counts_its_layers(tmp_path):
    run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", tmp_path / "q")
    assert re.search(r"3173124 parameters, .* \(F16, I8\), \d+ layers quantized to int8", inspect(tmp_path / "q").stdout)


def test_inspect_refuses_what_it_cannot_name(tmp_path):
    (tmp_path / "junk").write_text("junk")
    for path in [tmp_path, tmp_path / "none", tmp_path / "junk"]:
        done = inspect(path, check=False)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and str(path) in done.stderr
    assert run(program("zoodip"), "inspect", check=False).returncode == 2
