from django.apps import AppConfig


class IpPortfolioConfig(AppConfig):
    name = "ip_portfolio"
    label = "ip_portfolio"

    def ready(self) -> None:
        """Register home cards, and follow applications in the audit log; titles and inventors stay out of it."""
        from core.audit.registry import audited
        from ip_portfolio import home  # noqa: F401 - registers its cards
        from ip_portfolio.models import PatentApplication

        audited(PatentApplication, mask=["title", "inventors", "notes"])
