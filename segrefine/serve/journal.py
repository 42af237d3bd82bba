"""The log: one JSON object a line on stderr. It holds no pictures, labels or phrases."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

LOGGER = logging.getLogger("segrefine.serve")


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object; what `log` was given are its members."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "members", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def start_log() -> None:
    """Sends the service's log, and what every library warns of, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    LOGGER.setLevel(logging.INFO)


def log(event: str, **members: Any) -> None:
    """Writes an event of the usual course of things."""
    LOGGER.info(event, extra={"members": members})


def log_failure(request_id: str, error: BaseException) -> None:
    """Writes the cause of an answer that says no more than that something failed here."""
    LOGGER.error(
        "failure", exc_info=error, extra={"members": {"request_id": request_id, "error": type(error).__name__}}
    )
