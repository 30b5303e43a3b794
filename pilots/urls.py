"""Pages of pilots."""

from django.urls import path

from pilots import views

app_name = "pilots"
urlpatterns = [
    path("pilots/", views.pilot_list_page, name="pilot_list"),
    path("pilots/new", views.pilot_create_page, name="pilot_create"),
    path("pilots/<int:pilot_id>/", views.pilot_detail, name="pilot_detail"),
    path("pilots/<int:pilot_id>/edit", views.pilot_edit_page, name="pilot_edit"),
    path("pilots/<int:pilot_id>/members", views.member_add, name="member_add"),
    path("pilots/<int:pilot_id>/members/<int:member_id>/remove", views.member_remove, name="member_remove"),
    path("scorecard/", views.scorecard_own, name="scorecard"),
]
