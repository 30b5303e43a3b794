"""The demo: two tenants with a person for each role, and the main job on a real model in the first of them.

Nothing is computed in advance: the job imports public datasets, makes two variants of the packaged model,
asks the workers for evaluations through the same services as pages and API, and waits for the gate. Every
step looks first whether it has been done, so a second start is quick and an interrupted one goes on where it
was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from django_tenants.utils import get_public_schema_name, schema_context, tenant_context

from core.evidence.models import Gate, GateVerdict, Run, RunItem
from core.security.actor import SYSTEM, use_actor
from governance.models import ChecklistItem, Review
from governance.services import checklist_item_set, playbook_save, review_create
from inference.gates import (
    GateCheck,
    default_criteria,
    gate_check_start,
    gate_check_view,
    gate_create,
    gate_get,
    gate_verdict_latest,
    gate_verdict_settle,
)
from inference.models import Dataset, ModelVersion, Product, Release
from inference.services import (
    channel_set,
    dataset_import_public,
    model_register_packaged,
    model_transform,
    product_create,
    release_create,
)
from tenants.accounts.middleware import user_actor
from tenants.accounts.models import TENANT_ROLES, User
from tenants.accounts.services import user_create
from tenants.models import Tenant
from tenants.services import tenant_provision

# Known to everybody: printed by `up`, written in docs/operations.md.
PASSWORD = "demo-{role}-2026"  # noqa: S105
OPERATOR_EMAIL = "operator@signoff.example"
TENANTS = {"summit": "Summit Assistants", "intelgraph": "IntelGraph"}
PEOPLE = {
    "admin": "Ada Okafor",
    "pmo": "Paula Marsh",
    "engineer": "Emil Novak",
    "security": "Sana Qureshi",
    "legal": "Leo Brandt",
    "auditor": "Aiko Tanaka",
    "customer": "Carla Rossi",
}

PRODUCT = ("document-assistant", "Document assistant")
# Items per dataset. Chosen so that the gate can detect a real loss and three releases take about four minutes
# on two cores; the gate states its power before it runs.
SAMPLES = {"piqa": 160, "openbookqa": 150, "wiki-sentences": 150, "xsum": 48, "nq-open": 32}
# Seconds between two lines of progress.
POLL_S = 6
PLAYBOOK = "rollback-document-assistant"
BASELINE, HEALTHY, DAMAGED = "1.0.0", "1.1.0", "1.2.0"
# Weights rounded to 8 bits are a real and harmless saving; to 3 bits they are damage that accuracy alone, at
# these sample sizes, would often miss.
VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    HEALTHY: ("quantize_rtn", {"bits": 8, "group_size": 64}, "SmolLM2-135M-Instruct, 8 bit (group 64)"),
    DAMAGED: ("quantize_rtn", {"bits": 3, "group_size": 64}, "SmolLM2-135M-Instruct, 3 bit (group 64)"),
}
# The usual form of a question for a small model; an answer ends with its line.
CONFIG: dict[str, Any] = {
    "prompt": {"template": "Question: {input}\nAnswer:"},
    "decoding": {"max_tokens": 10, "stop": ["\n"]},
}
NOTES = {
    BASELINE: "In production since the first pilot.",
    HEALTHY: "Weights rounded to 8 bits, to halve a replica's memory. Prompt and decoding are unchanged.",
    DAMAGED: "Weights rounded to 3 bits, to fit four replicas on a card. Prompt and decoding are unchanged.",
}
ROLLBACK = """\
Use this when a release of the document assistant does harm, or its gate fails after it went out.

1. Point the channel *production/stable* back at the release before, on that release's page. It takes effect
   with the next request.
2. Check the page of the channel: the release before has 100 % of the traffic.
3. Answer the open tickets of the last hour with the release before; the gateway's ledger lists them.
4. Write down what was seen, when and by whom, as a comment on the review.
5. Rehearse this page after every change of it.

On call: the engineer on duty. Escalate to the PMO after 15 minutes.
"""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Login:
    """One log-in of the demo, as `up` prints it."""

    site: str
    role: str
    email: str
    password: str


# ------------------------------------------------------------------ tenants and people
def demo_prepare(*, say: Progress = lambda text: None) -> dict[str, Any]:
    """Make the demo tenants and people that are missing; where they are and how to sign in.

    Passwords that somebody has changed stay changed.
    """
    logins: list[Login] = []
    sites = [{"name": "Operators' site", "url": _public_url()}]
    with use_actor(SYSTEM), schema_context(get_public_schema_name()):
        password = PASSWORD.format(role="operator")
        _person(email=OPERATOR_EMAIL, name="Olga Orr", role="operator", password=password)
        logins.append(Login("Operators' site", "operator", OPERATOR_EMAIL, password))
        for schema, name in _tenants().items():
            tenant = Tenant.objects.filter(schema_name=schema).first()
            if tenant is None:
                began = time.monotonic()
                tenant = tenant_provision(schema_name=schema, name=name, plan="enterprise")
                say(f"made tenant {schema} in {time.monotonic() - began:.2f} s")
            sites.append({"name": name, "url": tenant.url()})
            with tenant_context(tenant):
                for role in TENANT_ROLES:
                    email, password = f"{role}@{schema}.example", PASSWORD.format(role=role)
                    _person(email=email, name=PEOPLE[role], role=role, password=password)
                    logins.append(Login(name, role, email, password))
    return {"sites": sites, "logins": [asdict(login) for login in logins]}


def _tenants() -> dict[str, str]:
    """The demo's tenants; in single mode, the only one there is."""
    if settings.DEPLOYMENT_MODE == "single":
        return {settings.SINGLE_TENANT_SCHEMA: TENANTS["summit"]}
    return TENANTS


