"""Bytes to pixels: formats, orientation, transparency, limits, damage."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digits import decoding
from digits.decoding import LONG_SIDE, ImageError, Limits, decode


def drawing(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """White with a black bar in the upper left and a red one along the lower edge: no symmetry."""
    image = Image.new("RGB", size, "white")
    image.paste((0, 0, 0), (4, 4, 20, 12))
    image.paste((200, 0, 0), (0, size[1] - 6, size[0], size[1]))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def close(one: np.ndarray, other: np.ndarray, most: float = 6) -> bool:
    return one.shape == other.shape and float(np.abs(one.astype(int) - other.astype(int)).mean()) <= most


FILES = {
    "PNG": encoded(drawing(), "PNG"),
    "JPEG": encoded(drawing(), "JPEG", quality=95),
    "progressive JPEG": encoded(drawing(), "JPEG", quality=95, progressive=True),
    "CMYK JPEG": encoded(drawing().convert("CMYK"), "JPEG", quality=95),
    "MPO": encoded(drawing(), "MPO", save_all=True, append_images=[drawing().rotate(180)]),
    "WebP": encoded(drawing(), "WEBP", quality=95),
    "lossless WebP": encoded(drawing(), "WEBP", lossless=True),
    "BMP": encoded(drawing(), "BMP"),
    "GIF": encoded(drawing(), "GIF"),
    "palette PNG": encoded(drawing().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "interlaced TIFF pages": encoded(drawing(), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
    "LZW TIFF": encoded(drawing(), "TIFF", compression="tiff_lzw"),
}


def tiff(values: np.ndarray, big: bool = False, order: str = "<") -> bytes:
    """A TIFF file of one strip, also of the kinds that Pillow can't write: any numbers, or a BigTIFF."""
    tags = {
        256: values.shape[1],
        257: values.shape[0],
        258: 8 * values.itemsize,
        259: 1,
        262: values.ndim - 1,
        273: 16,
        277: 3 if values.ndim == 3 else 1,
        278: values.shape[0],
        279: values.nbytes,
        339: "uif".index(values.dtype.kind) + 1,
    }
    start = 16 + values.nbytes
    count, entry, kind = ("Q", "HHQQ", 16) if big else ("H", "HHII", 4)
    head = struct.pack(order + "HHHQ", 43, 8, 0, start) if big else struct.pack(order + "HI8x", 42, start)
    directory = [struct.pack(order + entry, tag, kind, 1, value) for tag, value in tags.items()]
    return b"".join(
        [
            b"II" if order == "<" else b"MM",
            head,
            values.astype(values.dtype.newbyteorder(order)).tobytes(),
            struct.pack(order + count, len(tags)),
            *directory,
            bytes(8),
        ]
    )


def code_of(data: bytes, limits: Limits | None = None) -> tuple[str, int]:
    with pytest.raises(ImageError) as caught:
        decode(data, limits or Limits())
    return caught.value.code, caught.value.status


@pytest.mark.parametrize("kind", FILES)
def test_every_format_decodes_to_the_same_picture(kind: str) -> None:
    pixels = decode(FILES[kind])
    assert pixels.dtype == np.uint8
    assert close(pixels, np.asarray(drawing()), 12)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F"])
def test_grey_modes_decode_to_grey(mode: str) -> None:
    grey = np.asarray(drawing().convert("L").point(lambda v: 255 if v > 128 else 0))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode in ("I", "F"):
        image = Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32))
    else:
        image = Image.fromarray(grey).convert(mode)
    pixels = decode(encoded(image, "TIFF" if mode in ("I", "F") else "PNG"))
    assert close(pixels if pixels.ndim == 2 else pixels[..., 0], grey, 1)


def thumbnails() -> list[tuple[str, bytes, np.ndarray]]:
    """Small grey PNGs as several programs write them."""
    random = np.random.default_rng(0)
    made = []
    levels = {(28, 28): (0, 6, 9), (1, 1): (0, 6, 9), (17, 40): (0, 6, 9), (128, 128): (6, 9)}
    for (height, width), some in levels.items():
        pixels = np.asarray(drawing().convert("L").resize((width, height))) // 2 + random.integers(0, 9, 1, np.uint8)
        for level in some:
            data = encoded(Image.fromarray(pixels), "PNG", compress_level=level)
            made.append((f"Pillow, level {level}, {width}x{height}", data, pixels))
        made.append((f"OpenCV {width}x{height}", cv2.imencode(".png", pixels)[1].tobytes(), pixels))
    return made


