/* Line numbers beside text areas that hold code, and Tab as a tab (Escape, then Tab, leaves). Works without. */
(function () {
  "use strict";
  document.querySelectorAll("textarea[data-code]").forEach(function (area) {
    var frame = document.createElement("div");
    var gutter = document.createElement("div");
    frame.className = "code-area";
    gutter.className = "code-gutter";
    gutter.setAttribute("aria-hidden", "true");
    area.parentNode.insertBefore(frame, area);
    frame.append(gutter, area);
    var shown = 0;
    function number() {
      var lines = area.value.split("\n").length;
      if (lines !== shown) {
        shown = lines;
        var text = "";
        for (var line = 1; line <= lines; line += 1) text += line + "\n";
        gutter.textContent = text;
      }
      gutter.scrollTop = area.scrollTop;
    }
    var leaving = false;
    area.addEventListener("keydown", function (event) {
      if (event.key === "Escape") leaving = true;
      else if (event.key === "Tab" && !event.shiftKey && !leaving && area.dataset.code === "rego") {
        event.preventDefault();
        area.setRangeText("\t", area.selectionStart, area.selectionEnd, "end");
        area.dispatchEvent(new Event("input", { bubbles: true }));
      } else leaving = false;
    });
    area.addEventListener("input", number);
    area.addEventListener("scroll", function () { gutter.scrollTop = area.scrollTop; });
    number();
  });
})();
