"""The chain: one place per event, no gap, whoever writes and whoever sequences."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, transaction
from django_tenants.utils import schema_context

from core.audit import services
from core.audit.chain import GENESIS, event_digest, link_hash
from core.audit.models import AuditEvent, AuditHead, AuditLink, AuditPending
from core.audit.services import audit_record, audit_sequence, event_document
from core.audit.verification import audit_verify
from core.security.actor import SYSTEM, use_actor


def record(count: int, name: str = "thing.done") -> None:
    with use_actor(SYSTEM):
        for number in range(count):
            audit_record(name, data={"number": number})


@pytest.mark.django_db
def test_each_event_gets_one_place_in_order():
    audit_sequence()
    before = AuditLink.objects.count()
    record(3)
    assert audit_sequence() == 3
    links = list(AuditLink.objects.order_by("seq"))
    assert [link.seq for link in links] == list(range(1, before + 4))
    assert [link.event.data for link in links[-3:]] == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert not AuditPending.objects.exists()


@pytest.mark.django_db
def test_hashes_follow_from_their_definition():
    record(2)
    audit_sequence()
    previous = GENESIS
    for link in AuditLink.objects.order_by("seq"):
        assert link.event_digest == event_digest(event_document(link.event))
        assert link.prev_hash == previous
        assert link.hash == link_hash(link.seq, previous, link.event_digest)
        previous = link.hash


@pytest.mark.django_db
def test_second_call_finds_nothing_to_do():
    record(2)
    audit_sequence()
    before = AuditHead.objects.count()
    assert audit_sequence(sign=True) == 0
    assert audit_sequence(sign=True) == 0
    assert AuditHead.objects.count() <= before + 1


@pytest.mark.django_db
def test_head_is_signed_when_enough_links_came(monkeypatch):
    record(1)
    audit_sequence(sign=True)
    heads = AuditHead.objects.count()
    record(4)
    audit_sequence()
    assert AuditHead.objects.count() == heads  # neither enough links nor enough time
    monkeypatch.setattr(services, "HEAD_EVERY_LINKS", 5)
    record(1)
    audit_sequence()
    last = AuditHead.objects.order_by("-number").first()
    assert last is not None
    assert last.seq == AuditLink.objects.count()


@pytest.mark.django_db
def test_batches_continue_the_chain(monkeypatch):
    monkeypatch.setattr(services, "_BATCH", 3)
    record(10)
    assert audit_sequence() >= 10
    assert audit_verify().problems == []


@pytest.mark.django_db
def test_event_that_commits_late_gets_a_later_number(beta):
    """The id is drawn before the commit, so ids and places may disagree; the chain only knows places."""
    record(1, "first.done")
    audit_sequence()
    record(1, "second.done")
    audit_sequence()
    assert [link.event.action for link in AuditLink.objects.order_by("-seq")[:2]] == [
        "second.done",
        "first.done",
    ]


@pytest.mark.django_db(transaction=True)
def test_many_writers_and_sequencers_at_once_leave_one_chain_without_gap():
    writers, each = 6, 25
    failures: list[BaseException] = []
    stop = threading.Event()

    def write(number: int) -> None:
        try:
            with schema_context("alpha"), use_actor(SYSTEM):
                for turn in range(each):
                    with transaction.atomic():
                        audit_record("stress.done", data={"writer": number, "turn": turn})
                        if turn % 5 == 4:
                            transaction.set_rollback(True)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    def sequence() -> None:
        try:
            with schema_context("alpha"):
                while not stop.is_set():
                    audit_sequence()
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    sequencers = [threading.Thread(target=sequence) for _ in range(3)]
    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in [*sequencers, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in sequencers:
        thread.join()

    assert failures == []
    audit_sequence(sign=True)
    kept = writers * (each - each // 5)
    assert AuditEvent.objects.filter(action="stress.done").count() == kept
    links = list(AuditLink.objects.order_by("seq").values_list("seq", "event_id"))
    assert [seq for seq, _ in links] == list(range(1, len(links) + 1))
    assert len({event for _, event in links}) == AuditEvent.objects.count() == len(links)
    report = audit_verify()
    assert report.ok, report.as_json()


@pytest.mark.django_db
def test_each_tenant_has_a_chain_of_its_own(beta, in_tenant):
    audit_sequence()
    here = AuditLink.objects.count()
    with in_tenant(beta):
        record(5)
        audit_sequence()
    audit_sequence()
    assert AuditLink.objects.count() == here
