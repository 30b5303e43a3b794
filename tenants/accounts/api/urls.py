"""REST of users and API keys."""

from django.urls import path

from tenants.accounts.api import views

urlpatterns = [
    path("me/", views.Me.as_view()),
    path("users/", views.Users.as_view()),
    path("users/<int:pk>/", views.UserOne.as_view()),
    path("api-keys/", views.Keys.as_view()),
    path("api-keys/<slug:key_id>/", views.KeyOne.as_view()),
]
