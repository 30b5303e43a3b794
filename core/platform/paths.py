"""Where Signoff keeps its data, decided before Django is configured."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def data_dir() -> Path:
    """Directory of models, exports, logs and the embedded services' data.

    `SIGNOFF_DATA_DIR` wins. Otherwise an ordinary user gets `var/` in the checkout. Root gets a directory
    under /var/lib named after the checkout, because PostgreSQL refuses to run as root and the user it
    runs as must be able to reach its files, which it cannot under root's home.
    """
    configured = os.environ.get("SIGNOFF_DATA_DIR")
    if configured:
        return Path(configured).expanduser().resolve()
    if os.geteuid() == 0:
        name = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:12]
        return Path("/var/lib/signoff") / name
    return REPOSITORY / "var"


def runtime_env_file() -> Path:
    """File in which a running `manage.py up` leaves its services' addresses for other commands."""
    return data_dir() / "runtime.env"
