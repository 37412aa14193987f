"""What lies beside a picture: its caption in a text file, as other trainers have it."""
import json
import shutil

import pytest
from safetensors.torch import load_file

from conftest import program, refused, run
from test_photos import ENDINGS, photos_with, warnings, write

NEEDS = "peers"


def ids_of(tmp_path, **changes):
    """Of the captions of ten steps: {ids: picture}."""
    files = [tmp_path / f"draws-{step}" for step in range(1, 11)]
    run(program("tests/draws"), write(tmp_path, **changes), *(word for step, file in enumerate(files, 1) for word in (step, file)))
    drawn = [load_file(file) for file in files]
    return {int(picture): d["input_ids"][i].tolist() for d in drawn for i, picture in enumerate(d["picture"])}


@pytest.mark.parametrize("listed", [False, True])
def test_captions_in_text_files_are_those_of_one_file(tmp_path, listed):
    photos = photos_with(tmp_path)
    texts = {f"0{i}.png": f"a {{}} on the {place}" for i, place in enumerate(["grass", "sand", "snow", "road", "table"])}
    (tmp_path / "cc.json").write_text(json.dumps({"bear5": texts}))
    for name, text in texts.items():
        (photos / name).with_suffix(".txt").write_text(text.replace("{}", "sks") + "\n")
    images = sorted(map(str, photos.glob("*.png"))) if listed else str(photos)
    assert warnings(tmp_path, data__images=images, use_cc=True) == []
    assert ids_of(tmp_path, data__images=images, use_cc=True) == ids_of(tmp_path, data__images=images, use_cc=True, data__captions=str(tmp_path / "cc.json"))


def test_text_files_that_are_not_used(tmp_path):
    photos = photos_with(tmp_path, "notes.txt", "00.txt", "01.txt", "02.a.txt", "03.TXT")
    told = [f'data.images: "{photos}": not used: 02.a.txt, 03.TXT, notes.txt; pictures are {ENDINGS}',
            f'data.images: "{photos}": not used: 00.txt, 01.txt; captions beside pictures count with use_cc and without data.captions']
    (photos / "cc.json").write_text(json.dumps({f"0{i}.png": "a {}" for i in range(5)}))
    assert warnings(tmp_path, data__images=str(photos), use_cc=True, data__captions=str(photos / "cc.json")) == told
    (photos / "cc.json").unlink()
    assert warnings(tmp_path, 2, data__images=str(photos)) == told
    done = run(program("zoodip"), "train", write(tmp_path, data__images=str(photos), use_cc=True), "--overwrite", check=False)
    assert done.returncode == 2 and f"use_cc: is true, but {photos}/02.png has no caption; expected 02.txt beside it" in done.stderr


def test_a_text_file_may_be_cut_off_or_longer_than_a_line(tmp_path):
    photos = photos_with(tmp_path, "cc")
    (photos / "cc").unlink()
    for i in range(5):
        (photos / f"0{i}.txt").write_text("a {}" + (" on the green grass" * 20 + "\nmore" if i == 3 else ""))
    more, cut = warnings(tmp_path, data__images=str(photos), use_cc=True)
    assert more == "of a caption's file only the first line counts; more lines are in: 03.txt"
    assert cut.startswith(f"{photos}/03.txt: 03.png: is longer than the 77 tokens that count; left out: ")
    (photos / "03.txt").write_text("green " * 90 + "{}")
    refused(run(program("zoodip"), "train", write(tmp_path, data__images=str(photos), use_cc=True), check=False), f"{photos}/03.txt", "shorten the caption")


def test_other_text_files_are_another_run(tmp_path):
    photos = photos_with(tmp_path)
    for i in range(5):
        (photos / f"0{i}.txt").write_text(f"a {{}} {i}")
    config = write(tmp_path, data__images=str(photos), use_cc=True, optim__steps=2, output__checkpoint_every=1)
    run(program("zoodip"), "train", config)
    shutil.move(photos, tmp_path / "moved")
    more = ["--resume", "--set", f"data.images={tmp_path / 'moved'}", "--set", "optim.steps=3"]
    run(program("zoodip"), "train", config, *more)
    (tmp_path / "moved" / "02.txt").write_text("a {} two")
    done = run(program("zoodip"), "train", config, *more, check=False)
    assert done.returncode == 2 and "made with other captions" in done.stderr
