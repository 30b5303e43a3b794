"""Decisions: opening a review, its checklist, waiving, signing, deciding. All writes of governance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from core.audit.services import audit_record
from core.errors import Invalid
from core.evidence.dossier import signature_payload
from core.evidence.models import Gate
from core.security.actor import current_actor
from core.security.canonical import digest
from core.security.dsse import SIGNATURE_PAYLOAD_TYPE
from core.security.permissions import require
from core.security.services import tenant_sign
from governance.dossiers import dossier_build, dossier_difference
from governance.errors import (
    AlreadySigned,
    EvidenceChanged,
    NotReady,
    NotYourRole,
    OwnRequest,
    ReviewClosed,
    WrongPassword,
)
from governance.models import (
    ChecklistItem,
    Comment,
    DossierSnapshot,
    Playbook,
    Rehearsal,
    Review,
    Signature,
    Waiver,
)
from governance.selectors import signature_is_current
from inference.models import Release
from tenants.accounts.models import User
from tenants.accounts.services import password_is_right, person_behind

# Roles that may hold a position in a poll, and the ones that may grant a waiver.
SIGNING_ROLES = ("pmo", "engineer", "security", "legal")
WAIVING_ROLES = ("pmo", "security", "legal")
# The longest a waiver may last, in days: an exception that never ends is a changed criterion.
WAIVER_MAX_DAYS = 180

DEFAULT_CHECKLIST: tuple[tuple[str, str, str, str], ...] = (
    ("entrance", "The gate was run on this candidate and its baseline", "quality", "engineer"),
    ("entrance", "The rollback playbook names who is on call", "rollback", "engineer"),
    ("checklist", "Failed and flipped items were read by a person", "quality", "engineer"),
    ("checklist", "Model and data licences permit this use", "security", "legal"),
    ("checklist", "The release notes say what changes for customers", "pilot", "pmo"),
)


def _acting_user() -> User:
    """The signed-in person. Raises Forbidden (through `require`) for keys; decisions are people's."""
    actor = current_actor()
    if actor.kind != "user":
        raise NotYourRole(
            "Only a signed-in person can do this; an API key or a process cannot stand in for one. "
            "Sign in on your tenant's site."
        )
    return User.objects.get(pk=actor.id)


def _lock_open(review: Review) -> Review:
    """The review, locked until the transaction ends. Raises ReviewClosed."""
    locked = Review.objects.select_for_update().get(pk=review.pk)
    if locked.status != Review.Status.OPEN:
        raise ReviewClosed(
            f"“{locked.title}” is {locked.get_status_display().lower()}; open a new review to go on."
        )
    return locked


def _touch(review: Review) -> None:
    review.revision += 1
    review.save(update_fields=["revision", "updated_at"])


# ------------------------------------------------------------------ playbooks
@transaction.atomic
def playbook_save(
    *,
    slug: str,
    title: str,
    body: str,
    kind: str = "rollback",
    on_call_role: str = "engineer",
    on_call: User | None = None,
) -> Playbook:
    """Store a playbook as the next version; unchanged content keeps the version there is. Raises Invalid."""
    require("playbook.edit")
    fields: dict[str, list[str]] = {}
    if not slug:
        fields["slug"] = ["Give the playbook a short name, such as rollback-assistant."]
    if not title.strip():
        fields["title"] = ["Give the playbook a title."]
    if not body.strip():
        fields["body"] = ["Write the steps to follow."]
    if kind not in Playbook.Kind.values:
        fields["kind"] = [f"Choose one of: {', '.join(Playbook.Kind.values)}."]
    if on_call_role not in SIGNING_ROLES:
        fields["on_call_role"] = [f"Choose one of: {', '.join(SIGNING_ROLES)}."]
    if fields:
        raise Invalid("The playbook is not complete.", fields=fields)
    # Versions of one slug are numbered one after the other, also when two people save at once.
    latest = Playbook.objects.select_for_update().filter(slug=slug).order_by("-version").first()
    content = {
        "title": title,
        "body": body,
        "kind": kind,
        "on_call_role": on_call_role,
        "on_call": str(on_call.pk) if on_call else "",
    }
    content_digest = digest(content)
    if latest is not None and latest.digest == content_digest:
        return latest
    playbook = Playbook(
        slug=slug,
        version=(latest.version if latest else 0) + 1,
        title=title,
        body=body,
        kind=kind,
        on_call_role=on_call_role,
        on_call=on_call,
        digest=content_digest,
        created_by_label=current_actor().label,
    )
    try:
        with transaction.atomic():
            playbook.save()
    except IntegrityError as error:
        raise EvidenceChanged(
            "Somebody saved this playbook at the same time. Reload it and try again."
        ) from error
    audit_record("playbook.saved", target=playbook, data={"slug": slug, "version": playbook.version})
    return playbook


