"""What django-auditlog sees reaches our log: which fields changed, and nothing that must not be kept."""

from __future__ import annotations

import hashlib
import json

import pytest
from auditlog.registry import auditlog
from django.apps import apps
from django.db import connection

from core.audit.models import AuditEvent, PersonalDataSalt
from core.audit.registry import audited_models
from core.audit.selectors import lines_of
from core.audit.services import event_document
from inference.models import ModelVersion, Product
from tenants.accounts.models import ApiKey

pytestmark = pytest.mark.django_db


def last(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).order_by("-id")[0]


def everything_stored() -> str:
    return json.dumps([event_document(event) for event in AuditEvent.objects.all()]).lower()


def test_models_that_matter_are_followed():
    names = {model._meta.label for model in audited_models()}
    assert {
        "accounts.User", "accounts.ApiKey", "tenants.Tenant", "tenants.Plan", "inference.Release",
        "inference.ModelVersion", "inference.DatasetVersion", "evidence.Gate", "evidence.Criterion",
        "governance.Review", "governance.Waiver", "governance.Playbook", "governance.Signature",
        "pilots.Pilot", "pilots.PilotMember", "ip_portfolio.PatentApplication",
    } <= names  # fmt: skip
    assert all(auditlog.contains(model) for model in audited_models())


def test_rows_with_prompts_or_outputs_are_not_followed():
    names = {model._meta.label for model in audited_models()}
    assert names.isdisjoint({"evidence.RunItem", "evidence.RunEvent", "inference.DatasetItem"})


def test_added_changed_and_removed_row(acting, alice):
    acting(alice)
    product = Product.objects.create(slug="assistant", name="Assistant")
    assert last("product.row_added").target_id == str(product.pk)
    product.name = "Document assistant"
    product.save()
    event = last("product.row_changed")
    assert event.data == {"changes": {"name": {"old": "Assistant", "new": "Document assistant"}}}
    assert lines_of([event])[0].sentence == "changed name of the product Document assistant"
    product.delete()
    assert last("product.row_removed").target_label == "Document assistant"


def test_saving_without_a_change_records_nothing(acting, alice):
    acting(alice)
    product = Product.objects.create(slug="assistant", name="Assistant")
    before = AuditEvent.objects.count()
    product.save()
    assert AuditEvent.objects.count() == before


def test_long_texts_are_kept_as_digests_only(acting, alice):
    acting(alice)
    product = Product.objects.create(
        slug="a", name="A", description="You are a helpful assistant. Answer: 42"
    )
    changes = last("product.row_added").data["changes"]
    assert changes["description"]["new"].startswith("sha256:")
    ModelVersion.objects.create(
        name="m", digest="sha256:1", transform={"note": "You are a helpful assistant"}
    )
    assert "helpful" not in everything_stored()
    assert product.pk


def test_users_are_recorded_without_name_address_or_password(acting, alice, user_with):
    acting(alice)
    carol = user_with("engineer", email="carol@alpha.example", name="Carol Chen")
    event = last("user.row_added")
    carol.roles = ["engineer", "pmo"]
    carol.email = "carol.chen@alpha.example"
    carol.set_password("another-long-password-1")
    carol.save()
    changed = last("user.row_changed")
    assert changed.data["changes"]["roles"] == {"old": ["engineer"], "new": ["engineer", "pmo"]}
    assert changed.data["changes"]["password"] == "[withheld]"
    assert set(changed.data["changes"]["email"]["new"]) == {"subject", "commitment"}
    stored = everything_stored()
    for forbidden in ("carol", "chen", "md5$", "pbkdf2", carol.password.lower()):
        assert forbidden not in stored
    assert PersonalDataSalt.objects.get(commitment=event.target_id).ref == str(carol.pk)
    assert lines_of([changed])[0].target_name == "Carol Chen"


def test_churn_of_users_and_keys_is_not_recorded(acting, alice):
    from django.utils import timezone

    acting(alice)
    before = AuditEvent.objects.count()
    alice.last_seen_at = timezone.now()
    alice.save(update_fields=["last_seen_at"])
    assert AuditEvent.objects.count() == before


def test_api_key_is_recorded_without_name_or_digest(acting, alice):
    acting(alice)
    digest = hashlib.sha256(b"the key's secret").hexdigest()
    key = ApiKey.objects.create(
        name="Carol's laptop", key_id="k1", secret_sha256=digest, scopes=["run.view"], created_by=alice
    )
    event = last("apikey.row_added")
    assert event.data["changes"]["scopes"]["new"] == ["run.view"]
    assert "carol" not in everything_stored()
    assert digest not in everything_stored()
    assert "subject" in json.dumps(event.data["changes"].get("created_by", "subject"))
    assert lines_of([event])[0].target_name == "API key Carol's laptop"
    assert key.pk


def test_no_second_log_is_kept():
    """django-auditlog's own table would hold names in clear and could be edited."""
    model = apps.get_model("audit", "RowChange")
    assert not model._meta.managed
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM auditlog_logentry")
        assert cursor.fetchone()[0] == 0


def test_change_through_a_page_names_the_person_who_made_it(as_role):
    client = as_role("admin")
    client.get("/audit/export?format=csv")
    event = last("audit.exported")
    assert PersonalDataSalt.objects.get(commitment=event.actor).ref == str(client.user.pk)
    assert event.correlation_id


def test_lockout_is_recorded_once_without_the_address(alice):
    from axes.signals import user_locked_out

    for _ in range(3):
        user_locked_out.send("axes", request=None, username="Alice@alpha.example", ip_address="1.2.3.4")
    (event,) = AuditEvent.objects.filter(action="user.locked_out")
    assert lines_of([event])[0].sentence.endswith("sign in as Alice Ahn")
    assert "alice" not in everything_stored()
    assert "1.2.3.4" not in everything_stored()
