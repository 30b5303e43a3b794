"""REST of pilots."""

from django.urls import path

from pilots.api import views

urlpatterns = [
    path("pilots/", views.Pilots.as_view()),
    path("pilots/<int:pk>/", views.PilotOne.as_view()),
    path("pilots/<int:pk>/scorecard/", views.Scorecard.as_view()),
]