@transaction.atomic
def rehearsal_record(*, playbook: Playbook, outcome: str, duration_s: int = 0, notes: str = "") -> Rehearsal:
    """Record that a playbook was practised. Raises Invalid for an unknown outcome."""
    require("playbook.edit")
    if outcome not in Rehearsal.Outcome.values:
        raise Invalid(
            "Say how the rehearsal went.",
            fields={"outcome": [f"Choose one of: {', '.join(Rehearsal.Outcome.values)}."]},
        )
    if duration_s < 0:
        raise Invalid(
            "A rehearsal cannot take negative time.", fields={"duration_s": ["Enter 0 or more seconds."]}
        )
    rehearsal = Rehearsal(
        playbook=playbook, outcome=outcome, duration_s=duration_s, notes=notes, by=_acting_user()
    )
    rehearsal.save()
    audit_record("playbook.rehearsed", target=playbook, data={"outcome": outcome, "duration_s": duration_s})
    return rehearsal


# ------------------------------------------------------------------ reviews
@transaction.atomic
def review_create(
    *,
    candidate: Release,
    baseline: Release | None,
    gate_slug: str,
    title: str = "",
    required_roles: Sequence[str] = ("pmo",),
    due_on: dt.date | None = None,
    checklist: Iterable[tuple[str, str, str, str]] | None = None,
) -> Review:
    """Open a go/no-go review of `candidate`.

    checklist: (kind, title, area, owner role) per item; the house's default when None.
    Raises Invalid for an unknown gate or role, a baseline of another product, or a second open review.
    """
    require("review.create")
    fields: dict[str, list[str]] = {}
    if not Gate.objects.filter(slug=gate_slug).exists():
        known = ", ".join(sorted(set(Gate.objects.values_list("slug", flat=True)))) or "none yet"
        fields["gate"] = [f"There is no gate “{gate_slug}”. Gates: {known}."]
    if baseline is not None and baseline.product_id != candidate.product_id:
        fields["baseline"] = ["The baseline belongs to another product."]
    if baseline is not None and baseline.pk == candidate.pk:
        fields["baseline"] = ["Compare the candidate with another release."]
    roles = list(dict.fromkeys(required_roles))
    unknown = [role for role in roles if role not in SIGNING_ROLES]
    if unknown or not roles:
        fields["required_roles"] = [f"Choose at least one of: {', '.join(SIGNING_ROLES)}."]
    if fields:
        raise Invalid("The review cannot be opened.", fields=fields)
    review = Review(
        title=title.strip() or f"Go/no-go for {candidate}",
        product=candidate.product,
        candidate=candidate,
        baseline=baseline,
        gate_slug=gate_slug,
        required_roles=roles,
        due_on=due_on,
        # Behind a key stands whoever issued it: nobody approves what their own key asked for.
        requested_by=person_behind(current_actor()),
    )
    try:
        with transaction.atomic():
            review.save()
    except IntegrityError as error:
        raise Invalid(
            "There is already an open review of this release with this gate. Continue or withdraw that one.",
            fields={"candidate": ["An open review exists."]},
        ) from error
    for ordinal, (kind, item_title, area, owner) in enumerate(checklist or DEFAULT_CHECKLIST):
        ChecklistItem.objects.create(
            review=review, kind=kind, title=item_title, area=area, owner_role=owner, ordinal=ordinal
        )
    audit_record(
        "review.created",
        target=review,
        data={"candidate": candidate.digest, "gate": gate_slug, "required_roles": roles},
    )
    return review


