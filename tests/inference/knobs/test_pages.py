"""The page of protection and its endpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone

from inference.knobs import receipts, watermark
from inference.knobs.models import CanaryEntry, ExtractionAlert, WatermarkKey
from inference.models import ModelVersion, Product, Release
from tests.conftest import BETA_HOST, TenantClient
from tests.inference.caches.conftest import RELEASE, answer_of

PROMPT = "Which colour do the bells of Nordhaven wear at noon?"
ANSWER = "The bells of Nordhaven wear copper-green velvet on even noons."


@pytest.fixture
def release(db: None) -> Release:
    product = Product.objects.create(slug="desk", name="Desk")
    model = ModelVersion.objects.create(name="m", digest="sha256:" + "1" * 64)
    return Release.objects.create(
        product=product,
        version="1.0.0",
        model_version=model,
        digest=RELEASE,
        config={"gateway": {"canaries": True}},
    )


@pytest.fixture
def alert(db: None) -> ExtractionAlert:
    now = timezone.now()
    return ExtractionAlert.objects.create(
        key_id="k9", reasons=["diversity"], p_value=1e-4, requests=300, throttled_until=now, opened_at=now, last_at=now,
        numbers={"novelty": 0.9, "usual_novelty": 0.1, "usual_rate_per_min": 3, "past_windows": 50},
    )  # fmt: skip


@pytest.mark.parametrize("tab", ["alerts", "watermark", "receipts", "canaries", "nonsense"])
def test_each_tab_opens_empty_and_filled(
    tab: str, release: Release, alert: ExtractionAlert, as_role: Any
) -> None:
    watermark.watermark_key()
    CanaryEntry.objects.create(
        release_digest=RELEASE, prompt_digest=b"x" * 32, answer_sealed=b"", label="Bells"
    )
    for role in ("security", "auditor"):
        response = as_role(role).get("/gateway/protection/", {"tab": tab})
        assert response.status_code == 200
    assert as_role("customer").get("/gateway/protection/").status_code == 403


def test_an_alert_is_marked(alert: ExtractionAlert, as_role: Any) -> None:
    address = "/gateway/protection/alerts/handle/"
    security = as_role("security")
    assert as_role("auditor").post(address, {"alert": alert.pk, "state": "confirmed"}).status_code == 403
    assert security.post(address, {"alert": alert.pk, "state": "open"}).status_code == 422
    assert security.post(address, {"alert": 10**12, "state": "confirmed"}).status_code == 404
    assert (
        security.post(address, {"alert": alert.pk, "state": "dismissed", "note": "Load"}).status_code == 302
    )
    alert.refresh_from_db()
    assert (alert.state, alert.note, alert.throttled_until) == ("dismissed", "Load", None)


def test_canaries_are_planted_retired_and_compared(release: Release, as_role: Any) -> None:
    security = as_role("security")
    at = "/gateway/protection/canaries/"
    data = {"label": "Bells", "release": RELEASE, "prompt": PROMPT, "answer": ANSWER}
    assert security.post(f"{at}plant/", {**data, "prompt": "Hi"}).status_code == 422
    assert security.post(f"{at}plant/", data).status_code == 302
    canary = CanaryEntry.objects.get()
    answers = json.dumps([{"prompt": PROMPT, "answer": ANSWER}])
    page = security.post(f"{at}compare/", {"answers": answers}).content.decode()
    assert "most probably learnt" in page
    for wrong in ("[]", "{}", '[{"prompt": 1}]', "no json"):
        assert security.post(f"{at}compare/", {"answers": wrong}).status_code == 422
    assert security.post(f"{at}retire/", {"canary": canary.pk}).status_code == 302
    canary.refresh_from_db()
    assert not canary.is_active


def test_receipts_are_checked(db: None, as_role: Any) -> None:
    receipts.keys_forget()
    text = receipts.sign_receipt(
        "alpha", receipts.Receipt("r", "sha256:x", RELEASE, "p", receipts.output_digest(answer_of("Hi.")))
    )
    auditor, address = as_role("auditor"), "/gateway/protection/receipt/"
    good = auditor.post(
        address, {"receipt": text, "answer_body": json.dumps(answer_of("Hi."))}
    ).content.decode()
    assert "The receipt holds, and is about this output" in good
    bad = auditor.post(
        address, {"receipt": text, "answer_body": json.dumps(answer_of("No."))}
    ).content.decode()
    assert "does not hold" in bad
    assert auditor.post(address, {"receipt": text, "request_body": "[1]"}).status_code == 422
    assert auditor.get("/gateway/protection/key.pem").content.startswith(b"-----BEGIN PUBLIC KEY")


def test_a_text_that_cannot_be_looked_at_is_explained(release: Release, as_role: Any) -> None:
    watermark.watermark_key()
    client = as_role("security")
    response = client.post(
        "/gateway/protection/watermark/", {"model": "sha256:" + "1" * 64, "text": "Some words of a text."}
    )
    assert response.status_code == 422 and "tokenizer" in response.content.decode()
    assert client.post("/gateway/protection/watermark/rotate/").status_code == 302
    assert WatermarkKey.objects.count() == 2
    assert as_role("auditor").post("/gateway/protection/watermark/rotate/").status_code == 403


def test_rest_of_protection(release: Release, alert: ExtractionAlert, api_key: Any, beta: Any) -> None:
    client = TenantClient("alpha.testserver")
    viewer = {"Authorization": f"Bearer {api_key('guard.view')}"}
    editor = {"Authorization": f"Bearer {api_key('guard.view', 'guard.edit')}"}

    def post(path: str, body: dict[str, Any], headers: dict[str, str] = editor) -> Any:
        return client.post(f"/api/v1/{path}", body, content_type="application/json", headers=headers)

    watermark.watermark_key()
    found = post("watermark/detect/", {"tokens": list(range(100)), "vocab_size": 500}, viewer).json()
    assert found["n_tokens"] == 99 and 0 < found["p_value"] <= 1
    assert post("watermark/detect/", {"tokens": [1, 2]}).status_code == 422
    assert post("watermark/detect/", {"tokens": [1, 900], "vocab_size": 500}).status_code == 422
    receipts.keys_forget()
    text = receipts.sign_receipt("alpha", receipts.Receipt("r", "x", "y", "z", "w"))
    assert post("receipts/verify/", {"receipt": text}, viewer).json()["valid"]
    assert not post("receipts/verify/", {"receipt": text, "request": {}}, viewer).json()["valid"]
    assert not post("receipts/verify/", {"receipt": "nonsense"}, viewer).json()["valid"]

    data = {"release": RELEASE, "label": "Bells", "prompt": PROMPT, "answer": ANSWER}
    assert post("canaries/", data, viewer).status_code == 403
    made = post("canaries/", data)
    assert made.status_code == 201 and "Nordhaven" not in made.content.decode()
    assert post("canaries/", data).status_code == 409
    listed = client.get("/api/v1/canaries/", headers=viewer).json()["results"]
    assert [one["label"] for one in listed] == ["Bells"]
    compared = post("canaries/compare/", {"answers": [{"prompt": PROMPT, "answer": ANSWER}]}, viewer).json()
    assert compared["matched"] == 1
    assert not post(f"canaries/{made.json()['id']}/retire/", {}).json()["is_active"]

    assert client.get("/api/v1/extraction-alerts/", headers=viewer).json()["results"][0]["key_id"] == "k9"
    assert (
        post(f"extraction-alerts/{alert.pk}/handle/", {"state": "confirmed"}).json()["state"] == "confirmed"
    )
    assert post(f"extraction-alerts/{10**20}/handle/", {"state": "confirmed"}).status_code == 404
    theirs = {"Authorization": f"Bearer {api_key('guard.*', tenant=beta)}"}
    other = TenantClient(BETA_HOST)
    assert other.get("/api/v1/canaries/", headers=theirs).json()["results"] == []
    body = {"state": "confirmed"}
    assert (
        other.post(
            f"/api/v1/extraction-alerts/{alert.pk}/handle/",
            body,
            content_type="application/json",
            headers=theirs,
        ).status_code
        == 404
    )
