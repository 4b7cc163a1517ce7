"""The clients of docs/clients, run as a reader would run them, against the real service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.serving import PATIENCE, ROOT, Server, environment, pictures

CLIENTS = ROOT / "docs" / "clients"
NODE = shutil.which("node")
COMMANDS = [
    pytest.param([sys.executable, "client.py"], id="httpx"),
    pytest.param([sys.executable, "bento_client.py"], id="bentoml"),
    pytest.param(
        [NODE or "node", "client.mjs"],
        id="javascript",
        marks=pytest.mark.skipif(NODE is None, reason="no node here: apt-get install nodejs"),
    ),
]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three pictures, the second of which is none."""
    contents = pictures(3)
    contents[1] = b"no picture"
    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def lines_of(command: list[str], server: Server, files: list[Path], **variables: str) -> list[str]:
    words = [command[0], str(CLIENTS / command[1]), f"http://127.0.0.1:{server.port}", *map(str, files)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE, env=environment(server.home, **variables), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def told(server: Server, file: Path) -> str:
    """The line that a client has to print, from the service's own answer."""
    answer = server.post("/predict", file.read_bytes()).json
    refused = "" if answer["accepted"] else ", not accepted"
    return f"{file.name}: {answer['digit']} ({answer['probability']:.2%}{refused})"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_client_prints_what_the_service_answers_and_why_a_file_could_not_be_read(
    server: Server, files: list[Path], command: list[str]
) -> None:
    lines = lines_of(command, server, files)
    assert [lines[0], lines[2]] == [told(server, files[0]), told(server, files[2])]
    assert lines[1].startswith("1.png: ")
    assert "not_an_image" in lines[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_client_sends_a_single_picture(server: Server, files: list[Path], command: list[str]) -> None:
    assert lines_of(command, server, files[:1]) == [told(server, files[0])]


@pytest.mark.parametrize("command", [COMMANDS[0], COMMANDS[2]])
def test_a_client_keeps_the_path_that_a_proxy_puts_before_the_services(
    files: list[Path], command: list[str], tmp_path: Path
) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            one = {"digit": 7, "probability": 0.5, "accepted": True}
            content = json.dumps({"results": [one] * 3} if self.path.endswith("batch") else one).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for some in (files[:1], files):
            words = [command[0], str(CLIENTS / command[1]), f"http://127.0.0.1:{server.server_port}/digits", *some]
            subprocess.run(words, capture_output=True, timeout=PATIENCE, env=environment(tmp_path), check=True)
        server.shutdown()
    assert asked == ["/digits/predict", "/digits/predict_batch"]


def test_bentomls_client_learns_from_the_schema_that_a_picture_is_a_file(server: Server) -> None:
    (route,) = server.get("/schema.json").json["routes"]
    assert route["input"]["properties"]["image"]["type"] == "file"
    assert not re.search(rb'"type":\s*"file"', server.get("/docs.json").body)  # OpenAPI has no such type


def test_the_clients_send_a_key_where_the_service_asks_for_one(home: Path, files: list[Path]) -> None:
    with Server(home, DIGITS_API_KEY="open sesame") as server:
        expected = server.post("/predict", files[0].read_bytes(), **{"X-API-Key": "open sesame"}).json["digit"]
        for command in (parameter.values[0] for parameter in COMMANDS if not parameter.marks):
            (line,) = lines_of(command, server, files[:1], API_KEY="open sesame")
            assert line.startswith(f"{files[0].name}: {expected} (")
            assert "unauthorized" in " ".join(lines_of(command, server, files[:1])).lower()
