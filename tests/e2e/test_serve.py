"""The HTTP contract, asked of the real service in a process of its own."""

from __future__ import annotations

import base64
import io
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits.imaging import read
from tests.models import batch_length, witness_model
from tests.serving import Server, ask, form, pictures, png, store


def test_a_raw_picture_gets_a_digit_and_ten_probabilities_that_sum_to_one(server: Server) -> None:
    reply = server.post("/predict", png())
    answer = reply.json
    assert reply.status == 200
    assert set(answer) == {"digit", "probability", "probabilities", "accepted", "model"}
    assert len(answer["probabilities"]) == 10
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert answer["probabilities"][answer["digit"]] == max(answer["probabilities"]) == answer["probability"]
    assert answer["accepted"] is True
    assert answer["model"] == reply.headers["x-digits-model"] == "digits:1"


def test_raw_multipart_octet_stream_and_untyped_bodies_get_the_same_answer(server: Server) -> None:
    raw = server.post("/predict", png()).json
    assert server.send_form("/predict", [("image", png())]).json == raw
    assert server.post("/predict", png(), "application/octet-stream").json == raw
    assert server.request("POST", "/predict", png(), {}).json == raw


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_picture_of_any_format_and_size_is_answered(server: Server, kind: str) -> None:
    reply = server.post("/predict", png(size=(320, 240), kind=kind), f"image/{kind.lower()}")
    assert reply.status == 200
    assert 0 <= reply.json["digit"] <= 9


def test_explain_shows_the_28_by_28_picture_that_the_model_saw(server: Server) -> None:
    for reply in (
        server.post("/predict?explain=1", png()),
        server.post("/predict", png(), **{"X-Digits-Explain": "1"}),
    ):
        seen = Image.open(io.BytesIO(base64.b64decode(reply.json["seen"])))
        assert seen.size == (28, 28)
        assert np.array_equal(np.asarray(seen), np.asarray(Image.open(io.BytesIO(png()))))
        assert reply.json["milliseconds"] > 0


def test_a_blank_picture_is_answered_but_not_accepted(server: Server) -> None:
    answer = server.post("/predict", png(np.zeros((28, 28), np.uint8))).json
    assert answer["accepted"] is False


ANIMATED = io.BytesIO()
Image.new("L", (28, 28)).save(ANIMATED, "GIF", save_all=True, append_images=[Image.new("L", (28, 28), 255)])
# A PNG whose header, with its right checksum, claims 400 megapixels.
HUGE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00N \x00\x00N \x08\x00\x00\x00\x00"
HUGE += __import__("zlib").crc32(HUGE[12:]).to_bytes(4, "big") + png()[33:]


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"", "image/png", 400, "empty_body"),
        (b"no picture at all", "image/png", 400, "not_an_image"),
        (b'{"image": "http://127.0.0.1/x.png"}', "image/png", 400, "not_an_image"),
        (png(size=(200, 200))[:-40], "image/png", 400, "truncated_image"),
        (png(), "application/json", 415, "unsupported_media_type"),
        (png(), "text/plain; charset=utf-8", 415, "unsupported_media_type"),
        (png(), "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (png(), "multipart/form-data", 400, "malformed_multipart"),
        (png(), "multipart/form-data; boundary=x", 400, "malformed_multipart"),
        (form([("image", png())])[0][:-30], "multipart/form-data; boundary=limit", 400, "malformed_multipart"),
        (form([("file", png())])[0], "multipart/form-data; boundary=limit", 400, "missing_image"),
        (form([("image", png()), ("image", png())])[0], "multipart/form-data; boundary=limit", 413, "too_many_items"),
        (form([("image", b"")])[0], "multipart/form-data; boundary=limit", 400, "empty_body"),
        (ANIMATED.getvalue(), "image/gif", 422, "animated_image"),
        (HUGE, "image/png", 422, "too_many_pixels"),
    ],
)
def test_every_wrong_request_gets_its_status_and_code_in_one_shape(
    server: Server, body: bytes, kind: str, status: int, code: str
) -> None:
    reply = server.post("/predict", body, kind)
    assert (reply.status, reply.code) == (status, code)
    assert set(reply.json) == {"error"}
    assert set(reply.json["error"]) == {"code", "message"}
    assert reply.json["error"]["message"]
    assert reply.headers["content-type"] == "application/json"


