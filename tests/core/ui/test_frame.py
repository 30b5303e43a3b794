"""Navigation, errors, search and theme: what every page relies on."""

from __future__ import annotations

import json

import pytest
from django.contrib.staticfiles import finders
from django.http import HttpResponse
from django.test import RequestFactory

from core.errors import Conflict
from core.ui import palette, views
from core.ui.context import Allowed, Ui
from core.ui.finders import ASSETS, WheelAssetsFinder, plotly_style_id
from core.ui.middleware import DomainErrorMiddleware, domain_error_response
from core.ui.navigation import ROOMS, navigation


def labels(request) -> list[str]:
    return [link.label for group in navigation(request) for link in group.links]


def test_navigation_offers_what_resolves_and_the_role_may_use(make_request) -> None:
    assert labels(make_request(role="admin")) == ["Home", "Releases", "Models", "API keys"]


def test_navigation_leaves_out_what_the_role_may_not_use(make_request) -> None:
    assert "API keys" not in labels(make_request(role="engineer"))
    assert "Releases" not in labels(make_request(role="customer"))


def test_navigation_marks_the_room_of_a_page_below_it(make_request) -> None:
    request = make_request("/releases/7/", role="pmo")
    assert [link.label for group in navigation(request) for link in group.links if link.current] == [
        "Releases"
    ]


def test_shortcut_letters_are_unique() -> None:
    letters = [item.key for room in ROOMS for item in room.items if item.key]
    assert len(letters) == len(set(letters))


def test_signed_out_visitors_see_no_navigation(make_request) -> None:
    assert Ui(make_request(role="")).navigation == []


def test_can_reads_underscores_as_the_dot(make_request) -> None:
    make_request(role="pmo")
    assert Allowed()["release_view"] is True
    assert Allowed()["user.manage"] is False


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/conflict/", 409, "run 129 finished while you were reading"),
        ("/invalid/", 422, "gold is 5, but the item has 4 choices."),
        ("/hidden/", 404, "There is no release 9."),
    ],
)
def test_a_refusal_becomes_a_page_with_its_status_and_sentence(
    make_request, path: str, status: int, words: str
) -> None:
    from django.urls import resolve

    request = make_request(path)
    middleware = DomainErrorMiddleware(lambda r: HttpResponse())
    try:
        resolve(path).func(request)
    except Exception as error:
        response = middleware.process_exception(request, error)
    assert response is not None and response.status_code == status
    assert words in response.content.decode()


def test_a_refusal_of_a_fragment_becomes_a_toast(make_request) -> None:
    request = make_request("/conflict/", HTTP_HX_REQUEST="true")
    response = domain_error_response(request, Conflict("It changed."))
    assert response.status_code == 409
    assert "toast-error" in response.content.decode() and "<html" not in response.content.decode()


def test_a_refusal_on_the_api_becomes_a_problem_document(make_request) -> None:
    response = domain_error_response(make_request("/api/v1/conflict"), Conflict("It changed."))
    assert response["Content-Type"] == "application/problem+json"
    assert json.loads(response.content)["detail"] == "It changed."


def test_other_exceptions_are_left_to_django(make_request) -> None:
    middleware = DomainErrorMiddleware(lambda r: HttpResponse())
    assert middleware.process_exception(make_request(), ValueError("bug")) is None


@pytest.mark.parametrize(
    ("view", "status"), [(views.bad_request, 400), (views.not_found, 404), (views.forbidden, 403)]
)
def test_error_pages_say_what_to_do(make_request, view, status: int) -> None:
    response = view(make_request("/nowhere/"), Exception("internal pattern names"))
    text = response.content.decode()
    assert response.status_code == status and "home page" in text
    if status != 403:
        assert "internal pattern" not in text


def test_server_error_needs_no_context() -> None:
    response = views.server_error(RequestFactory().get("/"))
    assert response.status_code == 500 and "our side" in response.content.decode()


def test_unknown_api_address_is_a_problem_document(make_request) -> None:
    response = views.not_found(make_request("/api/v1/nowhere"))
    assert json.loads(response.content)["status"] == 404


# ------------------------------------------------------------------ search


def test_search_finds_pages_the_role_may_use(make_request) -> None:
    assert [hit.title for hit in palette.search(make_request(role="pmo"), "rel")] == ["Releases"]


def test_a_failing_search_provider_does_not_break_the_others(make_request, monkeypatch) -> None:
    monkeypatch.setattr(palette, "_providers", {})

    def broken(request, query):
        raise RuntimeError("no table yet")

    palette.register("broken", broken)
    palette.register("good", lambda request, query: [palette.Hit("Release 1.1.0", "/releases/7/", "Release")])
    assert "Release 1.1.0" in [hit.title for hit in palette.search(make_request(role="pmo"), "1.1")]


def test_search_page_and_fragment(make_request) -> None:
    page = views.search(make_request("/_search/?q=rel")).content.decode()
    fragment = views.search(make_request("/_search/?q=rel", HTTP_HX_REQUEST="true")).content.decode()
    assert "<html" in page and "<html" not in fragment and "/releases/" in fragment


def test_search_asks_anonymous_visitors_to_sign_in(make_request, settings) -> None:
    settings.LOGIN_URL = "/sign-in/"
    assert views.search(make_request("/_search/?q=x", role="")).status_code == 302


# ------------------------------------------------------------------ theme


@pytest.mark.parametrize(
    ("given", "kept", "target"),
    [("dark", "dark", "/releases/"), ("purple", "auto", "/releases/")],
)
def test_theme_is_kept_in_a_cookie(given: str, kept: str, target: str) -> None:
    request = RequestFactory().post("/_theme/", {"theme": given, "next": target})
    response = views.theme(request)
    assert response.cookies["theme"].value == kept and response["Location"] == target


def test_theme_does_not_redirect_to_another_site() -> None:
    request = RequestFactory().post("/_theme/", {"theme": "dark", "next": "https://evil.example/"})
    assert views.theme(request)["Location"] == "/"


@pytest.mark.parametrize("cookie", ["dark", "nonsense", ""])
def test_page_carries_the_theme_so_that_nothing_flashes(make_request, cookie: str) -> None:
    request = make_request("/_shortcuts/", HTTP_COOKIE=f"theme={cookie}")
    html = views.shortcuts(request).content.decode()
    assert f'data-theme="{cookie if cookie == "dark" else "auto"}"' in html


# ------------------------------------------------------------------ front-end assets


@pytest.mark.parametrize("path", sorted(ASSETS))
def test_libraries_are_served_from_their_wheels(path: str) -> None:
    assert finders.find(path)


def test_nothing_else_of_the_wheels_is_served() -> None:
    assert not finders.find("vendor/datasets/gapminder.csv.gz")
    assert WheelAssetsFinder().find("vendor/../../settings.py") == []


def test_style_element_of_the_map_library_is_forestalled(make_request) -> None:
    assert len(plotly_style_id()) == 64
    assert f'id="{plotly_style_id()}"' in views.shortcuts(make_request("/_shortcuts/")).content.decode()
