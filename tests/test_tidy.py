"""The process that puts away the run of `mlflow run`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_run_that_is_gone_is_told_in_one_line(tmp_path: Path) -> None:
    nobody = subprocess.Popen([sys.executable, "-c", ""])
    nobody.wait()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pipelines.tidy", "0" * 32, str(nobody.pid), "FAILED"],
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("warning: the run") for line in done.stderr.splitlines()) == 1
