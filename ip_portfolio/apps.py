from django.apps import AppConfig


class IpPortfolioConfig(AppConfig):
    name = "ip_portfolio"
    label = "ip_portfolio"
