"""Prefect flows: thin wrappers of metarisk.jobs, and the processes that run them.

Prefect reads the environment when it is imported, so its telemetry is turned off here, before.
"""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
