"""Pages of people and keys; the same on a tenant's host and on the operators' site."""

from __future__ import annotations

import math
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import authenticate, login, logout, update_session_auth_hash
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from core.errors import DomainError
from core.security.actor import use_actor
from core.security.permissions import requires
from tenants.accounts import selectors, services, tables
from tenants.accounts.forms import (
    KeyForm,
    PasswordChangeForm,
    ProfileForm,
    SignInForm,
    UserCreateForm,
    UserForm,
    add_errors,
)
from tenants.accounts.middleware import user_actor
from tenants.accounts.models import User
from tenants.audit import audit_record

# RFC 9110: the form is understood and cannot be carried out.
INVALID = 422


def _next(request: HttpRequest) -> str:
    """Where to go after signing in: a path of this host, or home."""
    target = request.POST.get("next") or request.GET.get("next") or ""
    # A bare word is no path: redirect() would look for a page of this name.
    safe = "/" in target and url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return target if safe else reverse(settings.LOGIN_REDIRECT_URL)


def _person(request: HttpRequest) -> User | None:
    """The signed-in person, or None (an API key or nobody)."""
    return request.user if request.user.is_authenticated and isinstance(request.user, User) else None


def _to_sign_in(request: HttpRequest) -> HttpResponseBase:
    from django.contrib.auth.views import redirect_to_login

    return redirect_to_login(request.get_full_path())


# ------------------------------------------------------------------ signing in and out
@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponseBase:
    """Sign in with e-mail address and password. Too many failures lock the pair of address and computer out."""
    if _person(request):
        return redirect(_next(request))
    form = SignInForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        user = authenticate(
            request, username=form.cleaned_data["username"], password=form.cleaned_data["password"]
        )
        if isinstance(user, User):
            login(request, user)
            with use_actor(user_actor(user)):
                audit_record("user.signed_in", target=user)
            return redirect(_next(request))
        if not getattr(request, "axes_locked_out", False):
            # The same answer for an unknown address, a wrong password and a person who was switched off.
            form.add_error(None, "The e-mail address or the password is wrong. Check both and try again.")
    context = {"form": form, "next": request.POST.get("next") or request.GET.get("next") or ""}
    return render(request, "accounts/sign_in.html", context, status=INVALID if form.errors else 200)


def locked_out(
    request: HttpRequest,
    original_response: HttpResponse | None = None,
    credentials: dict[str, Any] | None = None,
) -> HttpResponse:
    """What django-axes answers during a lock-out: how long it lasts, and who can help."""
    seconds = selectors.lockout_seconds_left(
        username=str((credentials or {}).get("username") or ""),
        ip_address=getattr(request, "axes_ip_address", None),
    )
    minutes = max(1, math.ceil(seconds / 60))
    response = render(
        request,
        "accounts/locked_out.html",
        {"minutes": minutes, "limit": settings.AXES_FAILURE_LIMIT},
        status=429,
    )
    response["Retry-After"] = str(max(1, math.ceil(seconds)))
    add_never_cache_headers(response)
    return response


@require_POST
def sign_out(request: HttpRequest) -> HttpResponseBase:
    """End this session."""
    user = _person(request)
    if user:
        audit_record("user.signed_out", target=user)
    logout(request)
    return redirect("accounts:sign_in")


@sensitive_post_parameters("current", "new", "repeat")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def password_change(request: HttpRequest) -> HttpResponseBase:
    """Change one's own password; the first thing somebody with a handed-out password must do."""
    user = _person(request)
    if user is None:
        return _to_sign_in(request)
    form = PasswordChangeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            user = services.password_change(
                user=user, current=form.cleaned_data["current"], new=form.cleaned_data["new"]
            )
        except DomainError as error:
            add_errors(form, error)
        else:
            # This session goes on; all others of this person end.
            update_session_auth_hash(request, user)
            messages.success(request, "Your password is changed. Other sessions of yours are signed out.")
            return redirect(settings.LOGIN_REDIRECT_URL)
    return render(
        request, "accounts/password_change.html", {"form": form, "forced": user.must_change_password},
        status=INVALID if form.errors else 200,
    )  # fmt: skip


