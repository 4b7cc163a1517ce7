"""The OCI image: built from this tree as a user would build it, run hardened, looked into. `make image-test` runs this.

The model is the newest `digits` of the BentoML store, or a small one made here where the store has none.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.models import tiny_model
from tests.ports import free_port
from tests.serving import environment, store

ENGINE = os.environ.get("OCI_ENGINE", "")
PROJECT = Path(__file__).resolve().parents[2]
PINS = PROJECT / "deploy/requirements/serve.txt"
HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
MEGABYTE = 1_000_000
SERVED = "import bentoml_cli.serve, _bentoml_impl.server.app, _bentoml_impl.worker.service, circus.arbiter"

pytestmark = pytest.mark.skipif(not ENGINE, reason="needs a container engine: `make image-test` finds or starts one")


def engine(*arguments: str, check: bool = True) -> str:
    done = subprocess.run([ENGINE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{ENGINE} {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def bentoml_command(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The `bentoml` of this environment, as typed in the project's folder, with a store of its own."""
    command = [str(Path(sys.executable).with_name("bentoml")), *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment(home, **settings), capture_output=True, text=True)


@dataclass(frozen=True)
class Built:
    """A finished image, and the model that went into it."""

    name: str
    model_tag: str
    model_file: Path
    home: Path

    def inspect(self) -> dict[str, Any]:
        return json.loads(engine("image", "inspect", self.name))[0]

    def shell(self, command: str) -> str:
        """What a shell inside the image prints; it runs as root, so that nothing is hidden from it."""
        return engine("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "sh", self.name, "-c", command)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    home = tmp_path_factory.mktemp("bentoml")
    stored = Path(os.environ.get("BENTOML_HOME", Path.home() / "bentoml")) / "models" / "digits"
    if (stored / "latest").is_file():
        version = (stored / "latest").read_text().strip()
        shutil.copytree(stored / version, home / "models/digits" / version)
        (home / "models/digits/latest").write_text(version)
        tag = f"digits:{version}"
    else:
        tag = store(home, tiny_model(), "1")
    made = bentoml_command(home, "build")
    assert made.returncode == 0, made.stderr
    backend = ["--backend", "podman"] if ENGINE == "podman" else []
    # With `host` the build reaches what this machine reaches; an engine with a bridge of its own needs no option.
    packed = bentoml_command(home, "containerize", "digits:latest", "--opt", "network=host", *backend)
    assert packed.returncode == 0, packed.stdout + packed.stderr
    name = f"digits:{(home / 'bentos/digits/latest').read_text().strip()}"
    assert engine("image", "inspect", "--format", "{{.Id}}", name), packed.stdout + packed.stderr
    model_file = next((home / "models/digits" / tag.split(":")[1]).rglob("*.onnx"))
    yield Built(name, tag, model_file, home)
    engine("image", "rm", "--force", name, check=False)


@dataclass(frozen=True)
class Running:
    """The image at work under every restriction that the documentation promises it bears."""

    container: str
    port: int
    seconds_to_ready: float

    def get(self, path: str, timeout: float = 10) -> int:
        """The status of the answer. Raises OSError where there is none, or an error."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
            return answer.status

    def predict(self, picture: bytes) -> dict[str, Any]:
        address = f"http://127.0.0.1:{self.port}/predict"
        request = urllib.request.Request(address, data=picture, headers={"Content-Type": "image/png"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def inside(self, *command: str) -> str:
        return engine("exec", self.container, *command)


@contextlib.contextmanager
def run(image: str) -> Iterator[Running]:
    port = free_port()
    started = time.monotonic()
    address = ["-e", f"PORT={port}", "-e", "BENTOML_HOST=127.0.0.1"]
    container = engine("run", "--detach", "--network", "host", *HARDENED, *address, image)
    try:
        while True:
            with contextlib.suppress(OSError):
                if Running(container, port, 0).get("/readyz") == 200:
                    break
            state = engine("inspect", "--format", "{{.State.Running}}", container)
            assert state == "true", "the container ended:\n" + logs(container)
            assert time.monotonic() - started < 600, "not ready after ten minutes:\n" + logs(container)
            time.sleep(0.05)
        yield Running(container, port, time.monotonic() - started)
    finally:
        engine("rm", "--force", container, check=False)


def logs(container: str) -> str:
    done = subprocess.run([ENGINE, "logs", container], capture_output=True, text=True)
    return (done.stdout + done.stderr)[-4000:]


@pytest.fixture(scope="module")
def running(built: Built) -> Iterator[Running]:
    with run(built.name) as service:
        yield service


def pictures() -> list[bytes]:
    """Ten drawn digits, as PNG files."""
    files = []
    for digit in range(10):
        picture = Image.new("RGB", (200, 240), (250, 248, 240))
        ImageDraw.Draw(picture).text((60, 30), str(digit), fill=(20, 20, 60), font_size=170)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def test_the_image_answers_what_the_stored_model_says(built: Built, running: Running) -> None:
    from digits import imaging
    from digits.classifier import Classifier

    model = Classifier(built.model_file)
    expected = model.classify([imaging.read(picture, segmenter=model.segmenter) for picture in pictures()])
    answers = [running.predict(picture) for picture in pictures()]
    assert [a["digit"] for a in answers] == [e.digit for e in expected]
    assert [a["accepted"] for a in answers] == [e.accepted for e in expected]
    np.testing.assert_allclose([a["probabilities"] for a in answers], [e.probabilities for e in expected], atol=1e-4)


def test_the_model_inside_is_the_one_that_was_built_in(built: Built) -> None:
    inside = built.shell("find /home/bentoml/bento/models -name '*.onnx' -exec sha256sum {} +").split()[0]
    assert inside == hashlib.sha256(built.model_file.read_bytes()).hexdigest()


def test_the_service_runs_without_root_privileges_or_a_writable_root(running: Running) -> None:
    assert running.inside("id", "-u") == "1034"
    status = running.inside("cat", "/proc/1/status")
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    written = subprocess.run([ENGINE, "exec", running.container, "touch", "/home/bentoml/x"], capture_output=True)
    assert written.returncode != 0


def test_the_image_is_at_most_500_megabytes(built: Built, running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    size = built.inspect()["Size"] / MEGABYTE
    base = "on a stand-in base" if built.inspect()["Config"]["Labels"].get("digits.base") == "stand-in" else ""
    with capsys.disabled():
        print(f"\nimage {built.name}: {size:.0f} MB {base}, ready after {running.seconds_to_ready:.1f} s")
    assert size <= 500


def test_the_labels_name_version_commit_licence_and_model(built: Built) -> None:
    labels = built.inspect()["Config"]["Labels"]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.title"] == "Digits"
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels["org.opencontainers.image.revision"])
    assert labels["digits.model"] == built.model_tag


def test_every_package_inside_has_its_pinned_version(built: Built) -> None:
    script = (
        "import importlib.metadata as m, json, sysconfig;"
        'print(json.dumps({d.name: d.version for d in m.distributions(path=[sysconfig.get_path("purelib")])}))'
    )
    listed = built.shell(f"/app/.venv/bin/python -c '{script}'")
    inside = {re.sub("[-_.]+", "-", name).lower(): version for name, version in json.loads(listed).items()}
    lines = [line for line in PINS.read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split(" ")[0].split("==") for line in lines)
    assert inside == {re.sub("[-_.]+", "-", name).lower(): version for name, version in pins.items()}


def test_nothing_that_trains_or_compiles_is_inside(built: Built) -> None:
    absent = "torch torchvision mlflow optuna matplotlib sklearn"
    found = built.shell(
        "/app/.venv/bin/python -c 'import importlib.util as u;"
        f' print([n for n in "{absent}".split() if u.find_spec(n)])\'; command -v gcc cc g++ make cmake uv git || true'
    )
    assert found == "[]"


def test_a_start_finds_bytecode_for_every_module_that_it_imports(running: Running) -> None:
    script = (
        f"import sys; sys.path.insert(0, 'src'); {SERVED};"
        "import digits.front, digits.classifier, digits.telemetry, digits.openapi, digits.settings;"
        "from pathlib import Path;"
        "print([n for n, m in sys.modules.items() if n != '__main__' and getattr(m, '__cached__', None)"
        " and not Path(m.__cached__).is_file()])"
    )
    assert running.inside("/app/.venv/bin/python", "-c", script) == "[]"


def test_nothing_of_the_building_machine_is_inside(built: Built) -> None:
    configured = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings = [os.environ.get(name, "") for name in os.environ if re.match("(PIP|UV)_.*(INDEX|LINKS|URL)", name)]
    indexes = re.findall(r"(?:https?|file)://[^\s'\"]+", " ".join([configured, *settings]))
    traces = [str(PROJECT), str(built.home), *indexes, *(s for s in settings if s.startswith("/"))]
    asked = " ".join(f"-e '{trace}'" for trace in traces)
    assert built.shell(f"grep -rlF {asked} /app /home /opt /root /etc/pip.conf 2>/dev/null || true") == ""
    written = engine("history", "--no-trunc", built.name) + json.dumps(built.inspect()["Config"])
    assert [trace for trace in traces if trace in written] == []
    assert built.shell("grep -E '^-|file:|https?:' /home/bentoml/bento/env/python/requirements.txt || true") == ""


def test_a_request_in_flight_at_sigterm_is_answered_and_the_exit_status_is_0(built: Built) -> None:
    picture = pictures()[7]
    with run(built.name) as service:
        client = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}\r\n"
        client.sendall(f"{head}Expect: 100-continue\r\nConnection: close\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 100 ")  # the body is waited for: the request is in flight
        engine("kill", "--signal", "TERM", service.container)
        with contextlib.suppress(OSError):  # until nobody new is answered
            while True:
                service.get("/livez", timeout=2)
        client.sendall(picture)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        client.close()
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]
        assert engine("wait", service.container) == "0", logs(service.container)


def test_a_wrong_model_tag_fails_the_build(built: Built) -> None:
    failed = bentoml_command(built.home, "build", DIGITS_MODEL="digits:no-such-version")
    assert failed.returncode != 0
    assert "digits:no-such-version" in failed.stdout + failed.stderr
