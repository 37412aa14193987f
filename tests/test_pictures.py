"""Pictures equal Pillow's, byte for byte: decoding, EXIF orientation, resizing and cropping."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pixels import CHANNELS, chunk, encoded, noise, ours, picture, pillow, png, same_as_pillow

QUICK = True


FORMS = [(color, depth) for color, depths in
         {0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16]}.items() for depth in depths]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("color, depth", FORMS)
def test_png_of_every_form(tmp_path, color, depth, transparent, interlaced):
    rng = np.random.default_rng(depth * 8 + color)
    values = rng.integers(0, 2**depth, (13, 11, CHANNELS[color]))
    before = b""
    if color == 3:
        before += chunk(b"PLTE", rng.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes())
    if transparent and color == 3:
        before += chunk(b"tRNS", bytes(range(2**depth)))
    if transparent and color in (0, 2):
        before += chunk(b"tRNS", b"".join(struct.pack(">H", int(v)) for v in values[0, 0]))
    path = tmp_path / "in.png"
    path.write_bytes(png(values, depth, color, interlaced, before))
    if (color, depth) == (0, 16):
        np.testing.assert_array_equal(ours(path), np.repeat(values >> 8, 3, 2))
    else:
        same_as_pillow(path)


def test_gray_of_16_bits_keeps_its_tones(tmp_path):
    """By the high byte, as all else of 16 bits. Pillow's convert("RGB") makes all white but the darkest 256 of 65,536 tones, and
    diffusers' training scripts with it."""
    path = tmp_path / "in.png"
    path.write_bytes(png(np.array([[[0], [255], [256], [30000], [65535]]]), 16, 0))
    assert ours(path)[0, :, 0].tolist() == [0, 0, 1, 117, 255]
    assert pillow(path).getpixel((3, 0)) == (255, 255, 255)


def test_png_palette_index_beyond_the_palette_is_black(tmp_path):
    path = tmp_path / "in.png"
    path.write_bytes(png(np.array([[[0], [1], [2], [200]]]), 8, 3, before=chunk(b"PLTE", bytes([9, 8, 7, 6, 5, 4]))))
    same_as_pillow(path)


def test_png_texts_profiles_and_unknown_chunks_change_nothing(tmp_path):
    extra = (chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"sBIT", b"\5\6\5") + chunk(b"iCCP", b"broken")
             + chunk(b"tEXt", b"Comment\0hello") + chunk(b"zzZz", b"who knows"))
    path = tmp_path / "in.png"
    path.write_bytes(png(noise(9, 7).astype(int), 8, 2, before=extra))
    np.testing.assert_array_equal(ours(path), noise(9, 7))


# JPEG


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(64, 48), (37, 51), (1, 1), (7, 130)])
def test_jpeg_color(tmp_path, size, subsampling, progressive):
    path = tmp_path / "in.jpg"
    Image.fromarray(noise(*size)).save(path, quality=83, subsampling=subsampling, progressive=progressive)
    same_as_pillow(path)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_gray_and_cmyk(tmp_path, mode, progressive):
    path = tmp_path / "in.jpg"
    pixels = noise(45, 38, 4 if mode == "CMYK" else 1)
    Image.fromarray(pixels, mode=mode).save(path, quality=90, progressive=progressive)
    same_as_pillow(path)


def test_jpeg_ycck_by_its_adobe_marker(tmp_path):
    path = tmp_path / "in.jpg"
    Image.fromarray(noise(32, 40, 4), mode="CMYK").save(path, quality=90)
    bytes_ = path.read_bytes()
    at = bytes_.index(b"Adobe")
    path.write_bytes(bytes_[: at + 11] + b"\2" + bytes_[at + 12 :])  # transform 2: the four layers are YCCK
    same_as_pillow(path)


