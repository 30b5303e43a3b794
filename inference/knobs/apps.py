from django.apps import AppConfig


class KnobsConfig(AppConfig):
    name = "inference.knobs"
    label = "knobs"
