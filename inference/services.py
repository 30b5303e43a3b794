"""What can be done in inference, in one place; each part lives in a module named after its concept.

Every service asks for the permission first, raises the errors of `inference.errors` (or `core.errors`), and records
who did what in the same transaction.
"""

from inference.evaluations import (
    EvaluationPlan,
    code_version,
    evaluation_plan,
    evaluation_request,
    evaluation_start,
)
from inference.importing import DatasetImported, dataset_import, dataset_import_public, dataset_store
from inference.registration import (
    ModelRegistered,
    model_register,
    model_register_packaged,
    model_register_upload,
    model_transform,
    registration_start,
)
from inference.releases import (
    channel_set,
    config_clean,
    product_create,
    product_update,
    release_create,
    release_digest,
)

__all__ = [
    "DatasetImported",
    "EvaluationPlan",
    "ModelRegistered",
    "channel_set",
    "code_version",
    "config_clean",
    "dataset_import",
    "dataset_import_public",
    "dataset_store",
    "evaluation_plan",
    "evaluation_request",
    "evaluation_start",
    "model_register",
    "model_register_packaged",
    "model_register_upload",
    "model_transform",
    "product_create",
    "product_update",
    "registration_start",
    "release_create",
    "release_digest",
]
