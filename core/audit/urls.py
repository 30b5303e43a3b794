"""The audit explorer."""

from django.urls import path

from core.audit import views

app_name = "audit"
urlpatterns = [
    path("audit/", views.event_list, name="event_list"),
    path("audit/export", views.export, name="export"),
    path("audit/verify", views.verify, name="verify"),
    path("audit/<int:event_id>/", views.event_detail, name="event_detail"),
]
