from django.apps import AppConfig


class CachesConfig(AppConfig):
    name = "inference.caches"
    label = "caches"
