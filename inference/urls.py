"""Addresses of the pages of inference on a tenant's host."""

from django.urls import path

from inference.views import compare, datasets, gates, models, releases, runs

app_name = "inference"
urlpatterns = [
    path("products/new/", releases.product_create, name="product_create"),
    path("releases/", releases.release_list, name="release_list"),
    path("releases/new/", releases.release_create, name="release_create"),
    path("releases/<int:pk>/", releases.release_detail, name="release_detail"),
    path("compare/", compare.compare, name="compare"),
    path("compare/progress/", compare.compare_progress, name="compare_progress"),
    path("compare/check/", compare.compare_check, name="compare_check"),
    path("runs/", runs.run_list, name="run_list"),
    path("runs/new/", runs.run_create, name="run_create"),
    path("runs/active/", runs.running_jobs, name="running_jobs"),
    path("runs/<uuid:pk>/", runs.run_detail, name="run_detail"),
    path("runs/<uuid:pk>/progress/", runs.run_progress_fragment, name="run_progress"),
    path("runs/<uuid:pk>/cancel/", runs.run_cancel, name="run_cancel"),
    path("runs/<uuid:pk>/retry/", runs.run_retry, name="run_retry"),
    path("models/", models.model_list, name="model_list"),
    path("models/new/", models.model_register, name="model_register"),
    path("models/<int:pk>/", models.model_detail, name="model_detail"),
    path("models/<int:pk>/variant/", models.model_transform, name="model_transform"),
    path("models/registrations/<uuid:pk>/", models.registration_detail, name="registration_detail"),
    path("models/registrations/<uuid:pk>/state/", models.registration_fragment, name="registration_fragment"),
    path("datasets/", datasets.dataset_list, name="dataset_list"),
    path("datasets/new/", datasets.dataset_import, name="dataset_import"),
    path("datasets/<slug:slug>/", datasets.dataset_detail, name="dataset_detail"),
    path("gates/", gates.gate_list, name="gate_list"),
    path("gates/new/", gates.gate_create, name="gate_create"),
    path("gates/<slug:slug>/", gates.gate_detail, name="gate_detail"),
    path("gates/<slug:slug>/edit/", gates.gate_edit, name="gate_edit"),
    path("gates/<slug:slug>/gate.json", gates.gate_json, name="gate_json"),
]
