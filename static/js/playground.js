/* Playground: sends the form to each chosen release and shows the answers as they stream in. Without script the
   form posts and the page comes back with the answers. */
(() => {
  "use strict";

  const form = document.querySelector("[data-playground]");
  if (!form) return;
  const answers = document.querySelector("[data-answers]");
  const template = document.querySelector("[data-answer-template]");
  const stop = form.querySelector("[data-stop]");
  const ask = form.querySelector("button[type=submit]");
  let running = null;

  const fact = (list, name, value) => {
    if (value === null || value === undefined || value === "") return;
    const term = document.createElement("dt");
    const words = document.createElement("dd");
    term.textContent = name;
    words.textContent = value;
    list.append(term, words);
  };

  const panel = (model) => {
    const section = template.content.firstElementChild.cloneNode(true);
    section.querySelector("[data-model]").textContent = model;
    answers.append(section);
    return {
      text: section.querySelector("[data-text]"),
      waiting: section.querySelector("[data-waiting]"),
      problem: section.querySelector("[data-problem]"),
      facts: section.querySelector("[data-facts]"),
    };
  };

  const fail = (view, words) => {
    view.waiting.hidden = true;
    view.problem.hidden = false;
    view.problem.textContent = words;
  };

  /* Lines of server-sent events as they complete; comments come too, beginning with a colon. */
  async function* lines(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split("\n");
      rest = parts.pop();
      yield* parts.filter((line) => line !== "");
    }
  }

  const answer = async (model, signal) => {
    const view = panel(model);
    const data = new FormData(form);
    data.set("model", model);
    data.set("other", "");
    const began = performance.now();
    let first = null;
    let usage = null;
    const costs = {};
    let response;
    try {
      response = await fetch(form.dataset.streamUrl, { method: "POST", body: data, signal });
      if (!response.headers.get("content-type").startsWith("text/event-stream")) {
        const error = (await response.json()).error;
        fail(view, error ? error.message : `The gateway answered ${response.status}.`);
      } else {
        for await (const line of lines(response.body)) {
          if (line.startsWith(": ")) {
            for (const pair of line.slice(2).split(" ")) costs[pair.split("=")[0]] = pair.split("=")[1];
            continue;
          }
          if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
          const chunk = JSON.parse(line.slice(6));
          if (chunk.error) {
            fail(view, chunk.error.message);
            continue;
          }
          usage = chunk.usage || usage;
          const piece = chunk.choices?.[0]?.delta?.content;
          if (piece) {
            if (first === null) {
              first = performance.now();
              view.waiting.hidden = true;
            }
            view.text.append(piece);
          }
        }
        view.waiting.hidden = true;
        if (first === null && view.problem.hidden) view.text.textContent = "(The answer is empty.)";
      }
    } catch (error) {
      fail(view, error.name === "AbortError" ? "Stopped." : "The connection to the gateway was lost. Ask again.");
    }
    const header = (name) => response?.headers.get(`x-signoff-${name}`) || "";
    fact(view.facts, "Release", header("release"));
    fact(view.facts, "Policy", header("policy"));
    fact(view.facts, "Cache", header("cache"));
    if (usage) fact(view.facts, "Tokens", `${usage.prompt_tokens} in, ${usage.completion_tokens} out`);
    if (costs.cost_usd) fact(view.facts, "Cost", `${costs.cost_usd} USD`);
    if (first !== null) fact(view.facts, "First token", `${Math.round(first - began)} ms`);
    fact(view.facts, "Whole answer", `${Math.round(performance.now() - began)} ms`);
    if (costs.overhead_ms) fact(view.facts, "Gateway overhead", `${costs.overhead_ms} ms`);
    fact(view.facts, "Request", header("request"));
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    running = new AbortController();
    ask.disabled = true;
    stop.hidden = false;
    answers.replaceChildren();
    const data = new FormData(form);
    const models = [data.get("model"), data.get("other")].filter(Boolean);
    await Promise.all(models.map((model) => answer(model, running.signal)));
    running = null;
    ask.disabled = false;
    stop.hidden = true;
  });
  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
})();
