"""What a subject is made of, and what is said of it: files of a folder that are not used, pictures that are enlarged, captions that
are cut off or say the new word where {} is not, a word that the model has already. Each once, by rank 0."""
import json
import shutil

import pytest
from PIL import Image

from conftest import TOYBOX, mpirun, program, recipe, refused, run

QUICK = True
BEAR = TOYBOX / "subjects" / "bear5"
VERSION = run(program("zoodip"), "--version").stdout
ENDINGS = ".png, .jpg, .jpeg, .jfif, .webp" + ", .avif" * ("AVIF (" in VERSION) + ", .heic, .heif" * ("HEIC (" in VERSION)


def write(tmp_path, **changes):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(recipe(tmp_path / "out", **{"use_cc": False, "data__captions": None, "output__prompts": [], **changes})))
    return config


def warnings(tmp_path, ranks=1, **changes):
    """Those about a config; its file's name is left out. `inspect` reads it as a run does."""
    config = write(tmp_path, **changes, **({"optim__steps": 1} if ranks > 1 else {}))
    said = mpirun(ranks, program("zoodip"), "inspect" if ranks == 1 else "train", config).stderr
    return [line.replace("zoodip: warning: ", "").replace(f"{config}: ", "") for line in said.splitlines() if "warning" in line]


def photos_with(tmp_path, *names):
    photos = tmp_path / "bear5"
    shutil.copytree(BEAR, photos)
    for name in names:
        path = photos / name
        if name.endswith("/"):
            path.mkdir()
            name = ""
        elif name:
            path.write_text("no picture")
    return photos


def test_nothing_is_said_of_a_folder_of_pictures_alone(tmp_path):
    photos = photos_with(tmp_path, "._00.png", ".DS_Store", "Thumbs.db", "desktop.ini", "THUMBS.DB")
    Image.open(photos / "00.png").convert("RGB").save(photos / "5.JFIF", "JPEG")
    assert warnings(tmp_path, data__images=str(photos)) == []
    assert warnings(tmp_path, data__images=[str(photos / "00.png")]) == []


@pytest.mark.parametrize("ending, package", [("avif", "libavif-dev"), ("heic", "libheif-dev")])
def test_pictures_that_this_program_was_not_built_for_keep_no_run_from_starting(tmp_path, ending, package):
    photos = photos_with(tmp_path, f"a.{ending}")
    if f".{ending}" in ENDINGS:  # then it is a picture, and a damaged one is an error
        refused(run(program("zoodip"), "train", write(tmp_path, data__images=str(photos)), check=False), f"a.{ending}", "is not a picture")
    else:
        told, = warnings(tmp_path, data__images=str(photos))
        assert f"not used: a.{ending}" in told and f"install {package} and build zoodip again, or convert to PNG" in told


def test_captions_beside_the_pictures_are_used(tmp_path):
    photos = photos_with(tmp_path, "notes.txt")
    (photos / "cc.json").write_text(json.dumps({f"0{i}.png": "a {}" for i in range(5)}))
    told = f'data.images: "{photos}": not used: %s; pictures are {ENDINGS}'
    assert warnings(tmp_path, data__images=str(photos), data__captions=str(photos / "." / "cc.json"), use_cc=True) == [told % "notes.txt"]
    assert warnings(tmp_path, data__images=str(photos)) == [told % "cc.json, notes.txt"]


@pytest.mark.parametrize("names, told, remedy", [
    (["a.pdf"], "a.pdf", ""),
    (["7.GIF", "b.tiff", "b2.TIF", "more/", "png"], "7.GIF, b.tiff, b2.TIF, more/, png", "; GIF: convert it to PNG; TIFF: convert it to PNG"),
    ([f"{i}.txt" for i in range(10, 40)], "10.txt, 11.txt, 12.txt, 13.txt, 14.txt and 25 more", ""),
    (["é" * 60 + ".jxl", "\n.bmp"], "?.bmp, " + "é" * 25 + "...", "; BMP: convert it to PNG; JPEG XL: convert it to PNG"),
    (["more.png/", "more.gif/"], "more.gif/, more.png/", ""),
], ids=lambda v: str(v)[:20])
def test_files_that_are_not_used_are_named_once(tmp_path, names, told, remedy):
    photos = photos_with(tmp_path, *names)
    expected = [f'data.images: "{photos}": not used: {told}; pictures are {ENDINGS}{remedy}']
    assert warnings(tmp_path, data__images=str(photos)) == expected
    if names == ["a.pdf"]:
        assert warnings(tmp_path, 2, data__images=str(photos)) == expected


