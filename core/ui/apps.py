"""App configuration of the user interface kernel."""

from django.apps import AppConfig


class UiConfig(AppConfig):
    """Templates tags, components and charts; no models of its own."""

    name = "core.ui"
    label = "ui"
    verbose_name = "User interface"
