"""Only the kernel's own pages, and a few named destinations for the navigation."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from core.errors import Conflict, Invalid, NotFound


def page(request: HttpRequest) -> HttpResponse:
    """Any page."""
    return HttpResponse("page")


def conflict(request: HttpRequest) -> HttpResponse:
    """A refusal."""
    raise Conflict("The evidence changed: run 129 finished while you were reading.")


def invalid(request: HttpRequest) -> HttpResponse:
    """A refusal with fields."""
    raise Invalid("The file has problems.", fields={"gold": ["gold is 5, but the item has 4 choices."]})


def hidden(request: HttpRequest) -> HttpResponse:
    """Not found, in our words."""
    raise NotFound("There is no release 9.")


named = (
    [
        path("releases/", page, name="release_list"),
        path("releases/<int:pk>/", page, name="release_detail"),
        path("models/", page, name="model_list"),
    ],
    "inference",
)
keys = ([path("keys/", page, name="key_list")], "accounts")

urlpatterns = [
    path("", page, name="home"),
    path("conflict/", conflict),
    path("invalid/", invalid),
    path("hidden/", hidden),
    path("api/v1/conflict", conflict),
    path("", include(named)),
    path("", include(keys)),
    path("", include("core.ui.urls")),
]