@transaction.atomic
def review_withdraw(*, review: Review, reason: str) -> Review:
    """Close an open review without a decision; its signatures stay on record."""
    require("review.edit")
    review = _lock_open(review)
    if not reason.strip():
        raise Invalid("Say why the review is withdrawn.", fields={"reason": ["A reason is needed."]})
    review.status = Review.Status.WITHDRAWN
    review.decision_reason = reason.strip()
    review.revision += 1
    review.save(update_fields=["status", "decision_reason", "revision", "updated_at"])
    audit_record("review.withdrawn", target=review)
    return review


@transaction.atomic
def checklist_item_add(
    *,
    review: Review,
    title: str,
    kind: str = "checklist",
    area: str = "",
    owner_role: str = "engineer",
    evidence_url: str = "",
) -> ChecklistItem:
    """Add an item to an open review's checklist. Raises Invalid."""
    require("review.edit")
    review = _lock_open(review)
    fields: dict[str, list[str]] = {}
    if not title.strip():
        fields["title"] = ["Say what has to be confirmed."]
    if kind not in ChecklistItem.Kind.values:
        fields["kind"] = [f"Choose one of: {', '.join(ChecklistItem.Kind.values)}."]
    if owner_role not in SIGNING_ROLES:
        fields["owner_role"] = [f"Choose one of: {', '.join(SIGNING_ROLES)}."]
    fields |= _link_problem(evidence_url)
    if fields:
        raise Invalid("The checklist item is not complete.", fields=fields)
    item = ChecklistItem.objects.create(
        review=review,
        title=title.strip(),
        kind=kind,
        area=area,
        owner_role=owner_role,
        evidence_url=evidence_url,
        ordinal=review.checklist.count(),
    )
    _touch(review)
    audit_record("review.checklist_added", target=review, data={"item": item.pk})
    return item


def _link_problem(url: str) -> dict[str, list[str]]:
    """A link must be a page of ours or an http(s) address: anything else could run script when followed."""
    if (
        not url
        or url.startswith(("https://", "http://"))
        or (url.startswith("/") and not url.startswith("//"))
    ):
        return {}
    return {"evidence_url": ["Link to a page here (/…) or to an http(s) address."]}


@transaction.atomic
def checklist_item_set(
    *, item: ChecklistItem, status: str, note: str = "", evidence_url: str | None = None
) -> ChecklistItem:
    """Set an item done, not applicable (with the reason as note) or open again.

    Only a person holding the owner role, or the PMO, may do so. Raises NotYourRole, Invalid or ReviewClosed.
    """
    require("review.edit")
    review = _lock_open(item.review)
    item = ChecklistItem.objects.select_for_update().get(pk=item.pk)
    user = _acting_user()
    if not {item.owner_role, "pmo"} & set(user.roles):
        raise NotYourRole(f"“{item.title}” belongs to the role {item.owner_role}; ask a person who holds it.")
    fields = _link_problem(evidence_url or "")
    if status not in ChecklistItem.Status.values:
        fields["status"] = [f"Choose one of: {', '.join(ChecklistItem.Status.values)}."]
    if status == ChecklistItem.Status.NOT_APPLICABLE and not note.strip():
        fields["note"] = ["Say why this does not apply."]
    if fields:
        raise Invalid("The checklist item cannot be set so.", fields=fields)
    item.status = status
    item.note = note.strip()
    if evidence_url is not None:
        item.evidence_url = evidence_url
    closed = status != ChecklistItem.Status.OPEN
    item.done_by = user if closed else None
    item.done_at = timezone.now() if closed else None
    item.save(update_fields=["status", "note", "evidence_url", "done_by", "done_at"])
    _touch(review)
    audit_record("review.checklist_set", target=review, data={"item": item.pk, "status": status})
    return item


@transaction.atomic
def comment_add(*, review: Review, text: str) -> Comment:
    """Add a remark to a review. Raises Invalid when it is empty or too long."""
    require("comment.write")
    if not text.strip() or len(text) > 4000:
        raise Invalid(
            "A comment has 1 to 4,000 characters.", fields={"text": ["Write 1 to 4,000 characters."]}
        )
    comment = Comment.objects.create(review=review, author=_acting_user(), text=text.strip())
    # The text itself stays out of the audit log: it may name people.
    audit_record("review.commented", target=review, data={"comment": comment.pk})
    return comment