@pytest.mark.parametrize(("data", "pixels"), [pytest.param(*rest, id=name) for name, *rest in thumbnails()])
def test_a_thumbnail_is_read_pixel_by_pixel_without_pillow(data: bytes, pixels: np.ndarray, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "_open", lambda *_: pytest.fail("opened with Pillow"))
    assert np.array_equal(decode(data), pixels)


def test_a_thumbnail_in_a_large_file_or_over_the_pixel_limit_is_left_to_pillow() -> None:
    pixels = np.asarray(drawing().convert("L").resize((128, 128)))
    large = encoded(Image.fromarray(pixels), "PNG", compress_level=0)
    assert decoding._small_png(large, Limits()) is None
    assert np.array_equal(decode(large), pixels)
    small, limits = encoded(Image.fromarray(pixels), "PNG"), Limits(max_pixels=128 * 128 - 1)
    assert decoding._small_png(small, limits) is None
    assert code_of(small, limits) == ("too_many_pixels", 422)


def test_a_thumbnail_that_is_damaged_anywhere_is_left_to_pillow() -> None:
    whole = next(data for name, data, _ in thumbnails() if name == "OpenCV 28x28")
    assert decoding._small_png(whole, Limits()) is not None
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            assert decoding._small_png(bytes(damaged), Limits()) is None
        assert decoding._small_png(whole[:place], Limits()) is None
        assert decoding._small_png(whole[:place] + whole[place + 1 :], Limits()) is None


@pytest.mark.parametrize("rows", [b"\0" * 28 * 29 + b"\0", b"\0" * 28 * 28, b"\5" * 28 * 29, b"\0" * 5_000_000])
def test_a_thumbnail_with_other_than_its_rows_is_left_to_pillow(rows: bytes) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">II5B", 28, 28, 8, 0, 0, 0, 0))
    data = decoding.PNG_START + head + chunk(b"IDAT", zlib.compress(rows, 9)) + decoding.PNG_END
    assert len(data) <= decoding.SMALL_FILE
    assert decoding._small_png(data, Limits()) is None


@pytest.mark.parametrize("window", [0x08, 0x18, 0x28, 0x38])
def test_a_thumbnail_that_says_it_needs_a_smaller_window_than_it_does_is_read_all_the_same(window: int) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (30, 100), np.uint8)[np.arange(100) % 30]
    data = encoded(Image.fromarray(grey), "PNG")
    length = int.from_bytes(data[33:37], "big")
    stream = bytearray(zlib.compress(np.insert(grey, 0, 0, axis=1).tobytes(), 9))
    stream[:2] = window, 31 - window * 256 % 31
    chunk = b"IDAT" + bytes(stream)
    packed = data[:33] + struct.pack(">I", len(stream)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert np.array_equal(decode(packed + data[45 + length :]), grey)


def test_sixteen_bits_keep_the_upper_eight() -> None:
    grey = np.arange(256, dtype=np.uint16).repeat(2).reshape(16, 32)
    assert np.array_equal(decode(encoded(Image.fromarray(grey * 257), "PNG")), grey)


@pytest.mark.parametrize("extreme", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45])
def test_a_pixel_that_is_no_sensible_number_does_not_hide_the_digit(extreme: float) -> None:
    grey = np.asarray(drawing().convert("L").resize((120, 120))).astype(np.float32)
    spoilt = grey.copy()
    spoilt[3, 5] = extreme
    pixels = decode(encoded(Image.fromarray(spoilt), "TIFF"))
    spoilt[3, 5] = grey[3, 5]
    low, high = grey.min(), grey.max()
    apart = np.abs(pixels - (grey - low) * (255 / (high - low)))
    assert np.delete(apart.ravel(), 3 * 120 + 5).max() < 2


@pytest.mark.parametrize("filler", [np.nan, -np.inf, -3.4028235e38, 3.4028235e38])
def test_a_border_without_numbers_does_not_hide_the_digit(filler: float) -> None:
    grey = np.asarray(drawing().convert("L").resize((120, 120))).astype(np.float32)
    bordered = grey.copy()
    bordered[:4] = filler
    seen = decode(encoded(Image.fromarray(bordered), "TIFF"))[4:]
    assert np.abs(seen - (grey[4:] - grey.min()) * (255 / np.ptp(grey))).max() < 2


