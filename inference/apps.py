from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"
    label = "inference"

    def ready(self) -> None:
        """Carry out evaluations (importing the executor loads no model library), and be followed in the audit log."""
        from core.audit.registry import audited
        from inference import home, search  # noqa: F401 - registers its cards and its search
        from inference.executors import register_executors
        from inference.models import Channel, Dataset, DatasetVersion, ModelVersion, Product, Release

        register_executors()
        for model in (Product, ModelVersion, Dataset, DatasetVersion, Release, Channel):
            audited(model)