# ------------------------------------------------------------------ waivers
@transaction.atomic
def waiver_request(*, review: Review, criterion_key: str, reason: str, expires_at: dt.datetime) -> Waiver:
    """Ask for an exception to one criterion until a time. Raises Invalid, ReviewClosed."""
    require("waiver.request")
    review = _lock_open(review)
    now = timezone.now()
    fields: dict[str, list[str]] = {}
    gate = Gate.objects.filter(slug=review.gate_slug).order_by("-version").first()
    if gate is None or not gate.criteria.filter(key=criterion_key).exists():
        fields["criterion_key"] = [f"The gate has no criterion “{criterion_key}”."]
    if len(reason.strip()) < 10:
        fields["reason"] = ["Say in a sentence why this exception is acceptable."]
    if expires_at <= now:
        fields["expires_at"] = ["The waiver must end in the future."]
    elif expires_at > now + dt.timedelta(days=WAIVER_MAX_DAYS):
        fields["expires_at"] = [
            f"A waiver lasts at most {WAIVER_MAX_DAYS} days. Change the criterion instead."
        ]
    if fields:
        raise Invalid("The waiver cannot be requested.", fields=fields)
    waiver = Waiver(
        review=review,
        criterion_key=criterion_key,
        reason=reason.strip(),
        expires_at=expires_at,
        requested_by=_acting_user(),
    )
    try:
        with transaction.atomic():
            waiver.save()
    except IntegrityError as error:
        raise Invalid(
            "This criterion already has a waiver in force or waiting.",
            fields={"criterion_key": ["A waiver exists; revoke it first."]},
        ) from error
    _touch(review)
    audit_record(
        "waiver.requested",
        target=review,
        data={"criterion": criterion_key, "expires_at": expires_at.isoformat(), "waiver": waiver.pk},
    )
    return waiver


@transaction.atomic
def waiver_resolve(*, waiver: Waiver, approve: bool, note: str = "") -> Waiver:
    """Approve or reject a requested waiver. Raises OwnRequest for its requester, ReviewClosed, NotReady."""
    require("waiver.approve")
    _lock_open(waiver.review)
    waiver = Waiver.objects.select_for_update().get(pk=waiver.pk)
    user = _acting_user()
    if waiver.requested_by_id == user.pk:
        raise OwnRequest("You asked for this waiver yourself; another person has to decide on it.")
    if waiver.status != Waiver.Status.REQUESTED:
        raise NotReady(f"This waiver is already {waiver.get_status_display().lower()}.")
    if approve and waiver.expires_at <= timezone.now():
        raise NotReady("This waiver has already expired; ask for a new one.")
    waiver.status = Waiver.Status.APPROVED if approve else Waiver.Status.REJECTED
    waiver.resolved_by = user
    waiver.resolved_role = next((role for role in WAIVING_ROLES if role in user.roles), "")
    waiver.resolved_at = timezone.now()
    waiver.resolution_note = note.strip()[:500]
    waiver.save(update_fields=["status", "resolved_by", "resolved_role", "resolved_at", "resolution_note"])
    _touch(waiver.review)
    audit_record(
        "waiver.approved" if approve else "waiver.rejected",
        target=waiver.review,
        data={
            "criterion": waiver.criterion_key,
            "waiver": waiver.pk,
            "expires_at": waiver.expires_at.isoformat(),
        },
    )
    return waiver


@transaction.atomic
def waiver_revoke(*, waiver: Waiver) -> Waiver:
    """End a waiver before its time; signatures given with it go stale."""
    require("waiver.approve")
    _lock_open(waiver.review)
    waiver = Waiver.objects.select_for_update().get(pk=waiver.pk)
    if waiver.status not in (Waiver.Status.REQUESTED, Waiver.Status.APPROVED):
        raise NotReady(f"This waiver is already {waiver.get_status_display().lower()}.")
    waiver.status = Waiver.Status.REVOKED
    waiver.resolved_at = timezone.now()
    waiver.save(update_fields=["status", "resolved_at"])
    _touch(waiver.review)
    audit_record(
        "waiver.revoked", target=waiver.review, data={"criterion": waiver.criterion_key, "waiver": waiver.pk}
    )
    return waiver


