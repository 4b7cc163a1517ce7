"""`python -m pipelines.tidy RUN PARENT STATUS`: puts the run that `mlflow run` made in MLflow's bin once that is done.

It has to be a process of its own: MLflow's last act is to set the run's status, which fails on a run in the bin, and
that is after our command has ended. Who reads our output through a pipe waits for this too, since it holds the pipe.
"""

from __future__ import annotations

import sys
import time

import psutil

PATIENCE = 60  # seconds


def tidy(run_id: str, parent: int, status: str) -> None:
    """Waits until MLflow has ended the run, or has gone; ends it with `status` if it has gone."""
    from mlflow import MlflowClient

    from pipelines import tracking

    client = MlflowClient()
    deadline = time.monotonic() + PATIENCE
    while client.get_run(run_id).info.status == "RUNNING" and time.monotonic() < deadline:
        if not psutil.pid_exists(parent):
            break
        time.sleep(0.1)
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, status)
    client.delete_run(run_id)
    (tracking.LAUNCHED / f"{run_id}.json").unlink(missing_ok=True)


if __name__ == "__main__":
    from mlflow.exceptions import MlflowException

    try:
        tidy(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    except MlflowException as error:  # the database was wiped meanwhile: there is nothing left to tidy
        print(f"warning: the run that mlflow run made is left as it is: {error}", file=sys.stderr)
