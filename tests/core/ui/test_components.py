"""Every component: documented, shown in the catalogue, and fit for a strict content security policy."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings
from django.http import Http404
from django.template import Context, Template, engines

from core.ui import views
from core.ui.components import component, digest, number, verdict

FOLDER = Path(settings.BASE_DIR) / "templates" / "cotton"
NAMES = sorted(path.stem for path in FOLDER.glob("*.html"))
# Parts of other components, shown through them.
SHOWN_THROUGH = {
    "fields": "form",
    "job": "(the job pages)",
    "page-head": "(base.html)",
    "pagination": "(hand-written tables)",
}
WRITTEN = [*FOLDER.glob("*.html"), *(Path(settings.BASE_DIR) / "templates").rglob("*.html")]
PAPER = {"pdf_base.html"}


class Audit(HTMLParser):
    """Collects what a page does wrong: inline style or script, controls without a name, doubled ids."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.labels: set[str] = set()
        self.controls: list[dict[str, str]] = []
        self.references: list[str] = []
        self.headings: list[int] = []
        self._label_depth = 0
        self._open_button: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        for key in given:
            if key == "style" or key.startswith("on"):
                self.problems.append(f"<{tag}> has an inline {key}")
        if tag == "style" or (
            tag == "script" and "src" not in given and given.get("type") != "application/json"
        ):
            self.problems.append(f"inline <{tag}>")
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "label":
            self._label_depth += 1
            if "for" in given:
                self.labels.add(given["for"])
        visible = tag in {"input", "select", "textarea"} and given.get("type") not in {"hidden", "submit"}
        if visible and not self._label_depth:
            self.controls.append(given)
        if tag == "button":
            self._open_button = ["named"] if given.get("aria-label") or given.get("title") else []
        if tag == "img" and "alt" not in given:
            self.problems.append("<img> without alt")
        for key in ("aria-describedby", "aria-labelledby", "popovertarget"):
            self.references += given.get(key, "").split()
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "label":
            self._label_depth -= 1
        if tag == "button" and self._open_button is not None:
            if not self._open_button:
                self.problems.append("<button> without a name")
            self._open_button = None

    def handle_data(self, data: str) -> None:
        if self._open_button is not None and data.strip():
            self._open_button.append(data)

    def finish(self) -> list[str]:
        for control in self.controls:
            if not (control.get("aria-label") or control.get("id") in self.labels):
                self.problems.append(f"control without a label: {control}")
        self.problems += [f"id used twice: {one}" for one in set(self.ids) if self.ids.count(one) > 1]
        self.problems += [f"reference to a missing id: {one}" for one in set(self.references) - set(self.ids)]
        return self.problems


@pytest.fixture
def catalogue(make_request, settings) -> str:
    settings.SHOW_COMPONENTS = True
    return views.components(make_request("/_components/?errors=1")).content.decode()


def test_catalogue_page_has_names_labels_and_nothing_inline(catalogue: str) -> None:
    audit = Audit()
    audit.feed(catalogue)
    assert audit.finish() == []
    assert audit.headings.count(1) == 1


def test_catalogue_is_absent_where_it_is_not_switched_on(make_request, settings) -> None:
    settings.SHOW_COMPONENTS = False
    with pytest.raises(Http404):
        views.components(make_request("/_components/"))


@pytest.mark.parametrize("name", NAMES)
def test_component_says_what_it_accepts(name: str) -> None:
    text = (FOLDER / f"{name}.html").read_text()
    assert text.startswith("{% comment %}"), "the first line lists the attributes"
    comment = text[: text.index("{% endcomment %}")]
    declared = re.search(r"<c-vars\s([^>]*)/>", text)
    assert declared, "attributes have defaults, so that nothing leaks in from the page"
    for attribute in re.findall(r":?([a-z_]+)=", declared[1]):
        if attribute in {"classname", "id", "empty_icon", "show_caption"}:
            continue
        assert re.search(rf"\b{attribute}\b", comment), f"{attribute} is not explained"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in SHOWN_THROUGH])
