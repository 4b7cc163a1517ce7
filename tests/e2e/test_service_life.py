"""What the service does when it starts, is overloaded, loses a worker, gets a new model, is packed and is stopped."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from digits.workers import cores
from tests.models import tiny_model
from tests.serving import PATIENCE, ROOT, Reply, Server, ask, environment, eventually, forget, pictures, png, store


def failed_start(home: Path, **settings: str) -> tuple[int, str]:
    """Exit status and output of a service that is expected not to start."""
    command = [sys.executable, "-m", "bentoml", "serve", "service:svc", "--host", "127.0.0.1", "--port", "0"]
    run = subprocess.run(command, cwd=ROOT, env=environment(home, **settings), capture_output=True, timeout=PATIENCE)
    return run.returncode, (run.stdout + run.stderr).decode()


def assert_one_line(output: str, *words: str) -> None:
    assert len(output.strip().splitlines()) == 1, output
    for word in words:
        assert word in output


def test_without_a_model_the_start_ends_with_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    status, output = failed_start(tmp_path, DIGITS_WORKERS="2")
    assert status != 0
    assert_one_line(output, "no model called 'digits'", str(tmp_path), "make train")


@pytest.mark.parametrize("tag", ["digits:nope", "digits:v"])  # the store has digits:v1, and v is the beginning of it
def test_a_tag_that_is_not_in_the_store_is_named(home: Path, tag: str) -> None:
    status, output = failed_start(home, DIGITS_MODEL=tag)
    assert status != 0
    assert_one_line(output, f"no model {tag!r}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("DIGITS_MAX_BYTES", "many"), ("DIGITS_WORKERS", "-1"), ("DIGITS_TIMEOUT", "0"), ("DIGITS_MAXBYTES", "1")],
)
def test_a_wrong_setting_ends_the_start_with_one_line_that_names_it(home: Path, variable: str, value: str) -> None:
    status, output = failed_start(home, **{variable: value})
    assert status != 0
    assert_one_line(output, variable)


def test_there_is_one_worker_for_each_core_unless_told_otherwise(home: Path) -> None:
    with Server(home, DIGITS_WORKERS="0") as server:
        started = psutil.Process(server.process.pid).children(recursive=True)
        workers = [process for process in started if "_bentoml_impl.worker.service" in process.cmdline()]
        assert len(workers) == min(cores(), 8)


def test_an_altered_model_is_refused_before_any_worker_starts(tmp_path: Path) -> None:
    store(tmp_path, tiny_model(), "1", digest="0" * 64)
    status, output = failed_start(tmp_path, DIGITS_WORKERS="2")
    assert status != 0
    assert_one_line(output, "has been altered", "sha256")


def test_a_file_that_is_no_model_of_ours_is_refused_with_one_line(tmp_path: Path) -> None:
    store(tmp_path, b"no model", "1")
    status, output = failed_start(tmp_path)
    assert status != 0
    assert_one_line(output, "digits:v1", "model.onnx")


def test_a_model_whose_name_would_write_a_header_is_refused_with_one_line(tmp_path: Path) -> None:
    store(tmp_path, tiny_model(), "1", version="1\r\nSet-Cookie: a=b")
    status, output = failed_start(tmp_path)
    assert status != 0
    assert_one_line(output, "digits:v1", "calls itself")


def test_no_worker_outlives_a_supervisor_that_is_killed(home: Path) -> None:
    with Server(home, DIGITS_WORKERS="2") as server:
        workers = [psutil.Process(worker) for worker in server.workers()]
        server.process.kill()
        assert psutil.wait_procs(workers, PATIENCE)[1] == []


def test_a_key_is_asked_for_where_one_is_set(home: Path) -> None:
    with Server(home, DIGITS_API_KEY="s3cret") as server:
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic s3cret"}):
            reply = server.post("/predict", png(), **headers)
            assert (reply.status, reply.code) == (401, "unauthorized")
        for headers in ({"X-API-Key": "s3cret"}, {"Authorization": "Bearer s3cret"}):
            assert server.post("/predict", png(), **headers).status == 200
        assert server.get("/model").status == 401
        assert server.get("/readyz").status == 200
        assert "s3cret" not in server.log


def test_browsers_of_other_origins_may_call_only_where_that_is_set(server: Server, home: Path) -> None:
    origin = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in server.post("/predict", png(), **origin).headers
    with Server(home, DIGITS_CORS_ORIGINS="https://example.org") as open_to_one:
        reply = open_to_one.post("/predict", png(), **origin)
        assert reply.headers["access-control-allow-origin"] == "https://example.org"
        other = open_to_one.post("/predict", png(), Origin="https://other.example")
        assert "access-control-allow-origin" not in other.headers
        # What a browser asks before it sends a picture or a key.
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-api-key"}
        before = open_to_one.request("OPTIONS", "/predict", headers=origin | asked)
        assert before.status == 200
        assert {"content-type", "x-api-key"} <= set(before.headers["access-control-allow-headers"].lower().split(", "))
        refused = open_to_one.request("OPTIONS", "/predict", headers={"Origin": "https://other.example"} | asked)
        assert refused.status == 400


def half_a_request(server: Server, body: bytes) -> socket.socket:
    """A connection that has sent the headers of a request and half of its body."""
    link = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    link.sendall(
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    link.sendall(body[: len(body) // 2])
    return link


def rest_of(link: socket.socket, body: bytes) -> http.client.HTTPResponse:
    link.sendall(body[len(body) // 2 :])
    return answer_on(link)


def answer_on(link: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(link)
    response.begin()
    return response


def test_more_than_the_allowed_requests_are_told_to_come_back_and_all_is_well_afterwards(home: Path) -> None:
    noise = png(np.random.default_rng(0).integers(0, 256, (600, 600), np.uint8))

    def until_taken() -> int:
        while (status := server.send_form("/predict_batch", [("images", noise)] * 50).status) == 503:
            time.sleep(0.05)  # one of those below was faster
        return status

    with Server(home, DIGITS_MAX_CONCURRENCY="2", DIGITS_TIMEOUT="600") as server, ThreadPoolExecutor(2) as clients:
        slow = [half_a_request(server, png()) for _ in range(8)]  # what is still coming takes no place
        held = [clients.submit(until_taken) for _ in range(2)]
        eventually(lambda: server.post("/predict", png()).status == 503)
        refused = server.post("/predict", png())
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "busy", "1")
        assert [client.result() for client in held] == [200, 200]
        assert {rest_of(link, png()).status for link in slow} == {200}
        for link in slow:
            link.close()
        assert server.post("/predict", png()).status == 200
        assert server.metric("digits_errors_total", code="busy") >= 2


def test_bytes_that_are_being_received_are_bounded_over_all_requests(home: Path) -> None:
    sizes = {"DIGITS_MAX_BYTES": "64k", "DIGITS_MAX_BATCH_BYTES": "64k", "DIGITS_MAX_BUFFERED_BYTES": "80k"}
    with Server(home, **sizes) as server:
        held = half_a_request(server, bytes(60_000))
        eventually(lambda: server.metric("bentoml_service_request_in_progress") == 1)
        assert server.post("/predict", bytes(60_000)).code == "busy"
        assert server.post("/predict", png()).status == 200
        assert rest_of(held, bytes(60_000)).status == 400
        held.close()


def test_bytes_that_are_only_announced_take_no_room_from_others(home: Path) -> None:
    sizes = {"DIGITS_MAX_BYTES": "64k", "DIGITS_MAX_BATCH_BYTES": "64k", "DIGITS_MAX_BUFFERED_BYTES": "80k"}
    with Server(home, **sizes) as server, ExitStack() as links:
        for length in (b"Content-Length: 60000", b"Transfer-Encoding: chunked"):
            for _ in range(4):
                link = links.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                link.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n%s\r\n\r\n" % length)
        eventually(lambda: server.metric("bentoml_service_request_in_progress") == 8)
        assert server.post("/predict", bytes(60_000)).code == "not_an_image"


def test_a_client_that_is_too_slow_is_cut_off_with_408(home: Path) -> None:
    with Server(home, DIGITS_TIMEOUT="0.3") as server:
        link = half_a_request(server, png())
        assert answer_on(link).status == 408
        link.close()


def test_sigterm_lets_the_requests_under_way_finish_and_exits_with_0(home: Path) -> None:
    with Server(home) as server:
        link = half_a_request(server, png())
        idle = server.connect()
        idle.request("GET", "/livez")
        idle.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b""  # a worker that shuts down closes the connections that wait for nothing
        assert rest_of(link, png()).status == 200
        idle.close()
        link.close()
        assert server.process.wait(PATIENCE) == 0


def test_sigterm_waits_for_no_client_that_reads_next_to_nothing(home: Path) -> None:
    with Server(home, DIGITS_TIMEOUT="1") as server, socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        link.connect(("127.0.0.1", server.port))
        link.sendall(b"GET /static_content/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 40)  # 57 MB
        assert link.recv(1024).startswith(b"HTTP/1.1 200")
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        while server.process.poll() is None and time.monotonic() < end:
            with suppress(ConnectionError):
                link.recv(2048)
            time.sleep(0.1)
        assert server.process.poll() == 0


def test_a_killed_worker_comes_back_without_an_operator(home: Path) -> None:
    # BentoML itself starts no worker again inside a container, where it is needed most.
    with Server(home, DIGITS_WORKERS="2", BENTOML_CONTAINERIZED="true") as server:
        eventually(lambda: len(server.workers()) == 2)
        first = server.workers()
        for worker in first:
            os.kill(worker, signal.SIGKILL)

        def back() -> bool:
            try:
                return server.post("/predict", png()).status == 200 and not set(first) & set(server.workers())
            except OSError:
                return False

        eventually(back)


class Load(threading.Thread):
    """One client that asks on and on, over one connection as long as it lasts, and keeps what it was told."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server, self.replies, self.failures, self.over = server, [], [], threading.Event()

    def run(self) -> None:
        connection = self.server.connect()
        while not self.over.is_set():
            for picture in pictures(4):
                try:
                    self.replies.append(ask(connection, "POST", "/predict", picture, {"Content-Type": "image/png"}))
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(error)
                    connection.close()
        connection.close()


