"""Tables of the accounts pages."""

from __future__ import annotations

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from core.security.permissions import can
from core.ui.components import component
from core.ui.tables import Column, Filter, Table
from core.ui.templatetags.ui import ago
from tenants.accounts.forms import role_choices
from tenants.accounts.models import User
from tenants.accounts.selectors import users


def _roles(user: User) -> SafeString:
    return format_html_join(" ", "{}", ((component("badge", label=label),) for label in user.role_labels()))


def _state(user: User) -> SafeString:
    if not user.is_active:
        return component("badge", label="Switched off", variant="fail", icon="ban")
    if user.must_change_password:
        return component("badge", label="Has not set a password yet", variant="inconclusive", icon="clock")
    return component("badge", label="Active", variant="pass", icon="check")


def user_table(request: HttpRequest) -> Table:
    """People with roles, state and when they were last seen."""
    short = [(value, words.partition(":")[0]) for value, words in role_choices()]
    manage = can("user.manage")
    return Table(
        request,
        users(),
        name="",
        columns=[
            Column("name", "Name", lambda user: user.name, sort="name", main=True, header=True),
            Column("email", "E-mail address", lambda user: user.email, sort="email"),
            Column("roles", "Roles", _roles, main=True, raw=lambda user: ", ".join(user.role_labels())),
            Column("state", "State", _state, sort="is_active"),
            Column(
                "seen", "Last seen", lambda user: ago(user.last_seen_at) if user.last_seen_at else "never",
                sort="last_seen_at", raw=lambda user: user.last_seen_at,
            ),
            Column("zone", "Time zone", lambda user: user.time_zone, optional=True),
        ],
        filters=[
            Filter("role", "Role", short, lambda rows, value: rows.filter(roles__contains=[value])),
            Filter(
                "state", "State", [("active", "May sign in"), ("off", "Switched off")],
                lambda rows, value: rows.filter(is_active=value == "active"),
            ),
        ],
        search=lambda rows, words: rows.filter(Q(name__icontains=words) | Q(email__icontains=words)),
        row_url=(lambda user: reverse("accounts:user_edit", args=[user.pk])) if manage else None,
        default_sort="name",
    )  # fmt: skip
