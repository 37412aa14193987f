"""Captions: the templates of diffusers' textual inversion, a file with one for each picture, or a file for each picture; with the
word inserted."""
import json
import unicodedata

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


def refused_by(path, pictures, said):
    done = run(program("tests/captions"), path, *pictures, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"captions: {path}: ") and said in done.stderr


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
    assert captions(path, "dog/a.jpg", "x/dog/b.jpg", "dog/a.jpg") == ["a sks, sks été {", "a sks on grass", "a sks, sks été {"]


def test_pictures_of_several_folders(file):
    path = file({"cat": {"a.jpg": "a {} cat", "b.jpg": "a {} cat too"}, "dog": {"a.jpg": "a {} dog"}})
    assert captions(path, "cat/a.jpg", "dog/a.jpg", "/photos/cat/b.jpg") == ["a sks cat", "a sks dog", "a sks cat too"]
    refused_by(path, ["cat/a.jpg", "dog/b.jpg"], "dog: no caption for picture b.jpg")
    refused_by(path, ["cat/a.jpg", "fox/a.jpg"], "fox: no captions for this subject")


def test_subject_may_be_left_out(file):
    assert captions(file({"a.jpg": "a {}"}), "dog/a.jpg", "a.jpg") == ["a sks", "a sks"]


@pytest.mark.parametrize("where, picture", [
    ("", "dog/a.jpg"), ("", "./dog/a.jpg"), ("", "dog//a.jpg"), ("", "dog///a.jpg"), ("", ".//dog/./a.jpg"), ("", "dog/../dog/a.jpg"),
    ("", "cat/../dog/a.jpg"), ("dog", "a.jpg"), ("dog", "./a.jpg"), ("dog", ".//a.jpg"), ("dog", "../dog/a.jpg"), ("dog/in", "../a.jpg"),
    ("", "link/a.jpg"), ("", "link//a.jpg"), ("link", "a.jpg"), ("", "flat/photo.jpg"), ("flat", "photo.jpg"), ("", "known/a.jpg")])