def seen(load: list[Load]) -> set[str]:
    return {reply.json["model"] for client in load for reply in client.replies[-4:] if reply.status == 200}


def test_a_new_champion_takes_over_under_load_without_a_failed_request_and_the_old_one_comes_back(
    tmp_path: Path,
) -> None:
    store(tmp_path, tiny_model(0), "1")
    with Server(tmp_path, DIGITS_WORKERS="2", DIGITS_RELOAD_SECONDS="0.2") as server:
        load = [Load(server) for _ in range(4)]
        for client in load:
            client.start()
        eventually(lambda: server.log.count("answering with digits:1") == 2)
        eventually(lambda: seen(load) == {"digits:1"})
        store(tmp_path, tiny_model(1), "2")
        eventually(lambda: server.log.count("answering with digits:2") == 2)
        eventually(lambda: seen(load) == {"digits:2"})
        store(tmp_path, b"no model", "3")  # one that can't be served changes nothing
        eventually(lambda: server.log.count("staying with digits:v2: the stored model digits:v3 can't be served") == 2)
        assert seen(load) == {"digits:2"}
        forget(tmp_path, "digits:v3")
        forget(tmp_path, "digits:v2")
        eventually(lambda: seen(load) == {"digits:1"})
        for client in load:
            client.over.set()
        for client in load:
            client.join()
    assert [failure for client in load for failure in client.failures] == []
    replies: list[Reply] = [reply for client in load for reply in client.replies]
    assert {reply.status for reply in replies} == {200}
    # What an answer says about its model is true: the same picture and model always give the same answer, but for
    # what the size of a batch does to the last digits.
    answers: dict[tuple[str, int], list[list[float]]] = {}
    for client in load:
        for number, reply in enumerate(client.replies):
            answers.setdefault((reply.json["model"], number % 4), []).append(reply.json["probabilities"])
    assert len(answers) == 2 * 4
    assert max(np.ptp(given, axis=0).max() for given in answers.values()) < 1e-4


