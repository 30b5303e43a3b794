"""PDFs: tagged, titled, paginated, and closed to files and the network."""

from __future__ import annotations

import contextlib
import re
import zlib

import pytest
from django.template import engines

from core.ui import pdf
from core.ui.charts import IntervalChart, IntervalRow, chart_svg

BODY = """{% extends "ui/pdf_base.html" %}{% block content %}<h1>Certificate</h1>{{ drawing|safe }}
<table><thead><tr><th>Metric</th></tr></thead><tbody>{% for i in rows %}
<tr><td>criterion {{ i }}</td></tr>{% endfor %}</tbody></table>{% endblock %}"""


@pytest.fixture
def document(monkeypatch) -> None:
    template = engines["django"].from_string(BODY)
    monkeypatch.setattr(pdf, "render_to_string", lambda name, context: template.render(context))


def render(size: pdf.PaperSize = "A4", header: str = "summit · Document assistant 1.1.0") -> bytes:
    drawing = chart_svg(IntervalChart("d", [IntervalRow("accuracy", 0.1, 0.05, 0.15, "pass")]))
    return pdf.render_pdf(
        "x",
        {"rows": range(80), "drawing": drawing},
        title="Certificate 7",
        header=header,
        digest="9f3c1e5b7a2d",
        size=size,
    )


def plain(data: bytes) -> bytes:
    """The document with its compressed streams unpacked."""
    out = [data]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, flags=re.S):
        with contextlib.suppress(zlib.error):
            out.append(zlib.decompress(stream))
    return b"\n".join(out)


def test_pdf_is_tagged_titled_and_embeds_its_fonts(document) -> None:
    data = render()
    text = plain(data)
    assert data.startswith(b"%PDF")
    assert b"/StructTreeRoot" in text and b"/Marked true" in text
    assert b"/Lang" in text and b"Certificate 7" in text
    assert b"/FontFile" in text
    assert len(re.findall(rb"/Type ?/Page\b", text)) >= 3, "80 rows do not fit one page"


@pytest.mark.parametrize("size", ["A4", "Letter"])
def test_both_papers(document, size) -> None:
    assert render(size).startswith(b"%PDF")


def test_other_papers_are_refused(document) -> None:
    with pytest.raises(ValueError, match="'A4' or 'Letter'"):
        render("A5")  # type: ignore[arg-type]


def test_a_document_reads_neither_files_nor_the_network(tmp_path, caplog) -> None:
    secret = tmp_path / "secret.svg"
    secret.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text>hidden</text></svg>'
    )
    for url in (secret.as_uri(), "http://127.0.0.1:1/x.png"):
        with_image = pdf.pdf_from_html(
            f'<html lang="en"><title>t</title><p>x</p><img src="{url}" alt="y"></html>'
        )
        assert b"/Subtype /Form" not in with_image and b"hidden" not in with_image
    assert caplog.text.count("disallowed protocol") == 2


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "</style><script>", "é €"])
def test_header_text_cannot_leave_its_css_string(text: str) -> None:
    literal = pdf.css_string(text)
    inside = literal[1:-1]
    assert literal[0] == literal[-1] == '"'
    assert '"' not in inside and "\n" not in inside and "<" not in inside
    assert "\\" not in inside.replace("\\0000", "")


def test_a_header_with_markup_still_gives_a_document(document) -> None:
    assert render(header='</style><script>alert("x")</script>').startswith(b"%PDF")
