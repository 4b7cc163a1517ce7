"""What a client sends: bodies and header values in, the picture files inside them out, or a refusal that says why."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from digits.decoding import PNG_START, SMALL_FILE, SMALL_SIDE

ACCEPTED = "send the image file itself (Content-Type: image/* or application/octet-stream) or multipart/form-data"


class Refusal(Exception):
    """A request that gets an error answer: HTTP status, a code for programs and a message for people."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}

    def body(self) -> dict[str, dict[str, str]]:
        return {"error": {"code": self.code, "message": self.message}}


def busy(message: str) -> Refusal:
    """The server has as much to do as it may have: try again in a second."""
    return Refusal(503, "busy", message, {"Retry-After": "1"})


def too_large(limit: int, unit: str = "body") -> Refusal:
    return Refusal(413, "too_large", f"the {unit} is larger than {limit:,} bytes, the most that is accepted")


def not_allowed(route: str, methods: Sequence[str]) -> Refusal:
    return Refusal(405, "method_not_allowed", f"use {methods[0]} for {route}", {"Allow": ", ".join(methods)})


def boundary_of(content_type: bytes) -> bytes | None:
    """The multipart boundary, or None where the body is the image itself.

    Raises Refusal 415 for a type that is neither, 400 for multipart without a boundary. No type at all counts as the
    image itself, as RFC 9110 8.3 allows.
    """
    if content_type.startswith((b"image/", b"application/octet-stream")) or not content_type:
        return None
    media_type, parameters = parse_options_header(content_type)
    if media_type == b"multipart/form-data":
        boundary = parameters.get(b"boundary")
        if not boundary or len(boundary) > 256:
            raise Refusal(400, "malformed_multipart", "multipart/form-data needs a boundary of 1 to 256 bytes")
        return boundary
    if media_type.startswith(b"image/") or media_type == b"application/octet-stream":
        return None
    shown = media_type.decode("latin-1")[:80]
    raise Refusal(415, "unsupported_media_type", f"Content-Type {shown!r} is not accepted; {ACCEPTED}")


class _Parts:
    """Collects the parts of one field while the parser walks through the body."""

    def __init__(self, field: bytes, limit: int) -> None:
        self.field, self.limit = field, limit
        self.found: list[bytes] = []
        self.names: set[str] = set()
        self.complete = False
        self._chunks: list[bytes] = []
        self._key = self._value = b""
        self._wanted = False
        self._parts = 0

    def on_part_begin(self) -> None:
        self._wanted, self._chunks = False, []
        self._parts += 1
        if self._parts > self.limit + 16:  # a page may send a few fields more; a bomb sends thousands
            raise Refusal(413, "too_many_items", f"more than {self.limit} pictures in one request")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._key.lower() == b"content-disposition":
            name = parse_options_header(self._value)[1].get(b"name", b"")
            self._wanted = name == self.field
            if len(self.names) < 16:
                self.names.add(name.decode("utf-8", "replace")[:40])
        self._key = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self._chunks.append(data[start:end])

    def on_part_end(self) -> None:
        if self._wanted:
            self.found.append(b"".join(self._chunks))
            if len(self.found) > self.limit:
                raise Refusal(413, "too_many_items", f"more than {self.limit} pictures in one request")

    def on_end(self) -> None:
        self.complete = True


def multipart(body: bytes, boundary: bytes, field: str, limit: int) -> list[bytes]:
    """The contents of every part called `field`, in order; at least one and at most `limit`.

    Raises Refusal 400 for a body that is broken, cut short or without that field, 413 for too many parts.
    """
    parts = _Parts(field.encode(), limit)
    first = b"--" + boundary
    if not body.startswith(first) and (preamble := body.find(b"\r\n" + first)) >= 0:
        body = body[preamble + 2 :]  # RFC 2046 5.1.1: what is before the first boundary is to be ignored
    names = ("part_begin", "header_field", "header_value", "header_end", "part_data", "part_end", "end")
    callbacks = {f"on_{name}": getattr(parts, f"on_{name}") for name in names}
    try:
        MultipartParser(boundary, callbacks).write(body)  # type: ignore[arg-type]
    except FormParserError as error:
        raise Refusal(400, "malformed_multipart", f"the multipart body can't be read: {str(error)[:120]}") from None
    if not parts.complete:
        raise Refusal(400, "malformed_multipart", "the multipart body ends before its closing boundary")
    if not parts.found:
        seen = ", ".join(sorted(repr(name) for name in parts.names)) or "none"
        raise Refusal(400, "missing_image", f"no field {field!r} in the form; its fields are: {seen}")
    return parts.found


def is_small(data: bytes) -> bool:
    """Whether decoding takes so little (a PNG of at most 128×128) that handing it to a thread would cost more.

    Only PNG says its size in a fixed place; a few bytes of any other format may unfold to a hundred megapixels.
    """
    if len(data) > SMALL_FILE or not data.startswith(PNG_START) or len(data) < 24:
        return False
    width, height = struct.unpack_from(">II", data, 16)
    return bool(width * height <= SMALL_SIDE**2)


def authorised(headers: dict[bytes, bytes], key: bytes) -> bool:
    """Whether the request carries the API key; compared in constant time."""
    given = headers.get(b"x-api-key", b"")
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if not given and scheme.lower() == b"bearer":
        given = token.strip()
    return hmac.compare_digest(given, key)
