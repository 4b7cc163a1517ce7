"""The bytes of an image file come in, its pixels as a person would see them go out.

They are grey or RGB, upright, opaque and of a bounded size.

Nothing but ImageError escapes for any bytes, and no pixel is decoded before the header has been checked.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from digits import containers
from digits.containers import PNG_HEAD, PNG_START, Excess

Pixels = NDArray[np.uint8]

ACCEPTED = "JPEG, PNG, WebP, BMP, GIF or TIFF"
# Larger pictures are reduced while they are decoded: a digit a twentieth as high as the picture still has 50 pixels.
LONG_SIDE = 1024
LARGE = 25_000_000  # pixels, twice a phone's photograph
SMALL_FILE, SMALL_SIDE = 8192, 128
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes that one has after the first 14, in all there are
NARROW = 256, 16_384  # of 65,536 greys: a picture that uses so many is spread over all; one that uses fewer is blank
NO_NUMBER = 1e30  # and more stand for one in floating-point pictures, where not all of them do
ROUNDING = 1e-6  # of a floating-point number: less is no difference
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
UNKNOWN = ("unsupported", "cannot handle", "not supported")  # in the messages of Pillow
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit is one for the whole process; Limits comes first, for every format
# Called by name: Image.open would consult all of Pillow's formats and warn by global settings.
PLUGINS: dict[str, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_TURNS = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}


class ImageError(ValueError):
    """A picture that can't be used: `code` for programs, `status` the HTTP status, the message for people."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted: at most `max_bytes` of file and `max_pixels` of picture, as the header declares it."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 100_000_000


def decode(data: bytes, limits: Limits = Limits()) -> Pixels:
    """Decodes an image file to uint8, (h, w) grey or (h, w, 3) RGB.

    The content decides on the format, not a name. EXIF rotation is applied, transparency composited on what the
    visible part contrasts with, of a multi-page TIFF or MPO the first picture taken. Pictures with a long side of
    2 × LONG_SIDE or more are reduced by a whole factor to at least LONG_SIDE. Takes up to 16 bytes of memory a pixel,
    so that pictures of more than LARGE pixels are decoded one at a time, whatever the number of threads.

    Raises ImageError: empty_body, not_an_image, truncated_image (400), too_large (413), animated_image,
    too_many_pixels, unusable_image (422).
    """
    if not data:
        raise ImageError("empty_body", f"the image is empty: expected the bytes of a {ACCEPTED} file")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "too_large", f"the image has {len(data):,} bytes, at most {limits.max_bytes:,} are accepted", 413
        )
    small = _small_png(data, limits)
    if small is not None:
        return small
    kind = _kind(data)
    try:
        first, canvas, exif = _first_picture(kind, data)
        _check_size(kind, *canvas, limits)
        with _turn(*canvas):
            image = _open(kind, first)
            with _turn(*_check(kind, image, limits)):
                return _pixels(kind, image, first, exif)
    except ImageError:
        raise
    except Excess as error:
        raise ImageError(
            "unusable_image", f"the {kind} file has too many {error}: save it anew, best as PNG", 422
        ) from error
    except MemoryError as error:
        raise ImageError(
            "unusable_image", f"the {kind} file does not fit into memory: send a smaller one", 422
        ) from error
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        line = _line(error)
        if any(word in line.lower() for word in UNKNOWN):
            raise ImageError(
                "unusable_image", f"the {kind} file is of a kind that can't be read ({line}): save it as PNG", 422
            ) from error
        raise ImageError(
            "truncated_image", f"the {kind} file is cut short or damaged ({line}): send it again, whole"
        ) from error


