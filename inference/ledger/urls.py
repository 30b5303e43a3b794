"""Pages of the ledger."""

from django.urls import path

from inference.ledger import views

app_name = "ledger"
urlpatterns = [
    path("gateway/requests/", views.request_list, name="request_list"),
    path("gateway/requests/<uuid:pk>/", views.request_detail, name="request_detail"),
    path("gateway/requests/<uuid:pk>/payload/", views.request_payload, name="request_payload"),
    path("gateway/usage/", views.usage, name="usage"),
]
