"""Files that were made to take time or memory: what is around the pixels is passed over, counted, or refused."""

from __future__ import annotations

import resource
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from digits import containers
from digits.containers import Excess
from digits.decoding import ImageError, Limits, decode
from digits.requests import is_small
from tests.test_decoding import FILES, close, code_of, drawing, encoded, tiff

SHOWN = np.asarray(drawing())


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def behind_the_header(png: bytes, more: bytes) -> bytes:
    return png[:33] + more + png[33:]


EXIF = segment(0xE1, b"Exif\0\0" + b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 274, 3, 1, 6, 0) + bytes(4))


# -- JPEG -------------------------------------------------------------------------------------------------------------


def test_of_a_jpeg_the_first_exif_counts_and_no_other_metadata_is_read() -> None:
    jpeg = FILES["JPEG"]
    profile, text = segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)), segment(0xFE, b"a comment" * 5_000)
    other = EXIF.replace(struct.pack("<HHIHH", 274, 3, 1, 6, 0), struct.pack("<HHIHH", 274, 3, 1, 3, 0))
    stuffed = jpeg[:2] + profile + text + EXIF + other * 100 + jpeg[2:]
    assert containers.jpeg(stuffed).count(b"Exif\0\0") == 1
    assert len(containers.jpeg(stuffed)) < len(jpeg) + 100
    assert np.array_equal(decode(stuffed), np.rot90(decode(jpeg), -1)), "turned as the first says"


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "CMYK JPEG", "MPO"])
def test_a_jpeg_keeps_its_pixels_and_loses_what_is_appended(kind: str) -> None:
    film = b"\xff\xda\xff\xd8\xff\xe1" * 50_000
    reduced = containers.jpeg(FILES[kind] + film)
    assert len(reduced) <= len(FILES[kind])
    assert np.array_equal(np.asarray(Image.open(BytesIO(reduced))), np.asarray(Image.open(BytesIO(FILES[kind]))))


def test_a_jpeg_with_segments_without_end_is_refused_before_they_are_read() -> None:
    jpeg = FILES["JPEG"]
    for segments in (segment(0xEF, b"") * 200_000, EXIF * 50_000, b"\xff" * 2_000_000):
        assert code_of(jpeg[:2] + segments + jpeg[2:]) == ("unusable_image", 422)


def test_a_jpeg_with_scans_without_end_is_refused_before_they_are_read() -> None:
    jpeg = FILES["progressive JPEG"]
    last = jpeg.rindex(b"\xff\xda")
    scan = jpeg[last:-2]
    assert close(decode(jpeg[:-2] + scan * 3 + jpeg[-2:]), SHOWN, 12)
    assert code_of(jpeg[:-2] + scan * 200 + jpeg[-2:]) == ("unusable_image", 422)
    hidden = segment(0xFE, b"\xff\xd9")  # that looks like the end
    assert code_of(jpeg[:-2] + (hidden + scan) * 200 + jpeg[-2:]) == ("unusable_image", 422)


# -- PNG --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**21), 9)),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21), 9)) * 3,
        chunk(b"tEXt", b"transparency\0" + b"x"),
        chunk(b"tEXt", b"interlace\0" + b"1"),
        chunk(b"prVt", b"") * 5_000,
        chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 1, 0, 0, 0, 0)),
    ],
    ids=["a large profile", "large texts", "a text called transparency", "called interlace", "private", "two headers"],
)
def test_a_png_is_read_whatever_else_is_in_it(more: bytes) -> None:
    assert np.array_equal(decode(behind_the_header(FILES["PNG"], more)), SHOWN)


def test_a_png_with_chunks_without_end_is_refused() -> None:
    assert code_of(behind_the_header(FILES["PNG"], chunk(b"prVt", b"") * 100_000)) == ("unusable_image", 422)


