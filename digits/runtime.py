"""ONNX Runtime as a server that shares its cores wants it: the bytes of a model come in, a session goes out."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: it is read once
import onnxruntime as ort


def session_of(model: bytes, threads: int = 1) -> ort.InferenceSession:
    """A session on `threads` cores: no spinning, no per-shape memory plans. Raises what ONNX Runtime raises."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = False  # a plan is kept for each batch size seen: growth, and no gain in speed
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
