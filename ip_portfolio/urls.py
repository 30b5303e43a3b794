"""Pages of the portfolio."""

from django.urls import path

from ip_portfolio import views

app_name = "ip_portfolio"
urlpatterns = [
    path("", views.application_list_page, name="application_list"),
    path("new", views.application_create_page, name="application_create"),
    path("<int:pk>/", views.application_detail, name="application_detail"),
    path("<int:pk>/edit", views.application_edit_page, name="application_edit"),
]