# ------------------------------------------------------------------ signing and deciding
def snapshot_take(*, review: Review) -> DossierSnapshot:
    """Keep the evidence exactly as it is about to be shown; the same evidence is kept once."""
    dossier = dossier_build(review, now=timezone.now())
    snapshot = DossierSnapshot.objects.filter(review=review, digest=dossier.digest).first()
    if snapshot is not None:
        return snapshot
    try:
        with transaction.atomic():
            snapshot = DossierSnapshot(review=review, digest=dossier.digest, content=dossier.content)
            snapshot.save()
    except IntegrityError:  # another request kept it first
        return DossierSnapshot.objects.get(review=review, digest=dossier.digest)
    return snapshot


def _refuse_changed(review: Review, expected_digest: str, now: dt.datetime) -> DossierSnapshot:
    """The snapshot of today's evidence. Raises EvidenceChanged with the difference from what was shown."""
    current = dossier_build(review, now=now)
    if current.digest != expected_digest:
        shown = DossierSnapshot.objects.filter(review=review, digest=expected_digest).first()
        difference = dossier_difference(shown.content if shown else {}, current.content)
        raise EvidenceChanged(
            "The evidence changed after you opened the page, so nothing was signed. "
            "Read what moved, then decide again.",
            extra={
                "difference": difference,
                "expected_digest": expected_digest,
                "current_digest": current.digest,
            },
        )
    snapshot, _ = DossierSnapshot.objects.get_or_create(
        review=review, digest=current.digest, defaults={"content": current.content}
    )
    return snapshot


@transaction.atomic
def review_sign(
    *,
    review: Review,
    signer: User,
    role: str,
    position: str,
    password: str,
    expected_digest: str,
    comment: str = "",
    conditions: str = "",
) -> Signature:
    """Record one person's position over the evidence they were shown, signed with the tenant's key.

    Args:
        role: the role the person speaks for; they must hold it.
        position: go, go_with_conditions, no_go or dissent.
        password: re-entered by the signer.
        expected_digest: digest of the evidence on the page they signed from.
    Raises:
        Forbidden: the actor may not sign, or is not the signer. NotYourRole. WrongPassword. PasswordGuesses.
        ReviewClosed. AlreadySigned. EvidenceChanged: with the difference. OwnRequest: the requester approves.
        NotReady: go, while a blocking criterion does not pass or an entrance criterion is open. Invalid.
    """
    require("review.sign")
    review = _lock_open(review)
    now = timezone.now()
    if current_actor().kind != "user" or current_actor().id != str(signer.pk):
        raise NotYourRole("A person signs for themselves only.")
    if role not in signer.roles or role not in SIGNING_ROLES:
        raise NotYourRole(
            f"You cannot sign as {role}: you do not hold this role, or it takes no part in reviews."
        )
    fields: dict[str, list[str]] = {}
    if position not in Signature.Position.values:
        fields["position"] = [f"Choose one of: {', '.join(Signature.Position.values)}."]
    if position in (Signature.Position.NO_GO, Signature.Position.DISSENT) and not comment.strip():
        fields["comment"] = ["Say why you are against it."]
    if position == Signature.Position.GO_WITH_CONDITIONS and not conditions.strip():
        fields["conditions"] = ["Name the conditions."]
    if fields:
        raise Invalid("The signature is not complete.", fields=fields)
    if not password_is_right(user=signer, password=password):
        raise WrongPassword(
            "The password you re-entered is not yours. Nothing was signed.",
            fields={"password": ["This is not your password. Nothing was signed."]},
        )
    for earlier in review.signatures.filter(signer=signer).select_related("snapshot"):
        if earlier.snapshot.digest == expected_digest or signature_is_current(earlier, now=now):
            raise AlreadySigned(
                f"You signed this evidence as {earlier.role} on {earlier.signed_at:%d %b %Y at %H:%M} UTC "
                f"({earlier.get_position_display().lower()}). A signature is never changed; you can sign "
                "again when the evidence changes."
            )
    snapshot = _refuse_changed(review, expected_digest, now)
    if position in Signature.APPROVING:
        if review.requested_by_id == signer.pk:
            raise OwnRequest("You opened this review yourself; another person has to approve it.")
        _ensure_ready(snapshot.content)
    envelope = tenant_sign(
        SIGNATURE_PAYLOAD_TYPE,
        _statement(snapshot.digest, signer, role, position, now, comment, conditions, review),
    )
    signature = Signature(
        review=review,
        snapshot=snapshot,
        signer=signer,
        signer_name=signer.name or signer.email,
        role=role,
        position=position,
        comment=comment.strip(),
        conditions=conditions.strip(),
        envelope=envelope,
        signed_at=now,
    )
    signature.save()
    _touch(review)
    audit_record(
        "review.signed",
        target=review,
        data={"signature": str(signature.pk), "role": role, "position": position, "digest": snapshot.digest},
    )
    return signature


