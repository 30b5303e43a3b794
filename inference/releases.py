"""Products, releases and channels: what a tenant ships. Called through `inference.services`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Sum

from core.audit.services import audit_record
from core.security.actor import current_actor
from core.security.canonical import CanonicalError, digest
from core.security.permissions import require
from inference.errors import (
    ChannelConflict,
    ProductExists,
    ProductInvalid,
    ReleaseExists,
    ReleaseInvalid,
)
from inference.evaluation.config import ConfigInvalid, ScoringParams
from inference.gateway.release_config import GatewayConfig
from inference.limits import ensure_below
from inference.models import Channel, ModelVersion, Product, Release, validate_semver

_SLUG = re.compile(r"^[a-z0-9]+(?:-[a-z0-9]+)*$")
# Parts of a release's configuration besides what scoring reads; versions of bundles, "" for none.
_BUNDLES = ("guard_version", "policy_version", "cache_policy")
_BUNDLE_CHARS = 80


def product_create(*, slug: str, name: str, description: str = "") -> Product:
    """Add a product. Raises Forbidden, ProductInvalid, ProductExists, LimitReached."""
    require("product.edit")
    slug, name, description = slug.strip(), name.strip(), description.strip()
    errors: dict[str, list[str]] = {}
    if not _SLUG.match(slug) or len(slug) > 60:
        errors["slug"] = [
            f"“{slug[:80]}” cannot be used: lower-case letters and digits in words joined by “-”, at most 60."
        ]
    errors.update(_name_errors(name, description))
    if errors:
        raise ProductInvalid("The product was not added.", fields=errors)
    with transaction.atomic():
        ensure_below("max_products", Product.objects.count())
        try:
            with transaction.atomic():
                product = Product.objects.create(slug=slug, name=name, description=description)
        except IntegrityError as error:
            raise ProductExists(
                f"There is already a product “{slug}”. Choose another short name.",
                fields={"slug": ["This short name is taken."]},
            ) from error
        audit_record("product.created", target=product, data={"slug": slug})
    return product


def product_update(*, product: Product, name: str, description: str) -> Product:
    """Change how a product is called and described. Raises Forbidden, ProductInvalid."""
    require("product.edit")
    name, description = name.strip(), description.strip()
    errors = _name_errors(name, description)
    if errors:
        raise ProductInvalid("The product was not changed.", fields=errors)
    with transaction.atomic():
        product.name, product.description = name, description
        product.save(update_fields=["name", "description"])
        audit_record("product.updated", target=product, data={"slug": product.slug})
    return product


def _name_errors(name: str, description: str) -> dict[str, list[str]]:
    errors: dict[str, list[str]] = {}
    if not 1 <= len(name) <= 120 or "\x00" in name:
        errors["name"] = [f"Give a name of 1 to 120 characters; this has {len(name)}."]
    if len(description) > 4000 or "\x00" in description:
        errors["description"] = [f"At most 4,000 characters; this has {len(description):,}."]
    return errors


def config_clean(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The complete, canonical configuration of a release from what a form or a client sent.

    Keys: `prompt` {template, chat, system}, `decoding` {max_tokens, temperature, top_p, seed, stop},
    `target_delimiter`, `guard_version`, `policy_version`, `cache_policy`, `gateway` (caches, guards and knobs:
    inference/gateway/release_config.py). Whatever is missing gets its default; a missing `gateway` stays away,
    so that releases made before it existed keep their digest. Raises ReleaseInvalid with a
    message per field (`config.decoding.top_p` …).
    """
    if config is not None and not isinstance(config, Mapping):
        raise ReleaseInvalid(
            "The configuration is not valid.", fields={"config": ["Must be an object of named values."]}
        )
    given = dict(config or {})
    known = ("prompt", "decoding", "target_delimiter", "gateway", *_BUNDLES)
    errors: dict[str, list[str]] = {}
    for name in sorted(set(given) - set(known), key=str):
        errors[f"config.{name}"] = [f"Is not known here. Known are {', '.join(known)}."]
    bundles: dict[str, str] = {}
    for name in _BUNDLES:
        value = given.get(name, "")
        if not isinstance(value, str) or len(value) > _BUNDLE_CHARS or "\x00" in value:
            errors[f"config.{name}"] = [f"Must be a text of at most {_BUNDLE_CHARS} characters."]
        else:
            bundles[name] = value
    delimiter = given.get("target_delimiter", " ")
    if not isinstance(delimiter, str) or len(delimiter) > 20 or "\x00" in delimiter:
        errors["config.target_delimiter"] = ["Must be a text of at most 20 characters."]
    scoring: dict[str, Any] = {}
    try:
        params = ScoringParams.from_dict(
            {
                "prompt": given.get("prompt", {}),
                "decoding": given.get("decoding", {}),
                "target_delimiter": delimiter,
            }
        )
        if not isinstance(params.prompt.chat, bool):
            errors["config.prompt.chat"] = ["Must be true or false."]
        if not isinstance(params.prompt.system, str):
            errors["config.prompt.system"] = ["Must be a text."]
        scoring = params.as_dict()
    except ConfigInvalid as error:
        errors.update({f"config.{name}": [text] for name, text in error.fields.items()})
    except (TypeError, ValueError, AttributeError):
        errors["config"] = ["Prompt and decoding must be objects of named values of the right types."]
    gateway: dict[str, Any] = {}
    if given.get("gateway"):
        try:
            gateway = {"gateway": GatewayConfig.from_dict(given["gateway"]).as_dict()}
        except ConfigInvalid as error:
            errors.update({f"config.{name}": [text] for name, text in error.fields.items()})
    if errors:
        name, messages = next(iter(errors.items()))
        raise ReleaseInvalid(f"The configuration is not valid. {name}: {messages[0]}", fields=errors)
    # Solved examples belong to an evaluation, not to a release.
    scoring.pop("examples", None)
    scoring["decoding"]["stop"] = list(scoring["decoding"]["stop"])
    return {**scoring, **bundles, **gateway}


