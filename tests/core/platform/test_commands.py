"""Commands that the handbook names for running an installation without the demo."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from django.conf import settings
from django.core.management import get_commands
from django_tenants.utils import schema_context

from tests.conftest import process_environment


def test_every_command_in_the_handbook_exists():
    text = (Path(settings.BASE_DIR) / "docs/operations.md").read_text()
    named = set(re.findall(r"`(?:python )?manage\.py ([a-z_]+)", text))

    assert named and named <= set(get_commands())


def test_an_operator_is_made_with_a_password_from_standard_input(transactional_db):
    from tenants.accounts.models import User

    done = subprocess.run(
        [sys.executable, "manage.py", "operator_create", "--email", "Olga@ops.example", "--name", "Olga Orr"],
        input="a-long-enough-passphrase-7\n",
        env=process_environment(),
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    with schema_context("public"):
        user = User.objects.get(email="olga@ops.example")
        assert user.roles == ["operator"] and user.check_password("a-long-enough-passphrase-7")
