"""Playground: ask a release, or two side by side, through the whole gateway."""

from __future__ import annotations

import secrets
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_POST

from core.platform.middleware import correlation_id
from core.schema import current_schema
from core.security.actor import current_actor
from core.security.permissions import requires
from inference.gateway.contract import Call, Caller, GatewayProblem
from inference.gateway.forms import PlaygroundForm
from inference.gateway.pipeline import Exchange, Reply
from inference.gateway.protocol.requests import call_parse
from inference.gateway.routing import forget, model_list


def _caller(request: HttpRequest) -> Caller:
    """The person as a caller: allowed to call, limited and recorded under a name of their own."""
    actor = current_actor()
    return Caller(
        schema=current_schema(),
        key_id=f"user-{actor.id}"[:16],
        key_pk=None,
        scopes=("gateway.call",),
        attributes={"playground": "true"},
        ip=request.META.get("REMOTE_ADDR", ""),
    )


def _names(caller: Caller) -> list[str]:
    forget()  # a release made a moment ago is expected in the list
    return [str(model["id"]) for model in model_list(caller)]


def _call(form: PlaygroundForm, *, model: str, stream: bool) -> Call:
    body = form.request_body(model=model, stream=stream)
    call = call_parse("chat.completions", body, body_bytes=len(orjson.dumps(body)))
    call.request_id = f"req_{secrets.token_hex(12)}"
    call.traceparent = f"00-{correlation_id.get() or secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    call.cache_control = "no-store" if form.cleaned_data["skip_cache"] else ""
    return call


@requires("playground.use")
@require_http_methods(["GET", "POST"])
def playground(request: HttpRequest) -> HttpResponseBase:
    """The form; without script, the answers follow below it as one page."""
    caller = _caller(request)
    names = _names(caller)
    answers: list[dict[str, Any]] = []
    if request.method == "POST":
        form = PlaygroundForm(request.POST, models=names)
        if form.is_valid():
            chosen = [form.cleaned_data["model"], form.cleaned_data["other"]]
            answers = [_answer(form, caller, model) for model in chosen if model]
    else:
        wanted = request.GET.get("model", "")
        form = PlaygroundForm(initial={"model": wanted, "other": request.GET.get("other", "")}, models=names)
    context = {"form": form, "models": names, "answers": answers, "crumbs": [("Playground", "")]}
    status = 400 if form.is_bound and not form.is_valid() else 200
    return render(request, "gateway/playground.html", context, status=status)


def _answer(form: PlaygroundForm, caller: Caller, model: str) -> dict[str, Any]:
    try:
        reply = Exchange(_call(form, model=model, stream=False), caller).run()
    except GatewayProblem as problem:
        return {
            "model": model,
            "problem": problem.message,
            "code": problem.code,
            "facts": _facts(problem.headers),
        }
    document = orjson.loads(reply.body)
    return {
        "model": model,
        "text": document["choices"][0]["message"]["content"],
        "usage": document["usage"],
        "facts": _facts(reply.headers),
    }


def _facts(headers: dict[str, str]) -> dict[str, str]:
    names = ("release", "policy", "cache", "cost-usd", "overhead-ms")
    return {name.replace("-", "_"): headers.get(f"x-signoff-{name}", "") for name in names}


@requires("playground.use")
@require_POST
def playground_stream(request: HttpRequest) -> HttpResponseBase:
    """One answer as server-sent events, for the page's script; `model` says which release."""
    caller = _caller(request)
    names = _names(caller)
    form = PlaygroundForm(request.POST, models=names)
    if not form.is_valid():
        words = "; ".join(str(error) for errors in form.errors.values() for error in errors)
        return JsonResponse({"error": {"message": words, "code": "invalid_value"}}, status=400)
    call = None
    try:
        call = _call(form, model=form.cleaned_data["model"], stream=True)
        reply = Exchange(call, caller).run()
    except GatewayProblem as problem:
        reply = Reply(problem.status, dict(problem.headers), orjson.dumps(problem.body()))
    response: HttpResponse | StreamingHttpResponse
    if reply.stream is not None:
        response = StreamingHttpResponse(reply.stream, content_type="text/event-stream; charset=utf-8")
    else:
        response = HttpResponse(reply.body, status=reply.status, content_type="application/json")
    for name, value in reply.headers.items():
        if name.startswith("x-"):
            response[name] = value
    if call is not None:
        response["x-signoff-request"] = call.request_id
    response["Cache-Control"] = "no-store"
    return response
