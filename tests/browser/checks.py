"""What any page must keep, asked of the browser that shows it."""

from __future__ import annotations

from typing import Any

# Every visible text against the first opaque background behind it; large text may have 3 to 1 (WCAG 1.4.3).
LOW_CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.textContent.trim() || !node.checkVisibility() || node.closest('svg, script, .sr-only, option')) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(rgba(style.color)), light(behind(node))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${text.textContent.trim().slice(0, 40)}`);
  }
  return found;
}"""

# Parts that reach beyond the window and are not inside a box of their own that scrolls.
TOO_WIDE = """() => [...document.querySelectorAll('main *')]
  .filter((node) => node.checkVisibility() && !node.closest('.table-wrap, pre, code, .tabs, .sr-only, svg, .copy-line'))
  .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((node) => node.outerHTML.slice(0, 120))"""

UNNAMED = """() => [...document.querySelectorAll(
    'button, a[href], input:not([type=hidden]), select, textarea, summary')]
  .filter((node) => node.checkVisibility())
  .filter((node) => !(node.getAttribute('aria-label') || node.innerText?.trim() || node.labels?.length || node.title
                      || node.getAttribute('aria-labelledby')))
  .map((node) => node.outerHTML.slice(0, 120))"""


def page_problems(page: Any) -> list[str]:
    """Sideways scrolling, parts too wide, text too faint and controls without a name, as sentences."""
    problems = []
    if not page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"):
        problems.append("the page scrolls sideways")
    problems += [f"too wide: {one}" for one in page.evaluate(TOO_WIDE)]
    problems += [f"too faint: {one}" for one in page.evaluate(LOW_CONTRAST)]
    problems += [f"without a name: {one}" for one in page.evaluate(UNNAMED)]
    return problems
