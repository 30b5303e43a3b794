from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "inference.ledger"
    label = "ledger"
