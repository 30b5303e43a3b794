from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"
    label = "inference"

    def ready(self) -> None:
        """Carry out evaluations. (Importing the executor loads no model library.)"""
        from inference.executors import register_executors

        register_executors()
