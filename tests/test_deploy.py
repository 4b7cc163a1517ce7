"""What deploy/ promises: manifests against their official schemas, and every name in them against what it names."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from digits.connection import FAREWELL_SECONDS
from digits.settings import Settings, by_variable
from pipelines.files import FOLDER
from pipelines.parameters import ENTRY_POINTS
from tests.ports import free_port
from tests.serving import Server, png

PROJECT = Path(__file__).resolve().parents[1]
DEPLOY = PROJECT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OLDEST = "1.33"  # the oldest Kubernetes that docs/deployment.md promises


def manifests() -> dict[str, dict[str, Any]]:
    files = sorted(KUBERNETES.glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text()) for file in files if file.stem != "kustomization"}


def manifest(name: str) -> Any:
    return manifests()[name]


def matching_schema(name: str, file: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{name}", str(file)]
    return subprocess.run(command, capture_output=True, text=True)


OPERATOR = ("servicemonitor", "prometheusrule")


@pytest.mark.parametrize("name", [name for name in manifests() if name not in OPERATOR])
def test_every_manifest_is_valid_for_its_kubernetes_schema(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for version in (OLDEST, validate.latest_version()):
        validate.validate(manifest(name), version, strict=True)


@pytest.mark.parametrize("name", OPERATOR)
def test_what_is_for_the_prometheus_operator_is_valid_for_its_schema(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        v1 = pytest.importorskip(
            "cloudcoil.models.prometheus_operator.v1", reason="pip install cloudcoil-models-prometheus-operator"
        )
    given = manifest(name)
    understood = getattr(v1, given["kind"]).model_validate(given)
    assert understood.model_dump(by_alias=True, exclude_unset=True, mode="json") == given  # nothing was ignored


JOBS = ("worker-job", "training-job")  # started by hand, not part of the kustomization


def test_the_operator_leaves_the_services_own_labels_as_they_are() -> None:
    """It calls the port `endpoint` otherwise, as the dashboard calls the route."""
    assert all(endpoint["honorLabels"] for endpoint in manifest("servicemonitor")["spec"]["endpoints"])


@pytest.mark.parametrize("name", [*JOBS, "training-service"])
def test_what_is_not_part_of_the_kustomization_names_its_namespace_itself(name: str) -> None:
    assert manifest(name)["metadata"]["namespace"] == manifest("namespace")["metadata"]["name"]


def test_the_kustomization_takes_in_every_manifest_but_those_of_jobs() -> None:
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    assert sorted(named) == sorted(f"{name}.yaml" for name in manifests() if name not in {*JOBS, "training-service"})


@pytest.mark.parametrize("name", ["deployment", *JOBS])
def test_every_pod_keeps_the_restricted_security_standard_with_a_read_only_root(name: str) -> None:
    pod = manifest(name)["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"].keys() == {"requests", "limits"}


def test_every_selector_finds_the_pods_of_the_deployment() -> None:
    template = manifest("deployment")["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert manifest("deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("service")["spec"]["selector"] == labels
    assert manifest("poddisruptionbudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("networkpolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert template["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == labels
    target = manifest("horizontalpodautoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", manifest("deployment")["metadata"]["name"])
    service = manifest("service")["metadata"]["labels"]
    assert manifest("servicemonitor")["spec"]["selector"]["matchLabels"].items() <= service.items()


def test_every_port_and_probe_is_one_that_the_service_has() -> None:
    container = manifest("deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": 3000}]
    assert manifest("service")["spec"]["ports"][0]["targetPort"] == "http"
    assert manifest("networkpolicy")["spec"]["ingress"][0]["ports"][0]["port"] == "http"
    assert manifest("servicemonitor")["spec"]["endpoints"][0]["port"] == manifest("service")["spec"]["ports"][0]["name"]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}


def test_every_setting_in_the_manifests_is_one_that_the_service_knows() -> None:
    assert manifest("configmap")["data"].keys() <= by_variable().keys()
    assert compose()["services"]["service"]["environment"].keys() <= by_variable().keys()
    # A Service called digits would otherwise become DIGITS_PORT and others, which no setting is.
    assert manifest("deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_a_pod_and_a_container_are_given_longer_to_stop_than_a_request_may_take() -> None:
    pod = manifest("deployment")["spec"]["template"]["spec"]
    timeout = float(manifest("configmap")["data"]["DIGITS_TIMEOUT"])
    asleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > timeout + FAREWELL_SECONDS + asleep
    longest = Settings().timeout + FAREWELL_SECONDS
    assert int(compose()["services"]["service"]["stop_grace_period"].removesuffix("s")) > longest


def test_the_worker_job_names_an_entry_point_with_parameters_that_it_has() -> None:
    (container,) = manifest("worker-job")["spec"]["template"]["spec"]["containers"]
    step, *given = container["args"]
    assert container["command"] == ["python", "-m", "pipelines"]
    ENTRY_POINTS[step].parse(given)


def test_the_training_job_s_pods_find_rank_0_and_train_with_parameters_that_there_are() -> None:
    job, service = manifest("training-job"), manifest("training-service")
    pod = job["spec"]["template"]
    words = pod["spec"]["containers"][0]["args"]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    first = f"{job['metadata']['name']}-0.{pod['spec']['subdomain']}"
    assert options["--master-addr"] == first
    assert service["metadata"]["name"] == pod["spec"]["subdomain"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert int(options["--master-port"]) == service["spec"]["ports"][0]["port"]
    assert int(options["--nnodes"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    step, *given = words[words.index("-m") + 2 :]
    ENTRY_POINTS[step].parse(given)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_a_volume_wherever_it_writes(name: str) -> None:
    (container,) = manifest(name)["spec"]["template"]["spec"]["containers"]
    image = (DEPLOY / "worker" / "Dockerfile").read_text()
    home, data = re.findall(r"(?:HOME|MNIST_ROOT)=(\S+)", image)
    (place,) = re.findall(r"^WORKDIR (\S+)", image, re.MULTILINE)
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    assert mounted >= {home, data, f"{place}/{FOLDER}"}


def test_the_deployed_version_is_that_of_the_project() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert kustomization["images"][0]["newTag"].partition("-")[0] == version  # behind it, the champion's own number
    for job in JOBS:
        assert manifest(job)["spec"]["template"]["spec"]["containers"][0]["image"].endswith(f":{version}")


def imported_modules(file: Path) -> set[str]:
    """Files of ours that a file imports at run time, as paths in the project: dotted names that are files here."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {path for name in names if (PROJECT / (path := name.replace(".", "/") + ".py")).is_file()}
    return found