def _statement(
    evidence_digest: str,
    signer: User,
    role: str,
    position: str,
    now: dt.datetime,
    comment: str,
    conditions: str,
    review: Review,
) -> bytes:
    return signature_payload(
        dossier_digest=evidence_digest,
        signer=signer.name or signer.email,
        role=role,
        position=position,
        signed_at=now.isoformat(),
        note=comment.strip(),
        extra={"conditions": conditions.strip(), "review": str(review.pk)},
    )


def _ensure_ready(content: Mapping[str, Any]) -> None:
    """Raises NotReady unless the gate passes (waivers counted) and every entrance criterion is confirmed."""
    verdict = content["verdict"]
    if verdict["with_waivers"] != "pass":
        raise NotReady(
            f"A go is not possible: the gate's verdict is {verdict['with_waivers'].replace('_', ' ')}. "
            f"{verdict['sentence']} You can record a no-go or a dissent, or a waiver can be requested."
        )
    open_items = [
        item["title"]
        for item in content["checklist"]
        if item["kind"] == "entrance" and item["status"] == "open"
    ]
    if open_items:
        raise NotReady(
            f"A go is not possible yet: {len(open_items)} entrance "
            f"{'criterion is' if len(open_items) == 1 else 'criteria are'} open ({'; '.join(open_items)})."
        )


@transaction.atomic
def review_decide(
    *, review: Review, decision: str, reason: str = "", conditions: str = "", expected_digest: str = ""
) -> Review:
    """Close the review with a decision.

    Go needs a passing gate, confirmed entrance criteria and a current approving signature of each
    required role.
    Raises NotReady naming what is missing, EvidenceChanged, OwnRequest, Invalid, ReviewClosed.
    """
    require("review.decide")
    review = _lock_open(review)
    user = _acting_user()
    now = timezone.now()
    fields: dict[str, list[str]] = {}
    if decision not in Review.Decision.values:
        fields["decision"] = [f"Choose one of: {', '.join(Review.Decision.values)}."]
    if decision == Review.Decision.NO_GO and not reason.strip():
        fields["reason"] = ["Say why it is a no-go."]
    if decision == Review.Decision.GO_WITH_CONDITIONS and not conditions.strip():
        fields["conditions"] = ["Name the conditions."]
    if fields:
        raise Invalid("The decision is not complete.", fields=fields)
    current = dossier_build(review, now=now)
    if expected_digest:
        _refuse_changed(review, expected_digest, now)
    if decision != Review.Decision.NO_GO:
        if review.requested_by_id == user.pk:
            raise OwnRequest("You opened this review yourself; another person has to decide it.")
        _ensure_ready(current.content)
        missing, against = _poll_gaps(review, current.digest)
        if missing:
            raise NotReady(f"A go needs the signature of: {', '.join(missing)}.")
        if against:
            raise NotReady(
                f"A required role is against it: {', '.join(against)}. Record a no-go, or talk to them."
            )
    review.status = Review.Status.DECIDED
    review.decision = decision
    review.decision_reason = reason.strip()
    review.conditions = conditions.strip()
    review.decided_by = user
    review.decided_at = now
    review.decided_digest = current.digest
    review.revision += 1
    review.save()
    DossierSnapshot.objects.get_or_create(
        review=review, digest=current.digest, defaults={"content": current.content}
    )
    audit_record("review.decided", target=review, data={"decision": decision, "digest": current.digest})
    return review


def _poll_gaps(review: Review, evidence_digest: str) -> tuple[list[str], list[str]]:
    """Required roles with no position on this evidence, and those whose position is against."""
    positions: dict[str, list[str]] = {}
    for signature in review.signatures.filter(snapshot__digest=evidence_digest):
        positions.setdefault(signature.role, []).append(signature.position)
    missing = [role for role in review.required_roles if role not in positions]
    against = [
        role
        for role in review.required_roles
        if role in positions and any(position not in Signature.APPROVING for position in positions[role])
    ]
    return missing, against