@pytest.mark.parametrize("extreme", [np.nan, np.inf, -np.inf, 3e38, 1e-45])
def test_a_picture_of_nothing_but_extremes_is_a_blank_one(extreme: float) -> None:
    pixels = decode(encoded(Image.fromarray(np.full((40, 40), extreme, np.float32)), "TIFF"))
    assert pixels.shape == (40, 40)
    assert pixels.min() == pixels.max()


@pytest.mark.parametrize(
    ("paper", "ink"), [(np.nan, 1), (1, np.nan), (-np.inf, 0.2), (0.2, np.inf), (1, 1 + 1e-5), (0, 1e-9)]
)
def test_ink_on_a_floating_point_picture_is_seen_whatever_it_is(paper: float, ink: float) -> None:
    values = np.full((60, 60), paper, np.float32)
    values[10:50, 27:33] = ink
    pixels = decode(encoded(Image.fromarray(values), "TIFF"))
    assert np.ptp(pixels) == 255
    assert len(np.unique(pixels[10:50, 27:33])) == 1


def test_thin_ink_on_a_large_floating_point_picture_is_seen() -> None:
    values = np.zeros((1_000, 1_000), np.float32)
    values[470:530, 500] = 1
    assert np.array_equal(decode(encoded(Image.fromarray(values), "TIFF")), 255 * values)


def test_differences_that_are_rounding_are_none() -> None:
    values = np.full((40, 40), 0.1, np.float32)
    values[::2] = np.nextafter(np.float32(0.1), np.float32(1))
    assert np.ptp(decode(encoded(Image.fromarray(values), "TIFF"))) == 0


def test_the_extremes_of_32_bit_integers_keep_their_order() -> None:
    grey = np.zeros((30, 30), np.int32)
    grey[:, 10:20], grey[:, 20:] = np.iinfo(np.int32).max, np.iinfo(np.int32).min
    pixels = decode(encoded(Image.fromarray(grey), "TIFF"))
    assert pixels[0, [25, 0, 15]].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("paper", "ink", "spread"),
    [
        (4_000, 3_600, True),
        (4_100, 3_700, True),
        (60_000, 59_300, True),
        (16_383, 15_000, True),
        (60_000, 59_900, False),
        (65_535, 20_000, False),
    ],
)
def test_a_narrow_range_of_16_bits_is_spread_unless_it_is_blank(paper: int, ink: int, spread: bool) -> None:
    grey = np.full((60, 60), paper, np.uint16)
    grey[20:40, 25:35] = ink
    pixels = decode(tiff(grey))
    expected = (255, 0) if spread else (paper >> 8, ink >> 8)
    assert (pixels[0, 0], pixels[30, 30]) == expected


def test_blank_paper_of_twelve_bits_stays_blank() -> None:
    grain = np.random.default_rng(0).integers(3_000, 3_016, (60, 60)).astype(np.uint16)
    assert np.ptp(decode(tiff(grain)).astype(int)) <= 1
    grain[20:40, 25:35] = 2_700
    assert np.ptp(decode(tiff(grain)).astype(int)) == 255


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_integers_of_every_size_and_sign_keep_their_order(dtype: str) -> None:
    limits = np.iinfo(dtype)
    values = np.linspace(limits.min, limits.max, 256).astype(dtype)
    grey = decode(tiff(values.repeat(2).reshape(16, 32))).ravel()
    assert (np.diff(grey.astype(int)) >= 0).all()
    assert (grey[0], grey[-1]) == (0, 255)


def test_scattered_extremes_do_not_change_a_large_floating_point_picture() -> None:
    grey = np.asarray(drawing().convert("L").resize((3000, 2000))).astype(np.float32) / 255
    spoilt = grey.copy()
    chance = np.random.default_rng(0)
    for extreme in (np.nan, np.inf, -np.inf, 3e38, -3e38):
        spoilt[chance.integers(0, 2000, 100), chance.integers(0, 3000, 100)] = extreme
    limits = Limits(max_bytes=30_000_000)
    assert np.abs(decode(tiff(spoilt), limits).astype(int) - decode(tiff(grey), limits)).mean() < 0.2


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_a_bigtiff_decodes_to_the_same_as_a_tiff(dtype: str) -> None:
    values = np.asarray(drawing().convert("L")).astype(dtype)
    assert np.array_equal(decode(tiff(values, big=True)), decode(tiff(values)))