def _person(*, email: str, name: str, role: str, password: str) -> None:
    if not User.objects.filter(email=email).exists():
        user_create(email=email, name=name, roles=[role], password=password, must_change_password=False)


def _public_url() -> str:
    return f"http{'s' if settings.HTTPS else ''}://{settings.BASE_DOMAIN}:{settings.PORT}/"


# ------------------------------------------------------------------ the main job
class DemoFailed(Exception):
    """The main job cannot go on; the message says why and what to do."""


def demo_run(*, say: Progress) -> list[str]:
    """Run the main job, or what is left of it. Returns the sentences that sum it up.

    Raises:
        DemoFailed: a run failed or was cancelled.
    """
    schema = next(iter(_tenants()))
    with schema_context(get_public_schema_name()):
        tenant = Tenant.objects.get(schema_name=schema)
    with tenant_context(tenant):
        engineer = User.objects.get(email=f"engineer@{schema}.example")
        with use_actor(user_actor(engineer)):
            done = _finished()
            if done is None:
                began = time.monotonic()
                releases, gate = _material(say)
                _evaluate(releases, gate, say)
                _review_open(releases, say)
                done = _finished()
                assert done is not None
                say(f"the main job took {time.monotonic() - began:.0f} s")
            else:
                say("the main job was done before")
            return _summary(tenant, done)


@dataclass(frozen=True)
class _Finished:
    verdicts: dict[str, GateVerdict]
    review: Review


def _finished() -> _Finished | None:
    """What the job leaves, when all of it is there."""
    releases = {release.version: release for release in Release.objects.filter(product__slug=PRODUCT[0])}
    if not {BASELINE, HEALTHY, DAMAGED} <= set(releases):
        return None
    verdicts = {}
    for version in (HEALTHY, DAMAGED):
        verdict = gate_verdict_latest(gate_slug=_gate_slug(), candidate_digest=releases[version].digest)
        if verdict is None:
            return None
        verdicts[version] = verdict
    review = Review.objects.filter(candidate=releases[HEALTHY]).order_by("created_at").first()
    return None if review is None else _Finished(verdicts, review)


def _gate_slug() -> str:
    return f"{PRODUCT[0]}-quality"


def _material(say: Progress) -> tuple[dict[str, Release], Gate]:
    """Datasets, models, releases, playbook and gate."""
    for slug in SAMPLES:
        if not Dataset.objects.filter(slug=slug, versions__isnull=False).exists():
            imported = dataset_import_public(slug=slug).version
            say(f"imported {imported} ({imported.item_count:,} items)")
    product = Product.objects.filter(slug=PRODUCT[0]).first()
    if product is None:
        product = product_create(
            slug=PRODUCT[0], name=PRODUCT[1], description="Answers questions about a company's documents."
        )
    releases = {release.version: release for release in Release.objects.filter(product=product)}
    for version in (BASELINE, HEALTHY, DAMAGED):
        if version not in releases:
            model = _model(version, releases, say)
            releases[version] = release_create(
                product=product, version=version, model_version=model, config=CONFIG, notes=NOTES[version]
            )
            say(f"made release {version} of {model.name}, {releases[version].digest[:19]}")
    if not product.channels.filter(environment="production", name="stable").exists():
        channel_set(product=product, environment="production", release=releases[BASELINE])
    # Read again: what the database gives back is what every other process compares with.
    releases = {release.version: release for release in Release.objects.filter(product=product)}
    playbook_save(
        slug=PLAYBOOK, title="Roll back the document assistant", body=ROLLBACK, on_call_role="engineer"
    )
    if Gate.objects.filter(slug=_gate_slug()).exists():
        return releases, gate_get(_gate_slug())
    gate = gate_create(
        slug=_gate_slug(),
        title=f"Quality of {PRODUCT[1]}",
        description="Accuracy beside its NLL canaries on every dataset; latency and cost as advice.",
        criteria=_criteria(),
    )
    return releases, gate


def _criteria() -> list[dict[str, Any]]:
    """The house's default criteria, with the demo's sample sizes and the median latency.

    The 95th percentile of the default would need 59 items timed one by one, a minute more for each release.
    """
    criteria = default_criteria(
        Dataset.objects.filter(slug__in=SAMPLES), sample_size=SAMPLES, playbook=PLAYBOOK
    )
    for criterion in criteria:
        if criterion["metric"] == "latency_ms":
            criterion["rule"] = {**criterion["rule"], "statistic": "p50"}
    return criteria