def test_a_folder_without_pictures_says_what_is_there(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    config = write(tmp_path, data__images=str(photos))
    bmp = "; BMP: convert it to PNG"
    for name, told in ((".hidden", f'"{photos}": no pictures here ({ENDINGS})\n'), ("a.BMP", f"({ENDINGS}), only a.BMP{bmp}\n"),
                       ("b.odt", f"({ENDINGS}), only a.BMP, b.odt{bmp}\n")):
        (photos / name).write_text("")
        done = run(program("zoodip"), "train", config, check=False)
        refused(done, "data.images")
        assert done.stderr.endswith(told)


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_pictures_that_are_enlarged(tmp_path, fit):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, size in {"large.png": (90, 70), "exact.png": (64, 64), "low.png": (900, 63), "small.png": (40, 30)}.items():
        Image.new("RGB", size).save(photos / name)
    assert warnings(tmp_path, data__images=str(photos), data__fit=fit) == [
        "data.images: 2 of 4 are smaller than 64x64 and are enlarged: low.png (900x63), small.png (40x30)"]


# -------------------------------------------------------------------------------- captions and words


def with_captions(tmp_path, *captions):
    path = tmp_path / "cc.json"
    path.write_text(json.dumps({"bear5": {f"0{i}.png": caption for i, caption in enumerate(captions)}}))
    images = [str(BEAR / f"0{i}.png") for i in range(len(captions))]
    return dict(data__images=images, data__captions=str(path), use_cc=True)


def test_captions_that_are_cut_off(tmp_path):
    grass = "on the green grass " * 20
    told = f'{tmp_path}/cc.json: 01.png: is longer than the 77 tokens that count; left out: "'
    one, = warnings(tmp_path, **with_captions(tmp_path, "a {}", f"a {{}} {grass}"))
    left_out = one.removeprefix(told).removesuffix('"')
    assert left_out != one and grass.endswith(f" {left_out}")
    two, = warnings(tmp_path, **with_captions(tmp_path, "a {}", f"a {{}} {grass}", f"a {{}} by the ball {grass}"))
    assert two == one + "; so are 1 more captions"
    refused(run(program("zoodip"), "train", write(tmp_path, **with_captions(tmp_path, f"{grass * 2} {{}}")), check=False), "cc.json", "shorten the caption")


def test_captions_that_are_no_text(tmp_path):
    """Not UTF-8: the file is named."""
    changes = with_captions(tmp_path, "a {} in Munich")
    (tmp_path / "cc.json").write_bytes((tmp_path / "cc.json").read_bytes().replace(b"Munich", b"M\xfcnchen"))
    refused(run(program("zoodip"), "train", write(tmp_path, **changes), check=False), f"{tmp_path}/cc.json", "UTF-8")


@pytest.mark.parametrize("word, twice, plain", [
    ("photo", '24 of 27 captions such as "a photo of a {}"', True), ("Good", '2 of 27 captions such as "a good photo of the {}"', True),
    ("pho", '24 of 27 captions such as "a photo of a {}"', False), ("toy", None, True), ("sks", None, False), ("<photo>", None, False)])
def test_a_word_that_stands_for_something_already(tmp_path, word, twice, plain):
    told = warnings(tmp_path, data__images=str(BEAR), token__placeholder=word, token__vectors=2)
    expected = [f'token.placeholder: "{word}" also stands where {{}} is not, in {twice}, and is the new word there, too'] if twice else []
    expected += [f'token.placeholder: "{word}" is a word of this model, which prompts lose to the new one; "<{word}>" would be new'] if plain else []
    assert told == expected


def test_a_caption_may_say_the_word_where_braces_are_more_than_once(tmp_path):
    assert warnings(tmp_path, **with_captions(tmp_path, "a {} and a {}"), token__placeholder="zzq", token__vectors=3) == []
    told, = warnings(tmp_path, **with_captions(tmp_path, "a {}", "zzq, a {} and a {}"), token__placeholder="zzq", token__vectors=3)
    assert 'in 1 of 2 captions such as "zzq, a {} and a {}"' in told


def test_prompts_that_are_cut_off(tmp_path):
    prompts = ["a {} on the grass", "a {} " + "on the green grass " * 20, "green " * 90 + "{}"]
    told = warnings(tmp_path, 2, data__images=str(BEAR), output__prompts=prompts, output__sample_steps=1)
    assert len(told) == 2 and all(line.startswith("output.prompts: is longer than the 77 tokens that count; left out: ") for line in told)
