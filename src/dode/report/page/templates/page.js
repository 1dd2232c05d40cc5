(() => {
"use strict";
// What the reader chooses, and what follows from it. All data is in the element "data"; nothing is fetched.
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector) => document.querySelector(selector);
const dark = matchMedia("(prefers-color-scheme: dark)");

const choice = {
  solvers: new Set(data.solvers || []),
  methods: new Set(data.methods || []),
  run: data.example,
  light: false, // in print, whatever the screen has
};

// Rows are kept by column, words by their place in a list: see dode.report.page.drawing.packed.
const unpacked = new Map();
function rowsOf(name) {
  if (!unpacked.has(name)) {
    const { length, columns } = data.rows[name];
    const rows = Array.from({ length }, () => ({}));
    for (const [field, column] of Object.entries(columns)) {
      const value = Array.isArray(column) ? (i) => column[i] : (i) => column.of[column.at[i]];
      for (let i = 0; i < length; i++) rows[i][field] = value(i);
    }
    unpacked.set(name, rows);
  }
  return unpacked.get(name);
}

const free = (value) => value === undefined || value === null || value === "";
const is = (row, wanted, names) => names.every((name) => free(row[name]) || row[name] === wanted[name]);
const follows = {
  "": () => true,
  shown: (row) => (free(row.solver) || choice.solvers.has(row.solver)) && (free(row.method) || choice.methods.has(row.method)),
  run: (row) => is(row, choice.run, ["solver", "nfe"]),
  cell: (row) => is(row, choice.run, ["solver", "nfe", "method"]),
};

// Charts. Each is drawn when it comes near the view, and again when what it follows changes.
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
}, { rootMargin: "300px" });

async function draw(figure) {
  if (figure.closest("[hidden]")) return;
  const state = [figure.clientWidth, dark.matches && !choice.light, choice.version[data.charts[figure.dataset.chart].follows]].join();
  if (figure.dataset.state === state) return;
  figure.dataset.state = state;
  const { spec, rows, follows: kind } = data.charts[figure.dataset.chart];
  const place = one(`[data-chart="${figure.dataset.chart}"] .drawing`);
  const datasets = {};
  for (const [name, content] of Object.entries(rows)) datasets[name] = rowsOf(content).filter(follows[kind]);
  place.classList.toggle("none", Object.values(datasets).every((each) => each.every((row) => free(row.solver) && kind !== "")));
  if (place.classList.contains("none")) {
    place.textContent = "Nothing to show of this choice.";
    return;
  }
  const look = data.looks[dark.matches && !choice.light ? "dark" : "light"];
  const fitted = fit(structuredClone(spec), figure.clientWidth, datasets);
  const done = await vegaEmbed(place, { ...fitted, datasets }, {
    renderer: "svg", ast: true, actions: false, defaultStyle: false, config: look, tooltip: { theme: "custom" },
  });
  if (figure.view) figure.view.finalize();
  figure.view = done;
  place.classList.add("drawn");
  const picture = place.querySelector("svg");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", place.dataset.alt);
  if (!performance.getEntriesByName("first chart").length) performance.mark("first chart");
}

// Rows of a fixed height, and panels side by side, as many as there is room for.
function fit(spec, width, datasets) {
  const count = (field) => new Set(Object.values(datasets).flat().map((row) => row[field]).filter((value) => !free(value))).size;
  if (spec.height?.step) spec.height = spec.height.step * count(spec.encoding.y.field);
  if (!spec.facet) return spec;
  const panels = count(spec.facet.field) || 1;
  const most = Math.max(1, Math.min(4, panels, Math.floor(width / 235)));
  const columns = Math.ceil(panels / Math.ceil(panels / most));
  const room = Math.floor(width / columns) - 24 - (spec.resolve ? 10 : 60 / columns);
  const square = spec.spec.height === spec.spec.width;
  spec.columns = columns;
  spec.spec.width = Math.max(140, Math.min(room, square ? 300 : columns === 1 ? 640 : room));
  if (square) spec.spec.height = spec.spec.width;
  return spec;
}

choice.version = { "": 0, shown: 0, run: 0, cell: 0 };
function changed(...kinds) {
  for (const kind of kinds) choice.version[kind]++;
  redraw();
}
function redraw() {
  for (const figure of all("figure.chart")) {
    const box = figure.getBoundingClientRect();
    if (box.height && box.bottom > -300 && box.top < innerHeight + 300) draw(figure);
    else near.unobserve(figure), near.observe(figure);
  }
}

// The metric and the layout of its curves.
function showMetric() {
  const metric = one("#metric").value, layout = Number(one("[name=layout]:checked").value);
  for (const each of all("[data-metric]")) {
    each.hidden = each.dataset.metric !== metric;
    all("figure", each).forEach((figure, i) => { figure.hidden = i !== layout; });
  }
  redraw();
}

// What is ticked is shown in the curves, the table and the samples.
function filter() {
  for (const kind of ["solver", "method"])
    choice[`${kind}s`] = new Set(all(`[name=${kind}]:checked`).map((box) => box.value));
  for (const row of all("#results tbody tr")) row.hidden = !follows.shown(row.dataset);
  showSamples();
  changed("shown");
}

// Tables: a click or Enter on a heading sorts by it, again turns it round.
function sort(heading) {
  const table = heading.closest("table"), place = [...heading.parentNode.children].indexOf(heading);
  const upward = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of all("th", table)) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", upward ? "ascending" : "descending");
  const key = (row) => {
    const cell = row.children[place];
    const value = cell.dataset.key ?? cell.textContent;
    const number = value === "inf" ? Infinity : value === "-inf" ? -Infinity : Number(value);
    return Number.isNaN(number) ? value : number;
  };
  const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  const rows = all("tbody tr", table).map((row) => [key(row), row]);
  rows.sort(([a], [b]) => upward ? order(a, b) : order(b, a));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

