"""Sealed contents of files and results: in pieces, under the tenant's data key, opened only while they are read."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import transaction
from django.utils import timezone

from core.errors import DomainError
from core.security.fields import SealBroken
from inference.gateway.models import GatewayFile, GatewayFileChunk
from inference.ledger.models import DataKey
from inference.ledger.sealing import PAYLOAD, OpenKey, active_key, unwrap

# Bytes of clear text per stored piece.
CHUNK_BYTES = 512 * 1024


class ContentGone(DomainError):
    """A stored content cannot be read: its key was destroyed, or it was altered."""

    status = 410
    code = "content_gone"
    title = "This content cannot be read any more"


class Vault:
    """Seals and opens contents of one tenant; remembers the keys it has used. For one thread."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._opened: dict[uuid.UUID, AESGCM] = {}

    def current(self) -> OpenKey:
        """The key new contents are sealed with."""
        return active_key(self.schema, PAYLOAD)

    def seal(self, key: OpenKey, place: str, plain: bytes) -> bytes:
        """Nonce and ciphertext; ``place`` is bound in, so that a piece opens nowhere else."""
        nonce = os.urandom(12)
        return nonce + AESGCM(key.key).encrypt(nonce, plain, self._associated(place))

    def open(self, key_id: uuid.UUID, place: str, sealed: bytes) -> bytes:
        """The clear text. Raises ContentGone."""
        cipher = self._opened.get(key_id)
        if cipher is None:
            row = DataKey.objects.filter(pk=key_id).first()
            if row is None or not row.wrapped:
                raise ContentGone("Its key was destroyed, and with it the content was erased.")
            try:
                cipher = self._opened[key_id] = AESGCM(unwrap(self.schema, key_id, row.wrapped))
            except SealBroken as error:
                raise ContentGone(str(error)) from error
        try:
            return cipher.decrypt(sealed[:12], sealed[12:], self._associated(place))
        except (InvalidTag, ValueError) as error:
            raise ContentGone("The stored content was altered, or is not of this place.") from error

    def _associated(self, place: str) -> bytes:
        return f"signoff/gateway/v1/{self.schema}/{place}".encode()


def file_write(
    *, schema: str, key_id: str, purpose: str, filename: str, retention: timedelta, pieces: Iterable[bytes]
) -> GatewayFile:
    """Store a file from pieces of any size; nothing is stored when the source raises."""
    vault = Vault(schema)
    key = vault.current()
    with transaction.atomic():
        file = GatewayFile.objects.create(
            key_id=key_id,
            purpose=purpose,
            filename=filename,
            data_key=key.id,
            expires_at=timezone.now() + retention,
        )
        held: list[bytes] = []
        size = total = position = 0

        def put(data: bytes) -> None:
            nonlocal position
            GatewayFileChunk.objects.create(
                file=file, position=position, sealed=vault.seal(key, f"{file.public_id}/{position}", data)
            )
            position += 1

        for piece in pieces:
            held.append(piece)
            size += len(piece)
            total += len(piece)
            if size >= CHUNK_BYTES:
                whole = b"".join(held)
                for start in range(0, size - size % CHUNK_BYTES, CHUNK_BYTES):
                    put(whole[start : start + CHUNK_BYTES])
                held = [whole[size - size % CHUNK_BYTES :]]
                size %= CHUNK_BYTES
        if size:
            put(b"".join(held))
        file.bytes = total
        file.save(update_fields=["bytes"])
    return file


def file_read(file: GatewayFile, schema: str) -> Iterator[bytes]:
    """The content, piece by piece. Raises ContentGone."""
    vault = Vault(schema)
    position = 0
    while True:
        sealed = file.chunks.filter(position=position).values_list("sealed", flat=True).first()
        if sealed is None:
            return
        yield vault.open(file.data_key, f"{file.public_id}/{position}", bytes(sealed))
        position += 1


def file_lines(file: GatewayFile, schema: str) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their number from 1."""
    number, held = 0, b""
    for piece in file_read(file, schema):
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                yield number, line
    if held.strip():
        yield number + 1, held