def test_the_bento_holds_every_module_of_ours_that_the_service_imports_and_no_other() -> None:
    reached, waiting = set(), {"service.py"}
    while waiting:
        reached |= waiting
        waiting = {path for file in waiting for path in imported_modules(PROJECT / file)} - reached
    included = yaml.safe_load((PROJECT / "bentofile.yaml").read_text())["include"]
    assert {path for path in included if path.endswith(".py")} - {"digits/__init__.py"} == reached


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_compose_file_is_valid_for_the_compose_specification() -> None:
    checked = matching_schema("compose-spec", DEPLOY / "compose.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_foreign_image_of_the_compose_file_is_pinned_by_version() -> None:
    images = [service["image"] for service in compose()["services"].values() if "digits" not in service["image"]]
    assert images
    assert [image for image in images if not re.search(r":v?\d+\.\d+", image)] == []


def test_every_secret_of_the_compose_file_comes_from_the_environment() -> None:
    secret = re.compile("PASSWORD|SECRET|ACCESS_KEY|API_KEY|_URI")
    for name, service in compose()["services"].items():
        for variable, value in service.get("environment", {}).items():
            assert not secret.search(variable) or "${" in value, f"{name}: {variable}"
    required = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    assert required <= example.keys()
    assert {example[name] for name in required} == {""}  # an example of a secret is a secret that many have


def test_no_health_check_of_the_compose_file_goes_by_way_of_a_proxy() -> None:
    """Docker tells containers of one where its own configuration names one."""

    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    checks = [service["healthcheck"]["test"] for service in compose()["services"].values() if "healthcheck" in service]
    scripts = [words[-1] for words in checks if "python" in words]
    assert len(scripts) == 2
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for script in scripts:
            here = re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{server.server_port}", script)
            for name, status in ((here, 0), (here.replace(str(server.server_port), str(free_port())), 1)):
                done = subprocess.run(
                    [sys.executable, "-c", name],
                    env=os.environ | {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""},
                    capture_output=True,
                    check=False,
                )
                assert done.returncode == status, done.stderr
        server.shutdown()


def test_every_container_of_the_compose_file_is_read_only_and_without_privileges() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


@pytest.mark.parametrize("workflow", sorted((PROJECT / ".github/workflows").glob("*.yml")), ids=lambda file: file.stem)
def test_every_workflow_is_valid_for_githubs_schema(workflow: Path) -> None:
    checked = matching_schema("github-workflows", workflow)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def needed(name: str, extras: set[str]) -> dict[str, str]:
    """All distributions that this one needs with these extras, as far as they are installed: name → version."""
    found: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    waiting = [(name, "")] + [(name, extra) for extra in extras]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        found[name] = distribution.version
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted = canonicalize_name(requirement.name)
                waiting += [(wanted, ""), *((wanted, each) for each in requirement.extras)]
    return found


def test_everything_that_is_installed_is_pinned_at_the_version_that_it_has() -> None:
    pins = dict(line.split("==") for line in (DEPLOY / "requirements/dev.txt").read_text().split() if "==" in line)
    installed = needed("digits", {"train", "dev", "cluster", "bench"})
    assert installed.pop("digits")
    assert {name: version for name, version in installed.items() if pins.get(name) != version} == {}


def test_everything_that_is_pinned_runs_on_the_oldest_python_that_is_promised() -> None:
    promised = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{promised.removeprefix('>=')}.0"
    asked = {name: metadata.metadata(name).get("Requires-Python") for name in needed("digits", {"train", "dev"})}
    assert [name for name, wanted in asked.items() if wanted and not SpecifierSet(wanted).contains(oldest)] == []


def test_the_mlflow_server_is_of_the_version_that_its_clients_are_of() -> None:
    pinned = re.search(r"mlflow==(\S+)", (DEPLOY / "mlflow/Dockerfile").read_text())
    allowed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    floor = next(re.search(r"mlflow>=([\d.]+)", line) for line in allowed if line.startswith("mlflow>="))
    assert pinned
    assert floor
    assert pinned[1] == floor[1]
    assert f"mlflow=={pinned[1]}" in (DEPLOY / "requirements/dev.txt").read_text().split()


@pytest.fixture(scope="module")
def metrics(server: Server) -> str:
    """/metrics of the real service, after a picture of each fate: accepted, not accepted, refused."""
    fates = [server.post("/predict", png()), server.post("/predict", png(np.zeros((28, 28), np.uint8)))]
    assert [fate.json["accepted"] for fate in fates] == [True, False]
    assert server.post("/predict", b"no picture").status == 400
    return server.get("/metrics").body.decode()


def queries() -> list[tuple[str, str]]:
    """(panel, PromQL) of the dashboard, Grafana's own variables filled in, and (alert, PromQL)."""
    (group,) = manifest("prometheusrule")["spec"]["groups"]
    alerts = [(rule["alert"], rule["expr"]) for rule in group["rules"]]
    panels = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
    filled = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    shown = [(title, expr.replace("$__rate_interval", "5m").replace("$namespace", ".*")) for title, expr in filled]
    return shown + alerts


def selected(expression: str) -> dict[str, set[str]]:
    """Metric names in a PromQL expression, each with the labels that the expression needs of it."""
    parser = pytest.importorskip("promql_parser", reason="pip install promql-parser")
    parser.parse(expression)  # raises ValueError where it is no PromQL
    found: dict[str, set[str]] = {}
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    grouped = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(",")}
    for labels in found.values():
        labels |= grouped
        labels.discard("namespace")  # Prometheus adds it to what it scrapes
    return found


def test_every_query_of_dashboard_and_alerts_asks_for_metrics_and_labels_that_the_live_service_has(
    metrics: str,
) -> None:
    live: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", metrics, re.MULTILINE):
        live.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    assert queries()
    for title, expression in queries():
        wanted = selected(expression)
        assert wanted, f"{title}: {expression} selects nothing"
        for name, labels in wanted.items():
            assert name in live, f"{title} asks for {name}, which /metrics does not have"
            assert labels <= live[name], f"{title} asks {name} for {labels - live[name]}"


def test_the_dashboard_shows_every_metric_of_our_own(metrics: str) -> None:
    ours = set(re.findall(r"^# TYPE (digits_\w+) ", metrics, re.MULTILINE))
    shown = {re.sub("_(bucket|sum|count)$", "", name) for _, expression in queries() for name in selected(expression)}
    assert ours
    assert ours <= shown
