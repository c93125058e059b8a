"""Failures of files, databases and servers, told in one line: they are no mistakes of the code.

Libraries' errors are known by name: importing them for it would cost every command seconds.
"""

from __future__ import annotations

import errno
import os
import re

DEBUG = "KINTSUGI_DEBUG"  # the traceback is printed before the line
FULL = (errno.ENOSPC, errno.EDQUOT)
SERVERS = {
    "requests.RequestException", "urllib3.HTTPError", "httpx.TransportError", "urllib.URLError",
    "builtins.ConnectionError", "builtins.TimeoutError",
}  # fmt: skip
AWAY = ("API request to", "Connection refused", "Max retries exceeded")
LONGEST = 300  # characters of what a library said
PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


def told(error: BaseException) -> str | None:
    """What is wrong and what to do; None for an error that only a traceback explains."""
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    said = PASSWORD.sub("", " ".join(str(error).split()))[:LONGEST]
    store = PASSWORD.sub("", os.environ.get("MLFLOW_TRACKING_URI", "mlflow.db"))
    if isinstance(error, OSError) and error.errno in FULL:
        return "the disk is full; free some space and run the command again, nothing is lost"
    if "mlflow.MlflowException" in names and any(sign in said for sign in AWAY):
        return f"MLflow at {store} does not answer ({said}); start it, or correct MLFLOW_TRACKING_URI"
    if names & {"mlflow.MlflowException", "sqlalchemy.DBAPIError"}:
        return f"MLflow failed: {said}; check its store, {store}, and whether the workspace is where it was made"
    if names & SERVERS:
        return f"a server does not answer ({said}); check MLFLOW_TRACKING_URI and PREFECT_API_URL, or try again later"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used ({error.strerror}); check the path and who may read and write there"
    return None
