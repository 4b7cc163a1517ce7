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
    first, exif = containers.jpeg(stuffed)
    assert exif == EXIF[4:]
    assert len(first) <= len(jpeg)
    assert np.array_equal(decode(stuffed), np.rot90(decode(jpeg), -1)), "turned as the first says"


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "CMYK JPEG", "MPO"])
def test_a_jpeg_keeps_its_pixels_and_loses_what_is_appended(kind: str) -> None:
    film = b"\xff\xda\xff\xd8\xff\xe1" * 50_000
    reduced, _ = containers.jpeg(FILES[kind] + film)
    assert len(reduced) <= len(FILES[kind])
    assert np.array_equal(np.asarray(Image.open(BytesIO(reduced))), np.asarray(Image.open(BytesIO(FILES[kind]))))


def test_a_jpeg_with_segments_without_end_is_refused_before_they_are_read() -> None:
    jpeg = FILES["JPEG"]
    for segments in (segment(0xEF, b"") * 200_000, EXIF * 50_000, b"\xff" * 2_000_000):
        assert code_of(jpeg[:2] + segments + jpeg[2:]) == ("unusable_image", 422)


def test_a_jpeg_with_tables_without_end_is_refused_before_they_are_read() -> None:
    jpeg = FILES["JPEG"]
    tables = segment(0xDB, (b"\0" + bytes([1]) * 64) * 1_000)
    assert np.array_equal(decode(jpeg[:2] + tables + jpeg[2:]), decode(jpeg)), "the last ones count"
    assert code_of(jpeg[:2] + tables * 30 + jpeg[2:]) == ("unusable_image", 422)


def test_a_jpeg_is_read_whatever_its_exif_says_besides_how_it_is_turned() -> None:
    unit, width = struct.pack("<HHIHH", 0x128, 3, 1, 2, 0), struct.pack("<HHII", 0x11A, 1, 1, 72)
    turned = struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    odd = segment(0xE1, b"Exif\0\0" + b"II*\0\x08\0\0\0\x03\0" + turned + width + unit + bytes(4))
    start = FILES["JPEG"].index(b"\xff\xdb")  # without JFIF's segment, which has a resolution of its own
    assert np.array_equal(decode(b"\xff\xd8" + odd + FILES["JPEG"][start:]), np.rot90(decode(FILES["JPEG"]), -1))


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


@pytest.mark.parametrize(("bits", "key", "shown"), [(2, 3, 255), (2, 1, 85), (4, 15, 255), (4, 2, 34)])
def test_a_grey_that_is_transparent_is_so_in_few_bits(bits: int, key: int, shown: int) -> None:
    ink, side = 0 if key else 1, 8
    values = np.full((side, side), key)
    values[2:6, 3:5] = ink
    places = 8 // bits
    rows = (values.reshape(side, -1, places) << (bits * np.arange(places)[::-1])).sum(-1).astype(np.uint8)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0))
    plain = containers.PNG_START + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    assert decode(plain)[0, 0] == shown
    hidden = plain[:33] + chunk(b"tRNS", struct.pack(">H", key)) + plain[33:]
    seen = decode(hidden)
    assert seen[0, 0].tolist() == [255] * 3, "black ink on what contrasts with it"
    assert seen[3, 3].tolist() == [0] * 3


def test_a_colour_of_sixteen_bits_that_is_transparent_leaves_the_ink() -> None:
    values = np.full((8, 8, 3), 0x8000, ">u2")
    values[2:6, 3:5] = 0
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    transparent = chunk(b"tRNS", struct.pack(">HHH", *[0x8000] * 3))
    seen = decode(containers.PNG_START + header + transparent + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    assert seen[3, 3].tolist() == [0] * 3
    assert seen[0, 0].tolist() == [255] * 3


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


@pytest.mark.parametrize("kind", [16, 17])
def test_a_tiff_whose_sizes_only_libtiff_knows_is_refused(kind: int) -> None:
    picture = tiff(np.full((20, 20), 255, np.uint8))
    for tag, value in ((278, 20), (277, 1)):
        odd = picture.replace(struct.pack("<HHII", tag, 4, 1, value), struct.pack("<HHII", tag, kind, 1, 45_000))
        assert odd != picture
        assert code_of(odd) == ("unusable_image", 422)


def test_a_bigtiff_with_a_reduced_copy_of_its_picture_is_read() -> None:
    picture = tiff(np.eye(20, dtype=np.uint8) * 255, big=True)
    copy = struct.pack("<HHQQ", 330, 18, 1, 8)  # the type of a BigTIFF's directories, which Pillow passes over
    other = picture.replace(struct.pack("<HHQQ", 339, 16, 1, 1), copy)
    assert other != picture
    assert np.array_equal(decode(other), decode(picture))


@pytest.mark.parametrize(("kind", "count"), [(5, 100_000), (3, 1_100_000)])
def test_a_tiff_with_more_numbers_than_any_program_writes_is_refused(kind: int, count: int) -> None:
    entry = struct.pack("<HHII", 339, 4, 1, 1)
    picture = tiff(np.full((20, 20), 255, np.uint8))
    many = picture.replace(entry, struct.pack("<HHII", 282, kind, count, len(picture))) + bytes(8 * count)
    assert code_of(many) == ("unusable_image", 422)


def test_directories_that_a_tiff_points_to_are_not_read() -> None:
    picture = tiff(np.eye(20, dtype=np.uint8) * 255)
    pointer = struct.pack("<HHII", 0x8769, 4, 1, len(picture))
    pointing = picture.replace(struct.pack("<HHII", 339, 4, 1, 1), pointer)
    exif = struct.pack("<HHHII", 1, 0x829A, 5, 100_000, len(picture) + 18) + bytes(4 + 800_000)
    assert 0x8769 in Image.open(BytesIO(pointing + exif)).getexif()
    assert 0x8769 not in Image.open(BytesIO(containers.tiff(pointing + exif))).getexif()
    assert np.array_equal(decode(pointing + exif), decode(picture))


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_too_many_strips_is_refused_before_they_are_listed(big: bool) -> None:
    one = struct.pack("<HHQ" if big else "<HHI", 273, 16 if big else 4, 1)
    data = tiff(np.zeros((20, 20), np.uint8), big=big)
    assert one in data
    many = data.replace(one, struct.pack("<HHQ" if big else "<HHI", 273, 16 if big else 4, 5_000_000))
    with pytest.raises(Excess):
        containers.tiff(many)
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
