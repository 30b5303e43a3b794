"""Repeating an upload with its Idempotency-Key: the same files are the same request, others are not."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from inference.models import DatasetVersion

pytestmark = pytest.mark.django_db


def upload(client: Any, key: str, text: str) -> Any:
    """Import one plain text as a dataset, always under the same Idempotency-Key."""
    file = SimpleUploadedFile("plain.jsonl", f'{{"id": "1", "text": "{text}"}}\n'.encode())
    return client.post(
        "/api/v1/datasets/",
        {"slug": "plain", "file": file},
        headers={"Authorization": f"Bearer {key}", "Idempotency-Key": "one"},
    )


def test_another_file_of_the_same_length_is_another_request(client: Any, api_key: Any) -> None:
    key = api_key("dataset.*")
    first = upload(client, key, "some words")
    assert first.status_code == 201, first.content
    again = upload(client, key, "some words")
    assert (again.status_code, again.headers.get("Idempotency-Replayed")) == (201, "true")
    other = upload(client, key, "same words")
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_key_reused"
    assert DatasetVersion.objects.count() == 1


def test_a_broken_multipart_body_is_refused_in_words(client: Any, api_key: Any) -> None:
    answer = client.generic(
        "POST", "/api/v1/datasets/", b"--x\r\nnonsense", content_type="multipart/form-data; boundary=",
        headers={"Authorization": f"Bearer {api_key('dataset.*')}", "Idempotency-Key": "two"},
    )  # fmt: skip
    assert 400 <= answer.status_code < 500
    assert answer["Content-Type"] == "application/problem+json"
