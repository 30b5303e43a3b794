from django.apps import AppConfig


class UpstreamsConfig(AppConfig):
    name = "inference.upstreams"
    label = "upstreams"
