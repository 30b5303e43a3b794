"""The dossier as one archive, and its PDFs. Made from the same state the page shows."""

from __future__ import annotations

from django.utils import timezone

from core.audit.services import audit_record
from core.evidence.dossier import build_dossier_zip
from core.schema import current_schema
from core.security.dsse import MANIFEST_PAYLOAD_TYPE
from core.security.keys import public_key_pem
from core.security.permissions import require
from core.security.services import tenant_public_keys, tenant_sign
from core.ui.pdf import render_pdf
from governance.models import Review, Signature
from governance.presentation import review_page
from governance.selectors import ReviewState, review_state


def dossier_archive(*, review: Review) -> bytes:
    """The dossier of `review` as a zip that its own `verify.py` checks offline.

    Signatures over the evidence in it are inside; those over earlier evidence stay on record here but are not
    part of this archive, since they say nothing about it. Raises Forbidden, PdfUnavailable.
    """
    require("dossier.export")
    state = review_state(review)
    signatures = [row.signature.envelope for poll in state.poll for row in poll.signatures if row.current]
    # Signing makes the tenant's key when there is none yet, so it comes before the keys are listed.
    tenant_sign(MANIFEST_PAYLOAD_TYPE, b"{}")
    archive = build_dossier_zip(
        state.dossier.content,
        state.dossier.raw,
        signatures,
        {keyid: public_key_pem(key) for keyid, key in tenant_public_keys().items()},
        review_pdf(state),
        lambda manifest: tenant_sign(MANIFEST_PAYLOAD_TYPE, manifest),
    )
    audit_record("dossier.exported", target=review, data={"digest": state.dossier.digest})
    return archive


def review_pdf(state: ReviewState) -> bytes:
    """The dossier for reading."""
    return render_pdf(
        "governance/pdf/dossier.html",
        {"page": review_page(state), "state": state, "review": state.review, "now": timezone.now()},
        title=f"Dossier: {state.review.title}",
        header=f"{current_schema()} · {state.review.candidate}",
        digest=state.dossier.digest,
    )


def signature_pdf(signature: Signature, *, current: bool, qr: str) -> bytes:
    """The certificate of one signature."""
    return render_pdf(
        "governance/pdf/certificate.html",
        {"signature": signature, "review": signature.review, "current": current, "qr": qr},
        title=f"Signature certificate: {signature.review.title}",
        header=f"{current_schema()} · {signature.review.candidate}",
        digest=signature.snapshot.digest,
    )
