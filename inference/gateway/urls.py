"""Pages of the gateway on a tenant's host."""

from django.urls import path

from inference.gateway import views

app_name = "gateway"
urlpatterns = [
    path("gateway/playground/", views.playground, name="playground"),
    path("gateway/playground/stream/", views.playground_stream, name="playground_stream"),
]
