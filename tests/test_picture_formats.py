"""WebP, AVIF and HEIC equal Pillow's; other formats are refused by their names. What a file is, its contents say."""
import io
import struct

import numpy as np
import pytest
from PIL import Image

from conftest import program, run
from pixels import encoded, noise, ours, over, picture, pillow, same_as_pillow

QUICK = True
VERSION = run(program("zoodip"), "--version").stdout
READ = {"WEBP": True, "AVIF": "AVIF (libavif" in VERSION, "HEIF": "HEIC (libheif" in VERSION and "no decoder of HEVC" not in VERSION}
needs_avif = pytest.mark.skipif(not READ["AVIF"], reason="built without libavif")
needs_heif = pytest.mark.skipif(not READ["HEIF"], reason="built without libheif")
SIZES = [(64, 48), (37, 51), (1, 1), (7, 130)]


@pytest.fixture(scope="module")
def heif():
    """HEIC for Pillow, which does not read it by itself."""
    package = pytest.importorskip("pillow_heif")
    package.register_heif_opener()
    return package


@pytest.fixture
def write(tmp_path):
    def to(data):
        path = tmp_path / "in.jpg"  # the name does not count
        path.write_bytes(data)
        return path
    return to


@pytest.mark.parametrize("options", [dict(quality=80), dict(quality=20, method=6), dict(lossless=True), dict(lossless=True, exact=True)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_webp(write, size, channels, options):
    same_as_pillow(write(encoded(noise(*size, channels), "WEBP", **options)))


@needs_avif
@pytest.mark.parametrize("options", [dict(quality=80), dict(quality=95, subsampling="4:4:4"), dict(quality=60, subsampling="4:2:2", range="limited"),
                                     dict(alpha_premultiplied=True)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_avif(write, size, channels, options):
    """Pillow brings a newer libavif (1.4 beside Debian's 0.11): the same pixels but for rounding, which has made no difference yet."""
    path = write(encoded(noise(*size, channels), "AVIF", **options))
    assert np.abs(ours(path).astype(int) - np.array(pillow(path))).max() <= 1


@needs_heif
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_heic(write, heif, size, channels, bits):
    """pillow-heif brings a newer libheif (1.23 beside Debian's 1.15), which rounds colors otherwise."""
    file, pixels = io.BytesIO(), noise(*size, channels)
    if bits == 8:
        Image.fromarray(pixels).save(file, "HEIF", quality=80)
    else:
        mode = "RGB;16" if channels == 3 else "RGBA;16"
        heif.encode(mode, size[::-1], (pixels.astype(np.uint16) * 257).tobytes(), file, quality=80)
    path = write(file.getvalue())
    assert np.abs(ours(path).astype(int) - np.array(pillow(path))).max() <= (1 if bits == 8 else 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", READ)
def test_orientation(write, heif, kind, orientation):
    """EXIF's in WebP. In AVIF and HEIC the boxes irot and imir, which Pillow and libheif write from EXIF's, count alone. (Sides are
    even, as a camera's: libheif 1.15 mirrors colors of half the resolution by half a pixel too far where a side is odd.)"""
    if not READ[kind]:
        pytest.skip("built without its library")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(encoded(noise(20, 34), kind, exif=exif.tobytes()))
    assert np.abs(ours(path).astype(int) - np.array(pillow(path))).max() <= (kind == "HEIF")


@pytest.mark.parametrize("xmp", [b'<a tiff:Orientation="6"/>', b"<tiff:Orientation>8</tiff:Orientation>"])
@pytest.mark.parametrize("exif", [None, (0x010F, "a camera"), (0x0112, 5), (0x0112, 1)])
@pytest.mark.parametrize("kind", ["WEBP", pytest.param("AVIF", marks=needs_avif)])
def test_xmp_orientation_counts_where_exif_has_none(write, kind, exif, xmp):
    block = Image.Exif()
    if exif:
        block[exif[0]] = exif[1]
    same_as_pillow(write(encoded(noise(20, 33), kind, xmp=xmp, exif=block if exif else b"")))


# Animations: the first picture


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["WEBP", pytest.param("AVIF", marks=needs_avif)])
def test_the_first_of_an_animation(write, kind, channels):
    file = io.BytesIO()
    first, *others = [Image.fromarray(noise(40, 30, channels, seed)) for seed in range(3)]
    first.save(file, kind, save_all=True, append_images=others)
    same_as_pillow(write(file.getvalue()))


def riff(*chunks):
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_of_a_part(x, y, width=40, height=30, flags=0x12):
    """An animation on such a canvas, whose pictures of 12 x 10 pixels begin at (x, y)."""
    def three(value):
        return struct.pack("<I", value)[:3]
    frame = three(x // 2) + three(y // 2) + three(11) + three(9) + three(100) + b"\0" + encoded(noise(10, 12, 4), "WEBP", lossless=True)[12:]
    head = bytes([flags, 0, 0, 0]) + three(width - 1) + three(height - 1)
    return riff((b"VP8X", head), (b"ANIM", b"\x40\x80\xc0\xff\0\0"), (b"ANMF", frame), (b"ANMF", frame))


@pytest.mark.parametrize("flags", [0x12, 0x02])
@pytest.mark.parametrize("place", [(0, 0), (4, 6), (28, 20)])
def test_an_animation_whose_first_picture_is_a_part(write, place, flags):
    """What it does not cover is transparent; but without the flag for alpha (16) nothing is."""
    path = write(webp_of_a_part(*place, flags=flags))
    same_as_pillow(path)
    np.testing.assert_array_equal(ours(path, "over", "#204060"), over(path, (0x20, 0x40, 0x60)))


# What is refused


def brands(major, *others):
    box = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(box)) + b"ftyp" + box


REFUSED = {
    "gif": (lambda: encoded(noise(9, 9, 1), "GIF"), "is a picture in the format GIF, expected one of PNG, JPEG, WebP", "convert it to PNG"),
    "bmp": (lambda: encoded(noise(9, 9), "BMP"), "is a picture in the format BMP", "convert it to PNG"),
    "tiff": (lambda: encoded(noise(9, 9), "TIFF"), "is a picture in the format TIFF", "convert it to PNG"),
    "jxl": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "is a picture in the format JPEG XL", "convert it to PNG"),
    "avi": (lambda: b"RIFF" + struct.pack("<I", 4) + b"AVI ", "is not a picture: expected one of PNG, JPEG, WebP", ""),
    "mp4": (lambda: brands(b"isom", b"mp41") + bytes(99), "is not a picture", ""),
    "cut.webp": (lambda: encoded(noise(90, 90), "WEBP")[:-40], "damaged WebP, or cut short", ""),
    "huge.webp": (lambda: webp_of_a_part(0, 0, 1 << 15, 1 << 15), "32768 x 32768 pixels are too many", ""),
    "outside.webp": (lambda: webp_of_a_part(30, 22), "damaged WebP", ""),
    "cut.avif": (lambda: encoded(noise(90, 90), "AVIF")[:-40], "AVIF", ""),
    "cut.heic": (lambda: brands(b"mif1", b"heic") + bytes(99), "HEIC", ""),
    "brands.avif": (lambda: brands(b"mif1", b"miaf", b"avif") + bytes(99), "AVIF", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_one_clear_line(write, tmp_path, name):
    make, text, remedy = REFUSED[name]
    path = write(make())
    done = picture(path, tmp_path / "out.png")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"picture: {path}: ") and text in done.stderr and done.stderr.count("\n") == 1
    assert remedy in done.stderr


@pytest.mark.parametrize("kind, name, package", [("AVIF", "AVIF", "libavif-dev"), ("HEIF", "HEIC", "libheif-dev")])
def test_a_format_that_is_not_built_in_says_what_to_do(write, tmp_path, heif, kind, name, package):
    done = picture(write(encoded(noise(9, 9), kind)), tmp_path / "out.png")
    if f", {name} (" in VERSION:
        assert READ[kind] == (done.returncode == 0)
        assert READ[kind] or "install libheif-plugin-libde265" in done.stderr
    else:
        assert f"is a picture in the format {name}" in done.stderr and f"install {package} and build zoodip again" in done.stderr
        assert name in VERSION.split("not built in: ")[1].splitlines()[0]
