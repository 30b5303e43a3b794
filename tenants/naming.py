"""Rules for the names of tenants, schemas and hosts. Pure functions; each returns the cleaned value or says why not."""

from __future__ import annotations

import re

from tenants.errors import TenantInvalid

# PostgreSQL cuts identifiers at 63 bytes; a role and index names are derived from the schema's name.
SCHEMA_MAX_LENGTH = 40
_SCHEMA = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

# Schemas of PostgreSQL and of this machinery, and host labels that mean something else.
RESERVED = frozenset(
    {
        "public", "postgres", "template", "information_schema", "pg_catalog", "pg_toast",
        "admin", "api", "app", "assets", "auth", "cdn", "default", "docs", "health", "help", "localhost", "login",
        "mail", "media", "metrics", "ns", "operator", "operators", "root", "signoff", "static", "status", "support",
        "system", "user", "v1", "www",
    }
)  # fmt: skip
TEMPLATE_PREFIX = "zz_template_"


def schema_name_clean(value: str) -> str:
    """A name that is both a PostgreSQL schema and, with `_` as `-`, a host label.

    Raises:
        TenantInvalid: empty, too long, reserved, or other than small letters, digits and single underscores
            beginning with a letter.
    """
    name = value.strip()
    if not name:
        raise _schema_error("Give the tenant a short name, for example acme.")
    if name != name.lower():
        raise _schema_error(f"The short name {name!r} must be in small letters: {name.lower()!r}.")
    if len(name) > SCHEMA_MAX_LENGTH:
        raise _schema_error(
            f"The short name has {len(name)} characters; at most {SCHEMA_MAX_LENGTH} are allowed."
        )
    if name in RESERVED or name.startswith(("pg_", TEMPLATE_PREFIX)):
        raise _schema_error(f"The short name {name!r} is reserved. Choose another.")
    if not _SCHEMA.fullmatch(name):
        hint = ""
        if _SCHEMA.fullmatch(name.replace("-", "_")):
            better = name.replace("-", "_")
            hint = f" Use {better!r}: its address then begins with {host_label(better)!r}."
        raise _schema_error(
            f"The short name {name!r} must begin with a letter and hold only small letters, digits and single "
            f"underscores between them.{hint}"
        )
    return name


def host_label(schema_name: str) -> str:
    """First label of a tenant's host name: host names may not hold underscores."""
    return schema_name.replace("_", "-")


def domain_clean(value: str) -> str:
    """A host name in lower case without a trailing dot.

    Raises:
        TenantInvalid: not a host name (RFC 1123), or with a port or a scheme.
    """
    domain = value.strip().lower().rstrip(".")
    if "://" in domain or ":" in domain or "/" in domain:
        raise _domain_error(
            f"The domain {value!r} must be a host name only, without https:// and without a port."
        )
    if "_" in domain:
        raise _domain_error(
            f"The domain {value!r} holds an underscore, which host names may not. Use a hyphen."
        )
    if not domain or len(domain) > 253 or not all(_LABEL.fullmatch(label) for label in domain.split(".")):
        raise _domain_error(f"The domain {value!r} is not a host name. Example: acme.example.com")
    return domain


def tenant_name_clean(value: str) -> str:
    """The name people read: 1 to 120 characters, no line breaks or control characters. Raises TenantInvalid."""
    name = " ".join(value.split())
    if not name or len(name) > 120 or not name.isprintable():
        message = f"The name must have 1 to 120 printable characters; it has {len(name)}."
        raise TenantInvalid(message, fields={"name": [message]})
    return name


def _schema_error(message: str) -> TenantInvalid:
    return TenantInvalid(message, fields={"schema_name": [message]})


def _domain_error(message: str) -> TenantInvalid:
    return TenantInvalid(message, fields={"domain": [message]})
