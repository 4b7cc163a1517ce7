"""Connections that wait, drip or never read, thousands of them, at the real service: it answers everybody else."""

from __future__ import annotations

import itertools
import json
import re
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.serving import PATIENCE, Server, ask, eventually, form, memory, pictures, png

IDLE = 10_000
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def strict(home: Path) -> Iterator[Server]:
    """A service that waits for half a second."""
    with Server(home, DIGITS_IDLE_SECONDS="0.5") as running:
        yield running


@pytest.fixture(scope="module")
def few(home: Path) -> Iterator[Server]:
    """A service that has twelve connections at most and waits long enough for a busy machine to open these."""
    with Server(home, DIGITS_IDLE_SECONDS="3", DIGITS_MAX_CONNECTIONS="12") as running:
        yield running


def connect(server: Server, source: tuple[str, int] | None = None) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE, source_address=source)


def to_the_end(link: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    try:
        while chunk := link.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def dripped(link: socket.socket, drop: bytes) -> bytes:
    """What comes back to a client that sends the same few bytes again and again until the other side closes."""
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        for _ in range(20 * PATIENCE):
            link.sendall(drop)
            if selector.select(timeout=0.05):
                return to_the_end(link)
    raise AssertionError("never closed")


def error_of(received: bytes) -> tuple[str, str]:
    """The status and the code of an answer."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    assert b"date: " in head
    return head.split()[1].decode(), json.loads(body)["error"]["code"]


def batch(path: str, images: list[bytes]) -> bytes:
    """A whole request with a form of these pictures."""
    body, headers = form([("images", image) for image in images])
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answers_in(received: bytes) -> list[bytes]:
    return re.split(rb"(?=HTTP/1\.1 \d)", received)[1:]


def files_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_request_is_answered_beside_ten_thousand_idle_connections(home: Path) -> None:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < IDLE + 1_000:
        pytest.skip(f"this process may have {most} files open and can't raise that: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with Server(home, DIGITS_IDLE_SECONDS="600") as server, ExitStack() as links:
            (worker,) = server.workers()
            for _ in range(IDLE):
                links.enter_context(connect(server, ("127.0.0.2", 0)))  # the ports of 127.0.0.1 are for others
            reply = server.post("/predict", png())
            assert reply.status == 200
            assert files_of(worker) > IDLE, "they were not there at the same time"
            assert server.workers() == [worker]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def test_workers_share_what_comes(home: Path) -> None:
    with Server(home, DIGITS_WORKERS="2", DIGITS_IDLE_SECONDS="600") as server, ExitStack() as links:
        eventually(lambda: server.log.count("answering with digits:1") == 2)
        before = [files_of(worker) for worker in server.workers()]
        for _ in range(100):
            connection = server.connect()
            links.callback(connection.close)
            assert ask(connection, "GET", "/readyz").status == 200
        taken = [files_of(worker) - files for worker, files in zip(server.workers(), before, strict=True)]
        assert min(taken) > 25, taken


def test_a_connection_that_asks_nothing_is_closed(strict: Server) -> None:
    with connect(strict) as link:
        assert to_the_end(link) == b""
    with connect(strict) as link:
        assert dripped(link, b"\r\n") == b"", "empty lines are no request"


def test_a_connection_is_closed_some_time_after_its_last_answer(strict: Server) -> None:
    connection = strict.connect()
    assert ask(connection, "POST", "/predict", png(), {"Content-Type": "image/png"}).status == 200
    assert to_the_end(connection.sock) == b""
    connection.close()


def test_headers_that_come_a_byte_at_a_time_are_cut_off_while_others_are_answered(strict: Server) -> None:
    with connect(strict) as slow:
        slow.sendall(HEAD + b"X-Slow: ")
        assert strict.post("/predict", png()).status == 200
        assert error_of(dripped(slow, b"x")) == ("408", "request_timeout")


def test_bodies_that_come_a_byte_at_a_time_hold_up_nobody_else(strict: Server) -> None:
    with ExitStack() as links:
        slow = [links.enter_context(connect(strict)) for _ in range(8)]
        for link in slow:
            link.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
        for link, picture in zip(slow, pictures(8), strict=True):
            link.sendall(b"x")
            assert strict.post("/predict", picture).status == 200
        assert strict.metric("bentoml_service_request_in_progress") == 8


def test_a_client_that_does_not_read_its_answer_gives_its_place_back(strict: Server) -> None:
    asked = batch("/predict_batch?explain=1", pictures(256))
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.settimeout(PATIENCE)
        link.connect(("127.0.0.1", strict.port))
        with pytest.raises(ConnectionError):
            link.sendall(asked * 1_000)  # answers of 250 kB each: more than the kernel keeps
    assert strict.post("/predict", png()).status == 200
    assert strict.metric("bentoml_service_request_in_progress") == 0


def test_one_connection_too_many_is_told_so_and_there_is_room_again_afterwards(few: Server) -> None:
    with ExitStack() as links:
        held = [links.enter_context(connect(few)) for _ in range(12)]
        refused = to_the_end(links.enter_context(connect(few)))
        assert error_of(refused) == ("503", "busy")
        assert b"retry-after: 1" in refused
        assert [to_the_end(link) for link in held] == [b""] * 12
    assert few.post("/predict", png()).status == 200


def posted(picture: bytes, *headers: bytes) -> bytes:
    lines = [b"Content-Length: %d" % len(picture), *headers]
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + picture


@pytest.mark.parametrize("step", [10_000, 7])
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_a_client_that_offers_another_protocol_is_answered_in_this_one(
    strict: Server, step: int, protocol: bytes
) -> None:
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol, b"HTTP2-Settings: AAMAAABk")
    asked = b"".join(posted(picture, *offer) for picture in pictures(2)) + posted(png(), b"Connection: close")
    with connect(strict) as link:
        for start in range(0, len(asked), step):
            link.sendall(asked[start : start + step])
        received = to_the_end(link)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 3, received
    answers = [json.loads(part.split(b"\r\n\r\n")[1]) for part in received.split(b"HTTP/1.1 200 OK")[1:]]
    alone = [strict.post("/predict", picture).json for picture in [*pictures(2), png()]]
    assert answers == alone


def test_a_client_that_says_it_sends_no_more_still_gets_its_answers(strict: Server) -> None:
    with connect(strict) as link:
        link.sendall(posted(png()) * 3)
        link.shutdown(socket.SHUT_WR)
        assert to_the_end(link).count(b"HTTP/1.1 200 OK") == 3
    with connect(strict) as link:  # but half a request is none
        link.sendall(posted(png())[:-1])
        link.shutdown(socket.SHUT_WR)
        assert to_the_end(link) == b""
    with connect(strict) as link:  # and costs those before it nothing
        link.sendall(posted(png()) * 3 + posted(png())[:-1])
        link.shutdown(socket.SHUT_WR)
        assert [answer.split()[1] for answer in answers_in(to_the_end(link))] == [b"200"] * 3


def test_a_refused_client_that_would_wait_to_be_asked_for_its_body_is_not_asked(strict: Server) -> None:
    with connect(strict) as link:
        link.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n")
        link.sendall(b"Expect: 100-continue\r\n\r\n")
        received = to_the_end(link)
    assert received.startswith(b"HTTP/1.1 415")
    assert error_of(received) == ("415", "unsupported_media_type")


def send_until_cut_off(link: socket.socket, more: bytes) -> None:
    end = time.monotonic() + PATIENCE
    with suppress(ConnectionError):
        while time.monotonic() < end:
            link.sendall(more)
        pytest.fail("never cut off")


@pytest.mark.parametrize("drop", [b"x", b": y\r\nx"])
def test_headers_without_end_are_cut_off_and_take_no_memory(server: Server, drop: bytes) -> None:
    (worker,) = server.workers()
    before = memory(worker)
    with connect(server) as link:
        link.sendall(HEAD + b"x")
        send_until_cut_off(link, drop * 10_000)
        received = to_the_end(link)
    assert memory(worker) - before < 16
    assert received == b"" or error_of(received) == ("431", "headers_too_large")  # what is unread may be reset
    with connect(server) as link:
        link.sendall(HEAD + b"X-Long: " + b"x" * 70_000)
        assert error_of(to_the_end(link)) == ("431", "headers_too_large")


def test_many_short_headers_take_no_memory_on_many_connections(server: Server) -> None:
    (worker,) = server.workers()
    before = memory(worker)
    with ExitStack() as links:
        for _ in range(100):
            link = links.enter_context(connect(server))
            with suppress(ConnectionError):
                link.sendall(HEAD + b"a:\r\n" * 16_000)
        assert server.post("/predict", png()).status == 200
        assert memory(worker) - before < 24
    with connect(server) as link:
        link.sendall(HEAD + b"a: b\r\n" * 300)
        assert error_of(to_the_end(link)) == ("431", "headers_too_large")
    assert server.post("/predict", png(), **{f"X-{number}": "a" for number in range(150)}).status == 200


def test_trailers_without_end_are_cut_off(server: Server) -> None:
    with connect(server) as link:
        link.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        send_until_cut_off(link, b"x: y\r\n" * 100_000)


def test_long_headers_that_are_within_the_limit_are_read_beside_a_large_body(server: Server) -> None:
    assert server.post("/predict", bytes(10**6), **{"X-Long": "x" * 60_000}).code == "not_an_image"


AHEAD = b"GET /model HTTP/1.1\r\nHost: x\r\n\r\n"


def test_whole_requests_are_answered_before_what_is_wrong_behind_them(strict: Server) -> None:
    """In the order in which they came, each with a whole answer."""
    expected = [strict.post("/predict", picture).body for picture in pictures(3)]
    for count in (1, 3):
        with connect(strict) as link:
            link.sendall(b"".join(map(posted, pictures(count))) + b"GARBAGE\r\n\r\n")
            received = to_the_end(link)
        *answers, last = answers_in(received)
        assert [answer.partition(b"\r\n\r\n")[2] for answer in answers] == expected[:count]
        assert error_of(last) == ("400", "malformed_request")


@pytest.mark.parametrize("ends", [False, True])
def test_a_request_that_breaks_off_behind_whole_ones_gets_its_error_after_their_answers(
    strict: Server, ends: bool
) -> None:
    broken = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno number\r\n"
    with connect(strict) as link:
        link.sendall(b"".join(map(posted, pictures(2))) + broken)
        if ends:
            link.shutdown(socket.SHUT_WR)
        received = to_the_end(link)
    assert [answer.split()[1] for answer in answers_in(received)] == [b"200", b"200", b"400"]


@pytest.mark.parametrize("offer", [b"", b"Connection: upgrade\r\nUpgrade: x\r\n"])
def test_requests_without_end_take_no_memory_and_some_are_answered(server: Server, offer: bytes) -> None:
    (worker,) = server.workers()
    asked = b"GET /model HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n"
    before = memory(worker)
    with connect(server) as link:
        link.settimeout(PATIENCE)
        with suppress(ConnectionError):
            for _ in range(100):
                link.sendall(asked * 5_000)
        received = to_the_end(link)
    assert memory(worker) - before < 24
    assert received.count(b"HTTP/1.1 200 OK") <= 66
    assert server.post("/predict", png()).status == 200


def test_a_client_may_be_far_ahead_and_is_answered_to_the_last(strict: Server) -> None:
    with connect(strict) as link:
        link.sendall(AHEAD * 65)
        link.shutdown(socket.SHUT_WR)
        assert to_the_end(link).count(b"HTTP/1.1 200 OK") == 65
    with connect(strict) as link:
        link.sendall(AHEAD * 100)
        received = to_the_end(link)
    assert received.count(b"HTTP/1.1 200 OK") == 65
    assert received.count(b"connection: close") == 1, "so the client knows that it has to ask again"


def test_a_trailer_is_no_header(strict: Server) -> None:
    asked = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    body = b"%x\r\n%s\r\n0\r\nContent-Type: text/plain\r\n\r\n" % (len(png()), png())
    with connect(strict) as link:
        link.sendall(asked + body)
        assert to_the_end(link).startswith(b"HTTP/1.1 200 OK")


def test_a_trailer_that_ends_the_connection_is_heard(strict: Server) -> None:
    body = b"%x\r\n%s\r\n0\r\nConnection: close\r\n\r\n" % (len(png()), png())
    with connect(strict) as link:
        link.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + AHEAD)
        (answer,) = answers_in(to_the_end(link))
    assert b"connection: close" in answer


def test_a_client_that_still_sends_reads_why_it_is_refused(few: Server) -> None:
    with connect(few) as link:
        assert to_the_end(link) == b""  # by then those of the tests before have gone
    large = bytes(2_000_000)
    with ExitStack() as links:
        for _ in range(12):
            links.enter_context(connect(few))
        for _ in range(10):
            connection = few.connect()
            assert ask(connection, "POST", "/predict", large, {"Content-Type": "image/png"}).code == "busy"
            connection.close()


def test_a_client_that_reads_nothing_and_sends_no_more_is_let_go(strict: Server) -> None:
    (worker,) = strict.workers()
    before = files_of(worker)
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        link.connect(("127.0.0.1", strict.port))
        for _ in range(20):
            link.sendall(AHEAD * 60)
        link.shutdown(socket.SHUT_WR)
        eventually(lambda: files_of(worker) <= before)


def test_the_work_of_a_client_that_has_gone_is_left(home: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600), np.uint8)
    asked = batch("/predict_batch", [png(noise)] * 150)
    with Server(home) as server:
        for _ in range(4):
            with connect(server) as link:
                link.sendall(asked)
        eventually(lambda: server.metric("bentoml_service_request_total", http_response_code="499") == 4)
        assert server.metric("bentoml_service_request_in_progress") == 0
        assert server.metric("bentoml_service_request_total", endpoint="/predict_batch") == 4
        assert server.post("/predict", png()).status == 200
        assert "Traceback" not in server.log


def test_a_client_that_leaves_when_it_is_refused_is_counted_and_is_no_error(home: Path) -> None:
    with Server(home, DIGITS_MAX_BYTES="1000") as server:
        for path, status in ((b"/predict", b"413"), (b"/nowhere", b"404"), (b"/model", b"405")):
            with connect(server) as link:
                link.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" % path + bytes(100))
                assert link.recv(12) == b"HTTP/1.1 " + status
        for code in ("413", "404", "405"):
            eventually(lambda code=code: server.metric("bentoml_service_request_total", http_response_code=code) == 1)
        assert server.metric("bentoml_service_request_in_progress") == 0
        assert "Traceback" not in server.log


def test_a_body_that_goes_wrong_beside_its_head_gets_one_answer_and_holds_no_connection(home: Path) -> None:
    with Server(home) as server, ExitStack() as links:
        (worker,) = server.workers()
        before = files_of(worker)
        wrong = b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n"
        paths = (b"POST /nowhere", b"POST /model", b"GET /livez", b"POST /predict")
        for path, more in itertools.product(paths, (b"", b"Expect: 100-continue\r\n")):
            link = links.enter_context(connect(server))
            link.sendall(path + b" HTTP/1.1\r\nHost: a\r\n" + more + wrong)
            (answer,) = answers_in(to_the_end(link))
            assert error_of(answer) == ("400", "malformed_request")
        eventually(lambda: files_of(worker) <= before)  # though the clients hold on to theirs
        assert "Exception" not in server.log


def test_blanks_around_a_header_s_value_are_no_part_of_it(home: Path) -> None:
    picture = png()
    lines = [
        b"POST /predict HTTP/1.1",
        b"Host: x ",
        b"X-API-Key: k \t",
        b"Content-Encoding: identity ",
        b"Connection: close",
    ]
    whole = [*lines, b"Transfer-Encoding: chunked ", b"", b"%x" % len(picture), picture, b"0", b"", b""]
    with Server(home, DIGITS_API_KEY="k") as server, connect(server) as link:
        link.sendall(b"\r\n".join(whole))
        assert to_the_end(link).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("target", "status"), [(b"http://x", b"307"), (b"HTTP://x/livez?a=b", b"200")])
def test_a_target_in_a_proxy_s_form_is_a_path(strict: Server, target: bytes, status: bytes) -> None:
    with connect(strict) as link:
        link.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        assert to_the_end(link).startswith(b"HTTP/1.1 " + status)


def test_a_whole_body_that_is_too_large_costs_nobody_the_connection(home: Path) -> None:
    with Server(home, DIGITS_MAX_BYTES="20000") as server, connect(server) as link:
        chunks = b"".join(b"1388\r\n" + bytes(5000) + b"\r\n" for _ in range(6))
        link.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        link.sendall(posted(png(), b"Connection: close"))
        answers = answers_in(to_the_end(link))
    assert [answer.split()[1] for answer in answers] == [b"413", b"200"]


def test_a_length_of_any_number_of_digits_is_a_number(strict: Server) -> None:
    with connect(strict) as link:
        link.sendall(b"GET /model HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + b"0" * 5000)
        link.sendall(b"\r\n\r\n")
        assert to_the_end(link).startswith(b"HTTP/1.1 200 OK")


def test_those_that_are_refused_take_no_place_from_those_that_are_not(home: Path) -> None:
    with Server(home, DIGITS_API_KEY="k", DIGITS_MAX_CONCURRENCY="1") as server, ExitStack() as links:
        for _ in range(8):
            link = links.enter_context(connect(server))
            link.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
            assert link.recv(12) == b"HTTP/1.1 401"
        assert server.post("/predict", png(), **{"X-API-Key": "k"}).status == 200


TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # a client that takes the port for an HTTPS one


ODD = (
    b"GET /model HTTP/1.1\r\n\r\n",
    b"GET /model HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /model HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /model HTTP/1.1\r\nHost: a b/c@\r\n\r\n",
    b"GET /model HTTP/2.0\r\nHost: a\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
)
CONNECT = b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"


@pytest.mark.parametrize("sent", [TLS, b"GET\r\n\r\n", b"POST / HTTP/9\r\n\r\n", CONNECT, *ODD])
def test_what_is_not_http_gets_an_error_in_the_shape_that_all_errors_have(strict: Server, sent: bytes) -> None:
    before = strict.metric("digits_errors_total", code="malformed_request")
    with connect(strict) as link:
        link.sendall(sent)
        assert error_of(to_the_end(link)) == ("400", "malformed_request")
    assert strict.metric("digits_errors_total", code="malformed_request") > before
