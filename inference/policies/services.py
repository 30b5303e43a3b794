"""Writing policies: a new version is saved, tried, and put in force. Nothing is ever changed in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from core.audit.services import audit_record
from core.schema import current_schema
from core.security.actor import current_actor
from core.security.canonical import CanonicalError, digest
from core.security.permissions import require
from inference.policies import engine
from inference.policies.analysis import MAX_POLICY_CHARS
from inference.policies.errors import ActivatedMeanwhile, PolicyInvalid, PolicyNotFound, PolicyTestsFailed
from inference.policies.examples import PROBES
from inference.policies.models import PolicyBundle
from inference.policies.opa import RemoteProgram
from inference.policies.rego import EngineError
from inference.policies.sandbox import Trial, trial_run
from inference.policies.trials import asked, case_result, cases_problems

__all__ = ["bundle_activate", "bundle_save", "bundle_try", "content_checked", "text_try"]

# Bytes of the JSON of a version's data, and of its table of cases.
MAX_JSON_BYTES = 1_000_000


def content_checked(*, policy: str, data: Any, tests: str, cases: Any, note: str = "") -> dict[str, Any]:
    """The parts of a version, brought into one form. Raises PolicyInvalid naming the field at fault."""
    fields: dict[str, list[str]] = {}
    policy, tests = (text.replace("\r\n", "\n").strip("\n") + "\n" for text in (policy, tests))
    if not policy.strip():
        fields["policy"] = ["Write the policy: Rego of the package signoff.gateway."]
    for name, text, most in (
        ("policy", policy, MAX_POLICY_CHARS),
        ("tests", tests, MAX_POLICY_CHARS),
        ("note", note, 300),
    ):
        if len(text) > most:
            fields[name] = [f"This has {len(text):,} characters; at most {most:,} are possible."]
        elif "\x00" in text:
            fields[name] = ["This holds a null character, which cannot be stored."]
    if not isinstance(data, Mapping):
        fields["data"] = ["Data are a JSON object."]
    elif "signoff" in data:
        fields["data"] = ["The name signoff is taken; choose another."]
    found = cases_problems(cases)
    if found:
        fields["cases"] = [str(one) for one in found[:5]]
    for name, value in (("data", data), ("cases", cases)):
        if name in fields:
            continue
        try:
            encoded = orjson.dumps(value)
            digest(value)
        except (TypeError, ValueError, CanonicalError) as error:
            fields[name] = [f"This is not JSON: {error}"]
            continue
        if len(encoded) > MAX_JSON_BYTES:
            fields[name] = [
                f"This has {len(encoded):,} bytes of JSON; at most {MAX_JSON_BYTES:,} are possible."
            ]
        elif b"\\u0000" in encoded:
            fields[name] = ["This holds a null character, which cannot be stored."]
    if not fields:
        try:
            (policy + tests + note).encode()
        except UnicodeEncodeError:
            fields["policy"] = ["This holds half a character (a lone surrogate)."]
    if fields:
        raise PolicyInvalid("The policy cannot be saved like this.", fields=fields)
    return {
        "policy": policy,
        "data": dict(data),
        "tests": tests if tests.strip() else "",
        "cases": list(cases),
        "note": note.strip(),
    }


def text_try(*, policy: str, data: Any, tests: str, cases: Any) -> Trial:
    """Compile and test a text without saving it. Raises PolicyInvalid."""
    require("policy.edit")
    content = content_checked(policy=policy, data=data, tests=tests, cases=cases)
    return _tried(content)


def _tried(content: Mapping[str, Any]) -> Trial:
    return trial_run(
        policy=content["policy"],
        data=content["data"],
        tests=content["tests"],
        cases=content["cases"],
        probes=PROBES,
    )


def bundle_save(
    *, policy: str, data: Any = None, tests: str = "", cases: Any = None, note: str = ""
) -> PolicyBundle:
    """Store a text as the next version, a draft with the results of its tests. Raises PolicyInvalid.

    The same content as the newest version is that version.
    """
    require("policy.edit")
    content = content_checked(
        policy=policy,
        data={} if data is None else data,
        tests=tests,
        cases=[] if cases is None else cases,
        note=note,
    )
    content_digest = digest({name: content[name] for name in ("policy", "data", "tests", "cases")})
    newest = PolicyBundle.objects.order_by("-version").first()
    if newest is not None and newest.digest == content_digest:
        return newest
    trial = _tried(content)
    with transaction.atomic():
        latest = PolicyBundle.objects.select_for_update().order_by("-version").first()
        bundle = PolicyBundle(
            version=(latest.version if latest else 0) + 1,
            digest=content_digest,
            results=trial.as_dict(),
            created_by_label=current_actor().label,
            **content,
        )
        try:
            with transaction.atomic():
                bundle.save()
        except IntegrityError as error:
            raise ActivatedMeanwhile("Somebody saved a version at the same time. Save again.") from error
        audit_record(
            "policy.saved",
            target=bundle,
            data={"version": bundle.version, "digest": content_digest, "tests_pass": trial.ok},
        )
    return bundle


def bundle_get(version: int) -> PolicyBundle:
    """One version. Raises PolicyNotFound."""
    bundle = PolicyBundle.objects.filter(version=version).first()
    if bundle is None:
        raise PolicyNotFound(f"There is no version {version} of the policy.")
    return bundle


def bundle_try(*, bundle: PolicyBundle) -> Trial:
    """Run a version's tests again and keep what they gave."""
    require("policy.edit")
    trial = _tried(_content(bundle))
    bundle.results = trial.as_dict()
    PolicyBundle.objects.filter(pk=bundle.pk).update(results=bundle.results)
    return trial


