"""Pages of limits."""

from django.urls import path

from tenants.quotas import views

app_name = "quotas"
urlpatterns = [
    path("gateway/limits/", views.limit_list, name="limit_list"),
    path("gateway/limits/new/", views.limit_new, name="limit_new"),
    path("gateway/limits/<int:pk>/", views.limit_edit, name="limit_edit"),
    path("gateway/limits/<int:pk>/remove/", views.limit_delete, name="limit_remove"),
    path("gateway/limits/keys/<str:key_id>/", views.key_place_page, name="key_place"),
]
