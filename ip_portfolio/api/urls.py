"""REST of the IP portfolio."""

from django.urls import path

from ip_portfolio.api import views

urlpatterns = [
    path("patent-applications/", views.Applications.as_view()),
    path("patent-applications/<int:pk>/", views.ApplicationOne.as_view()),
]
