"""The permission engine beside other native libraries of the same process."""

from __future__ import annotations

import os
import subprocess
import sys

from django.conf import settings


def test_torch_can_be_loaded_after_the_permission_engine():
    """In a process of its own: what is loaded first decides whose allocator the C++ runtime uses."""
    code = "import core.security.permissions, torch; print(torch.ones(3).sum().item())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=settings.BASE_DIR,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "3.0"), done.stderr
