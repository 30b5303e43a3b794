from django.apps import AppConfig


class PoliciesConfig(AppConfig):
    name = "inference.policies"
    label = "policies"
