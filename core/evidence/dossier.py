"""The dossier archive: everything a decision rested on, in one file that can be checked offline.

Pure: no Django, no database. The layout is documented in docs/design/dossier.md; the checker that travels
inside each archive is ``core/evidence/dossier_verify/verify.py``.

Order of use: :func:`dossier_freeze` binds the raw numbers into the dossier and gives the digest people sign;
:func:`signature_payload` gives the bytes of one person's position; :func:`build_dossier_zip` writes the
archive.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.security.canonical import canonical_bytes, digest, sha256_digest

__all__ = [
    "DOSSIER_SCHEMA",
    "MANIFEST_SCHEMA",
    "SIGNATURE_SCHEMA",
    "build_dossier_zip",
    "dossier_freeze",
    "dossier_freeze_digests",
    "raw_file_name",
    "signature_payload",
    "verifier_source",
]

DOSSIER_SCHEMA = "signoff.dossier/1"
MANIFEST_SCHEMA = "signoff.manifest/1"
SIGNATURE_SCHEMA = "signoff.signature/1"

# 1980-01-01 00:00, the earliest time a zip entry can carry: archives of the same content are the same bytes.
_ZIP_DATE, _ZIP_TIME = 0x0021, 0x0000
_README = """This archive is a Signoff dossier: the evidence a release decision rested on, and the signatures
over it.

Check it offline with Python 3.9 or newer, nothing to install:

    python verify.py <this archive>.zip
    python verify.py <this archive>.zip --public-key <fingerprint of the tenant's key>

Take verify.py from a place you trust when the archive comes from someone you do not, and compare the key
fingerprint it prints with the one the tenant publishes.

dossier.json          what was decided on: release, baseline, gate, verdicts, digests of the raw numbers
(canonical JSON) raw/                  the paired numbers per criterion, from which every verdict is
recomputed signatures/           each person's position over the digest of dossier.json (DSSE envelopes,
Ed25519) keys/                 the public keys; a file is named by the SHA-256 of its key
dossier.pdf           the same for reading
manifest.json         size and SHA-256 of every file; manifest.dsse.json is the signature over it
"""


def raw_file_name(name: str) -> str:
    """``raw/<name>.json`` with a name that is safe in any file system.

    A name of ASCII letters, digits, ``.``, ``_`` and ``-`` is kept; anything else becomes ``_`` and eight
    digits of the name's SHA-256 are added so that two names stay two files.
    """
    safe = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name
    )
    if safe != name or not name or name.startswith("."):
        safe = f"{safe.lstrip('.') or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"raw/{safe}.json"


def dossier_freeze(
    dossier: Mapping[str, Any], raw: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], str]:
    """Bind the raw numbers into the dossier and return ``(dossier, "sha256:<hex>")``: the digest that is
    signed.

    Adds ``schema`` and ``raw`` (``{file name: "sha256:<hex>"}``) and, where it is absent, ``evidence``
    (``{criterion key: file name}``, each criterion of the gate report whose key is a key of ``raw``).

    Args:
        dossier: JSON. What must not change after signing; signatures are **not** part of it.
        raw: criterion key -> document as ``PairedSample.to_raw()`` or ``UnpairedMeasurement.to_raw()`` gives
        it.
    Raises:
        CanonicalError: something in either is not JSON (NaN among the numbers is written as text by
        ``to_raw``).
    """
    return dossier_freeze_digests(dossier, {name: digest(document) for name, document in raw.items()})


def dossier_freeze_digests(
    dossier: Mapping[str, Any], raw_digests: Mapping[str, str]
) -> tuple[dict[str, Any], str]:
    """:func:`dossier_freeze` for callers who know the raw documents' digests already."""
    frozen = dict(dossier)
    frozen["schema"] = DOSSIER_SCHEMA
    frozen["raw"] = {raw_file_name(name): one for name, one in raw_digests.items()}
    frozen.setdefault("evidence", {name: raw_file_name(name) for name in raw_digests})
    return frozen, digest(frozen)


