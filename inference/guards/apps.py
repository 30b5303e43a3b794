from django.apps import AppConfig


class GuardsConfig(AppConfig):
    name = "inference.guards"
    label = "guards"
