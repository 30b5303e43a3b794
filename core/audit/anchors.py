"""The newest signed head, kept in a file beside the database.

Somebody who controls the database alone can cut events, links and heads off the end and leave a shorter log that is
consistent in itself. The file remembers how far the log had come. It is found by schema and signing key, so a tenant
that is made anew starts anew; on a machine without the file this one check is left out.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from django.conf import settings

from core.audit.models import AuditHead
from core.schema import current_schema
from core.security.models import TenantSigningKey

logger = logging.getLogger("signoff.audit")


def _path(schema: str) -> Path | None:
    """Where the anchor of this schema's log lies; None before its first key."""
    first = TenantSigningKey.objects.order_by("created_at").values_list("keyid", flat=True).first()
    return Path(settings.DATA_DIR) / "audit" / f"{schema}.{first[:16]}.json" if first else None


def anchor_read() -> dict[str, Any] | None:
    """{"number", "seq", "hash"} of the newest head written here, or None when there is no file."""
    path = _path(current_schema())
    if path is None:
        return None
    try:
        found = json.loads(path.read_text())
        return {"number": int(found["number"]), "seq": int(found["seq"]), "hash": str(found["hash"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("audit anchor cannot be read", extra={"path": str(path)})
        return None


def anchor_write(head: AuditHead) -> None:
    """Remember a committed head. A file that is further already stays; a disk that refuses is logged only."""
    path = _path(current_schema())
    known = anchor_read()
    if path is None or (known is not None and known["number"] >= head.number):
        return
    fresh = path.with_suffix(f".{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps({"number": head.number, "seq": head.seq, "hash": head.hash}))
        fresh.replace(path)
    except OSError:
        logger.warning("audit anchor cannot be written", extra={"path": str(path)}, exc_info=True)