def test_component_is_shown_in_the_catalogue(name: str) -> None:
    page = (FOLDER.parent / "ui" / "components.html").read_text() + (FOLDER.parent / "base.html").read_text()
    assert re.search(rf"<c-{name}[\s/>]", page) or name == "fields"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"data-table", "pagination"}])
def test_component_renders_without_any_attribute(name: str) -> None:
    assert isinstance(component(name), str)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_no_template_writes_inline_style_or_script(path: Path) -> None:
    if path.name in PAPER or "pdf" in path.parts or path.read_text().find("pdf_base.html") >= 0:
        pytest.skip("paper has no content security policy")
    text = re.sub(r"{% comment %}.*?{% endcomment %}", "", path.read_text(), flags=re.S)
    assert not re.search(r"\sstyle\s*=|\son[a-z]+\s*=|<style|<script(?![^>]*(src=|application/json))", text)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("pass", "Pass"),
        ("fail", "Fail"),
        ("inconclusive", "Inconclusive"),
        ("not_run", "Not run"),
        ("stale", "Stale"),
        (None, "Not run"),
        ("passed?", "Not run"),
    ],
)
def test_verdict_is_colour_icon_and_word_and_never_pass_by_accident(given, word: str) -> None:
    html = verdict(given)
    assert word in html and "<svg" in html and f"verdict-{word.lower().replace(' ', '_')}" in html


def test_stated_and_measured_numbers_look_different() -> None:
    assert "number-measured" in number(0.6, 0.5, 0.7, 20, "share")
    assert "number-stated" in number(0.6, kind="stated")


def test_digest_is_short_and_copies_whole() -> None:
    whole = "sha256:" + "ab" * 32
    html = digest(whole)
    assert ">abababababab<" in html and f'data-copy="{whole}"' in html


def test_text_given_to_a_component_is_escaped() -> None:
    html = Template('<c-card title="{{ t }}"><c-badge label="{{ t }}" />{{ t }}</c-card>')
    assert html is not None
    out = (
        engines["django"]
        .from_string("{% cotton card title=t %}{% cotton badge label=t / %}{{ t }}{% endcotton %}")
        .render({"t": "<i>x</i>"})
    )
    assert "<i>" not in out


def test_a_job_polls_while_it_runs_and_stops_when_done() -> None:
    assert "hx-trigger" in component("job", url="/runs/1/progress", running="yes")
    assert "hx-trigger" not in component("job", url="/runs/1/progress", running="")


def test_field_shows_its_error_beside_it() -> None:
    from core.ui.catalogue import ExampleForm

    form = ExampleForm({"version": "", "margin": "x"})
    html = Template("{% cotton fields :form=form / %}").render(Context({"form": form}))
    assert 'id="id_margin_error"' in html and "Enter a number." in html
    assert 'value="x"' in html, "what was typed is kept"
    assert 'aria-invalid="true"' in html


@pytest.mark.parametrize("name", ["time", "verdict", "badge", "number", "digest", "avatar"])
def test_inline_components_leave_no_space_before_the_next_comma(name: str) -> None:
    html = component(name, value=None if name == "time" else "x", label="x", name="x")
    assert html == html.strip()


TAG = re.compile(r"""<c-([a-z-]+)((?:\s+[^\s/>"'=<>`]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|\S+))?)*)\s*/?>""", re.S)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_pages_give_components_only_attributes_they_know(path: Path) -> None:
    text = re.sub(r"{% comment %}.*?{% endcomment %}", "", path.read_text(), flags=re.S)
    for name, given in TAG.findall(text):
        if name in {"slot", "vars"}:
            continue
        source = (FOLDER / f"{name}.html").read_text()
        if "{{ attrs }}" in source:
            continue
        declared = set(re.findall(r":?([a-z_]+)=", re.search(r"<c-vars\s([^>]*)/>", source)[1]))
        bare = re.sub(r"=\s*(\"[^\"]*\"|'[^']*')", "= ", given)
        used = {word.lstrip(":") for word in re.findall(r"(?:^|\s)(:?[\w:.-]+)(?=\s*=|\s|$)", bare)}
        assert used - {""} <= declared, f"<c-{name}> knows {sorted(declared)}"
