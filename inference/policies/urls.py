"""Pages of policies."""

from django.urls import path

from inference.policies import views

app_name = "policies"
urlpatterns = [
    path("gateway/policies/", views.policy_list, name="policy_list"),
    path("gateway/policies/new/", views.policy_new, name="policy_new"),
    path("gateway/policies/simulator/", views.simulator, name="policy_simulator"),
    path("gateway/policies/<int:version>/", views.policy_detail, name="policy_detail"),
    path("gateway/policies/<int:version>/tests/", views.policy_test, name="policy_test"),
    path("gateway/policies/<int:version>/activate/", views.policy_activate, name="policy_activate"),
]