def _model(version: str, releases: dict[str, Release], say: Progress) -> ModelVersion:
    if version == BASELINE:
        say("reading the packaged model (SmolLM2-135M-Instruct, Q4_1)")
        return model_register_packaged().model_version
    transform, params, name = VARIANTS[version]
    say(f"making {name}")
    parent = releases[BASELINE].model_version
    return model_transform(parent=parent, transform=transform, params=params, name=name).model_version


def _evaluate(releases: dict[str, Release], gate: Gate, say: Progress) -> None:
    """Ask for the evaluations of both candidates and wait for the verdicts."""
    baseline = releases[BASELINE]
    candidates = [releases[HEALTHY], releases[DAMAGED]]
    checks = {
        candidate.version: gate_check_start(gate=gate, candidate=candidate, baseline=baseline)
        for candidate in candidates
    }
    for power in checks[HEALTHY].plan.power:
        if power.criterion.severity == "blocking":
            say(f"before the run: {power.criterion.key}: {power.sentence}")
    began_at = timezone.now()
    while True:
        _wait({run.pk for check in checks.values() for run in check.runs}, say)
        for candidate in candidates:
            if gate_verdict_settle(gate=gate, candidate=candidate, baseline=baseline) is not None:
                checks.pop(candidate.version, None)
                continue
            check = gate_check_view(gate=gate, candidate=candidate, baseline=baseline)
            if check.missing:
                _refuse_dead(check, since=began_at)
                # Nobody ended it and yet it is not there: what it would measure has changed since (a deploy).
                check = gate_check_start(gate=gate, candidate=candidate, baseline=baseline)
            checks[candidate.version] = check
        if not checks:
            return


def _wait(run_ids: Collection[UUID], say: Progress) -> None:
    """Until none of the runs may still change, saying how far they are. Reads little: the engine needs the cores."""
    began, shown = time.monotonic(), -1
    runs = Run.objects.filter(pk__in=run_ids)
    total = sum(runs.values_list("total_items", flat=True))
    while runs.filter(status__in=Run.ACTIVE).exists():
        done = RunItem.objects.filter(run_id__in=run_ids).count()
        if done != shown:
            say(
                f"evaluating: {done:,} of {total:,} items{_remaining((done, total), time.monotonic() - began)}"
            )
            shown = done
        time.sleep(POLL_S)


def _refuse_dead(check: GateCheck, *, since: datetime) -> None:
    """A run that failed or was cancelled meanwhile ends the job; the next start asks for it again."""
    run = (
        Run.objects.filter(
            subject_digest__in=[planned.release.digest for planned in check.missing],
            dataset_digest__in=[planned.dataset_version.digest for planned in check.missing],
            status__in=[Run.Status.FAILED, Run.Status.CANCELLED],
            created_at__gte=since,
        )
        .order_by("-created_at")
        .first()
    )
    if run is not None:
        why = f" ({run.error})" if run.error else ""
        raise DemoFailed(f"Run {run.pk} ended as {run.status}{why}. Start `make up` again to repeat it.")


def _remaining(state: tuple[int, int], elapsed_s: float) -> str:
    done, total = state
    if done < total * 0.1 or elapsed_s < 10:
        return ""
    return f", about {elapsed_s * (total - done) / done / 60:.1f} min left"


def _review_open(releases: dict[str, Release], say: Progress) -> None:
    """Open the healthy candidate's review and confirm what the engineer can; the PMO's signature is left."""
    if Review.objects.filter(candidate=releases[HEALTHY]).exists():
        return
    review = review_create(
        candidate=releases[HEALTHY],
        baseline=releases[BASELINE],
        gate_slug=_gate_slug(),
        title=f"{PRODUCT[1]} {HEALTHY}: go or no-go",
        required_roles=("pmo",),
    )
    playbook = reverse("governance:playbook_detail", args=[PLAYBOOK])
    for item in review.checklist.filter(kind="entrance", owner_role="engineer"):
        checklist_item_set(item=item, status=ChecklistItem.Status.DONE, evidence_url=playbook)
    say(f"opened the review of {HEALTHY}; it waits for the PMO's signature")


def _summary(tenant: Tenant, done: _Finished) -> list[str]:
    lines = []
    for version, verdict in done.verdicts.items():
        lines.append(f"{version}: {verdict.status.replace('_', ' ')}. {verdict.sentence}")
    review = reverse("governance:review_detail", args=[done.review.pk])
    playbook = reverse("governance:playbook_detail", args=[PLAYBOOK])
    lines.append(f"review of {HEALTHY} ({done.review.get_status_display().lower()}): {tenant.url(review)}")
    lines.append(f"rollback playbook for {DAMAGED}: {tenant.url(playbook)}")
    return lines
