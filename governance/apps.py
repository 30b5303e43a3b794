from django.apps import AppConfig


class GovernanceConfig(AppConfig):
    name = "governance"
    label = "governance"

    def ready(self) -> None:
        """Offer what governance puts on the home page."""
        from governance import home  # noqa: F401 - registers its cards
