"""Starts the MLflow server of compose.yaml: makes a missing artifact bucket, then becomes `mlflow server`.

In: MLFLOW_ARTIFACTS_DESTINATION (s3://BUCKET), MLFLOW_S3_ENDPOINT_URL, AWS_* and MLflow's own variables.
"""

import os
from urllib.parse import urlparse

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

bucket = urlparse(os.environ["MLFLOW_ARTIFACTS_DESTINATION"]).netloc
patient = Config(retries={"mode": "standard", "total_max_attempts": 10}, connect_timeout=5)  # the store may start later
s3 = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"), config=patient)
try:
    s3.head_bucket(Bucket=bucket)
except ClientError as error:
    if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
        raise
    s3.create_bucket(Bucket=bucket)

os.execvp("mlflow", ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "2"])