@pytest.mark.parametrize(
    "data",
    [
        tiff(np.ones((20, 20), "f2")),
        tiff(np.ones((20, 20), "f8"), order=">"),
        tiff(np.ones((20, 20), "u8")),
        tiff(np.ones((20, 20, 3), "f4")),
        tiff(np.ones((20, 20, 3), "f4"), big=True),
        tiff(np.ones((20, 20), "u1"), big=True, order=">"),
        tiff(np.ones((20, 20), "u1")).replace(
            struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 259, 4, 1, 34712)
        ),
    ],
    ids=["float16", "float64", "uint64", "RGB float32", "RGB float32 BigTIFF", "big-endian BigTIFF", "JPEG 2000"],
)
def test_a_whole_tiff_of_a_kind_that_is_not_read_is_unusable(data: bytes) -> None:
    assert code_of(data) == ("unusable_image", 422)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about what is missing
@pytest.mark.parametrize("kind", ["interlaced TIFF pages", "LZW TIFF"])
def test_a_tiff_cut_short_anywhere_before_its_last_tag_is_called_truncated(kind: str) -> None:
    data = FILES[kind]
    (start,) = struct.unpack_from("<I", data, 4)
    end = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    assert {code_of(data[:cut]) for cut in range(12, end)} == {("truncated_image", 400)}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = drawing()
    stored = image.transpose(undo[orientation]) if orientation in undo else image
    exif = Image.Exif()
    exif[274] = orientation
    assert close(decode(encoded(stored, kind, exif=exif)), np.asarray(image), 12)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "value"), [(3, "Hxx"), (4, "I")])
def test_an_orientation_may_be_a_short_or_a_long(order: str, kind: int, value: str) -> None:
    directory = struct.pack(f"{order}HHHI{value}I", 1, 274, kind, 1, 6, 0)
    exif = b"Exif\0\0" + {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8) + directory
    upright = decode(encoded(drawing(), "JPEG", exif=exif, quality=95))
    assert close(upright, np.asarray(drawing().transpose(Image.Transpose.ROTATE_270)), 12)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_impossible_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    assert close(decode(encoded(drawing(), "JPEG", exif=exif, quality=95)), np.asarray(drawing()), 12)


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_transparency_stays_visible(ink: int) -> None:
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[10:30, 18:22] = (ink, ink, ink, 255)
    seen = decode(encoded(Image.fromarray(pixels), "PNG"))
    assert abs(int(seen[20, 20].mean()) - int(seen[0, 0].mean())) == 255


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 30), (30, 30, 200), (250, 240, 200)])
def test_a_digit_that_is_cut_out_of_one_colour_is_seen(colour: tuple[int, int, int]) -> None:
    image = Image.new("RGBA", (60, 60), (*colour, 255))
    image.paste((*colour, 0), (27, 10, 33, 50))
    pixels = decode(encoded(image, "PNG")).astype(int)
    assert np.abs(pixels[30, 30] - pixels[30, 5]).max() > 100


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_that_nobody_uses_changes_nothing(mode: str) -> None:
    plain = drawing().convert(mode.removesuffix("A"))
    assert np.array_equal(decode(encoded(plain.convert(mode), "PNG")), decode(encoded(plain, "PNG")))


def test_the_smallest_webp_is_read() -> None:
    data = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)
    assert data[12:16] == b"VP8L"
    assert len(data) < 40
    assert decode(data).shape[:2] == (1, 1)


def test_a_fully_transparent_picture_is_flat() -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[5:10, 5:10, :3] = 255
    assert np.ptp(decode(encoded(Image.fromarray(pixels), "PNG"))) == 0


def test_a_transparent_palette_entry_is_composited() -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 255, 0, 0, 0])
    image.paste(1, (8, 4, 12, 16))
    seen = decode(encoded(image, "PNG", transparency=0))
    assert seen[0, 0].min() == 255
    assert seen[10, 10].max() == 0


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(kind: str) -> None:
    frames = [drawing(), drawing().rotate(90), drawing().rotate(180)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    assert code_of(data) == ("animated_image", 422)


def test_no_bytes_are_an_empty_body() -> None:
    assert code_of(b"") == ("empty_body", 400)


@pytest.mark.parametrize(
    "data", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\0" * 500, b"BMW is a car maker"]
)
def test_other_content_is_not_an_image(data: bytes) -> None:
    assert code_of(data) == ("not_an_image", 400)


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "JPEG2000", "PCX"])
def test_formats_outside_the_list_are_not_read(kind: str) -> None:
    assert code_of(encoded(drawing((32, 32)), kind))[0] == "not_an_image"


