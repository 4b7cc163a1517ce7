"""What a client sends: bodies and header values in, the picture files inside them out, or a refusal that says why."""

from __future__ import annotations

import hmac
import json
import re
import struct
from collections.abc import Sequence

from digits.containers import PNG_HEAD
from digits.decoding import SMALL_FILE
from digits.thumbnails import SIDE

ACCEPTED = "send the image file itself (Content-Type: image/* or application/octet-stream) or multipart/form-data"
PART_HEAD_BYTES = 16_384  # of a part's headers; a client sends a few hundred
# The parameters of a Content-Type or Content-Disposition, quoted or not. python-multipart's parse_options_header takes
# up to eight times as long, and some 20 ms for a part that has nothing but semicolons.
PARAMETER = re.compile(rb';\s*+([^\s=;"]++)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;]*+))', re.DOTALL)
ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class Refusal(Exception):
    """A request that gets an error answer: HTTP status, a code for programs and a message for people."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    def json(self) -> str:
        return json.dumps({"error": {"code": self.code, "message": self.message}})


def busy(message: str) -> Refusal:
    """The server has as much to do as it may have: try again in a second."""
    return Refusal(503, "busy", message, {"Retry-After": "1"})


def too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {limit:,} bytes, the most that is accepted")


def unanswered(status: int) -> Refusal:
    """What an application behind the front has answered with an error, in the shape that all errors have."""
    if status == 404:
        return Refusal(404, "not_found", "nothing is here; POST a picture to /predict or see /docs")
    if status == 416:
        return Refusal(416, "range_not_satisfiable", "the file is shorter than the range that was asked for")
    if status < 500:
        return Refusal(400, "malformed_request", "this can't be answered as it was asked")
    return internal_error()


def internal_error() -> Refusal:
    return Refusal(500, "internal_error", "something went wrong; the server's log says what")


def not_allowed(route: str, methods: Sequence[str]) -> Refusal:
    return Refusal(405, "method_not_allowed", f"use {methods[0]} for {route}", {"Allow": ", ".join(methods)})


def boundary_of(content_type: bytes) -> bytes | None:
    """The multipart boundary, or None where the body is the image itself.

    Raises Refusal 415 for a type that is neither, 400 for multipart without a boundary. No type at all counts as the
    image itself, as RFC 9110 8.3 allows.
    """
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type == b"multipart/form-data":
        boundary = _parameter(content_type, b"boundary")
        if not 0 < len(boundary) <= 256:
            raise Refusal(400, "malformed_multipart", "multipart/form-data needs a boundary of 1 to 256 bytes")
        return boundary
    if media_type.startswith(b"image/") or media_type == b"application/octet-stream" or not content_type:
        return None
    shown = media_type.decode("latin-1")[:80]
    raise Refusal(415, "unsupported_media_type", f"Content-Type {shown!r} is not accepted; {ACCEPTED}")


def multipart(body: bytes, boundary: bytes, field: str, limit: int) -> list[bytes]:
    """The contents of every part called `field`, in order; at least one and at most `limit`. RFC 2046 5.1, RFC 7578.

    Raises Refusal 400 for a body that is broken, cut short or without that field, 413 for too many parts.

    The whole body is here, so that searching it for the boundary does; a parser that takes it in pieces and calls back
    for each takes eight times as long for 64 small pictures.
    """
    delimiter = b"\r\n--" + boundary
    # The body may begin with the boundary, without a line's end before it, or with a preamble, which is passed over.
    at = -2 if body.startswith(delimiter[2:]) else body.find(delimiter)
    if at == -1:
        raise _malformed("has no boundary in it")
    start = at + len(delimiter)
    found: list[bytes] = []
    names: set[str] = set()
    parts = 0
    while not body.startswith(b"--", start):
        end = body.find(delimiter, start)
        if end < 0:
            raise _malformed("ends before its closing boundary")
        blank = body.find(b"\r\n\r\n", start, min(end, start + PART_HEAD_BYTES))
        space, *lines = body[start : max(start, blank)].split(b"\r\n")
        if blank < 0 or space.strip(b" \t"):
            raise _malformed(f"has a part whose headers do not end within {PART_HEAD_BYTES:,} bytes")
        name = _name(lines)
        if name == field.encode():
            found.append(body[blank + 4 : end])
        elif len(names) < 16:
            names.add(name.decode("utf-8", "replace")[:40])
        parts += 1
        if len(found) > limit or parts > limit + 16:  # a page may send a few fields more; a bomb sends thousands
            raise Refusal(413, "too_many_items", f"more than {limit} pictures in one request")
        start = end + len(delimiter)
    if not found:
        seen = ", ".join(sorted(map(repr, names))) or "none"
        raise Refusal(400, "missing_image", f"no field {field!r} in the form; its fields are: {seen}")
    return found


def _malformed(what: str) -> Refusal:
    return Refusal(400, "malformed_multipart", f"the multipart body {what}")


def _name(lines: list[bytes]) -> bytes:
    """The name in the Content-Disposition among a part's header lines; empty where there is none."""
    for line in lines:
        key, colon, value = line.partition(b":")
        if not colon:
            raise _malformed(f"has a header line without a colon: {line[:40]!r}")
        if key.lower() == b"content-disposition":
            return _parameter(value, b"name")
    return b""


def _parameter(value: bytes, wanted: bytes) -> bytes:
    """A parameter of a header's value; empty where there is none of that name."""
    for name, quoted, plain in PARAMETER.findall(value):
        if name.lower() == wanted:
            return bytes(ESCAPED.sub(rb"\1", quoted) or plain)
    return b""


def is_small(data: bytes) -> bool:
    """Whether reading takes so little (a PNG of 28×28) that handing it to a thread would cost more.

    Only PNG says its size in a fixed place; a few bytes of any other format may unfold to a hundred megapixels. And in
    pictures of any other size than MNIST's imaging looks for things: noise of 128×128 takes it a third of a second.
    """
    if len(data) > SMALL_FILE or not data.startswith(PNG_HEAD) or len(data) < 24:
        return False
    width, height = struct.unpack_from(">II", data, 16)
    return bool(width == height == SIDE)


def authorised(headers: dict[bytes, bytes], key: bytes) -> bool:
    """Whether the request carries the API key; compared in constant time."""
    given = headers.get(b"x-api-key", b"")
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if not given and scheme.lower() == b"bearer":
        given = token.strip()
    return hmac.compare_digest(given, key)
