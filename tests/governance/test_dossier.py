"""The exported dossier: checked by the verifier inside it, and every changed byte is named."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from governance.exports import dossier_archive
from governance.models import Review
from tests.governance.test_review_sign import sign

pytestmark = pytest.mark.django_db


@pytest.fixture
def archive(review: Review, alice: Any, acting: Any, tmp_path: Path) -> Path:
    """The dossier of a signed review, as a file."""
    acting(alice)
    sign(review, alice)
    path = tmp_path / "dossier.zip"
    path.write_bytes(dossier_archive(review=review))
    return path


def verify(path: Path, verifier: Path) -> subprocess.CompletedProcess[str]:
    """Run the verifier as a stranger would: isolated from our code."""
    return subprocess.run(
        [sys.executable, "-I", str(verifier), str(path), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_verifier_inside_accepts_the_dossier(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        verifier = Path(opened.extract("verify.py", tmp_path))
        names = opened.namelist()
    result = verify(archive, verifier)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {"dossier.json", "dossier.pdf", "signatures/1.dsse.json"} <= set(names)


def test_every_changed_file_is_caught_and_named(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        verifier = Path(opened.extract("verify.py", tmp_path))
        files = {name: opened.read(name) for name in opened.namelist()}
    for changed in files:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as rewritten:
            for name, data in files.items():
                middle = len(data) // 2
                flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
                rewritten.writestr(name, flipped if name == changed else data)
        tampered = tmp_path / "tampered.zip"
        tampered.write_bytes(buffer.getvalue())
        result = verify(tampered, verifier)
        assert result.returncode != 0, changed
        assert Path(changed).name in result.stdout + result.stderr, changed


def test_the_dossier_says_who_signed_nothing_else_than_its_digest(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        dossier = json.loads(opened.read("dossier.json"))
    assert dossier["verdict"]["with_waivers"] == "pass"
    assert "poll" not in dossier and "signatures" not in dossier
