#!/usr/bin/env python
"""Signoff's command line."""

import os
import sys


def main() -> None:
    """Run one management command; `manage.py help` lists them."""
    # These two say in one line what is missing, so they must not need it themselves.
    if sys.argv[1:2] == ["up"]:
        from core.platform.up import main as up

        sys.exit(up(sys.argv[2:]))
    if sys.argv[1:2] == ["doctor"]:
        from core.platform.doctor import main as doctor

        sys.exit(doctor(sys.argv[2:]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("Django is not installed for this Python. Run `make up`, or use .venv/bin/python manage.py.")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
