from celery.signals import worker_shutting_down
from django.apps import AppConfig


class WorkersConfig(AppConfig):
    name = "workers"
    label = "workers"

    def ready(self) -> None:
        """Give the Celery app its schedule. (core may not import this app, so it cannot ask for it.)"""
        from core.celery import app
        from workers.schedule import SCHEDULE

        app.conf.beat_schedule = {**(app.conf.beat_schedule or {}), **SCHEDULE}
        worker_shutting_down.connect(_hand_runs_back, dispatch_uid="workers.hand-runs-back")


def _hand_runs_back(**_: object) -> None:
    """A worker told to stop gives its run back after the present batch, so that another goes on at once."""
    from core.evidence import services

    services.stopping.set()
