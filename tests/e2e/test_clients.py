"""The clients of docs/clients, run as a reader would run them, against the real service."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

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
