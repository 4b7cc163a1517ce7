"""What is around the pixels of an image file: the bytes of a file come in; what its pixels need, and nothing else, goes
out.

Metadata may be of any length and number, and decoders that read them one by one take minutes for a file of a few
megabytes that is made for it. So a JPEG, PNG, GIF or TIFF file is reduced to what describes and holds its first
picture, and of a TIFF or BMP file is looked at what would take time or memory out of all proportion.

What is out of order is handed on as it is, for a decoder to complain about.
"""

from __future__ import annotations

import re
import struct

MOST_SEGMENTS = 1_000  # of a JPEG file before its pixels and between its scans; entries of a TIFF file's directory
MOST_TABLES = 2**20  # bytes of a JPEG file before its pixels: all tables that there can be have a tenth of that
MOST_SCANS = 100  # of a progressive JPEG file: encoders make ten
MOST_CHUNKS = 20_000  # of a PNG file: 20 MiB in pieces of a kilobyte
MOST_BLOCKS = 100_000  # of a GIF file: 25 MB in pieces of 255 bytes, which is the most that they have
MOST_STRIPS = 20_000  # of a TIFF file, or tiles
MOST_NUMBERS = 1_000_000  # in a TIFF file's directory: twice its curves and colour map; a fraction counts as a hundred
MOST_RUNS = 1_000_000  # of two bytes, and pixels, of a run-length encoded BMP file: Pillow decodes one run at a time
BMP_HEAD_BYTES = 4_096  # of a BMP file, its palette included

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_HEAD = PNG_START + b"\0\0\0\rIHDR"  # with which every PNG file that is in order begins
PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IEND"})
# Of a JPEG file: what describes the picture, and of the application's segments the first of JFIF, Exif and Adobe.
JPEG_KEPT = frozenset({0xC4, 0xDB, 0xDD, *range(0xC0, 0xD0)}) - {0xC8}
EXIF = 0xE1
JPEG_APPLICATIONS = {0xE0: b"JFIF\0", EXIF: b"Exif\0\0", 0xEE: b"Adobe"}
# Of a TIFF file: the types that Pillow knows, those of them that are not taken apart, and one of BigTIFF alone; the
# tags that say how large a picture or a tile is, where it lies, and where further directories are.
TIFF_TYPES = range(1, 14)
TIFF_BYTES, TIFF_FRACTIONS, TIFF_LONG8 = frozenset({1, 2, 7}), frozenset({5, 10}), 16
TIFF_SIZES, TIFF_STRIPS = frozenset({256, 257, 322, 323}), frozenset({273, 324})
TIFF_POINTERS = frozenset({34665, 34853, 40965})  # Exif, GPS, interoperability
TIFF_PIXELS = frozenset(range(254, 340)) - {330}  # what describes the picture: all but further directories
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


class Excess(ValueError):
    """A file whose structure would take more time than its pixels; the message says of what there is too much."""


def jpeg(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG file's first picture, and its Exif data, empty where there is none: ITU-T T.81, annex B. Raises Excess."""
    kept, exif, at, segments, tables = [data[:2]], b"", 2, 0, 0
    missing = dict(JPEG_APPLICATIONS)
    while True:
        start = at
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] == b"\xff":  # fill bytes
            at += 1
            if at - start > MOST_SEGMENTS:
                raise Excess("fill bytes")
        head = data[at : at + 4]
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0x00, 0xD9):
            return b"".join([*kept, data[at:]]), exif
        marker, length = head[1], int.from_bytes(head[2:], "big")
        if marker == 0xDA:
            return b"".join([*kept, data[at : _end_of_jpeg(data, at, segments)]]), exif
        segments += 1
        if segments > MOST_SEGMENTS:
            raise Excess("segments")
        segment = data[at : at + 2 + length]
        wanted = missing.get(marker)
        if marker in JPEG_KEPT:
            kept.append(segment)
            tables += len(segment)
            if tables > MOST_TABLES:
                raise Excess("tables")
        elif wanted is not None and segment.startswith(wanted, 4):
            if marker == EXIF:
                exif = segment[4:]
            else:
                kept.append(segment)
            del missing[marker]
        at += 2 + length


