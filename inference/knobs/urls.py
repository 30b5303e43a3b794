"""Pages of protection."""

from django.urls import path

from inference.knobs import views

app_name = "knobs"
urlpatterns = [
    path("gateway/protection/", views.protection, name="protection"),
    path("gateway/protection/watermark/", views.watermark_detect, name="watermark_detect"),
    path("gateway/protection/watermark/rotate/", views.watermark_rotate, name="watermark_rotate"),
    path("gateway/protection/receipt/", views.receipt_check, name="receipt_check"),
    path("gateway/protection/key.pem", views.public_key, name="public_key"),
    path("gateway/protection/canaries/plant/", views.canary_plant, name="canary_plant"),
    path("gateway/protection/canaries/retire/", views.canary_retire, name="canary_retire"),
    path("gateway/protection/canaries/compare/", views.copy_check, name="copy_check"),
    path("gateway/protection/alerts/handle/", views.alert_handle, name="alert_handle"),
]