def _content(bundle: PolicyBundle) -> dict[str, Any]:
    return {
        "policy": bundle.policy,
        "data": bundle.data,
        "tests": bundle.tests,
        "cases": bundle.cases,
    }


def bundle_activate(*, bundle: PolicyBundle) -> PolicyBundle:
    """Put a version in force; the one before is retired. An older version is put in force the same way.

    Its tests run now, with this release of Signoff. Raises PolicyTestsFailed when one does not pass, ActivatedMeanwhile
    when somebody else activated another version at the same moment.
    """
    require("policy.edit")
    trial = _tried(_content(bundle))
    if settings.OPA_URL and trial.ok:
        _try_remote(bundle, trial)
    PolicyBundle.objects.filter(pk=bundle.pk).update(results=trial.as_dict())
    if not trial.ok:
        raise PolicyTestsFailed(
            f"Version {bundle.version} is not put in force: {_summary(trial.problems, trial.failed)}",
            extra={"tests": trial.as_dict()},
        )
    schema = current_schema()
    try:
        with transaction.atomic():
            rows = PolicyBundle.objects.select_for_update().order_by("version")
            before = rows.filter(status=PolicyBundle.Status.ACTIVE).first()
            bundle = rows.get(pk=bundle.pk)
            if before is not None and before.pk == bundle.pk:
                return bundle
            now = timezone.now()
            if before is not None:
                before.status = PolicyBundle.Status.RETIRED
                before.retired_at = now
                before.save(update_fields=["status", "retired_at"])
            bundle.status = PolicyBundle.Status.ACTIVE
            bundle.activated_at = now
            bundle.activated_by_label = current_actor().label
            bundle.retired_at = None
            bundle.save(update_fields=["status", "activated_at", "activated_by_label", "retired_at"])
            audit_record(
                "policy.activated",
                target=bundle,
                data={
                    "version": bundle.version,
                    "before": before.label if before else "default-1",
                    "digest": bundle.digest,
                    "tests": len(trial.results),
                },
            )
            engine.forget(schema)
            transaction.on_commit(lambda: engine.forget(schema))
    except IntegrityError as error:
        raise ActivatedMeanwhile(
            "Somebody put another version in force at the same moment. Reload and look which one."
        ) from error
    return bundle


def _try_remote(bundle: PolicyBundle, trial: Trial) -> None:
    """Give the OPA this version and run the table of cases there too; what fails is added to the trial."""
    try:
        program = RemoteProgram(
            engine.opa_client(),
            schema=current_schema(),
            version=bundle.label,
            policy=bundle.policy,
            data=bundle.data,
        )
        program.push()
    except EngineError as error:
        trial.problems.append({"part": "policy", "line": 0, "message": str(error)})
        return
    for case in bundle.cases:
        decision, _, took = asked(program, bundle.label, case["attributes"])
        result = case_result(case, decision, took)
        if not result.passed:
            trial.problems.append(
                {
                    "part": "cases",
                    "line": 0,
                    "message": f"At the policy server, {result.name}: {result.message}",
                }
            )


def _summary(problems: Sequence[Mapping[str, Any]], failed: Sequence[Mapping[str, Any]]) -> str:
    if problems:
        first = problems[0]
        where = f"line {first['line']}: " if first["line"] else ""
        return f"{first['part']}, {where}{first['message']}"
    names = ", ".join(str(one["name"]) for one in failed[:3])
    return f"{len(failed)} of its tests fail: {names}."