def _end_of_jpeg(data: bytes, at: int, segments: int) -> int:
    """Where the picture ends whose first scan begins at `at`, as far as it matters.

    Phones append films and second pictures, in which anything may look like the start of a scan.
    """
    if data.count(b"\xff\xda", at) <= MOST_SCANS:
        return len(data)
    scans = 0
    while True:
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2
        segments += 1
        scans += marker == 0xDA
        if segments > MOST_SEGMENTS or scans > MOST_SCANS:
            raise Excess("scans")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        following = _NEXT_MARKER.search(data, at)
        if following is None:
            return len(data)
        at = following.start()


def png(data: bytes) -> bytes:
    """A PNG file without texts, profiles and private chunks: RFC 2083. Raises Excess."""
    kept, at, chunks, headed = [PNG_START], len(PNG_START), 0, False
    while len(head := data[at : at + 8]) == 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name in PNG_KEPT and (name != b"IHDR" or not headed):
            kept.append(data[at : at + 12 + length])
            headed |= name == b"IHDR"
        at += 12 + length
        chunks += 1
        if chunks > MOST_CHUNKS:
            raise Excess("chunks")
        if name == b"IEND":
            return b"".join(kept)
    return b"".join([*kept, data[at:]])


def gif(data: bytes) -> tuple[bytes, int, int, bool]:
    """A GIF file's first picture, the width and height of the canvas that holds it, and whether there is another.

    GIF89a specification, CompuServe 1990. Raises Excess.
    """
    if len(data) < 13:
        return data, 0, 0, False
    width, height, packed = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colours(packed)
    kept, pictures, blocks = [data[:at]], 0, 0
    while at < len(data):
        start, kind = at, data[at]
        if kind == 0x21:  # an extension
            at += 2
        elif kind == 0x2C and at + 10 <= len(data):  # a picture
            pictures += 1
            if pictures == 2:
                return b"".join([*kept, b";"]), width, height, True
            x, y, w, h, packed = struct.unpack_from("<HHHHB", data, at + 1)
            width, height = max(width, x + w), max(height, y + h)
            at += 10 + _colours(packed) + 1
        else:
            break
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > MOST_BLOCKS:
                raise Excess("blocks")
        at += 1
        if kind == 0x2C or data[start + 1 : start + 2] == b"\xf9":  # how the next picture is drawn
            kept.append(data[start:at])
    if not pictures:
        kept.append(data[at:])
    elif at <= len(data):
        kept.append(b";")
    return b"".join(kept), width, height, False


def _colours(packed: int) -> int:
    """The bytes of a table of colours."""
    return 3 << 1 + (packed & 7) if packed & 0x80 else 0


def tiff(data: bytes) -> bytes:
    """A TIFF file whose first directory points to no other, since Pillow takes in whatever these hold.

    TIFF 6.0, Adobe 1992, section 2. Raises Excess where the first picture is in more strips or tiles, or described by
    more entries or numbers, than any program makes, and ValueError for numbers that libtiff reads and Pillow passes
    over: they would not agree on how large a picture is.
    """
    order, big = ("<" if data[:2] == b"II" else ">"), data[2:3] == b"+" or data[3:4] == b"+"
    pointers, numbers = [], 0
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        at, size = at + (8 if big else 2), 20 if big else 12
        if entries > MOST_SEGMENTS:
            raise Excess("entries")
        for place in range(at, at + entries * size, size):
            tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
            if tag in TIFF_STRIPS and count > MOST_STRIPS:
                raise Excess("strips")
            if kind not in TIFF_BYTES:
                numbers += count * (100 if kind in TIFF_FRACTIONS else 1)
                if numbers > MOST_NUMBERS:
                    raise Excess("numbers in its directory")
            if tag in TIFF_POINTERS:
                pointers.append(place)
            known = kind in TIFF_TYPES or (big and kind == TIFF_LONG8)
            if (tag in TIFF_PIXELS and not known) or (tag in TIFF_SIZES and count != 1):
                raise ValueError(f"{count} numbers of type {kind} for entry {tag} are not supported")
    except struct.error:
        pass
    if not pointers:
        return data
    without = bytearray(data)
    for place in pointers:
        struct.pack_into(order + "H", without, place, 65_535)
    return bytes(without)


def check_bmp(data: bytes) -> None:
    """Raises Excess for a run-length encoded file of more than a million pixels, or with more runs than these need."""
    if len(data) < 34 or int.from_bytes(data[14:18], "little") < 40:
        return
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    needed = 2 * (MOST_RUNS + abs(height)) + BMP_HEAD_BYTES  # two bytes for each run and each end of a row
    if compression in (1, 2) and (abs(width * height) > MOST_RUNS or len(data) > needed):
        raise Excess("runs of pixels")
