from django.apps import AppConfig


class WorkersConfig(AppConfig):
    name = "workers"
    label = "workers"

    def ready(self) -> None:
        """Give the Celery app its schedule. (core may not import this app, so it cannot ask for it.)"""
        from core.celery import app
        from workers.schedule import SCHEDULE

        app.conf.beat_schedule = {**(app.conf.beat_schedule or {}), **SCHEDULE}