def signature_payload(
    *,
    dossier_digest: str,
    signer: str,
    role: str,
    position: str,
    signed_at: str,
    note: str = "",
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes one person signs: canonical JSON that names the dossier digest. Payload type
    ``core.security.dsse.SIGNATURE_PAYLOAD_TYPE``. ``signed_at``: ISO 8601 with offset."""
    return canonical_bytes(
        {
            **(extra or {}),
            "schema": SIGNATURE_SCHEMA,
            "dossier_digest": dossier_digest,
            "signer": signer,
            "role": role,
            "position": position,
            "signed_at": signed_at,
            "note": note,
        }
    )


def verifier_source() -> bytes:
    """The bytes of ``verify.py``, as they go into the archive."""
    return (Path(__file__).parent / "dossier_verify" / "verify.py").read_bytes()


def build_dossier_zip(
    dossier: dict[str, Any],
    raw: dict[str, dict[str, Any]],
    signatures: Sequence[Mapping[str, Any]],
    public_keys: Mapping[str, bytes],
    pdf: bytes | None,
    sign_manifest: Callable[[bytes], Mapping[str, Any]],
) -> bytes:
    """The archive as bytes; the same arguments give the same bytes (Ed25519 signatures are deterministic).

    Args:
        dossier: as frozen by :func:`dossier_freeze` (it is frozen here when it names no raw digests yet).
        raw: criterion key -> raw document; must be exactly what was frozen.
        signatures: DSSE envelopes over :func:`signature_payload`, in the order to be shown.
        public_keys: keyid -> PEM bytes (``core.security.keys.public_key_pem``) of every key used, the
        manifest's too.
        pdf: the readable version, or None.
        sign_manifest: given the manifest's bytes, returns the envelope (payload type
            ``core.security.dsse.MANIFEST_PAYLOAD_TYPE``).
    Raises:
        ValueError: ``raw`` is not what the dossier's digests name; nothing is written.
        CanonicalError: something is not JSON.
    """
    frozen, dossier_digest = dossier_freeze(dossier, raw)
    if "raw" in dossier:
        for name in sorted(set(dossier["raw"]) | set(frozen["raw"])):
            if dossier["raw"].get(name) != frozen["raw"].get(name):
                raise ValueError(
                    f"The raw numbers {name} are not those the dossier was frozen with; freeze and sign "
                    f"it again."
                )
        if digest(dossier) != dossier_digest:
            raise ValueError("The dossier lacks what dossier_freeze adds; freeze and sign it again.")
    files: dict[str, bytes] = {
        "README.txt": _README.encode(),
        "verify.py": verifier_source(),
        "dossier.json": canonical_bytes(frozen),
    }
    if pdf is not None:
        files["dossier.pdf"] = pdf
    for name, document in raw.items():
        files[raw_file_name(name)] = canonical_bytes(document)
    for number, envelope in enumerate(signatures, start=1):
        files[f"signatures/{number}.dsse.json"] = canonical_bytes(dict(envelope))
    for keyid, pem in public_keys.items():
        files[f"keys/{keyid}.pub"] = pem
    manifest = canonical_bytes(
        {
            "schema": MANIFEST_SCHEMA,
            "dossier_digest": dossier_digest,
            "files": {
                name: {"sha256": sha256_digest(data), "size": len(data)} for name, data in files.items()
            },
        }
    )
    files["manifest.json"] = manifest
    files["manifest.dsse.json"] = canonical_bytes(dict(sign_manifest(manifest)))
    return _zip(files)


def _zip(files: Mapping[str, bytes]) -> bytes:
    """A zip with nothing left to chance: sorted names, stored, fixed date and attributes, no comments.

    The verifier writes the same bytes again from the members and compares, so that a changed byte is caught
    in the archive's own structure too. Written by hand because zipfile's headers differ between Python
    versions.
    """
    body, directory = bytearray(), bytearray()
    for name in sorted(files):
        data, encoded = files[name], name.encode("ascii")
        common = struct.pack(
            "<HHHHHIIIHH",
            20,
            0,
            0,
            _ZIP_TIME,
            _ZIP_DATE,
            zlib.crc32(data),
            len(data),
            len(data),
            len(encoded),
            0,
        )
        # 0x031E: made by Unix, zip 3.0; external attributes: a regular file, readable by all (0644).
        directory += b"PK\x01\x02" + struct.pack("<H", 0x031E) + common
        directory += struct.pack("<HHHII", 0, 0, 0, 0o100644 << 16, len(body)) + encoded
        body += b"PK\x03\x04" + common + encoded + data
    end = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(directory), len(body), 0)
    return bytes(body + directory) + b"PK\x05\x06" + end
