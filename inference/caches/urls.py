"""Pages of caches."""

from django.urls import path

from inference.caches import views

app_name = "caches"
urlpatterns = [
    path("gateway/caches/", views.cache_list, name="cache_list"),
    path("gateway/caches/purge/", views.cache_purge, name="cache_purge"),
    path("gateway/caches/semantic/", views.semantic_set, name="semantic_set"),
]
