"""Bodies and header values: what is taken, and what is refused with which code."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits.requests import Refusal, authorised, boundary_of, is_small, multipart
from tests.serving import form, png


@pytest.mark.parametrize("kind", [b"", b"image/png", b"image/jpeg; q=1", b"IMAGE/PNG", b"application/octet-stream"])
def test_an_image_type_or_none_means_the_body_is_the_image(kind: bytes) -> None:
    assert boundary_of(kind) is None


def test_multipart_gives_its_boundary_quoted_or_not() -> None:
    assert boundary_of(b"multipart/form-data; boundary=abc") == b"abc"
    assert boundary_of(b'Multipart/Form-Data; charset=utf-8; boundary="a b"') == b"a b"


@pytest.mark.parametrize(
    "kind", [b"text/plain", b"application/json", b"application/x-www-form-urlencoded", b"nonsense"]
)
def test_other_types_are_refused_with_what_is_accepted(kind: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        boundary_of(kind)
    assert (refused.value.status, refused.value.code) == (415, "unsupported_media_type")
    assert "image/*" in refused.value.message


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=8))
@settings(max_examples=50)
def test_every_part_comes_out_as_it_went_in(contents: list[bytes]) -> None:
    boundary = "a-boundary-that-no-200-random-bytes-hold"
    body, _ = form([("note", b"not a picture"), *(("images", content) for content in contents)], boundary)
    assert multipart(body, boundary.encode(), "images", 8) == contents


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_no_bytes_make_anything_but_a_refusal(body: bytes) -> None:
    with pytest.raises(Refusal):
        multipart(body, b"limit", "image", 1)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
@settings(max_examples=200)
def test_no_damage_makes_anything_but_parts_or_a_refusal(position: int, damage: bytes) -> None:
    body, _ = form([("image", b"x" * 100), ("image", b"y" * 100)])
    damaged = body[:position] + damage + body[position + len(damage) :]
    found: list[bytes] = []
    with contextlib.suppress(Refusal):
        found = multipart(damaged, b"limit", "image", 4)
    assert len(found) <= 4


def test_what_is_before_the_first_boundary_is_no_part_and_no_mistake() -> None:
    body, _ = form([("image", b"one"), ("image", b"two")])
    for preamble in (b"\r\n", b"This is a message in MIME format.\r\n", b"--other\r\nx\r\n"):
        assert multipart(preamble + body, b"limit", "image", 2) == [b"one", b"two"]


def test_more_parts_than_allowed_are_refused_while_they_are_read() -> None:
    with pytest.raises(Refusal) as refused:
        multipart(form([("images", b"x")] * 50)[0], b"limit", "images", 3)
    assert (refused.value.status, refused.value.code) == (413, "too_many_items")
    with pytest.raises(Refusal, match="more than"):  # other fields are no way around it
        multipart(form([("other", b"x")] * 50)[0], b"limit", "images", 3)


def test_a_part_with_endless_headers_is_refused_without_the_memory_for_them() -> None:
    body = b"--limit" + b"\r\na:" * 2_000_000 + b"\r\n\r\nx\r\n--limit--\r\n"
    tracemalloc.start()
    try:
        with pytest.raises(Refusal) as refused:
            multipart(body, b"limit", "image", 1)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (refused.value.code, most < 100_000) == ("malformed_multipart", True)


@pytest.mark.parametrize("head", [b"no colon", b"", b" : x"])
def test_a_part_without_the_headers_that_it_needs_is_refused(head: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        multipart(b"--limit\r\n" + head + b"\r\n\r\nx\r\n--limit--\r\n", b"limit", "image", 1)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="image"',
        b"form-data; name=image; filename=a.png",
        b'Form-Data; filename="a; name=\\"other\\"; b.png"; name="image"',
        b'form-data;name="image";filename="\xc3\xa9.png"; filename*=UTF-8\'\'%C3%A9.png',
    ],
)
def test_a_field_is_known_by_its_name_however_it_is_written(disposition: bytes) -> None:
    part = b"--limit \t\r\nContent-Type: image/png\r\nCONTENT-disposition:  " + disposition + b"\r\n\r\nx\r\n--limit--"
    assert multipart(part, b"limit", "image", 1) == [b"x"]


@pytest.mark.parametrize(
    "disposition",
    [
        b"form-data; filename=image",
        b'form-data; filename="name=image"',
        b'form-data; filename="\\"; name=\\"image"',
        b"form-data; surname=image",
        b"form-data; name = other; name=image",
        b"form-data" + b";a" * 8_000,
        b"form-data;" + b" " * 16_000,
        b'form-data; x="' + b'\\"; y="' * 2_000,
    ],
)
def test_what_only_looks_like_the_name_is_none(disposition: bytes) -> None:
    part = b"--limit\r\nContent-Disposition: " + disposition + b"\r\n\r\nx\r\n--limit--"
    with pytest.raises(Refusal) as refused:
        multipart(part, b"limit", "image", 1)
    assert refused.value.code == "missing_image"


def test_an_endless_content_type_without_a_boundary_is_refused() -> None:
    for more in (b";a=b" * 10_000, b";" * 50_000, b"; " * 25_000, b';a="' * 10_000, b"; boundary=" + b"x" * 257):
        with pytest.raises(Refusal) as refused:
            boundary_of(b"multipart/form-data" + more)
        assert (refused.value.status, refused.value.code) == (400, "malformed_multipart")


def test_a_missing_field_is_named_beside_those_that_are_there() -> None:
    with pytest.raises(Refusal, match=r"no field 'image'.*'picture'"):
        multipart(form([("picture", b"x")])[0], b"limit", "image", 1)


def test_only_a_small_png_counts_as_small_whatever_its_bytes_claim() -> None:
    assert is_small(png())
    assert not is_small(png(size=(27, 28)))  # of any other size than MNIST's it may be a photograph
    assert not is_small(png(size=(40, 40)))
    assert not is_small(png(size=(1000, 1000)))  # a few bytes, a million pixels
    assert not is_small(png(kind="GIF"))
    assert not is_small(b"")
    assert not is_small(png()[:20])
    assert not is_small(png()[:16] + struct.pack(">II", 2**31, 2**31) + png()[24:])


def test_the_key_is_taken_from_either_header_and_nothing_else() -> None:
    assert authorised({b"x-api-key": b"k"}, b"k")
    assert authorised({b"authorization": b"Bearer k"}, b"k")
    assert not authorised({}, b"k")
    assert not authorised({b"x-api-key": b"kk"}, b"k")
    assert not authorised({b"authorization": b"Basic k"}, b"k")
