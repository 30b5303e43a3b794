"""Addresses of the user interface kernel. They start with an underscore so that no app's page collides."""

from django.urls import path

from core.ui import views

app_name = "ui"
urlpatterns = [
    path("_components/", views.components, name="components"),
    path("_search/", views.search, name="search"),
    path("_theme/", views.theme, name="theme"),
    path("_shortcuts/", views.shortcuts, name="shortcuts"),
]