def test_a_worker_that_starts_again_beside_a_model_that_cannot_be_served_takes_the_one_before_it(
    tmp_path: Path,
) -> None:
    store(tmp_path, tiny_model(0), "1")
    with Server(tmp_path, DIGITS_RELOAD_SECONDS="0.2") as server:
        store(tmp_path, b"no model", "2")
        eventually(lambda: "staying with digits:v1" in server.log)
        (first,) = server.workers()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: server.log.count("answering with digits:1") == 2)
        assert server.post("/predict", png()).json["model"] == "digits:1"
        forget(tmp_path, "digits:v2")
        store(tmp_path, tiny_model(1), "2")  # the same one, mended
        eventually(lambda: server.log.count("answering with digits:2") == 1)


def test_so_does_one_beside_a_model_whose_description_is_lost(tmp_path: Path) -> None:
    store(tmp_path, tiny_model(0), "1")
    store(tmp_path / "other", tiny_model(1), "2")
    damaged = tmp_path / "other" / "models" / "digits" / "v2"
    damaged.chmod(0o700)
    (damaged / "model.yaml").chmod(0o600)
    (damaged / "model.yaml").write_bytes(b"")  # as after a loss of power
    with Server(tmp_path, DIGITS_RELOAD_SECONDS="0.2") as server:
        models = tmp_path / "models" / "digits"
        (models / "v3").mkdir()  # of an import that was killed
        shutil.copytree(damaged, models / "v2")
        (models / "latest").write_text("v2")
        eventually(lambda: "staying with digits:v1" in server.log)
        (first,) = server.workers()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: server.log.count("answering with digits:1") == 2)
        assert server.post("/predict", png()).json["model"] == "digits:1"


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "nohup"])
def test_it_listens_for_nothing_but_requests_and_ends_with_its_terminal_unless_told_otherwise(
    home: Path, before: signal.Handlers
) -> None:
    here = signal.signal(signal.SIGHUP, before)  # which those that are started inherit
    try:
        with Server(home, DIGITS_WORKERS="2") as server:
            workers = server.workers()
            family = [psutil.Process(pid) for pid in (server.process.pid, *workers)]
            at = {link.laddr.port for one in family for link in one.net_connections("inet") if not link.raddr}
            assert at == {server.port}, "anybody on this machine may ask there"
            for process in family:
                process.send_signal(signal.SIGHUP)
            if before is signal.SIG_IGN:
                assert server.post("/predict", png()).status == 200
                assert server.workers() == workers
            else:
                assert server.process.wait(PATIENCE) == 0
                assert not any(process.is_running() for process in family[1:])
    finally:
        signal.signal(signal.SIGHUP, here)