def test_a_second_header_or_a_chunk_before_the_first_makes_no_large_picture_small() -> None:
    def header(side: int) -> bytes:
        return chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))

    pixels = chunk(b"IDAT", zlib.compress(bytes(876 * 7000), 9)) + chunk(b"IEND", b"")
    twice = containers.PNG_START + header(28) + header(7000) + pixels
    assert len(decode(twice)) == 28, "and it is as small as it says"
    before = containers.PNG_START + chunk(b"teSt", struct.pack(">II", 28, 28)) + header(7000) + pixels
    assert is_small(containers.PNG_START + header(28) + pixels)
    assert not is_small(before)


# -- GIF --------------------------------------------------------------------------------------------------------------


def test_comments_of_a_gif_take_no_memory() -> None:
    gif = FILES["GIF"]
    at = 13 + (3 << 1 + (gif[10] & 7))
    stuffed = gif[:at] + b"!\xfe" + b"\xfe" + b"x" * 254 + b"\0" + gif[at:]
    assert np.array_equal(decode(stuffed), decode(gif))
    assert len(containers.gif(stuffed)[0]) <= len(gif)
    endless = gif[:at] + b"!\xfe" + b"\1x" * 500_000 + b"\0" + gif[at:]
    assert code_of(endless) == ("unusable_image", 422)


def test_a_gif_whose_frame_is_larger_than_its_screen_is_as_large_as_its_frame() -> None:
    frame = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    frame += b"!\xf9\4\x08\0\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, 13_000, 13_000, 0) + b"\2\0;"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert code_of(frame) == ("too_many_pixels", 422)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


# -- TIFF and BMP -----------------------------------------------------------------------------------------------------


def test_a_tiff_of_large_tiles_is_as_large_as_its_tiles() -> None:
    tiled = tiff(np.full((20, 20), 255, np.uint8))
    for strips, tiles in ((273, 324), (279, 325)):
        tiled = tiled.replace(struct.pack("<HHI", strips, 4, 1), struct.pack("<HHI", tiles, 4, 1))
    for (tag, value), tile in (((278, 20), 322), ((277, 1), 323)):
        tiled = tiled.replace(struct.pack("<HHII", tag, 4, 1, value), struct.pack("<HHII", tile, 4, 1, 30_000))
    assert code_of(tiled) == ("too_many_pixels", 422)


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_too_many_strips_is_refused_before_they_are_listed(big: bool) -> None:
    one = struct.pack("<HHQ" if big else "<HHI", 273, 16 if big else 4, 1)
    data = tiff(np.zeros((20, 20), np.uint8), big=big)
    assert one in data
    many = data.replace(one, struct.pack("<HHQ" if big else "<HHI", 273, 16 if big else 4, 5_000_000))
    with pytest.raises(Excess):
        containers.check_tiff(many)
    assert code_of(many) == ("unusable_image", 422)


def test_a_tiff_that_hides_its_strips_behind_other_entries_is_refused() -> None:
    entry = struct.Struct("<HHII").pack
    entries = [entry(65000, 4, 1, 0)] * 1_000 + [entry(256, 4, 1, 2), entry(257, 4, 1, 2), entry(273, 3, 30_000, 8)]
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    assert code_of(data) == ("unusable_image", 422)


def test_a_tiff_of_two_hundred_megapixels_is_read_where_that_is_allowed() -> None:
    file = BytesIO()
    Image.new("1", (14_000, 14_000), 1).save(file, "TIFF", compression="tiff_deflate")
    assert decode(file.getvalue(), Limits(max_pixels=200_000_000)).min() == 255
    assert code_of(file.getvalue()) == ("too_many_pixels", 422)


