"""REST of inference."""

from django.urls import path

from inference.api import views

urlpatterns = [
    path("products/", views.Products.as_view()),
    path("products/<slug:slug>/", views.ProductOne.as_view()),
    path("models/", views.Models.as_view()),
    path("models/<int:pk>/", views.ModelOne.as_view()),
    path("model-registrations/", views.Registrations.as_view()),
    path("model-registrations/<uuid:pk>/", views.RegistrationOne.as_view()),
    path("datasets/", views.Datasets.as_view()),
    path("datasets/<slug:slug>/", views.DatasetOne.as_view()),
    path("datasets/<slug:slug>/versions/", views.DatasetVersions.as_view()),
    path("datasets/<slug:slug>/versions/<int:version>/items/", views.DatasetItems.as_view()),
    path("releases/", views.Releases.as_view()),
    path("releases/<int:pk>/", views.ReleaseOne.as_view()),
    path("channels/", views.Channels.as_view()),
    path("runs/", views.Runs.as_view()),
    path("runs/<uuid:pk>/", views.RunOne.as_view()),
    path("runs/<uuid:pk>/cancel/", views.RunCancel.as_view()),
    path("runs/<uuid:pk>/retry/", views.RunRetry.as_view()),
    path("runs/<uuid:pk>/items/", views.RunItems.as_view()),
    path("runs/<uuid:pk>/events/", views.RunEvents.as_view()),
    path("measurements/", views.Measurements.as_view()),
    path("gates/", views.Gates.as_view()),
    path("gates/<slug:slug>/", views.GateOne.as_view()),
    path("gate-checks/", views.GateChecks.as_view()),
    path("gate-verdicts/", views.GateVerdicts.as_view()),
    path("gate-verdicts/<uuid:pk>/", views.GateVerdictOne.as_view()),
]