@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponseBase:
    """One's own name and time zone."""
    user = _person(request)
    if user is None:
        return _to_sign_in(request)
    form = ProfileForm(request.POST or None, initial={"name": user.name, "time_zone": user.time_zone})
    if request.method == "POST" and form.is_valid():
        try:
            services.profile_update(
                user=user, name=form.cleaned_data["name"], time_zone=form.cleaned_data["time_zone"]
            )
        except DomainError as error:
            add_errors(form, error)
        else:
            messages.success(request, "Your profile is saved.")
            return redirect("accounts:profile")
    return render(
        request,
        "accounts/profile.html",
        {"form": form, "person": user},
        status=INVALID if form.errors else 200,
    )


# ------------------------------------------------------------------ users
@requires("user.view")
@require_safe
def user_list(request: HttpRequest) -> HttpResponseBase:
    """Everybody who can sign in here, with roles and when they were last seen."""
    table = tables.user_table(request)
    if table.wants_csv:
        return table.csv_response("users.csv")
    return render(request, "accounts/user_list.html", {"table": table, "counts": selectors.user_counts()})


@requires("user.manage")
@require_http_methods(["GET", "HEAD", "POST"])
def user_create(request: HttpRequest) -> HttpResponseBase:
    """Add a person; their first password is shown once."""
    form = UserCreateForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        password = services.password_generate()
        try:
            user = services.user_create(
                email=form.cleaned_data["email"], name=form.cleaned_data["name"],
                roles=form.cleaned_data["roles"], password=password,
            )  # fmt: skip
        except DomainError as error:
            add_errors(form, error)
        else:
            return _secret_page(request, "accounts/user_created.html", {"person": user, "password": password})
    return render(
        request, "accounts/user_create.html", {"form": form}, status=INVALID if form.errors else 200
    )


def _secret_page(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """A page that shows a secret once: not stored in a session, and not in the browser's cache."""
    response = render(request, template, context)
    response["Cache-Control"] = "no-store"
    return response


@requires("user.manage")
@require_http_methods(["GET", "HEAD", "POST"])
def user_edit(request: HttpRequest, user_id: int) -> HttpResponseBase:
    """Name, roles and whether the person may sign in."""
    user = services.user_get(user_id)
    form = UserForm(
        request.POST or None, initial={"name": user.name, "roles": user.roles, "is_active": user.is_active}
    )
    if request.method == "POST" and form.is_valid():
        try:
            user = services.user_update(
                user=user, name=form.cleaned_data["name"], roles=form.cleaned_data["roles"],
                is_active=form.cleaned_data["is_active"],
            )  # fmt: skip
        except DomainError as error:
            add_errors(form, error)
        else:
            messages.success(request, f"{user.name} is saved.")
            return redirect("accounts:user_list")
    return render(
        request,
        "accounts/user_edit.html",
        {"form": form, "person": user},
        status=INVALID if form.errors else 200,
    )


@requires("user.manage")
@require_POST
def user_reset_password(request: HttpRequest, user_id: int) -> HttpResponseBase:
    """Hand out a new password, shown once; it must be changed at the next sign-in."""
    user = services.user_get(user_id)
    password = services.user_reset_password(user=user)
    return _secret_page(
        request, "accounts/user_created.html", {"person": user, "password": password, "reset": True}
    )


# ------------------------------------------------------------------ API keys
@requires("key.view")
@require_safe
def key_list(request: HttpRequest) -> HttpResponseBase:
    """API keys with scopes, expiry and last use."""
    return render(request, "accounts/key_list.html", {"keys": selectors.keys(), "now": timezone.now()})


@requires("key.manage")
@require_http_methods(["GET", "HEAD", "POST"])
def key_create(request: HttpRequest) -> HttpResponseBase:
    """Issue a key; its text is shown once."""
    form = KeyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            issued = services.api_key_create(
                name=form.cleaned_data["name"], scopes=form.cleaned_data["scopes"], expires_at=form.expires_at(),
                created_by=_person(request),
            )  # fmt: skip
        except DomainError as error:
            add_errors(form, error)
        else:
            return _secret_page(
                request, "accounts/key_created.html",
                {"key": issued.key, "text": issued.text, "base": request.build_absolute_uri("/api/v1/")},
            )  # fmt: skip
    return render(request, "accounts/key_create.html", {"form": form}, status=INVALID if form.errors else 200)


@requires("key.manage")
@require_POST
def key_revoke(request: HttpRequest, key_id: str) -> HttpResponseBase:
    """Refuse a key from now on."""
    key = services.api_key_revoke(key_id=key_id)
    messages.success(request, f"The key {key.name} is revoked. Programs that use it are refused from now on.")
    return redirect("accounts:key_list")