def test_jpeg_of_a_camera_size(tmp_path):
    path = tmp_path / "in.jpg"
    Image.fromarray(noise(2268, 3024)).save(path, quality=92)
    expected = np.array(pillow(path).crop((378, 0, 2646, 2268)).resize((512, 512), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(ours(path, "512x512", "crop"), expected)


@pytest.mark.parametrize("options", [{}, dict(optimize=True), dict(progressive=True), dict(progressive=True, optimize=True)], ids=str)
@pytest.mark.parametrize("mode, subsampling", [("RGB", 0), ("RGB", 2), ("L", 0), ("CMYK", 0)])
def test_jpeg_of_one_color_is_read_however_few_bytes_it_takes(tmp_path, mode, subsampling, options):
    """With optimized codes a block takes two bits, in a progressive one a single bit: what a claimed size is measured by."""
    path = tmp_path / "in.jpg"
    Image.new(mode, (2000, 1200), {"L": 128, "RGB": (128, 128, 128)}.get(mode, (9, 9, 9, 9))).save(path, **options, subsampling=subsampling)
    same_as_pillow(path)


# EXIF


@pytest.mark.parametrize("orientation", range(0, 10))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    path = tmp_path / f"in.{suffix}"
    Image.fromarray(noise(20, 33)).save(path, exif=exif)
    same_as_pillow(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_in_both_byte_orders_after_the_pixels(tmp_path, order):
    field = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0)
    exif = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, 1) + field + bytes(4)
    path = tmp_path / "in.png"
    path.write_bytes(png(noise(9, 14).astype(int), 8, 2, after=chunk(b"eXIf", exif)))
    assert ours(path).shape == (14, 9, 3)
    same_as_pillow(path)


@pytest.mark.parametrize("before", [True, False])
def test_xmp_orientation_of_a_png(tmp_path, before):
    text = chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0en\0\0<x tiff:Orientation="6"/>')
    path = tmp_path / "in.png"
    path.write_bytes(png(noise(9, 14).astype(int), 8, 2, **{"before" if before else "after": text}))
    assert ours(path).shape == (14, 9, 3)
    if before:  # Pillow's exif_transpose looks before it reads the pixels, and then does not see what follows them
        same_as_pillow(path)


@pytest.mark.parametrize("xmp", [b'<a tiff:Orientation="6"/>', b"<tiff:Orientation>8</tiff:Orientation>", b"<tiff:Orientation>",
                                 b'tiff:Orientation="x" tiff:Orientation="3', b'tiff:Orientation="9"'])
@pytest.mark.parametrize("exif, value", [(None, 0), (0x010F, 0), (0x0112, 5), (0x0112, 0), (0x0112, 9)])
def test_xmp_orientation_counts_where_exif_has_none(tmp_path, xmp, exif, value):
    block = Image.Exif()
    if exif:
        block[exif] = value if exif == 0x0112 else "a camera"
    path = tmp_path / "in.jpg"
    Image.fromarray(noise(20, 33)).save(path, xmp=xmp, exif=block)
    same_as_pillow(path)


# Resizing


@pytest.mark.parametrize("target", [(64, 64), (40, 96), (200, 33), (123, 10), (57, 91), (1, 1), (300, 400), (37, 81), (36, 81)])
@pytest.mark.parametrize("source", [(57, 91), (128, 64), (1, 5), (333, 200)])
def test_resize(tmp_path, source, target):
    path = tmp_path / "in.png"
    Image.fromarray(noise(*source)).save(path)
    height, width = target
    expected = np.array(Image.open(path).resize((width, height), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(ours(path, f"{width}x{height}", "squash"), expected)


def test_resize_of_hard_edges_overshoots_and_is_clipped(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray((np.indices((40, 60, 3)).sum(0) // 5 % 2 * 255).astype(np.uint8)).save(path)
    for width, height in [(61, 41), (97, 23), (31, 80)]:
        expected = np.array(Image.open(path).resize((width, height), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(ours(path, f"{width}x{height}", "squash"), expected)


@pytest.mark.parametrize("source", [(57, 90), (90, 57), (64, 63), (63, 64), (50, 50)])
def test_crop_to_a_square_is_diffusers_center_crop(tmp_path, source):
    path = tmp_path / "in.png"
    pixels = noise(*source)
    Image.fromarray(pixels).save(path)
    h, w = source
    crop = min(h, w)
    part = pixels[(h - crop) // 2 : (h + crop) // 2, (w - crop) // 2 : (w + crop) // 2]
    expected = np.array(Image.fromarray(part).resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(ours(path, "32x32", "crop"), expected)


def test_crop_to_another_shape_keeps_its_proportions(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(noise(60, 60)).save(path)
    expected = Image.open(path).crop((0, 15, 60, 45)).resize((40, 20), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(ours(path, "40x20", "crop"), np.array(expected))


# Mistakes: one line that names the file and says what is wrong


def saved(kind, **options):
    return encoded(noise(40, 30), kind, **options)


def resized(jpeg, width, height):
    """Claims another size in its header of frames."""
    at = max(jpeg.find(b"\xff\xc0\0\x11\x08"), jpeg.find(b"\xff\xc2\0\x11\x08")) + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


MISTAKES = {
    "cut.png": (lambda: saved("PNG")[:-100], "PNG is cut short"),
    "flipped.png": (lambda: saved("PNG")[:200] + b"\xff\0\xff" + saved("PNG")[203:], "damaged PNG"),
    "huge.png": (lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0))
                 + chunk(b"IDAT", b""), "too many"),
    "lying.png": (lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16000, 16000, 8, 2, 0, 0, 0))
                  + chunk(b"IDAT", zlib.compress(bytes(100))), "PNG is cut short"),
    "lying.jpg": (lambda: resized(saved("JPEG"), 16000, 16000), "JPEG is cut short"),
    "lyingprogressive.jpg": (lambda: resized(saved("JPEG", progressive=True), 16000, 16000), "JPEG is cut short"),
    "cut.jpg": (lambda: saved("JPEG")[:-100], "JPEG is cut short"),
    "cutprogressive.jpg": (lambda: saved("JPEG", progressive=True)[:-100], "JPEG is cut short"),
    "start.jpg": (lambda: saved("JPEG")[:20], "JPEG"),
    "text.png": (lambda: b"hello", "is not a picture: expected one of PNG, JPEG, WebP"),
    "empty.png": (lambda: b"", "is not a picture: expected one of PNG, JPEG, WebP"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_clear_line(tmp_path, name):
    make, text = MISTAKES[name]
    path = tmp_path / name
    path.write_bytes(make())
    done = picture(path, tmp_path / "out.png")
    assert done.returncode == 2
    assert done.stderr.startswith(f"picture: {path}: ") and text in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out.png").exists()
