"""Pages of guard profiles."""

from django.urls import path

from inference.guards import views

app_name = "guards"
urlpatterns = [
    path("gateway/guards/", views.profile_list, name="profile_list"),
    path("gateway/guards/new/", views.profile_edit, name="profile_edit"),
    path("gateway/guards/<str:reference>/", views.profile_detail, name="profile_detail"),
]
