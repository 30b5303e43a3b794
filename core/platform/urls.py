"""Health and readiness."""

from django.urls import path

from core.platform import views

app_name = "platform"
urlpatterns = [
    path("healthz", views.health, name="health"),
    path("readyz", views.ready, name="ready"),
]
