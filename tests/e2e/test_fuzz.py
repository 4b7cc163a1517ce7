"""Damaged pictures and requests, DIGITS_FUZZ of them (`make fuzz`: 20,000), sent to the real service."""

from __future__ import annotations

import os
import random

import pytest

from tests.serving import Reply, Server, ask, form, memory, png

COUNT = int(os.environ.get("DIGITS_FUZZ", "300"))
KINDS = [
    "image/png",
    "image/jpeg",
    "application/octet-stream",
    "image/x-nonsense",
    "text/plain",
    "",
    "multipart/form-data",
]
GROWTH = 80  # megabytes: allocators keep some room, a leak of 20,000 pictures does not fit


def corpus() -> list[bytes]:
    sizes = [(28, 28), (1, 1), (3, 200), (640, 480)]
    return [png(size=size, kind=kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF") for size in sizes[::2]]


def damaged(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """One to four wounds: flipped bits, a cut, a stretch of noise, a part of another file, extreme numbers."""
    wounded = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(wounded) or 1)
        wound = chance.randrange(6)
        if wound == 0 and wounded:
            wounded[place] ^= 1 << chance.randrange(8)
        elif wound == 1:
            del wounded[place:]
        elif wound == 2:
            wounded[place : place + 8] = chance.randbytes(8)
        elif wound == 3:
            wounded[place:place] = other[: chance.randrange(len(other) + 1)]
        elif wound == 4:
            wounded[place : place + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
        else:
            place = chance.randrange(min(64, len(wounded) or 1))  # headers are short and matter most
            wounded[place : place + 1] = chance.randbytes(1)
    return bytes(wounded)


@pytest.fixture(scope="module")
def chance() -> random.Random:
    return random.Random(20_000)


def test_no_damage_brings_a_5xx_a_crash_or_growth(server: Server, chance: random.Random) -> None:
    files = corpus()
    (worker,) = server.workers()
    early = 0.0
    connection = server.connect()
    sent = 0
    while sent < COUNT:
        if sent >= COUNT // 3 and not early:
            early = memory(worker)
        picture = damaged(chance.choice(files), chance.choice(files), chance)
        way = chance.randrange(4)
        if way == 0:
            pictures = [damaged(chance.choice(files), picture, chance) for _ in range(8)]
            body, headers = form([("images", one) for one in pictures])
            sent += 8
            reply = ask(connection, "POST", "/predict_batch", body, headers)
            check_batch(reply, len(pictures))
            continue
        headers = {"Content-Type": chance.choice(KINDS)}
        if way == 1:
            body, headers = form([("image", picture)])
            picture = damaged(body, picture, chance) if chance.random() < 0.5 else body
        reply = ask(connection, "POST", "/predict", picture, headers)
        sent += 1
        assert reply.status < 500, (reply.status, reply.body, picture[:64])
        assert reply.status == 200 or reply.json["error"]["message"]
        if reply.headers.get("connection") == "close":
            connection.close()
    connection.close()
    assert server.workers() == [worker]
    assert server.post("/predict", png()).status == 200
    assert memory(worker) - early < GROWTH


def check_batch(reply: Reply, count: int) -> None:
    if reply.status == 400:  # a picture that held the boundary broke the form
        assert reply.code == "malformed_multipart"
        return
    assert reply.status == 200, reply.body
    assert len(reply.json["results"]) == count