def _small_png(data: bytes, limits: Limits) -> Pixels | None:
    """The pixels of a thumbnail as most programs write it; None for any other file, and for all that is not in order.

    That is a PNG of at most 128 × 128 pixels in 8 bits of grey, with one chunk of them and nothing besides. Opening it
    with Pillow would cost a request a tenth of its time.
    """
    if not 57 <= len(data) <= SMALL_FILE or not data.startswith(PNG_HEAD):
        return None
    width, height, *form, head_sum, length = struct.unpack_from(">II5BII", data, 16)
    if form != [8, 0, 0, 0, 0] or not 0 < width <= SMALL_SIDE or not 0 < height <= SMALL_SIDE:
        return None
    if width * height > limits.max_pixels or not data.endswith(PNG_END):
        return None
    if data[37:41] != b"IDAT" or len(data) != 57 + length or zlib.crc32(data[12:29]) != head_sum:
        return None
    if zlib.crc32(data[37:-16]) != int.from_bytes(data[-16:-12], "big"):
        return None
    stream, expected = zlib.decompressobj(), height * (width + 1)
    if expected > 256 << (data[41] >> 4):  # a window that the file says is enough, and libpng finds too small
        return None
    try:
        rows = stream.decompress(data[41:-16], expected + 1)
    except zlib.error:
        return None
    if len(rows) != expected or not stream.eof or stream.unused_data or max(rows[:: width + 1]) > 4:
        return None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if pixels is None else np.asarray(pixels, np.uint8)


_one_large = threading.RLock()


def _turn(width: int, height: int) -> AbstractContextManager[Any]:
    """Makes a large picture wait for the one before it."""
    return _one_large if width * height > LARGE else nullcontext()


def _kind(data: bytes) -> str:
    """The format by its first bytes."""
    if data.startswith(PNG_START):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in BMP_HEADERS:
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):  # + is BigTIFF
        return "TIFF"
    if len(data) < 12 and any(magic.startswith(data) for magic in (PNG_START, b"\xff\xd8\xff", b"GIF89a")):
        raise ImageError("truncated_image", f"the image ends after {len(data)} bytes: send the whole file")
    raise ImageError("not_an_image", f"the content is not an image that can be read: expected {ACCEPTED}")


def _first_picture(kind: str, data: bytes) -> tuple[bytes, tuple[int, int], bytes]:
    """The file reduced to that, the size of the canvas that is allocated as soon as it is opened, and the Exif data
    that were taken out."""
    if kind == "JPEG":
        first, exif = containers.jpeg(data)
        return first, (0, 0), exif
    if kind == "PNG":
        return containers.png(data), (0, 0), b""
    if kind == "WebP":
        return data, _webp_size(data), b""
    if kind == "GIF":
        first, width, height, another = containers.gif(data)
        if another:
            raise _animated(kind)
        return first, (width, height), b""
    if kind == "TIFF":
        return containers.tiff(data), (0, 0), b""
    containers.check_bmp(data)
    return data, (0, 0), b""


def _animated(kind: str) -> ImageError:
    return ImageError("animated_image", f"the {kind} file is an animation: send one still picture", 422)


def _open(kind: str, data: bytes) -> ImageFile.ImageFile:
    """Reads the header."""
    return _open_tiff(data) if kind == "TIFF" else PLUGINS[kind](BytesIO(data))


def _open_tiff(data: bytes) -> TiffImagePlugin.TiffImageFile:
    reason = "a big-endian BigTIFF"  # Pillow looks for its directory in the wrong place
    if not data.startswith(b"MM\0+"):
        try:
            return TiffImagePlugin.TiffImageFile(BytesIO(data))
        except SyntaxError as error:
            if not _complete(data):
                raise
            reason = _line(error)
    raise ImageError("unusable_image", f"the TIFF file is of a kind that can't be read ({reason}): save it as PNG", 422)


