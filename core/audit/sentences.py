"""What an event says after the actor's name. Pure: action, what it was done to, and a few facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Action -> phrase; {target} is the object's label, other names are members of the event's data.
PHRASES: dict[str, str] = {
    "review.created": "opened the review {target}",
    "review.opened": "opened the review {target}",
    "review.signed": "signed the review {target}",
    "review.decided": "decided the review {target}",
    "review.withdrawn": "withdrew the review {target}",
    "review.commented": "commented on the review {target}",
    "review.checklist_added": "added a checklist item to the review {target}",
    "review.checklist_set": "updated a checklist item of the review {target}",
    "waiver.requested": "asked for a waiver in {target}",
    "waiver.approved": "granted a waiver in {target}",
    "waiver.rejected": "refused a waiver in {target}",
    "waiver.revoked": "revoked a waiver in {target}",
    "playbook.saved": "saved the playbook {target}",
    "playbook.rehearsed": "rehearsed the playbook {target}",
    "run.created": "requested the run {target}",
    "run.started": "started the run {target}",
    "run.cancelled": "cancelled the run {target}",
    "gate.checked": "checked the gate {target}",
    "gate.judged": "judged the gate {target}",
    "key.created": "issued the API key {target}",
    "key.revoked": "revoked the API key {target}",
    "user.created": "added {target} as a user",
    "user.roles_changed": "changed the roles of {target}",
    "user.deactivated": "deactivated {target}",
    "user.activated": "reactivated {target}",
    "user.signed_in": "signed in",
    "user.signed_out": "signed out",
    "user.sign_in_failed": "failed to sign in",
    "user.locked_out": "was locked out after repeated failures",
    "user.password_changed": "changed the password of {target}",
    "session.opened": "signed in",
    "session.closed": "signed out",
    "session.failed": "failed to sign in",
    "session.locked": "was locked out after repeated failures",
    "person.erased": "erased the personal data of {target}",
    "audit.exported": "exported the audit log",
    "tenant.provisioned": "provisioned the tenant {target}",
}
# Facts worth reading in the sentence, in this order, when the data has them.
_FACTS = (
    "criterion",
    "role",
    "roles",
    "position",
    "decision",
    "status",
    "outcome",
    "until",
    "expires_at",
    "reason",
)


def _fact(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(one) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (str, int, float)):
        return str(value).replace("_", " ").strip()
    return ""


def sentence_for(action: str, *, noun: str, has_target: bool, data: Mapping[str, Any]) -> str:
    """What the actor did, with "{target}" where the object's label belongs.

    Args:
        action: "noun.verb". noun: what the target is called ("API key"); has_target: whether there is one.
    """
    known = PHRASES.get(action)
    if known is None:
        verb = action.partition(".")[2].replace("_", " ") or action
        thing = noun or action.partition(".")[0].replace("_", " ")
        known = f"{verb} the {thing} {{target}}" if has_target else f"{verb} the {thing}"
    if not has_target:
        known = known.replace("{target}", "").replace("  ", " ").strip()
    facts = [text for name in _FACTS if (text := _fact(data.get(name)))]
    return f"{known}: {'; '.join(facts)}" if facts else known
