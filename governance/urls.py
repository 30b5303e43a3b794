"""Pages of governance: reviews, signatures, playbooks."""

from django.urls import path

from governance import views

app_name = "governance"
urlpatterns = [
    path("reviews/", views.review_list, name="review_list"),
    path("reviews/new/", views.review_new, name="review_create"),
    path("reviews/<uuid:pk>/", views.review_detail, name="review_detail"),
    path("reviews/<uuid:pk>/sign/", views.review_sign_page, name="review_sign"),
    path("reviews/<uuid:pk>/decide/", views.review_decide_page, name="review_decide"),
    path("reviews/<uuid:pk>/withdraw/", views.review_withdraw_page, name="review_withdraw"),
    path("reviews/<uuid:pk>/comments/", views.comment_new, name="comment_add"),
    path("reviews/<uuid:pk>/checklist/", views.checklist_new, name="checklist_add"),
    path("reviews/<uuid:pk>/checklist/<int:item>/", views.checklist_set, name="checklist_set"),
    path("reviews/<uuid:pk>/waivers/", views.waiver_new, name="waiver_request"),
    path("reviews/<uuid:pk>/waivers/<int:waiver>/", views.waiver_answer, name="waiver_resolve"),
    path("reviews/<uuid:pk>/dossier.zip", views.dossier_zip, name="dossier_zip"),
    path("reviews/<uuid:pk>/dossier.pdf", views.dossier_pdf, name="dossier_pdf"),
    path("signatures/<uuid:pk>/", views.certificate, name="certificate"),
    path("signatures/<uuid:pk>/certificate.pdf", views.certificate_pdf, name="certificate_pdf"),
    path("playbooks/", views.playbook_list, name="playbook_list"),
    path("playbooks/new/", views.playbook_edit, name="playbook_create"),
    path("playbooks/<slug:slug>/", views.playbook_detail, name="playbook_detail"),
    path("playbooks/<slug:slug>/edit/", views.playbook_edit, name="playbook_edit"),
    path("playbooks/<slug:slug>/rehearse/", views.playbook_rehearse, name="playbook_rehearse"),
]
