"""Pages of the gateway on a tenant's host."""

from django.urls import path

from inference.gateway import batch_views, views

app_name = "gateway"
urlpatterns = [
    path("gateway/playground/", views.playground, name="playground"),
    path("gateway/playground/stream/", views.playground_stream, name="playground_stream"),
    path("gateway/batches/", batch_views.batch_list, name="batch_list"),
    path("gateway/batches/<str:public_id>/", batch_views.batch_detail, name="batch_detail"),
    path("gateway/batches/<str:public_id>/progress/", batch_views.batch_progress, name="batch_progress"),
    path("gateway/batches/<str:public_id>/cancel/", batch_views.batch_cancel_page, name="batch_cancel"),
    path("gateway/batches/<str:public_id>/download/", batch_views.batch_download, name="batch_download"),
]