def test_the_folder_of_a_picture_however_it_is_named(tmp_path, file, where, picture):
    """link and known are links to dog, flat/photo.jpg is one to dog/a.jpg; the file also knows a subject `known`."""
    for folder in ("dog/in", "cat", "flat"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dog" / "a.jpg").write_text("")
    (tmp_path / "link").symlink_to("dog")
    (tmp_path / "known").symlink_to("dog")
    (tmp_path / "flat" / "photo.jpg").symlink_to("../dog/a.jpg")
    path = file({"dog": {"a.jpg": "a {} dog"}, "cat": {"a.jpg": "a {} cat"}, "known": {"a.jpg": "a {} known"}})
    done = run(program("tests/captions"), path, picture, cwd=tmp_path / where)
    assert json.loads(done.stdout) == ("a sks known" if "known" in picture else "a sks dog")


def test_names_are_compared_in_nfc(file):
    apart, composed = (lambda text: unicodedata.normalize("NFD", text)), (lambda text: unicodedata.normalize("NFC", text))
    for ours, theirs in ((apart, composed), (composed, apart)):
        path = file({theirs("bär"): {theirs("größe 1.jpg"): "a {} größe", "b.jpg": "a {}"}, "dog": {"a.jpg": "a {} dog"}})
        assert captions(path, ours("bär/größe 1.jpg"), ours("bär/b.jpg"), "dog/a.jpg") == ["a sks größe", "a sks", "a sks dog"]
    refused_by(file({apart("bär"): {"a.jpg": "a {}"}, composed("bär"): {"b.jpg": "a {}"}}), ["dog/a.jpg"], "is given twice")
    refused_by(file({"dog": {apart("ä.jpg"): "a {}", composed("ä.jpg"): "a {}"}}), ["dog/a.jpg"], "dog: ä.jpg: is given twice")
    refused_by(file({"dog": {"a.jpg": "a {}"}}), ["d\udcffg/a.jpg"], "d?g: no captions for this subject")


def test_a_folder_without_a_name_of_its_own(file):
    refused_by(file({"dog": {"a.jpg": "a {}"}}), ["/a.jpg"], "no captions for this subject")


@pytest.mark.parametrize("content, said", [
    ("[]", "expected a JSON object"),
    ("{", "JSON"),
    ("{}", "dog: no captions for this subject"),
    ({"cat": {"a.jpg": "a {}"}}, "dog: no captions for this subject"),
    ({"dog": {"b.jpg": "a {}"}}, "dog: no caption for picture a.jpg; add one, or set use_cc to false"),
    ({"dog": {}}, "dog: no caption for picture a.jpg"),
    ({"b.jpg": "a {}"}, "dog: no caption for picture a.jpg"),
    ('{"dog": {"a.jpg": "a {}", "a.jpg": "my {}"}}', "dog: a.jpg: is given twice"),
    ({"dog": {"b.jpg": "a {}"}, "a.jpg": "a {}"}, "dog: no caption for picture a.jpg"),
    ({"dog": {"a.jpg": "a dog"}}, "dog: a.jpg: expected {} in the caption"),
    ({"dog": {"a.jpg": 3}}, "dog: a.jpg: expected a caption"),
    ({"dog": {"a.jpg": "{}" * 3000}}, "dog: a.jpg: expected a caption of at most"),
])
def test_a_caption_that_cannot_be_used(file, content, said):
    refused_by(file(content), ["dog/a.jpg"], said)


# -------------------------------------------------------------------------------- a text file for each picture


def beside(tmp_path, *contents, word="sks", check=True):
    files = [tmp_path / f"{i}.txt" for i in range(len(contents))]
    for file, content in zip(files, contents):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return run(program("tests/captions"), "--beside", word, *files, check=check)


@pytest.mark.parametrize("text", [
    "a {} on grass", "a {} on grass\n", "\ufeffa {} on grass", "  \r\n\t a {} on grass \r\n \n", "\n\na sks on grass", "a SkS on grass"])
def test_the_line_of_a_file(tmp_path, text):
    assert [json.loads(line) for line in beside(tmp_path, text).stdout.splitlines()] == ["a sks on grass"]


@pytest.mark.parametrize("word, text, template", [
    ("mug", "mug, mugs, Mug mug2 _mug (mug)", "#, mugs, # mug2 _mug (#)"), ("<mug>", "a<mug>b <MUG>", "a#b #"), ("mug", "a {} and a mug", "a # and a mug"),
    ("bär", "der bär\u3002bär-bären", "der #\u3002#-bären"), ("mug", "\u00e9mug mug\u00e9 mug\u2019s", "\u00e9mug mug\u00e9 #\u2019s"), ("x", "x{x}", "#{#}"),
    ("mug", "a mug \\(cup\\) \\é \\\\", "a # \\(cup\\) \\é \\\\")])
def test_where_the_word_goes(tmp_path, word, text, template):
    """The new word itself marks its place, unless it is a part of another word, or there are braces."""
    assert json.loads(beside(tmp_path, text, word=word).stdout) == template.replace("#", "sks")


def test_lines_that_do_not_count_are_told_of(tmp_path):
    said = beside(tmp_path, "a {}", "b {}\rc {}", "d {}\n\n \n", "\ne {}\n\nf").stdout.splitlines()
    assert said == ['"a sks"', '"b sks"', '"d sks"', '"e sks"', "more: 1.txt, 3.txt"]


@pytest.mark.parametrize("text, said", [
    ("", "is empty"), (" \n\r\n", "is empty"), ("\ufeff", "is empty"), ("a photo of a mug", 'expected {} in the caption, where the word goes, or "sks", the word itself'),
    (b"a {} in m\xfcnchen", "line 1, column 10: is not UTF-8 text"), ("a {}\n".encode("utf-16"), "line 1, column 1: is not UTF-8 text"),
    ("a {}\0", "is a zero byte"), ("{}" * 2049, "at most 4096 bytes"), ("{}" + " " * 70000, "expected at most 65536"), ("sksy", "expected {}")])
def test_a_file_that_cannot_be_used(tmp_path, text, said):
    done = beside(tmp_path, "a {}", text, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"captions: {tmp_path / '1.txt'}: ") and said in done.stderr