def test_wrong_methods_paths_and_encodings_are_refused_in_the_same_shape(server: Server) -> None:
    reply = server.get("/predict")
    assert (reply.status, reply.code, reply.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert (server.get("/nowhere").status, server.get("/nowhere").code) == (404, "not_found")
    zipped = server.post("/predict", png(), **{"Content-Encoding": "gzip"})
    assert (zipped.status, zipped.code) == (415, "unsupported_encoding")
    for plain in ("identity", "Identity", ""):
        assert server.post("/predict", png(), **{"Content-Encoding": plain}).status == 200
    alone = server.post("/predict_batch", png())
    assert (alone.status, alone.code) == (415, "unsupported_media_type")


def test_a_connection_stays_usable_after_a_refused_request(server: Server) -> None:
    connection = server.connect()
    try:
        for body, kind, status in [(png(), "text/plain", 415), (b"x", "image/png", 400), (png(), "image/png", 200)]:
            assert ask(connection, "POST", "/predict", body, {"Content-Type": kind}).status == status
    finally:
        connection.close()


def exchange(port: int, sent: bytes) -> bytes:
    """What comes back for these bytes, sent as they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        link.sendall(sent)
        received = b""
        while chunk := link.recv(65536):
            received += chunk
            if b"\r\n\r\n" in received and received.rstrip().endswith(b"}"):
                return received
        return received


def test_a_body_declared_too_long_is_refused_before_it_is_sent(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 30000000\r\n\r\n"
    received = exchange(server.port, head + b"\x89PNG")
    assert received.startswith(b"HTTP/1.1 413")
    assert json.loads(received.split(b"\r\n\r\n")[1])["error"]["code"] == "too_large"


def test_an_endless_chunked_body_is_refused_at_the_limit(home: Path) -> None:
    with Server(home, DIGITS_MAX_BYTES="64k") as small, socket.create_connection(("127.0.0.1", small.port)) as link:
        link.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        link.settimeout(60)
        for _ in range(5):  # 80 KiB, and no end of it
            link.sendall(b"4000\r\n" + bytes(0x4000) + b"\r\n")
        assert link.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_batch_beyond_the_limit_is_told_so_by_an_answer_and_not_by_a_reset(home: Path) -> None:
    body, headers = form([("images", bytes(2**22))])
    with Server(home, DIGITS_MAX_BYTES="64k", DIGITS_MAX_BATCH_BYTES="4000k") as small:
        for _ in range(5):
            reply = small.request("POST", "/predict_batch", body, headers)
            assert (reply.status, reply.code) == (413, "too_large")


def test_a_batch_is_answered_in_order_and_a_bad_picture_spoils_no_other(server: Server) -> None:
    good = pictures(5)
    alone = [server.post("/predict", picture).json for picture in good]
    mixed = [good[0], b"garbage", good[1], b"", good[2], png(size=(64, 64))[:-30], *good[3:]]
    reply = server.send_form("/predict_batch", [("images", picture) for picture in mixed])
    results = reply.json["results"]
    assert reply.status == 200
    assert [result.get("error", {}).get("code") for result in results] == [
        None,
        "not_an_image",
        None,
        "empty_body",
        None,
        "truncated_image",
        None,
        None,
    ]
    for result, expected in zip([r for r in results if "error" not in r], alone, strict=True):
        assert result["digit"] == expected["digit"]
        assert result["probabilities"] == pytest.approx(expected["probabilities"], abs=2e-6)


def test_a_batch_of_more_than_the_limit_is_refused(server: Server) -> None:
    reply = server.send_form("/predict_batch", [("images", b"x")] * 257)
    assert (reply.status, reply.code) == (413, "too_many_items")


def test_an_answer_does_not_depend_on_what_it_was_batched_with(server: Server) -> None:
    files = pictures(48, seed=1)
    alone = [server.post("/predict", picture).json for picture in files]
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda picture: server.post("/predict", picture).json, files))
    for one, other in zip(alone, together, strict=True):
        assert one["digit"] == other["digit"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("witness")
    store(folder, witness_model(), "1")
    with Server(folder) as running:
        yield running


def test_the_model_itself_sees_more_than_one_request_at_a_time(witness: Server) -> None:
    calls = witness.metric("bentoml_service_adaptive_batch_size_count")
    sent = pictures(320)
    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(lambda picture: witness.post("/predict", picture), sent))
    lengths = [batch_length(reply.json["probabilities"][0]) for reply in replies]
    candidates = [len(read(picture).images) for picture in sent]
    assert {reply.status for reply in replies} == {200}
    assert max(lengths) > max(candidates)
    # Each call of the model answers for as many candidates as it saw: the lengths account for all calls.
    assert sum(own / length for own, length in zip(candidates, lengths, strict=True)) == pytest.approx(
        witness.metric("bentoml_service_adaptive_batch_size_count") - calls, abs=0.01
    )


def test_a_batch_request_calls_the_model_a_few_times_and_not_once_a_picture(witness: Server) -> None:
    results = witness.send_form("/predict_batch", [("images", picture) for picture in pictures(64)]).json["results"]
    assert sum(1 / batch_length(result["probabilities"][0]) for result in results) <= 4.01


def test_metrics_stay_bounded_whatever_paths_are_asked_for(server: Server) -> None:
    server.get("/no/such/path")
    before = len(server.get("/metrics").body.splitlines())
    for number in range(50):
        server.get(f"/wp-admin/{number}.php")
        server.request("POST", f"/predict/{number}", b"x")
    assert len(server.get("/metrics").body.splitlines()) <= before + 20  # the first of a kind adds its buckets, once
    assert b"wp-admin" not in server.get("/metrics").body


def test_metrics_count_what_was_answered_and_what_was_refused(server: Server) -> None:
    names = ("digits_predicted_total", "digits_probability_count", "digits_errors_total")
    before = [server.metric(name) for name in names]
    server.post("/predict", png())
    server.post("/predict", b"garbage")
    assert [server.metric(name) - was for name, was in zip(names, before, strict=True)] == [1, 1, 1]
    assert server.metric("digits_model_info", model="digits:1", tag="digits:v1") == 1
    assert server.metric("bentoml_service_request_total", endpoint="/predict", http_response_code="200") > 0


def test_provenance_leads_from_the_answer_to_model_run_commit_and_libraries(server: Server) -> None:
    facts = server.get("/model").json
    expected = {"model": "digits:1", "tag": "digits:v1", "version": "1", "run_id": "run1", "git_commit": "abc123"}
    assert {key: facts[key] for key in expected} == expected
    assert facts["dirty"] is False
    assert facts["parameters"] == {"epochs": "20"}
    assert len(facts["sha256"]) == 64
    assert facts["threshold"] == 0.5
    assert {"python", "bentoml", "onnxruntime", "numpy"} <= set(facts["libraries"])


def test_nothing_that_a_client_writes_comes_back_as_a_header(server: Server) -> None:
    evil = b"x%0d%0aSet-Cookie: a=b%0aX-Evil: 1"
    named = b'Content-Disposition: form-data; name="images"; filename="a\rX-Evil: 1\nSet-Cookie: a=b"'
    part = b"--b\r\n" + named + b"\r\n\r\nx\r\n--b--\r\n"
    form = b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n%s" % (len(part), part)
    for request in (
        b"POST /predict?explain=" + evil + b" HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        b"GET /" + evil + b" HTTP/1.1\r\n\r\n",
        b"GET /ui/" + evil + b" HTTP/1.1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Type: image/png" + evil + b"\r\nContent-Length: 1\r\n\r\nx",
        b"POST /predict HTTP/1.1\r\nX-API-Key: a\tX-Evil: 1\r\nX-Request-Id: "
        + evil
        + b"\r\nContent-Length: 1\r\n\r\nx",
        b"POST /predict_batch HTTP/1.1\r\n" + form,
    ):
        request = request.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", 1)
        head = exchange(server.port, request).partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 "), request
        names = [line.partition(b":")[0] for line in head.split(b"\r\n")[1:]]
        assert b"x-evil" not in names, request
        assert b"set-cookie" not in names, request


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/docs.json", "/ui/"])
def test_what_only_gives_takes_nothing_and_says_so_in_the_same_shape(server: Server, path: str) -> None:
    for method in ("POST", "DELETE"):
        reply = server.request(method, path)
        assert (reply.status, reply.code, reply.headers["allow"]) == (405, "method_not_allowed", "GET, HEAD")


@pytest.mark.parametrize("path", ["/ui/nope.js", "/static_content/nope"])
def test_a_file_that_is_not_there_is_404_in_the_same_shape(server: Server, path: str) -> None:
    reply = server.get(path)
    assert (reply.status, reply.code) == (404, "not_found")
    assert server.request("HEAD", path).status == 404


@pytest.mark.parametrize(("asked", "status"), [("bytes=abc", 400), ("bytes=99999999-", 416)])
def test_a_part_of_a_file_that_can_not_be_given_is_refused_in_the_same_shape(
    server: Server, asked: str, status: int
) -> None:
    reply = server.get("/ui/", Range=asked)
    assert (reply.status, "code" in reply.json["error"]) == (status, True)


def test_scrapes_that_come_together_are_all_answered(server: Server) -> None:
    before = server.metric("digits_predicted_total") + server.metric("digits_not_accepted_total")
    assert server.post("/predict", png()).status == 200
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: server.get("/metrics"), range(24)))
    assert {reply.status for reply in replies} == {200}
    after = server.metric("digits_predicted_total") + server.metric("digits_not_accepted_total")
    assert after == before + 1


def test_the_page_is_found_behind_a_proxy_that_takes_a_part_of_the_path_away(server: Server) -> None:
    reply = server.get("/ui")
    assert (reply.status, reply.headers["location"]) == (307, "ui/")


def test_bentoml_own_routes_are_still_there(server: Server) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/metrics", "/docs.json", "/docs", "/schema.json"):
        assert server.get(path).status == 200, path


def test_the_api_document_tells_every_route_body_and_error(server: Server) -> None:
    document = server.get("/docs.json").json
    assert document["info"]["title"] == "Digits"
    assert "bentoml" not in json.dumps(document["info"]).lower()
    predict = document["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"image/*", "application/octet-stream", "multipart/form-data"}
    assert {"200", "400", "413", "415", "422", "503", "504"} <= set(predict["responses"])
    assert {"/predict_batch", "/model", "/livez", "/metrics"} <= set(document["paths"])
    names = {ref.split('"')[0] for ref in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


def test_a_url_sent_as_a_picture_is_never_fetched(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/digit.png".encode()
        assert server.post("/predict", url).status == 400
        assert server.send_form("/predict", [("image", url)]).status == 400
        trap.settimeout(0.2)
        with pytest.raises(TimeoutError):
            trap.accept()


def test_headers_and_lengths_that_lie_do_not_bring_the_service_down(server: Server) -> None:
    line = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    for head in (
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: abc\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"Content-Type: image/png\r\nX-Digits-Explain: 1\r\nX-A: \x00\r\nContent-Length: 1\r\n\r\nx",
    ):
        received = exchange(server.port, line + head)
        assert received.startswith(b"HTTP/1.1 400"), head
    assert server.post("/predict", png()).status == 200
