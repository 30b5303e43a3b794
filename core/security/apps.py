from django.apps import AppConfig


class SecurityConfig(AppConfig):
    name = "core.security"
    label = "security"