@pytest.mark.parametrize("dtype", ["f4", "i4"])
def test_compressed_numbers_of_a_big_endian_tiff_are_not_turned_twice(dtype: str) -> None:
    values = np.linspace(0, 200, 400).reshape(20, 20).astype(dtype)
    plain = tiff(values, order=">")
    content = zlib.compress(values.astype(f">{dtype}").tobytes())
    content += b"\0" * (values.nbytes - len(content))
    packed = plain[:16] + content + plain[16 + values.nbytes :]
    packed = packed.replace(struct.pack(">HHII", 259, 4, 1, 1), struct.pack(">HHII", 259, 4, 1, 8))
    assert np.array_equal(decode(packed), decode(plain))


def bmp(size: tuple[int, int], bits: int, compression: int, palette: list[int], pixels: bytes) -> bytes:
    table = b"".join(bytes((grey, grey, grey, 0)) for grey in palette)
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(pixels), 0, 0, len(palette), 0)
    start = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + table + pixels


def test_a_run_length_encoded_bmp_is_read_up_to_a_million_pixels() -> None:
    rows = (b"\x08\1" + b"\0\0") * 8
    assert (decode(bmp((8, 8), 8, 1, [0, 200], rows + b"\0\1")) == 200).all()
    for size in ((5_000_000, 2), (1_001, 1_000), (1_000, -1_001)):
        assert code_of(bmp(size, 8, 1, [0, 200], b"\1\1\0\0" * 2)) == ("unusable_image", 422)


def test_a_run_length_encoded_bmp_with_more_runs_than_pixels_is_refused() -> None:
    assert code_of(bmp((16, 16), 8, 1, [0, 200], b"\0\0" * 1_010_000)) == ("unusable_image", 422)


def test_a_bmp_may_hold_anything_in_the_bytes_that_are_reserved() -> None:
    plain = bmp((8, 8), 8, 0, [0, 200], b"\1" * 64)
    assert np.array_equal(decode(plain[:6] + b"\1\2\3\4" + plain[10:]), decode(plain))


@pytest.mark.parametrize(("bits", "row"), [(8, b"\0\1\1\0"), (4, b"\x01\x10\0\0")])
def test_a_bmp_with_a_palette_of_black_and_white_has_as_many_bits_as_it_says(bits: int, row: bytes) -> None:
    assert decode(bmp((4, 4), bits, 0, [0, 255], row * 4)).tolist() == [[0, 255, 255, 0]] * 4


def test_a_bmp_whose_alpha_nobody_has_filled_is_opaque() -> None:
    shown = np.dstack([SHOWN[..., ::-1], np.zeros(SHOWN.shape[:2], np.uint8)])[::-1]
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 60, 40, 1, 32, 3, shown.nbytes, 0, 0, 0, 0) + masks + bytes(52)
    file = b"BM" + struct.pack("<IHHI", 14 + len(info) + shown.nbytes, 0, 0, 14 + len(info)) + info + shown.tobytes()
    assert np.array_equal(decode(file), SHOWN)


# -- all of them ------------------------------------------------------------------------------------------------------


def test_what_a_decoder_does_not_know_is_unusable_and_not_damaged() -> None:
    jpeg = FILES["JPEG"]
    at = jpeg.index(b"\xff\xc0")
    assert code_of(jpeg[: at + 4] + b"\x0c" + jpeg[at + 5 :])[0] == "unusable_image"  # 12 bits a sample


@pytest.mark.parametrize("colour", [0, 255])
def test_a_digit_that_is_only_drawn_in_transparency_is_seen(colour: int) -> None:
    ink = np.zeros((60, 60), np.uint8)
    ink[10:50, 25:35] = 255
    pixels = np.dstack([np.full((60, 60, 3), colour, np.uint8), 255 - ink])
    seen = decode(encoded(Image.fromarray(pixels), "PNG"))[..., 0]
    assert abs(int(seen[30, 30]) - int(seen[5, 5])) == 255


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_every_file_cut_short_is_handed_on_and_called_damaged(kind: str) -> None:
    data = FILES[kind]
    for length in range(20, len(data) - 20, 7):
        with pytest.raises(ImageError):
            decode(data[:length], Limits())
