"use strict";

// ---------------------------------------------------------------- light and dark

{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const show = () => {
    const dark = chosen === null ? system.matches : chosen === "dark";
    if (chosen !== null) root.dataset.theme = chosen;
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(dark));
  };
  button.addEventListener("click", () => {
    const dark = chosen === null ? system.matches : chosen === "dark";
    chosen = dark ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  show();
}

// ---------------------------------------------------------------- tables

// Rows by one column: numbers as numbers, missing values last whatever the direction.
function sortBy(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const falling = heading.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, value: row.cells[column].dataset.order }));
  const known = rows.filter(({ value }) => value !== undefined);
  const numbers = known.every(({ value }) => value.trim() !== "" && !Number.isNaN(Number(value)));
  known.sort((a, b) => (numbers ? a.value - b.value : a.value.localeCompare(b.value)));
  if (falling) known.reverse();
  const missing = rows.filter(({ value }) => value === undefined);
  body.append(...[...known, ...missing].map(({ row }) => row));
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// ---------------------------------------------------------------- samples

const DRAWS = JSON.parse(document.getElementById("draws").textContent);

function labelled(text, control) {
  const label = document.createElement("label");
  label.append(text, control);
  return label;
}

// Fills a select with names; names of models are text, never markup.
function offer(select, names) {
  select.replaceChildren(...names.map((name, i) => new Option(name, String(i))));
}

class Pane {
  constructor(element, chosen) {
    this.draw = document.createElement("select");
    this.sample = document.createElement("select");
    this.slider = document.createElement("input");
    this.slider.type = "range";
    this.slider.min = "0";
    this.slider.step = "1";
    this.words = document.createElement("output");
    this.text = document.createElement("div");
    this.text.className = "text";
    this.text.tabIndex = 0;
    const step = labelled("", this.slider);
    step.prepend(this.words);
    element.append(labelled("Drawn by", this.draw), labelled("Sample", this.sample), step, this.text);
    offer(this.draw, DRAWS.map((draw) => draw.name));
    this.draw.value = String(chosen);
    this.draw.addEventListener("change", () => this.chooseDraw());
    this.sample.addEventListener("change", () => this.chooseSample());
    this.slider.addEventListener("input", () => this.show());
    this.chooseDraw();
  }

  chooseDraw() {
    const samples = DRAWS[Number(this.draw.value)].samples;
    const before = Number(this.sample.value || 0);
    offer(this.sample, samples.map((_, i) => `${i + 1} of ${samples.length}`));
    this.sample.value = String(Math.min(before, samples.length - 1));
    this.chooseSample();
  }

  chooseSample() {
    const draw = DRAWS[Number(this.draw.value)];
    this.shown = draw.samples[Number(this.sample.value)];
    this.replayed = this.shown.tokens !== undefined;
    const last = this.replayed ? this.shown.revealed.reduce((a, b) => Math.max(a, b), -1) + 1 : 0;
    this.steps = Math.max(last, this.replayed ? draw.steps ?? 0 : 0);
    this.slider.max = String(this.steps);
    this.slider.value = String(this.steps);
    this.slider.disabled = this.steps === 0;
    this.show();
  }

  show() {
    if (!this.replayed) {
      this.words.textContent = "The step of each token was not kept";
      this.text.textContent = this.shown.text;
      return;
    }
    const step = Number(this.slider.value);
    this.words.textContent = step === 0 ? `Before the first of ${this.steps} steps` : `Step ${step} of ${this.steps}`;
    const { tokens, revealed } = this.shown;
    this.text.replaceChildren(...tokens.map((token, i) => {
      const span = document.createElement("span");
      span.textContent = token;
      // revealed counts from 0; after `step` steps those below `step` stand there
      if (revealed[i] < 0) span.className = "prompt";
      else if (revealed[i] >= step) span.className = "mask";
      else if (revealed[i] === step - 1 && step < this.steps) span.className = "new";
      if (span.className === "mask") span.setAttribute("aria-hidden", "true");
      return span;
    }));
  }

  at(share) {
    this.slider.value = String(Math.round(share * this.steps));
    this.show();
  }
}

if (DRAWS.length > 0) {
  const panes = Array.from(document.querySelectorAll(".pane"), (element, i) => {
    const replayed = DRAWS.map((draw, j) => [draw, j]).filter(([draw]) => draw.samples[0].tokens);
    const order = replayed.length > 0 ? replayed.map(([, j]) => j) : DRAWS.map((_, j) => j);
    // left the first draw, right the last that has steps: a student's
    const stepped = order.filter((j) => DRAWS[j].steps !== null);
    return new Pane(element, i === 0 ? order[0] : stepped[stepped.length - 1] ?? order[order.length - 1]);
  });
  const seconds = 6;
  let running = null;
  const play = document.getElementById("play");
  const stop = () => {
    cancelAnimationFrame(running);
    running = null;
    play.textContent = "Play both";
  };
  play.addEventListener("click", () => {
    if (running !== null) {
      stop();
      return;
    }
    const begun = performance.now();
    const frame = (now) => {
      const share = Math.min(Math.max((now - begun) / 1000 / seconds, 0), 1);
      for (const pane of panes) pane.at(share);
      if (share < 1) running = requestAnimationFrame(frame);
      else stop();
    };
    play.textContent = "Stop";
    running = requestAnimationFrame(frame);
  });
}
