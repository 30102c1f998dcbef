"""The service's own log, on stderr: a line has its time, its level, which part says it, and what, in every process."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def log_to_stderr() -> None:
    """Have this process write its log; for whoever starts one of the service's processes."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=FORMAT)
