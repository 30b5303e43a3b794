"""The release's switches as the pipeline uses them: receipts, canaries, watermark, extraction detection."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from inference.gateway import background
from inference.gateway.contract import Call, Caller, RouteTarget
from inference.knobs import extraction
from inference.knobs.canaries import canary_hit, canary_match, planted_answer
from inference.knobs.receipts import HEADER as RECEIPT_HEADER
from inference.knobs.receipts import Receipt, StreamedOutput, output_digest, request_digest, sign_receipt
from inference.knobs.watermark import watermark_parameters

__all__ = [
    "RECEIPT_HEADER",
    "StreamedOutput",
    "canary_answer",
    "extraction_observe",
    "extraction_wait_s",
    "output_digest",
    "receipt_sign",
    "request_digest",
    "watermark_parameters",
]


def canary_answer(target: RouteTarget, call: Call) -> Mapping[str, Any] | None:
    """The planted answer when the request is a canary's; counted in the background."""
    planted = canary_match(target.schema, target.release_digest, call.body)
    if planted is None:
        return None
    background.run(lambda: canary_hit(target.schema, planted.canary_id))
    return planted_answer(
        planted,
        route=call.route,
        model=target.label,
        request_id=f"chatcmpl-{secrets.token_hex(14)}",
        created=int(time.time()),
    )


def receipt_sign(
    schema: str,
    call: Call,
    target: RouteTarget,
    policy_version: str,
    ledger_id: str,
    request: str,
    output: str,
) -> str:
    """A signed receipt of one answer, as a header's value."""
    return sign_receipt(
        schema,
        Receipt(
            request_id=call.request_id,
            request=request,
            release=target.release_digest,
            policy=policy_version,
            output=output,
            ledger_id=ledger_id,
        ),
    )


def extraction_wait_s(caller: Caller) -> float | None:
    """Seconds until the next request of a key that looks like it copies the model; None to go on."""
    throttle = extraction.extraction_check(caller.schema, caller.key_id)
    return None if throttle is None else throttle.retry_after_s


def extraction_observe(caller: Caller, body: Mapping[str, Any], tokens_out: int) -> None:
    """Tell the detector of a served request; it keeps hashes, no text."""
    extraction.extraction_observe(caller.schema, caller.key_id, body, tokens_out)
