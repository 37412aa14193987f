"""Files whose ends are missing, or that go on with garbage: read where Pillow reads them, to the same pixels. Its rule: all pixels
must be there."""
import struct

import numpy as np
import pytest
from PIL import Image

from conftest import NIGHTLY
from pixels import chunk, encoded, noise, picture, pillow, png

QUICK = True

Y, X = np.mgrid[0:48, 0:64]
SMOOTH = np.stack([4 * X, 5 * Y, 2 * (X + Y)], 2).astype(np.uint8)  # its JPEG ends in bits that are not looked for
EXIF = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)


def with_chunks_after(data):
    return data[:-12] + chunk(b"tEXt", b"Comment\0a long text after the pixels") + chunk(b"eXIf", EXIF) + data[-12:]


FILES = {
    "noise.png": lambda: encoded(noise(40, 30), "PNG"),
    "flat.png": lambda: encoded(np.full((200, 300, 3), 90, np.uint8), "PNG"),
    "chunks.png": lambda: with_chunks_after(encoded(noise(20, 30), "PNG")),
    "interlaced.png": lambda: png(noise(13, 11).astype(int), 8, 2, interlaced=True),
    "tiny.png": lambda: png(noise(3, 1, 4).astype(int), 8, 6, interlaced=True),
    "smooth.jpg": lambda: encoded(SMOOTH, "JPEG", quality=90),
    "noise.jpg": lambda: encoded(noise(40, 30), "JPEG"),
    "progressive.jpg": lambda: encoded(SMOOTH, "JPEG", progressive=True),
    "exif.webp": lambda: encoded(noise(20, 30, 4), "WEBP", exif=b"Exif\0\0" + EXIF),
    "lossless.webp": lambda: encoded(noise(20, 30), "WEBP", lossless=True),
}


def theirs(path):
    try:
        return np.array(pillow(path))
    except (OSError, SyntaxError):
        return None


def agree_about(path, data):
    """Whether both read it."""
    path.write_bytes(data)
    out = path.parent / "out.png"
    done, expected = picture(path, out), theirs(path)
    assert done.returncode == (2 if expected is None else 0), f"{len(data)} bytes: {done.stderr or 'read'}"
    if expected is None:
        assert "cut short" in done.stderr and done.stderr.count("\n") == 1
    else:
        np.testing.assert_array_equal(np.array(Image.open(out)), expected)
    return expected is not None


@pytest.mark.parametrize("name", FILES)
def test_cut_at_every_one_of_the_last_bytes(tmp_path, name):
    data = FILES[name]()
    cuts = [cut for cut in range(min(65, len(data) - 20)) if NIGHTLY or cut < 24 or cut % 8 == 0]
    read = [cut for cut in cuts if agree_about(tmp_path / name, data[:len(data) - cut])]
    if name.endswith(".png"):
        assert set(range(12 + 4)) <= set(read) or name == "chunks.png"  # IEND, and the last chunk's CRC
    assert set(range(3 if name == "smooth.jpg" else 1)) <= set(read) and len(read) < len(cuts)


@pytest.mark.parametrize("more", [b"\0" * 50, b"some garbage that is not a chunk", b"\xff" * 9, EXIF], ids=["zeros", "text", "ones", "exif"])
@pytest.mark.parametrize("name", [n for n in FILES if "tiny" not in n])
def test_garbage_after_the_end(tmp_path, name, more):
    data = FILES[name]()
    assert agree_about(tmp_path / name, data + more)
    if name.endswith(".png"):
        agree_about(tmp_path / name, data[:-12] + more)


def test_an_animation_is_cut_off_after_its_first_picture(tmp_path):
    path = tmp_path / "in.png"
    first, *others = [Image.fromarray(noise(40, 30, seed=seed)) for seed in range(3)]
    first.save(path, save_all=True, append_images=others)
    data = path.read_bytes()
    assert all(agree_about(path, data[:-cut]) for cut in (10, 100, len(data) // 2))
    assert not agree_about(path, data[:len(data) // 4])


def test_pixels_that_are_missing_are_no_end(tmp_path):
    """A stream that ends before the last row is damaged, though Pillow fills such a picture up with black."""
    data = png(noise(9, 7).astype(int), 8, 2)
    short = png(noise(8, 7).astype(int), 8, 2)
    path = tmp_path / "in.png"
    path.write_bytes(data[:33] + short[33:])
    assert picture(path, tmp_path / "out.png").returncode == 2
    assert theirs(path) is not None
