"""What inference refuses, one class per reaction a caller might have."""

from __future__ import annotations

from core.errors import Conflict, Invalid, NotFound, TooMany


class ProductNotFound(NotFound):
    """There is no such product in this tenant."""

    code = "product_not_found"


class ModelVersionNotFound(NotFound):
    """There is no such model version in this tenant."""

    code = "model_version_not_found"


class DatasetNotFound(NotFound):
    """There is no such dataset, or it has no such version."""

    code = "dataset_not_found"


class ReleaseNotFound(NotFound):
    """There is no such release in this tenant."""

    code = "release_not_found"


class RegistrationNotFound(NotFound):
    """There is no such registration in this tenant."""

    code = "registration_not_found"


class ProductInvalid(Invalid):
    """A product's fields break a rule."""

    code = "product_invalid"


class ModelInvalid(Invalid):
    """The files are no model that can be registered, or the transform's parameters are wrong."""

    code = "model_invalid"


class DatasetInvalid(Invalid):
    """Rows or fields of a dataset break a rule. `extra["rows"]` lists {row, field, message}; nothing was
    imported."""

    code = "dataset_invalid"


class ReleaseInvalid(Invalid):
    """The version or the configuration of a release breaks a rule."""

    code = "release_invalid"


class EvaluationInvalid(Invalid):
    """The evaluation asked for cannot be planned."""

    code = "evaluation_invalid"


class ProductExists(Conflict):
    """The product's slug is taken."""

    code = "product_exists"


class ReleaseExists(Conflict):
    """The product has a release of this version."""

    code = "release_exists"


class ReleaseImmutable(Conflict):
    """Releases are only ever added."""

    code = "release_immutable"


class ChannelConflict(Conflict):
    """The channel's release belongs elsewhere, or the weights exceed 100 percent."""

    code = "channel_conflict"


class LimitReached(TooMany):
    """A limit of the tenant's plan is reached."""

    code = "plan_limit"
