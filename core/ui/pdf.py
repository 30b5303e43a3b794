"""PDFs by WeasyPrint: A4 or Letter, running header, page n of m, tagged, fonts embedded, title and language
set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from django.template.loader import render_to_string

from core.errors import DomainError

PaperSize = Literal["A4", "Letter"]


class PdfUnavailable(DomainError):
    """The system libraries WeasyPrint needs are missing."""

    status = 503
    code = "pdf_unavailable"
    title = "PDFs cannot be made on this machine"


def render_pdf(
    template: str,
    context: Mapping[str, Any],
    *,
    title: str = "",
    header: str = "",
    digest: str = "",
    size: PaperSize = "A4",
) -> bytes:
    """PDF bytes of a template that extends `ui/pdf_base.html`.

    Args:
        title: document title (metadata and first page).
        header: left of the running header, e.g. tenant and object.
        digest: evidence digest shown in the running header; empty for none.
        size: paper.
    Raises:
        PdfUnavailable: pango and its friends are not installed; the message names the packages.
    """
    if size not in {"A4", "Letter"}:
        raise ValueError(f"Paper size must be 'A4' or 'Letter', got {size!r}.")
    html = render_to_string(
        template,
        {**context, "pdf": {"title": title, "header": header, "digest": digest, "size": size}},
    )
    return pdf_from_html(html)


def pdf_from_html(html: str) -> bytes:
    """PDF bytes (PDF/UA tagged) of a complete HTML document. Same input, same layout; see `render_pdf`."""
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except OSError as error:
        raise PdfUnavailable(
            "WeasyPrint cannot load pango. Install it with: apt install libpango-1.0-0 libpangoft2-1.0-0"
        ) from error
    # A document must neither read files of the server nor call out: only data: addresses are followed.
    fetcher = URLFetcher(allowed_protocols=("data",), allow_redirects=False)
    return bytes(HTML(string=html, url_fetcher=fetcher).write_pdf(pdf_variant="pdf/ua-1", pdf_tags=True))


def css_string(text: str) -> str:
    """`text` as a CSS string literal: no quote, backslash or line end can leave it."""
    cleaned = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    return '"' + re.sub(r'["\\<>&]', lambda m: f"\\{ord(m[0]):06x}", cleaned) + '"'


__all__ = ["PaperSize", "PdfUnavailable", "css_string", "pdf_from_html", "render_pdf"]