def _complete(data: bytes) -> bool:
    """Whether the first directory of a TIFF file is all there: Pillow goes on without what is missing."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" else 8])
    stream = BytesIO(data)
    start = stream.seek(directory.next)
    directory.load(stream)
    return bool(directory.next != start)


def _check(kind: str, image: ImageFile.ImageFile, limits: Limits) -> tuple[int, int]:
    """The size of what is decoded: of a tiled TIFF whole tiles."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        across, down = (
            int(image.tag_v2.get(tag, 1)) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)
        )
        width, height = -(-width // across) * across, -(-height // down) * down
    _check_size(kind, width, height, limits)
    if kind != "TIFF" and getattr(image, "is_animated", False):
        raise _animated(kind)
    return width, height


def _check_size(kind: str, width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"the {kind} file declares {width} × {height} pixels, at most {limits.max_pixels:,} are accepted",
            422,
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """The canvas of a WebP file: RFC 9649, sections 2.5 to 2.7."""
    chunk, head = data[12:16], data[20:30]
    if len(head) < (5 if chunk == b"VP8L" else 10):
        raise ImageError("truncated_image", f"the WebP file ends after {len(data)} bytes: send the whole file")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _pixels(kind: str, image: ImageFile.ImageFile, data: bytes, exif: bytes) -> Pixels:
    long_side = max(image.size)
    if kind == "JPEG" and long_side >= 2 * LONG_SIDE:
        share = LONG_SIDE / long_side
        image.draft(image.mode, (max(1, int(image.width * share)), max(1, int(image.height * share))))
    image.load()
    if kind == "PNG" and "transparency" in image.info:
        image.info["transparency"] = _key(data, image.info["transparency"])
    factor = max(1, max(image.size) // LONG_SIDE)
    numbers = _numbers(image)
    if numbers is None:
        pixels = _reduced(_with_its_colours(image, data) if kind == "BMP" else image, factor)
        if kind == "BMP" and pixels.shape[2:] == (4,) and not pixels[..., 3].any():
            pixels = pixels[..., :3]  # a fourth byte that nobody has filled
        if pixels.shape[2:] in ((2,), (4,)):
            pixels = _flattened(pixels)
    else:
        pixels = _eight_bits(numbers)
        if factor > 1:
            size = max(1, image.width // factor), max(1, image.height // factor)
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    if kind != "TIFF":  # Pillow turns TIFF files itself
        pixels = _upright(pixels, _orientation(exif or image.info.get("exif", b"")))
    return np.ascontiguousarray(pixels)


def _key(png: bytes, key: Any) -> Any:
    """The grey or colour of a PNG file that is transparent, which Pillow knows in the file's bits, as it is in 8."""
    bits, colours = png[24], png[25]
    if bits == 16 and colours == 2:
        return tuple(number >> 8 for number in key)
    most = 2**bits - 1
    return (key & most) * 255 // most if bits in (2, 4) and colours == 0 else key


def _numbers(image: ImageFile.ImageFile) -> NDArray[Any] | None:
    """The greys of a picture where they are not 0 to 255, else None."""
    signed = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags, raw = image.tag_v2, image.info.get("compression") == "raw"
        signed = tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0] == 2
        if raw and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and max(tags.get(258, (1,))) == 16:
            raise ImageError("unusable_image", "the TIFF file has planes of 16 bits: save it as PNG", 422)
        if not raw and tags.prefix == b"MM" and image.mode in ("I", "F"):  # libtiff has turned the bytes already
            return np.asarray(image).byteswap()
    # Pillow takes all 8-bit numbers for unsigned and all 32-bit ones for signed.
    if image.mode == "L" and signed:
        return np.asarray(image).view(np.int8)
    if image.mode == "I" and not signed:
        return np.asarray(image).view(np.uint32)
    return np.asarray(image) if image.mode.startswith(("I", "F")) else None


def _reduced(image: Image.Image, factor: int) -> Pixels:
    """L, RGB, LA or RGBA; in strips, as converting all of it at once takes up to twelve times a palette's memory."""
    if factor == 1:
        return np.asarray(_plain(image))
    width, height = image.size
    rows = 64 * factor
    strips = (image.crop((0, top, width, min(top + rows, height))) for top in range(0, height, rows))
    return np.concatenate([np.asarray(_plain(strip).reduce(factor)) for strip in strips])


def _plain(image: Image.Image) -> Image.Image:
    """The picture as L, RGB, LA or RGBA."""
    if image.mode == "La":
        return image.convert("LA")
    if image.mode in ("PA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB", "LA", "RGBA"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _flattened(pixels: Pixels) -> Pixels:
    """LA or RGBA composited: a drawing on what contrasts with it, a picture with holes on its own mean colour."""
    if pixels[..., -1].min() == 255:
        return pixels[..., :3] if pixels.shape[2] == 4 else pixels[..., 0]
    picture = Image.fromarray(pixels).convert("RGBA")
    pixels = np.asarray(picture)
    colour, alpha = pixels[..., :3], pixels[..., 3]
    visible = float(alpha.mean()) / 255
    if visible == 0:
        return np.full(alpha.shape, 255, np.uint8)
    mean = np.einsum("hwc,hw->c", colour, alpha, dtype=np.float64) / alpha.sum()  # takes no memory, unlike a product
    ground = mean if visible > 0.75 else np.full(3, 255 if mean @ (0.299, 0.587, 0.114) < 128 else 0)
    red, green, blue = np.rint(ground).astype(int).tolist()
    page = np.asarray(_on(picture, (red, green, blue)))
    if np.ptp(page, axis=(0, 1)).max() < 4 and np.ptp(alpha) > 4:  # all of one colour, drawn by its holes
        page = np.asarray(_on(picture, (255, 255, 255) if red + green + blue < 384 else (0, 0, 0)))
    return page


def _on(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    page = Image.new("RGB", picture.size, colour)
    page.paste(picture, mask=picture)
    return page


def _with_its_colours(image: Image.Image, data: bytes) -> Image.Image:
    """The BMP picture; where Pillow took a palette of black and white for fewer bits a pixel, as OpenCV reads it."""
    bits = int.from_bytes(data[24:26] if data[14] == 12 else data[28:30], "little")
    if image.mode not in ("1", "L") or bits == (1 if image.mode == "1" else 8):
        return image
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise ImageError("unusable_image", "the BMP file has a palette that can't be read: save it as PNG", 422)
    return Image.fromarray(np.asarray(pixels, np.uint8))


def _eight_bits(values: NDArray[Any]) -> Pixels:
    """8-, 16- and 32-bit numbers as greys of 8: the full range, or the range used where that is far from full.

    A floating-point picture may hold anything. Its range is that of all but one pixel in ten thousand at either end,
    unless these are all the same, and but for numbers so large that they stand for none. What is no number is black.
    """
    flat = values.reshape(-1)
    if values.dtype.kind == "f":
        some = flat[:: flat.size // LONG_SIDE**2 | 1]  # an odd step does not stay in the same columns
        most = NO_NUMBER if (np.abs(some) < NO_NUMBER).any() else np.inf
        finite = some[np.abs(some) < most].astype(np.float64)
        if not finite.size:
            return np.zeros(values.shape, np.uint8)
        low, high = np.percentile(finite, (0.01, 99.99), method="nearest").tolist()
        if low == high:  # thin strokes are less than that
            known = np.isfinite(flat)
            low, high = float(flat.min(where=known, initial=np.inf)), float(flat.max(where=known, initial=-np.inf))
            if low == high:  # drawn by where there are numbers
                return np.where(known, np.uint8(255), np.uint8(0)).reshape(values.shape)
        if high - low <= ROUNDING * max(abs(low), abs(high)):
            high = low
    else:
        low, high = int(flat.min()), int(flat.max())
        if low >= 0 and 4096 <= high <= 65535 and not NARROW[0] <= high - low < NARROW[1]:
            return (values >> 8).astype(np.uint8)
        if low >= 0 and high <= 255:
            return values.astype(np.uint8)
        if low >= 0 and high < 4096 and high - low < NARROW[0] >> 4:  # of a scanner's 10 or 12 bits
            return (values >> 4).astype(np.uint8)
    pixels = np.zeros(flat.shape, np.uint8)
    if low == high:
        return pixels.reshape(values.shape)
    for start in range(0, flat.size, LONG_SIDE**2):  # in parts: float64 takes many times the memory of the picture
        part = flat[start : start + LONG_SIDE**2].astype(np.float64)
        part = np.nan_to_num(part, nan=low, posinf=high, neginf=low).clip(low, high)
        pixels[start : start + LONG_SIDE**2] = np.rint((part - low) * (255 / (high - low)))
    return pixels.reshape(values.shape)


def _orientation(exif: bytes) -> int:
    """EXIF tag 274 of the first directory, 1 where there is none. Never raises."""
    start = 6 if exif[:6] == b"Exif\0\0" else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", exif, start + 4)
        (entries,) = struct.unpack_from(order + "H", exif, start + offset)
        for entry in range(min(entries, 200)):
            place = start + offset + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", exif, place)
            if tag == 274:  # a short, but some write a long
                return int(struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, place + 8)[0])
    except struct.error:
        pass
    return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    if orientation in (2, 5, 7):
        pixels = cv2.flip(pixels, 1)
        orientation = {2: 1, 5: 8, 7: 6}[orientation]
    elif orientation == 4:
        return np.asarray(cv2.flip(pixels, 0), np.uint8)
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.asarray(cv2.rotate(pixels, turn), np.uint8)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
