/* Signoff: what pages gain from script. Everything here is an addition: forms, links, menus, dialogs and tables work
   without it. No inline handlers, no eval, no style attributes: the content security policy allows none. */
(() => {
  "use strict";

  const root = document.documentElement;
  const $ = (selector, scope = document) => scope.querySelector(selector);
  const $$ = (selector, scope = document) => [...scope.querySelectorAll(selector)];
  const cookie = (name, value) => {
    const secure = location.protocol === "https:" ? ";Secure" : "";
    document.cookie = `${name}=${encodeURIComponent(value)};path=/;max-age=31536000;SameSite=Lax${secure}`;
  };
  const quiet = matchMedia("(prefers-reduced-motion: reduce)");

  // ------------------------------------------------------------------ theme
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const themeNow = () => {
    const chosen = root.dataset.theme;
    return chosen === "dark" || chosen === "light" ? chosen : dark.matches ? "dark" : "light";
  };
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-theme-form]")) return;
    event.preventDefault();
    root.dataset.theme = themeNow() === "dark" ? "light" : "dark";
    cookie("theme", root.dataset.theme);
    redrawCharts();
  });
  dark.addEventListener("change", () => redrawCharts());

  // ------------------------------------------------------------------ toasts
  const toasts = () => $("#toasts");
  const armToast = (toast) => {
    if (toast.dataset.armed) return;
    toast.dataset.armed = "yes";
    // Errors stay until dismissed; the rest leaves after a time that allows two readings.
    if (!toast.matches(".toast-error, .toast-fail, .toast-warning")) {
      const words = toast.textContent.trim().split(/\s+/).length;
      setTimeout(() => toast.remove(), 4000 + words * 400);
    }
  };
  const say = (text, variant = "info") => {
    const toast = document.createElement("div");
    toast.className = `toast toast-${variant}`;
    if (variant === "error") toast.setAttribute("role", "alert");
    const words = document.createElement("p");
    words.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "btn btn-quiet btn-s";
    close.dataset.dismiss = "";
    close.textContent = "Dismiss";
    toast.append(words, close);
    toasts()?.append(toast);
    armToast(toast);
  };

  // ------------------------------------------------------------------ copying
  const copy = async (text, button) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Plain http on a name other than localhost has no clipboard API.
      const area = document.createElement("textarea");
      area.value = text;
      area.className = "sr-only";
      (button.closest("dialog") || document.body).append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      button.focus();
      if (!done) return say("Copying was refused by the browser. Select the text and press Ctrl C.", "error");
    }
    say("Copied.", "success");
  };

  // ------------------------------------------------------------------ dialogs
  const openDialog = (dialog) => {
    if (!dialog || dialog.open) return;
    if (dialog.hasAttribute("popover") && dialog.matches(":popover-open")) dialog.hidePopover();
    dialog.showModal();
    // The first field, not the close button, is where typing starts.
    (dialog.querySelector("[autofocus]") || dialog.querySelector(".dialog-body :is(input, select, textarea):not([type=hidden])"))?.focus();
  };
  const openPalette = (words = "") => {
    const palette = $("#palette");
    if (!palette) return;
    openDialog(palette);
    const input = $("input", palette);
    input.value = words;
    delete palette.dataset.enter;
    input.focus();
    window.htmx?.trigger(input, "palette-opened");
  };

  document.addEventListener("click", (event) => {
    const target = event.target;
    if (!(target instanceof Element)) return;
    const copyButton = target.closest("[data-copy], [data-copy-from]");
    if (copyButton) {
      event.preventDefault();
      const from = copyButton.dataset.copyFrom;
      copy(from ? $(from, copyButton.closest(".code")).innerText : copyButton.dataset.copy, copyButton);
      return;
    }
    const dismiss = target.closest("[data-dismiss]");
    if (dismiss) return dismiss.closest(".toast")?.remove();
    const closer = target.closest("[data-dialog-close]");
    if (closer && closer.closest("dialog")?.open) {
      event.preventDefault();
      return closer.closest("dialog").close();
    }
    const opener = target.closest("[popovertarget]");
    if (opener && opener.getAttribute("popovertargetaction") !== "hide") {
      const dialog = document.getElementById(opener.getAttribute("popovertarget"));
      if (dialog instanceof HTMLDialogElement) {
        event.preventDefault();
        return openDialog(dialog);
      }
    }
    if (target.closest("[data-shortcuts-open]")) {
      event.preventDefault();
      target.closest("details")?.removeAttribute("open");
      return openDialog($("#shortcuts"));
    }
    if (target instanceof HTMLDialogElement && target.open) {
      // A click on the backdrop lands on the dialog itself, outside its box.
      const box = target.getBoundingClientRect();
      const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
      if (!inside && !$("form[data-dirty]", target)) target.close();
    }
    for (const menu of $$("details.menu[open]")) if (!menu.contains(target)) menu.open = false;
    if (target.matches("[data-select]")) target.select();
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches?.("[data-palette-open]")) {
      const words = event.target.value;
      event.target.blur();
      openPalette(words);
    }
  });

  // ------------------------------------------------------------------ keyboard
  const typing = (element) => element instanceof Element && element.closest("input, textarea, select, [contenteditable]");
  const rows = () => $$("table[data-rows] tbody tr").filter((row) => row.offsetParent);
  const mark = (row) => {
    for (const other of $$("tr[data-focus]")) other.removeAttribute("data-focus");
    row.setAttribute("data-focus", "");
    row.tabIndex = -1;
    row.focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest", behavior: quiet.matches ? "auto" : "smooth" });
  };
  const step = (by) => {
    const all = rows();
    if (!all.length) return;
    const at = all.findIndex((row) => row.hasAttribute("data-focus"));
    mark(all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))]);
  };
  // Enter follows the marked hit, or the first, once the hits belong to the words that stand in the box: somebody who
  // types fast must not land on the answer to half a word.
  const followHit = (palette) => {
    if (!palette?.open || !palette.dataset.enter) return;
    const answered = $("[data-query]", palette)?.dataset.query;
    if (answered !== $("input", palette).value.trim()) return;
    delete palette.dataset.enter;
    const hit = $(".palette-list a[data-focus]", palette) || $(".palette-list a", palette);
    if (hit) location.assign(hit.href);
  };
  let prefix = 0;
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      return openPalette();
    }
    const palette = $("#palette");
    if (palette?.open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      const hits = $$(".palette-list a", palette);
      if (!hits.length) return;
      event.preventDefault();
      const at = hits.findIndex((hit) => hit.hasAttribute("data-focus"));
      for (const hit of hits) hit.removeAttribute("data-focus");
      const next = hits[(at + (event.key === "ArrowDown" ? 1 : -1) + hits.length) % hits.length] || hits[0];
      next.setAttribute("data-focus", "");
      return next.scrollIntoView({ block: "nearest" });
    }
    if (palette?.open && event.key === "Enter") {
      event.preventDefault();
      palette.dataset.enter = "yes";
      return followHit(palette);
    }
    if (event.key === "Escape") {
      for (const menu of $$("details.menu[open]")) {
        menu.open = false;
        $("summary", menu).focus();
      }
    }
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || $("dialog[open]")) return;
    if (prefix && Date.now() - prefix < 1500) {
      prefix = 0;
      const link = $(`[data-go="${CSS.escape(event.key)}"]`);
      if (link) {
        event.preventDefault();
        location.assign(link.href);
      }
      return;
    }
    switch (event.key) {
      case "g": prefix = Date.now(); break;
      case "/": event.preventDefault(); openPalette(); break;
      case "?": event.preventDefault(); openDialog($("#shortcuts")); break;
      case "j": step(1); break;
      case "k": step(-1); break;
      case "Enter": {
        const row = $("tr[data-focus]");
        if (row && event.target === row) {
          const href = row.dataset.href || $("a[href]", row)?.href;
          if (href) location.assign(href);
        }
        break;
      }
      case "e": {
        const edit = $("[data-edit]");
        if (edit) {
          event.preventDefault();
          edit.click();
        }
        break;
      }
    }
  });

  // ------------------------------------------------------------------ forms
  const leaving = (event) => {
    if ($("form[data-guard][data-dirty]")) event.preventDefault();
  };
  addEventListener("beforeunload", leaving);
  document.addEventListener("input", (event) => {
    const form = event.target.closest?.("form");
    if (!form) return;
    if (form.hasAttribute("data-guard")) form.setAttribute("data-dirty", "");
    if (form.hasAttribute("data-draft")) keepDraft(form);
    if (form.hasAttribute("data-typed-confirm")) checkTyped(form);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches?.("[data-autosubmit]")) event.target.form.requestSubmit();
  });
  document.addEventListener("submit", (event) => {
    const form = event.target;
    form.removeAttribute("data-dirty");
    if (form.hasAttribute("data-draft")) sessionStorage.removeItem(draftKey(form));
    if (form.method !== "post" || event.defaultPrevented) return;
    // A second press of the button must not send the form twice; coming back with the back button frees it.
    if (form.dataset.sent) return event.preventDefault();
    form.dataset.sent = "yes";
    setTimeout(() => delete form.dataset.sent, 8000);
  });
  addEventListener("pageshow", () => $$("form[data-sent]").forEach((form) => delete form.dataset.sent));
  const draftKey = (form) => `draft:${location.pathname}:${form.dataset.draft}`;
  const keepDraft = (form) => {
    const texts = Object.fromEntries($$("textarea", form).map((area) => [area.name, area.value]));
    sessionStorage.setItem(draftKey(form), JSON.stringify(texts));
  };
  const restoreDraft = (form) => {
    try {
      const texts = JSON.parse(sessionStorage.getItem(draftKey(form)) || "{}");
      for (const area of $$("textarea", form)) if (!area.value && texts[area.name]) area.value = texts[area.name];
    } catch { /* a broken draft is no draft */ }
  };
  const checkTyped = (form) => {
    const matches = $("input:not([type=hidden])[name]", form) && $$("input", form).some((input) => input.value.trim() === form.dataset.typedConfirm);
    const button = $(".btn-danger", form);
    if (button) button.disabled = !matches;
  };

  const armTags = (box) => {
    const source = $("input", box);
    if (box.dataset.armed || !source) return;
    box.dataset.armed = "yes";
    box.className = "tags";
    const hidden = document.createElement("input");
    hidden.type = "hidden";
    hidden.name = source.name;
    source.removeAttribute("name");
    let words = source.value.split(",").map((word) => word.trim()).filter(Boolean);
    source.value = "";
    const draw = () => {
      $$(".badge", box).forEach((badge) => badge.remove());
      words.forEach((word, index) => {
        const badge = document.createElement("span");
        badge.className = "badge badge-accent";
        badge.append(word);
        const remove = document.createElement("button");
        remove.type = "button";
        remove.textContent = "×";
        remove.setAttribute("aria-label", `Remove ${word}`);
        remove.addEventListener("click", () => {
          words.splice(index, 1);
          draw();
          source.focus();
        });
        badge.append(remove);
        source.before(badge);
      });
      hidden.value = words.join(", ");
    };
    const take = () => {
      const fresh = source.value.split(",").map((word) => word.trim()).filter(Boolean);
      // Redrawing on every loss of focus would take away the very button that is being pressed.
      if (!fresh.length) return;
      words = [...new Set([...words, ...fresh])];
      source.value = "";
      draw();
    };
    source.addEventListener("keydown", (event) => {
      if (event.key === "," || (event.key === "Enter" && source.value.trim())) {
        event.preventDefault();
        take();
      } else if (event.key === "Backspace" && !source.value && words.length) {
        words.pop();
        draw();
      }
    });
    source.addEventListener("blur", take);
    box.append(hidden);
    draw();
  };

  const armDrop = (area) => {
    if (area.dataset.armed) return;
    area.dataset.armed = "yes";
    const input = $("input[type=file]", area);
    for (const kind of ["dragenter", "dragover"]) {
      area.addEventListener(kind, (event) => {
        event.preventDefault();
        area.setAttribute("data-over", "");
      });
    }
    for (const kind of ["dragleave", "drop"]) area.addEventListener(kind, () => area.removeAttribute("data-over"));
    area.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer?.files.length) {
        input.files = event.dataTransfer.files;
        input.dispatchEvent(new Event("input", { bubbles: true }));
        input.dispatchEvent(new Event("change", { bubbles: true }));
      }
    });
  };

  // ------------------------------------------------------------------ charts
  let plotly = null;
  const loadPlotly = () => {
    plotly ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = $('meta[name="plotly-src"]').content;
      script.onload = () => resolve(window.Plotly);
      script.onerror = reject;
      document.head.append(script);
    });
    return plotly;
  };
  const coloured = (node, styles) => {
    if (Array.isArray(node)) return node.map((item) => coloured(item, styles));
    if (node && typeof node === "object") return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, coloured(value, styles)]));
    if (typeof node === "string" && /^@[a-z0-9-]+$/.test(node)) return styles.getPropertyValue(`--${node.slice(1)}`).trim();
    return node;
  };
  const drawChart = async (box) => {
    const data = $("script[data-figure]", box.closest(".chart"));
    if (!data) return;
    try {
      const Plotly = await loadPlotly();
      const figure = coloured(JSON.parse(data.textContent), getComputedStyle(root));
      if (!box.dataset.drawn) {
        const stage = document.createElement("div");
        box.replaceChildren(stage);
        box.dataset.drawn = "yes";
      }
      await Plotly.react(box.firstElementChild, figure.data, figure.layout, { displayModeBar: false, responsive: true, displaylogo: false });
    } catch (error) {
      // The drawing from the server stays; it says the same.
      console.warn("The interactive chart could not be drawn:", error);
    }
  };
  const redrawCharts = () => $$("[data-chart][data-drawn]").forEach(drawChart);
  const seen = "IntersectionObserver" in window ? new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      drawChart(entry.target);
    }
  }, { rootMargin: "160px" }) : null;

  // ------------------------------------------------------------------ start, and again after htmx
  const arm = (scope) => {
    const all = (selector) => [...(scope.matches?.(selector) ? [scope] : []), ...$$(selector, scope)];
    all("[data-toast]").forEach(armToast);
    all("[data-tag-input]").forEach(armTags);
    all("[data-filedrop]").forEach(armDrop);
    all("form[data-typed-confirm]").forEach(checkTyped);
    all("form[data-draft]").forEach(restoreDraft);
    all("dialog[data-open]").forEach(openDialog);
    all("[data-chart]:not([data-seen])").forEach((box) => {
      box.dataset.seen = "yes";
      seen?.observe(box);
    });
  };
  const start = () => {
    arm(document);
    document.body.addEventListener("htmx:afterSettle", (event) => {
      arm(event.detail.elt);
      followHit($("#palette"));
    });
    document.body.addEventListener("htmx:responseError", (event) => {
      const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
      const words = $(".toast p", page)?.textContent;
      say(words || "The server could not answer. Reload the page, then try again.", "error");
    });
    document.body.addEventListener("htmx:sendError", () => say("The server cannot be reached. Check the connection, then try again.", "error"));
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
