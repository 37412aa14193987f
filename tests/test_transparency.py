"""Transparent pictures are laid over data.background, as Pillow's alpha_composite does it; opaque ones do not depend on it."""
import json
import struct

import numpy as np
import pytest
from PIL import Image

from conftest import TOYBOX, learned, program, recipe, refused, run
from pixels import CHANNELS, chunk, encoded, noise, ours, over, pillow, png

QUICK = True
COLORS = {"white": (255, 255, 255), "black": (0, 0, 0), "#3080Ff": (0x30, 0x80, 0xFF)}


def laid_over(path, color):
    return ours(path, "over", color)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("color_type, depth", [(color, depth) for color in (3, 4, 6) for depth in ([1, 2, 4, 8] if color == 3 else [8, 16])])
def test_png_with_alpha(tmp_path, color_type, depth, color):
    rng = np.random.default_rng(depth)
    before = b""
    if color_type == 3:
        before = (chunk(b"PLTE", rng.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes())
                  + chunk(b"tRNS", rng.integers(0, 256, 2**depth, dtype=np.uint8).tobytes()))
    path = tmp_path / "in.png"
    path.write_bytes(png(rng.integers(0, 2**depth, (13, 11, CHANNELS[color_type])), depth, color_type, depth == 8, before))
    np.testing.assert_array_equal(laid_over(path, color), over(path, COLORS[color]))


def test_every_alpha_over_every_value(tmp_path):
    """The rounding: 256 alphas by 256 values, over three colors."""
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    path = tmp_path / "in.png"
    Image.fromarray(np.stack([value, 255 - value, value, alpha], 2).astype(np.uint8)).save(path)
    for color in COLORS:
        np.testing.assert_array_equal(laid_over(path, color), over(path, COLORS[color]))


@pytest.mark.parametrize("color_type, depth", [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_png_whose_one_color_is_transparent(tmp_path, color_type, depth):
    """Compared with all of its bits. Pillow, which is right in 1 and 8 bits, compares pixels that it has brought to 8 bits."""
    values = np.random.default_rng(depth).integers(0, 2**depth, (13, 11, CHANNELS[color_type]))
    path = tmp_path / "in.png"
    path.write_bytes(png(values, depth, color_type, before=chunk(b"tRNS", b"".join(struct.pack(">H", int(v)) for v in values[0, 0]))))
    clear = (values == values[0, 0]).all(2, keepdims=True)
    eight = values >> 8 if depth == 16 else values * 255 // (2**depth - 1)
    np.testing.assert_array_equal(laid_over(path, "#3080ff"), np.where(clear, COLORS["#3080Ff"], eight))
    if depth in (1, 8):
        np.testing.assert_array_equal(laid_over(path, "#3080ff"), over(path, COLORS["#3080Ff"]))


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("options", [dict(quality=70), dict(lossless=True), dict(lossless=True, exact=True)], ids=str)
def test_webp_with_alpha(tmp_path, options, color):
    path = tmp_path / "in.webp"
    path.write_bytes(encoded(noise(40, 53, 4), "WEBP", **options))
    np.testing.assert_array_equal(laid_over(path, color), over(path, COLORS[color]))


@pytest.mark.skipif("AVIF (libavif" not in run(program("zoodip"), "--version").stdout, reason="built without libavif")
@pytest.mark.parametrize("options", [{}, dict(alpha_premultiplied=True)], ids=str)
def test_avif_with_alpha(tmp_path, options):
    path = tmp_path / "in.avif"
    path.write_bytes(encoded(noise(40, 53, 4), "AVIF", **options))
    assert np.abs(laid_over(path, "black").astype(int) - over(path, (0, 0, 0))).max() <= 1


def test_orientation_applies_as_well(tmp_path):
    path = tmp_path / "in.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(encoded(noise(20, 33, 4), "PNG", exif=exif))
    np.testing.assert_array_equal(laid_over(path, "white"), over(path, COLORS["white"]))


def test_without_a_background_what_lies_under_is_seen(tmp_path):
    path = tmp_path / "in.png"
    path.write_bytes(encoded(noise(20, 33, 4), "PNG"))
    for words in ([], ["over", "none"]):
        np.testing.assert_array_equal(ours(path, *words), np.array(pillow(path)))


# Runs


def cut_out(folder, opaque=False):
    """Toybox's bears, some of it transparent."""
    folder.mkdir()
    for source in sorted((TOYBOX / "subjects/bear5").glob("*.png")):
        image = Image.open(source).convert("RGB")
        if not opaque:
            image.putalpha(Image.fromarray(noise(*image.size[::-1], 1)))
        image.save(folder / source.name)
    return str(folder)


def train(tmp_path, name, *words, **changes):
    config = tmp_path / f"{name}.json"
    changes = {"use_cc": False, "data__captions": None, "output__prompts": [], "optim__steps": 2, **changes}
    config.write_text(json.dumps(recipe(tmp_path / name, **changes)))
    return run(program("zoodip"), "train", config, *words, check=False)


def word(tmp_path, name, **changes):
    assert train(tmp_path, name, **changes).returncode == 0
    return learned(tmp_path / name)


def test_a_word_is_learned_from_what_the_photos_are_over(tmp_path):
    photos, flat = cut_out(tmp_path / "photos"), tmp_path / "flat"
    flat.mkdir()
    for path in (tmp_path / "photos").iterdir():
        Image.fromarray(over(path, COLORS["white"])).save(flat / path.name)
    assert word(tmp_path, "white", data__images=photos) == word(tmp_path, "flat", data__images=str(flat), data__background="black")
    assert word(tmp_path, "black", data__images=photos, data__background="black") != learned(tmp_path / "white")


@pytest.mark.parametrize("opaque, here, same", [
    (True, "black", True), (False, "#ffffff", True), (False, "black", False), (False, "none", False)])
def test_a_run_goes_on_over_another_background_only_with_the_same_pixels(tmp_path, opaque, here, same):
    photos = cut_out(tmp_path / "photos", opaque)
    word(tmp_path, "out", data__images=photos)
    changed = train(tmp_path, "out", "--resume", data__images=photos, data__background=here, optim__steps=3)
    assert changed.returncode == (0 if same else 2)
    assert same or "made with other pictures, masks or data.background" in changed.stderr


@pytest.mark.parametrize("color", ["red", "#fff", "#12345g", "#1234567", "", "White"])
def test_another_color_is_refused(tmp_path, color):
    refused(train(tmp_path, "out", data__background=color), "data.background", *(["#rrggbb"] if color else []))
