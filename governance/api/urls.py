"""REST of governance."""

from django.urls import path

from governance.api import views

urlpatterns = [
    path("reviews/", views.Reviews.as_view()),
    path("reviews/<uuid:pk>/", views.ReviewOne.as_view()),
    path("reviews/<uuid:pk>/withdraw/", views.ReviewWithdraw.as_view()),
    path("reviews/<uuid:pk>/decision/", views.ReviewDecision.as_view()),
    path("reviews/<uuid:pk>/signatures/", views.ReviewSignatures.as_view()),
    path("reviews/<uuid:pk>/checklist/", views.ReviewChecklist.as_view()),
    path("reviews/<uuid:pk>/checklist/<int:item>/", views.ReviewChecklistOne.as_view()),
    path("reviews/<uuid:pk>/waivers/", views.ReviewWaivers.as_view()),
    path("reviews/<uuid:pk>/waivers/<int:waiver>/answer/", views.ReviewWaiverAnswer.as_view()),
    path("reviews/<uuid:pk>/comments/", views.ReviewComments.as_view()),
    path("reviews/<uuid:pk>/dossier/", views.ReviewDossier.as_view()),
    path("playbooks/", views.Playbooks.as_view()),
    path("playbooks/<slug:slug>/", views.PlaybookOne.as_view()),
    path("playbooks/<slug:slug>/rehearsals/", views.PlaybookRehearsals.as_view()),
]
