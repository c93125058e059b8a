"""The `gpu` concurrency limit: as many slots as there are devices, made before anything asks for one."""

from __future__ import annotations

import os
import shutil
import subprocess

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

GPU = "gpu"


def ensure_slots(reset: bool = False) -> None:
    """Create the limit `gpu` if there is none; a limit that someone has set stays as it is.

    `reset` frees slots that are still taken, for a server that this process has to itself: a run that
    was killed cannot have given its slot back, and the next one would wait for ever.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(GPU)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU, limit=device_count()))
            except ObjectAlreadyExists:
                return  # another run made it in between
        else:
            if reset:
                client.update_global_concurrency_limit(GPU, GlobalConcurrencyLimitUpdate(active_slots=0))


def device_count() -> int:
    """Return the number of CUDA devices that this process may use, at least 1 (the CPU is one device)."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        return max(1, len([device for device in visible.split(",") if device.strip()]))
    if shutil.which("nvidia-smi") is None:  # asking torch would cost seconds of import
        return 1
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return max(1, len([line for line in listed.stdout.splitlines() if line.startswith("GPU ")]))