def test_a_model_named_in_the_settings_is_kept_whatever_is_added(tmp_path: Path) -> None:
    store(tmp_path, tiny_model(0), "1")
    with Server(tmp_path, DIGITS_MODEL="digits:v1", DIGITS_RELOAD_SECONDS="0.1") as server:
        store(tmp_path, tiny_model(1), "2")
        for _ in range(20):
            assert server.post("/predict", png()).json["model"] == "digits:1"


def test_a_worker_that_starts_again_answers_with_what_the_service_began_with_where_no_newer_model_is_followed(
    tmp_path: Path,
) -> None:
    store(tmp_path, tiny_model(0), "1")
    with Server(tmp_path, DIGITS_RELOAD_SECONDS="0") as server:
        store(tmp_path, tiny_model(1), "2")
        (first,) = server.workers()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: server.log.count("answering with digits:1") == 2)


def test_a_bento_holds_the_model_it_was_built_with_and_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    store(tmp_path, tiny_model(0), "1")
    project = tmp_path / "project"
    project.mkdir()
    for part in ("digits", "ui", "deploy"):
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("service.py", "bentofile.yaml", "pyproject.toml"):
        shutil.copy(ROOT / part, project)
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    built = subprocess.run(
        command, cwd=project, env=environment(tmp_path), capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    tag = built.stdout.strip().removeprefix("__tag__:")
    bento = tmp_path / "bentos" / tag.replace(":", "/")
    assert "tag: digits:v1" in (bento / "bento.yaml").read_text()
    requirements = (bento / "env" / "python" / "requirements.txt").read_text().lower().split()
    names = {line.split("==")[0] for line in requirements if "==" in line}
    assert {"bentoml", "onnxruntime", "opencv-python-headless", "uvloop", "httptools"} <= names
    assert not {"torch", "torchvision", "mlflow", "optuna", "onnx"} & names
    assert not list((bento / "src").rglob("fit.py"))
    store(tmp_path, tiny_model(1), "2")
    with Server(tmp_path, what=tag, folder=tmp_path, DIGITS_RELOAD_SECONDS="0.1") as server:
        assert server.post("/predict", png()).json["model"] == "digits:1"
        assert server.get("/model").json["bento"] == tag


def test_the_page_comes_with_headers_that_allow_nothing_else(server: Server) -> None:
    assert server.get("/").headers["location"] == "ui/"
    page = server.get("/ui/")
    assert page.status == 200
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    again = server.get("/ui/", **{"If-None-Match": page.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    for path in ("/ui/../service.py", "/ui/%2e%2e/service.py", "/ui/nothing.js"):
        assert server.get(path).status == 404, path