def release_digest(*, product: Product, model_digest: str, config: Mapping[str, Any]) -> str:
    """Digest of what a release is: product, model and configuration (not its version, which is a name)."""
    return digest({"product": product.slug, "model": model_digest, "config": dict(config)})


def release_create(
    *,
    product: Product,
    version: str,
    model_version: ModelVersion,
    config: Mapping[str, Any] | None = None,
    notes: str = "",
) -> Release:
    """Add an immutable release. Raises Forbidden, ReleaseInvalid, ReleaseExists, LimitReached."""
    require("release.create")
    version, notes = version.strip(), notes.strip()
    errors: dict[str, list[str]] = {}
    try:
        if len(version) > 60:
            raise ValidationError(["At most 60 characters."])
        validate_semver(version)
    except ValidationError as error:
        errors["version"] = [f"“{version[:60]}” cannot be used. {message}" for message in error.messages]
    if len(notes) > 10_000 or "\x00" in notes:
        errors["notes"] = [f"At most 10,000 characters; this has {len(notes):,}."]
    clean: dict[str, Any] = {}
    try:
        clean = config_clean(config)
        content = release_digest(product=product, model_digest=model_version.digest, config=clean)
    except ReleaseInvalid as error:
        errors.update(error.fields)
    except CanonicalError as error:
        errors["config"] = [str(error)]
    if errors:
        name, messages = next(iter(errors.items()))
        raise ReleaseInvalid(f"The release was not created. {name}: {messages[0]}", fields=errors)
    actor = current_actor()
    with transaction.atomic():
        ensure_below("max_releases", Release.objects.count())
        try:
            with transaction.atomic():
                release = Release.objects.create(
                    product=product,
                    version=version,
                    model_version=model_version,
                    config=clean,
                    digest=content,
                    notes=notes,
                    created_by_id_text=actor.id,
                    created_by_label=actor.label,
                )
        except IntegrityError as error:
            raise ReleaseExists(
                f"{product.name} already has a release {version}. Releases are immutable: choose the next "
                f"version.",
                fields={"version": ["This version is taken."]},
            ) from error
        audit_record(
            "release.created",
            target=release,
            data={
                "product": product.slug,
                "version": version,
                "digest": content,
                "model": model_version.digest,
            },
        )
    # As everybody else will read it: a plan made from it must equal one made from the stored row.
    release.refresh_from_db()
    return release


def channel_set(
    *, product: Product, environment: str, name: str = "stable", release: Release, weight: int = 100
) -> Channel:
    """Point a channel at a release with a share of the traffic in percent, adding the channel if needed.

    Raises Forbidden, or ChannelConflict: the release is another product's, or the product's weights in this
    environment would add up to more than 100.
    """
    require("channel.edit")
    if release.product_id != product.pk:
        raise ChannelConflict(
            f"{release} is not a release of {product.name}.", fields={"release": ["Choose another."]}
        )
    errors: dict[str, list[str]] = {}
    if environment not in Channel.Environment.values:
        errors["environment"] = [f"Choose one of: {', '.join(Channel.Environment.values)}."]
    if not _SLUG.match(name) or len(name) > 40:
        errors["name"] = ["Lower-case letters and digits in words joined by “-”, at most 40."]
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= 100:
        errors["weight"] = [f"Must be a whole number from 0 to 100, got {weight!r}."]
    if errors:
        raise ReleaseInvalid("The channel was not changed.", fields=errors)
    with transaction.atomic():
        # One writer per product, so that two changes cannot add up to more than 100 percent.
        Product.objects.select_for_update().get(pk=product.pk)
        others = Channel.objects.filter(product=product, environment=environment).exclude(name=name)
        taken = others.aggregate(total=Sum("weight"))["total"] or 0
        if taken + weight > 100:
            raise ChannelConflict(
                f"The other channels of {product.name} in {environment} take {taken}% of the traffic; "
                f"{weight}% more "
                "would exceed 100%. Lower them first.",
                fields={"weight": [f"At most {100 - taken} is free."]},
            )
        channel, _ = Channel.objects.update_or_create(
            product=product,
            environment=environment,
            name=name,
            defaults={"release": release, "weight": weight},
        )
        audit_record(
            "channel.set",
            target=channel,
            data={
                "product": product.slug,
                "environment": environment,
                "channel": name,
                "release": release.digest,
                "version": release.version,
                "weight": weight,
            },
        )
    return channel
