from django.apps import AppConfig


class QuotasConfig(AppConfig):
    name = "tenants.quotas"
    label = "quotas"
