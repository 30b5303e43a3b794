"""Addresses of the pages of upstreams on a tenant's host."""

from django.urls import path

from inference.upstreams import views

app_name = "upstreams"
urlpatterns = [
    path("gateway/upstreams/", views.upstream_list, name="upstream_list"),
    path("gateway/upstreams/new/", views.upstream_new, name="upstream_new"),
    path("gateway/upstreams/<int:pk>/", views.upstream_detail, name="upstream_detail"),
    path("gateway/upstreams/<int:pk>/edit/", views.upstream_edit, name="upstream_edit"),
    path("gateway/upstreams/<int:pk>/switch/", views.upstream_switch, name="upstream_switch"),
    path("gateway/upstreams/<int:pk>/test/", views.upstream_test, name="upstream_test"),
    path("gateway/upstreams/<int:pk>/remove/", views.upstream_remove, name="upstream_remove"),
]
