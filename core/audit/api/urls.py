"""REST of the audit log."""

from django.urls import path

from core.audit.api import views

urlpatterns = [
    path("audit/events/", views.Events.as_view()),
    path("audit/verification/", views.Verification.as_view()),
]
