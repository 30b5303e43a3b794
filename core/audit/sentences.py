"""What an event says after the actor's name. Pure: action, what it was done to, and a few facts."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

# Action -> phrases, the fullest first; the first whose names are all in the event's data is used. {target} is the
# object's label. What a phrase does not say is added after a colon, when it is one of _FACTS.
PHRASES: dict[str, tuple[str, ...]] = {
    "review.created": ("opened the review {target}",),
    "review.signed": ("signed {target} as {role}: {position}", "signed the review {target}"),
    "review.decided": ("decided {target}: {decision}", "decided the review {target}"),
    "review.withdrawn": ("withdrew the review {target}",),
    "review.commented": ("commented on the review {target}",),
    "review.checklist_added": ("added a checklist item to the review {target}",),
    "review.checklist_set": ("set a checklist item of the review {target} to {status}",),
    "waiver.requested": (
        "asked to waive {criterion} in {target} until {expires_at}",
        "asked for a waiver in {target}",
    ),
    "waiver.approved": ("waived {criterion} in {target} until {expires_at}", "granted a waiver in {target}"),
    "waiver.rejected": ("refused to waive {criterion} in {target}", "refused a waiver in {target}"),
    "waiver.revoked": ("revoked the waiver of {criterion} in {target}", "revoked a waiver in {target}"),
    "playbook.saved": ("saved the playbook {target}",),
    "playbook.rehearsed": ("rehearsed the playbook {target}: {outcome}",),
    "dossier.exported": ("exported the dossier of {target}",),
    "run.created": ("requested the run: {target}",),
    "run.started": ("started the run: {target}",),
    "run.succeeded": ("finished the run: {target}",),
    "run.failed": ("could not finish the run: {target}",),
    "run.cancelled": ("cancelled the run: {target}",),
    "run.cancel_requested": ("asked to cancel the run: {target}",),
    "run.retried": ("started the run again: {target}",),
    "gate.created": ("created the gate {target}",),
    "gate.revised": ("revised the gate {target}",),
    "gate.check_started": ("started checking the gate {target}",),
    "gate.decided": ("judged by the gate {target}",),
    "gate.checked": ("checked the gate {target}",),
    "release.created": ("created the release {target}",),
    "product.created": ("added the product {target}",),
    "product.updated": ("changed the product {target}",),
    "channel.set": (
        "pointed {target} at {version}, {weight} % of the traffic",
        "changed the channel {target}",
    ),
    "model.registered": ("registered the model {target}",),
    "model.registration_requested": ("asked to register a model",),
    "dataset.imported": ("imported {items} items as {target}", "imported the dataset {target}"),
    "measurement.stated": ("stated a number: {target}",),
    "guard_profile.saved": ("saved the guard profile {target}",),
    "policy.saved": ("saved the {target}",),
    "policy.activated": ("put the {target} in force instead of {before}", "put the {target} in force"),
    "key.placed": ("changed where the {target} stands",),
    "limit.set": ("set the {target}",),
    "limit.removed": ("removed the {target}",),
    "limit.alarm_reached": (
        "saw {percent} % of the {target} used this {window}",
        "saw an alarm of the {target}",
    ),
    "price.set": ("set a {target}",),
    "payload.opened": ("opened the stored prompt of a request",),
    "data_key.rotated": ("began a new data key for {purpose}", "began a new data key"),
    "data_key.destroyed": ("destroyed a data key and all it sealed",),
    "upstream.created": ("added the upstream {target} at {host}", "added the upstream {target}"),
    "upstream.updated": ("changed {fields} of the upstream {target}", "changed the upstream {target}"),
    "upstream.enabled": ("switched the upstream {target} on",),
    "upstream.disabled": ("switched the upstream {target} off",),
    "upstream.deleted": ("removed the upstream {target}",),
    "batch.created": ("started the batch {target}",),
    "batch.cancelled": ("cancelled the batch {target}",),
    "batch.ended": ("ended the batch {target}: {status}", "ended the batch {target}"),
    "batch.downloaded": ("downloaded the {part} of the batch {target}", "downloaded the batch {target}"),
    "gateway_file.uploaded": ("uploaded the file {target}",),
    "gateway_file.deleted": ("deleted the file {target}",),
    "key.created": ("issued the {target}",),
    "key.revoked": ("revoked the {target}",),
    "user.created": ("added {target} as a user",),
    "user.roles_changed": (
        "changed the roles of {target} from {before} to {after}",
        "changed the roles of {target}",
    ),
    "user.deactivated": ("deactivated {target}",),
    "user.activated": ("reactivated {target}",),
    "user.renamed": ("renamed {target}",),
    "user.signed_in": ("signed in",),
    "user.signed_out": ("signed out",),
    "user.locked_out": (
        "was locked out after repeated failures to sign in as {target}",
        "was locked out after repeated failures to sign in",
    ),
    "user.password_changed": ("changed the password of {target}",),
    "user.password_reset": ("reset the password of {target}",),
    "user.profile_changed": ("changed the profile of {target}",),
    "pilot.created": ("set up the {target} with {release}", "set up the {target}"),
    "pilot.changed": ("changed the {target}",),
    "pilot.member_added": ("gave {member} the scorecard of the {target}",),
    "pilot.member_removed": ("took the scorecard of the {target} from {member}",),
    "patent.added": ("added the patent application {target}",),
    "patent.changed": ("changed {fields} of the patent application {target}",),
    "cache.purged": ("removed {removed} stored answers ({what})", "removed stored answers"),
    "cache.semantic_off": ("switched off the semantic cache {target}", "switched off a semantic cache"),
    "cache.semantic_on": ("switched on the semantic cache {target}", "switched on a semantic cache"),
    "watermark.rotated": ("started the watermark key {target}",),
    "canary.planted": ("planted the canary {target}",),
    "canary.retired": ("retired the canary {target}",),
    "extraction.alerted": ("raised the {target}",),
    "extraction.handled": ("marked the {target} as {state}", "handled the {target}"),
    "person.erased": ("erased the personal data of {target}",),
    "audit.exported": ("exported {events} events of the audit log as {format}", "exported the audit log"),
    "tenant.created": ("provisioned the tenant {target}",),
    "tenant.changed": ("changed the tenant {target}",),
    "tenant.deactivated": ("deactivated the tenant {target}",),
    "tenant.activated": ("reactivated the tenant {target}",),
    "tenant.exported": ("exported everything of the tenant {target}",),
    "tenant.deleted": ("deleted the tenant {target}",),
}
# Facts worth reading in the sentence, in this order, when the data has them and the phrase does not say them.
_FACTS = (
    "criterion", "role", "roles", "position", "decision", "status", "outcome", "until", "expires_at", "reason",
)  # fmt: skip
_NAME = re.compile(r"\{(\w+)\}")
_MOMENT = re.compile(r"^\d{4}-\d{2}-\d{2}(T[\d:.]+)?(Z|[+-]\d{2}:\d{2})?$")


def _fact(value: Any) -> str:
    """A value of the data in words; empty for what does not fit a sentence."""
    if isinstance(value, (list, tuple)):
        return ", ".join(part for one in value if (part := _fact(one))) or ("nothing" if not value else "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping) and set(value) == {"subject"}:
        return "a person"
    if not isinstance(value, (str, int, float)):
        return ""
    text = str(value).replace("_", " ").strip()
    if _MOMENT.match(text):
        try:
            return f"{datetime.datetime.fromisoformat(text):%d %b %Y}"
        except ValueError:
            return text
    # Braces would be taken for names of the phrase.
    return text.replace("{", "(").replace("}", ")")


def sentence_for(action: str, *, noun: str, has_target: bool, data: Mapping[str, Any]) -> str:
    """What the actor did, with "{target}" where the object's label belongs.

    Args:
        action: "noun.verb". noun: what the target is called ("API key"); has_target: whether there is one.
    """
    facts = {name: text for name, value in data.items() if (text := _fact(value))}
    for phrase in PHRASES.get(action, ()):
        names = set(_NAME.findall(phrase)) - {"target"}
        if names <= set(facts) and (has_target or "{target}" not in phrase):
            break
    else:
        verb = action.partition(".")[2].replace("_", " ") or action
        thing = noun or action.partition(".")[0].replace("_", " ")
        phrase, names = (f"{verb} the {thing} {{target}}" if has_target else f"{verb} the {thing}"), set()
    said = _NAME.sub(lambda found: found[0] if found[1] == "target" else facts[found[1]], phrase)
    rest = [facts[name] for name in _FACTS if name in facts and name not in names]
    return f"{said}: {'; '.join(rest)}" if rest else said
