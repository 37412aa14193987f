"""Captions: the templates of diffusers' textual inversion, or a file with one for each picture; with the word inserted."""
import json

import pytest

from conftest import program, run

QUICK = True

# How diffusers' 27 object templates differ from one another, in its order.
OBJECT = """a photo of a|a rendering of a|a cropped photo of the|the photo of a|a photo of a clean|a photo of a dirty|a dark photo of the|a photo of my
a photo of the cool|a close-up photo of a|a bright photo of the|a cropped photo of a|a photo of the|a good photo of the|a photo of one
a close-up photo of the|a rendition of the|a photo of the clean|a rendition of a|a photo of a nice|a good photo of a|a photo of the nice
a photo of the small|a photo of the weird|a photo of the large|a photo of a cool|a photo of a small""".replace("\n", "|").split("|")
STYLE = """a painting|a rendering|a cropped painting|the painting|a clean painting|a dirty painting|a dark painting|a picture|a cool painting
a close-up painting|a bright painting|a cropped painting|a good painting|a close-up painting|a rendition|a nice painting|a small painting
a weird painting|a large painting""".replace("\n", "|").split("|")


def captions(*arguments):
    return [json.loads(line) for line in run(program("tests/captions"), *arguments).stdout.splitlines()]


def test_templates_of_an_object():
    assert len(OBJECT) == 27 and captions("object") == [f"{t} sks" for t in OBJECT]


def test_templates_of_a_style():
    assert len(STYLE) == 19 and captions("style") == [f"{t} in the style of sks" for t in STYLE]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "cc.json"

    def write(content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path
    return write


def test_each_picture_has_its_own(file):
    path = file({"cat": {"a.png": "not {}"}, "dog": {"b.jpg": "a {} on grass", "a.jpg": "a {}, {} été {", "c.jpg": "nothing asked"}})
    assert captions(path, "dog", "a.jpg", "b.jpg", "a.jpg") == ["a sks, sks été {", "a sks on grass", "a sks, sks été {"]


def test_subject_may_be_left_out(file):
    assert captions(file({"a.jpg": "a {}"}), "dog", "a.jpg") == ["a sks"]


@pytest.mark.parametrize("content, said", [
    ("[]", "expected a JSON object"),
    ("{", "JSON"),
    ("{}", "dog: no captions for this subject"),
    ({"cat": {"a.jpg": "a {}"}}, "dog: no captions for this subject"),
    ({"dog": {"b.jpg": "a {}"}}, "dog: no caption for picture a.jpg; add one, or set use_cc to false"),
    ({"dog": {"a.jpg": "a dog"}}, "dog: a.jpg: expected {} in the caption"),
    ({"dog": {"a.jpg": 3}}, "dog: a.jpg: expected a caption"),
    ({"dog": {"a.jpg": "{}" * 3000}}, "dog: a.jpg: expected a caption of at most"),
])
def test_a_caption_that_cannot_be_used(file, content, said):
    path = file(content)
    done = run(program("tests/captions"), path, "dog", "a.jpg", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"captions: {path}: ") and said in done.stderr
