"""The steps, with their side effects: one module for each entry point, and the edges to MLflow, Optuna and BentoML."""

import os

for _name in ("BENTOML_DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):  # otherwise they send usage statistics
    os.environ.setdefault(_name, "true")
