"""The method: pure functions on tensors, arrays and paths. Nothing here knows Prefect, MLflow, DVC or GX."""