def test_a_body_over_the_limit_is_too_large() -> None:
    assert code_of(FILES["PNG"], Limits(max_bytes=10)) == ("too_large", 413)


@pytest.mark.parametrize("kind", FILES)
def test_a_picture_over_the_pixel_limit_is_refused_in_every_format(kind: str) -> None:
    assert code_of(FILES[kind], Limits(max_pixels=60 * 40 - 1)) == ("too_many_pixels", 422)


def bomb(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_001, 20_000, 60_000])
def test_a_header_of_too_many_pixels_is_refused_without_a_warning(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert code_of(bomb(side, side)) == ("too_many_pixels", 422)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.8])
def test_a_file_cut_short_is_called_truncated(kind: str, share: float) -> None:
    data = FILES[kind]
    try:
        decode(data[: max(12, int(len(data) * share))])
    except ImageError as error:
        assert (error.code, error.status) == ("truncated_image", 400)  # noqa: PT017
    else:
        assert kind in ("MPO", "interlaced TIFF pages"), "only what follows the first picture may be missing"


def test_a_large_jpeg_comes_back_reduced_but_not_below_the_working_size() -> None:
    pixels = decode(encoded(drawing((4000, 3000)), "JPEG"))
    assert LONG_SIDE <= max(pixels.shape) < 2 * LONG_SIDE
    assert abs(pixels.shape[1] / pixels.shape[0] - 4 / 3) < 0.01


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_large_pictures_come_back_reduced(kind: str) -> None:
    assert max(decode(encoded(drawing((3000, 2100)), kind)).shape) < 2 * LONG_SIDE


MEASURE = """
import sys
from pathlib import Path
from digits.decoding import decode

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

data = sys.stdin.buffer.read()
before = peak()
decode(data)
print(peak() - before)
"""


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "PA", "LAB", "I;16", "I", "F"])
def test_a_large_picture_takes_at_most_a_dozen_bytes_a_pixel(mode: str) -> None:
    side = 4000
    image = Image.new(mode, (side, side))
    image.paste(Image.new(mode, (side // 4, side // 2), 1 if mode == "1" else 200), (side // 3, side // 4))
    if mode in ("1", "L", "P", "RGB"):
        data = encoded(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    else:
        data = encoded(image, "TIFF", compression="tiff_lzw")
    done = subprocess.run([sys.executable, "-c", MEASURE], input=data, capture_output=True, check=True, timeout=60)
    assert int(done.stdout) < 12.5 * side**2


@given(st.binary(max_size=300), st.sampled_from([b"", *(data[:n] for data in FILES.values() for n in (4, 12, 40))]))
@settings(max_examples=60)
def test_random_bytes_raise_nothing_but_image_errors(tail: bytes, head: bytes) -> None:
    try:
        decode(head + tail)
    except ImageError as error:
        assert error.status in (400, 413, 422)  # noqa: PT017


@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32))
@settings(max_examples=60)
def test_damaged_files_raise_nothing_but_image_errors(kind: str, seed: int) -> None:
    data = bytearray(FILES[kind])
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    try:
        pixels = decode(bytes(data), Limits(max_pixels=1_000_000))
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim in (2, 3)


@pytest.mark.parametrize("kind", ["PNG", "WebP", "GIF"])
def test_large_pictures_are_decoded_one_at_a_time_and_small_ones_meanwhile(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "LARGE", 1_000)
    large, small = encoded(drawing(), kind), encoded(drawing((20, 20)), kind)
    begun, may_end, at_work, most = threading.Event(), threading.Event(), [], []
    real = decoding._pixels

    def slow(kind: str, image: Any, *more: bytes) -> Any:
        if image.width > 20:
            at_work.append(1)
            most.append(len(at_work))
            begun.set()
            assert may_end.wait(60)
            at_work.pop()
        return real(kind, image, *more)

    monkeypatch.setattr(decoding, "_pixels", slow)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(decode, large) for _ in range(2)]
        assert begun.wait(60)
        assert pool.submit(decode, small).result(60).shape[:2] == (20, 20)
        may_end.set()
        assert [future.result(60).shape[:2] for future in waiting] == [(40, 60)] * 2
    assert most == [1, 1]
