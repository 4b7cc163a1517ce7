-- Optuna keeps its studies in a database of its own: it and MLflow both call a table alembic_version.
CREATE DATABASE optuna;