// Pictures: strips of samples, the same noise in the same column; over each the reference, for the difference.
const source = (content) => `data:image/webp;base64,${content}`;
function strip(content, words, over) {
  const box = document.createElement("div");
  box.className = "strip";
  const picture = box.appendChild(new Image());
  picture.alt = words;
  picture.decoding = "async";
  // Small pictures are enlarged by a whole factor, as long as there is room.
  picture.addEventListener("load", () => {
    picture.style.width = `${picture.naturalWidth * Math.max(1, Math.round(80 / picture.naturalHeight))}px`;
  });
  picture.src = source(content);
  if (over) {
    const second = box.appendChild(new Image());
    second.className = "over";
    second.alt = "";
    second.src = source(over);
    second.style.width = "100%";
    second.style.height = "100%";
  }
  return box;
}
function named(name, beside) {
  const words = document.createElement("div");
  words.className = "name";
  words.textContent = name;
  const small = words.appendChild(document.createElement("small"));
  small.textContent = beside;
  return words;
}
function showSamples() {
  const grid = one("#grid");
  if (!grid) return;
  const nfe = data.budgets[Number(one("#budget").value)];
  one("#budget-shown").textContent = nfe;
  one("#budget").setAttribute("aria-valuetext", `${nfe} calls`);
  grid.classList.toggle("difference", one("#difference").checked);
  const reference = data.reference.pictures, parts = [];
  if (reference) parts.push(named("Reference", ""), strip(reference, `The first ${data.shown} samples of the reference`));
  for (const cell of data.cells) {
    if (cell.nfe !== nfe || !cell.pictures || !follows.shown(cell)) continue;
    const words = `The same noises with ${nfe} calls of ${cell.solver}, ${cell.method}; mean error ${cell.error}`;
    parts.push(named(`${cell.solver}, ${cell.method}`, `error ${cell.error}`), strip(cell.pictures, words, reference));
  }
  grid.replaceChildren(...parts);
}

// The run whose paths are shown, and the cell whose numbers are.
function chooseRun() {
  choice.run = { solver: one("#run-solver").value, nfe: Number(one("#run-nfe").value), method: choice.run.method };
  const there = data.cells.filter((cell) => is(cell, choice.run, ["solver", "nfe"])).map((cell) => cell.method);
  const methods = one("#run-method");
  if (methods) {
    methods.replaceChildren(...there.map((name) => new Option(name, name)));
    if (!there.includes(choice.run.method)) choice.run.method = there[there.length - 1];
    methods.value = choice.run.method ?? "";
  }
  showDenoised();
  showNumbers();
  changed("run", "cell");
}
function showDenoised() {
  const grid = one("#denoised");
  if (!grid) return;
  const parts = [];
  if (data.reference.denoised) parts.push(named("Reference", "some of its evaluations"), strip(data.reference.denoised, "Denoised samples along the reference's path"));
  for (const cell of data.cells) {
    if (!cell.denoised || !is(cell, choice.run, ["solver", "nfe"])) continue;
    parts.push(named(cell.method, `error ${cell.error}`), strip(cell.denoised, `Denoised samples along the path of ${cell.solver}, ${cell.method}, from the first evaluation to the last`));
  }
  grid.replaceChildren(...parts);
}
function showNumbers() {
  const table = one("#coefficients-table");
  if (!table) return;
  const rows = rowsOf(data.charts.coefficients.rows.coefficients).filter(follows.cell);
  const places = new Map(rows.map((row) => [row.place, row.of]));
  const columns = [...places.keys()].sort((a, b) => a - b);
  const values = new Map(rows.map((row) => [`${row.row},${row.place}`, row.value]));
  const cell = (tag, text, scope) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (scope) made.scope = scope;
    if (tag === "td") made.className = "number";
    return made;
  };
  const line = (cells) => { const row = document.createElement("tr"); row.append(...cells); return row; };
  const count = Math.max(-1, ...rows.map((row) => row.row)) + 1;
  table.tHead.replaceChildren(line([cell("th", "row", "col"), ...columns.map((place) => cell("th", places.get(place), "col"))]));
  table.tBodies[0].replaceChildren(...Array.from({ length: count }, (_, k) => line([
    cell("th", k, "row"), ...columns.map((place) => cell("td", values.has(`${k},${place}`) ? values.get(`${k},${place}`).toPrecision(4) : "")),
  ])));
}

function on(selector, event, act) { for (const element of all(selector)) element.addEventListener(event, act); }
on("#metric, [name=layout]", "change", showMetric);
on("[name=solver], [name=method]", "change", filter);
on("#budget", "input", showSamples);
on("#difference", "change", showSamples);
on("#run-solver, #run-nfe", "change", chooseRun);
on("#run-method", "change", (event) => { choice.run.method = event.target.value; showNumbers(); changed("cell"); });
on("table.sortable th button", "click", (event) => sort(event.target.closest("th")));
dark.addEventListener("change", redraw);
let waiting;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 150); });
addEventListener("beforeprint", () => { choice.light = true; all("details").forEach((each) => { each.open = true; }); all("figure.chart").forEach(draw); });
addEventListener("afterprint", () => { choice.light = false; redraw(); });

if (choice.run && one("#run-solver")) {
  one("#run-solver").value = choice.run.solver;
  one("#run-nfe").value = String(choice.run.nfe);
  chooseRun();
}
showSamples();
for (const figure of all("figure.chart")) near.observe(figure);
performance.mark("ready");
})();
