"use strict";
// All text from data goes through textContent; nothing here asks a network.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const arrow = (flow) => flow.replace(/(\w+)=(\w+)/g, "$2 $1").replace(/\b(attn|mlp):/g, "$1 at ").replaceAll("->", " → ").replaceAll("&", " ∩ ").replaceAll("_", " ").replace("~", ", ").replace("only:", "only ");
const look = (flow) => data.looks[flow];
const fade = (colour, share) => {
  const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${parts.join(",")},${share})`;
};

const state = { model: null, category: null, window: null, measure: "change_percent", flows: new Set(), sort: "effect",
  down: false, search: "", chosen: null };

function fill(select, values, names = (value) => value) {
  const before = select.value;
  select.replaceChildren(...values.map((value) => make("option", names(value), { value })));
  select.value = values.includes(before) ? before : values[0];
  return select.value;
}

const curvesShown = () => data.curves.filter((curve) => curve.model === state.model
  && curve.category === state.category && curve.window === state.window);

function layout(title) {
  return { margin: { l: 64, r: 12, t: 10, b: 110 }, hovermode: "closest", font: { family: "inherit", size: 13 },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" }, xaxis: { title: { text: "centre layer", standoff: 8 }, zeroline: false, dtick: data.ticks[state.model] },
    yaxis: { title: { text: title }, zerolinecolor: "#999" }, paper_bgcolor: "#fff", plot_bgcolor: "#fff" };
}
const options = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function band(curve, low, high, share) {
  const colour = look(curve.flow).colour;
  const common = { x: curve.layers, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  return [{ ...common, y: low }, { ...common, y: high, fill: "tonexty", fillcolor: fade(colour, share) }];
}
function line(flow, x, y, name) {
  const drawn = look(flow);
  return { x, y, name, mode: "lines+markers", line: { color: drawn.colour, dash: drawn.dash, width: 2 },
    marker: { symbol: drawn.symbol, size: 6 }, hovertemplate: "layer %{x}: %{y:.4g}" };
}

function drawCurves() {
  const traces = [];
  const missing = [];
  for (const curve of curvesShown().filter((each) => state.flows.has(each.flow))) {
    const values = curve.measures[state.measure];
    if (!values || !values.n) { missing.push(arrow(curve.flow)); continue; }
    if (values.band_low) traces.push(...band(curve, values.band_low, values.band_high, 0.1));
    traces.push(...band(curve, values.low, values.high, 0.18));
    traces.push(line(curve.flow, curve.layers, values.mean, `${arrow(curve.flow)} (n = ${values.n})`));
  }
  Plotly.react($("curves"), traces, layout(data.measures[state.measure]), options);
  const bands = state.measure === "change_percent" ? " Inner bands: 95 % at each layer; outer bands: the whole curve at once." : " Bands: 95 % at each layer.";
  $("curves-note").textContent = `Means over questions.${bands}` + (missing.length ? ` Without a number: ${missing.join("; ")}.` : "");
}

function drawHeads() {
  const maps = data.heads.filter((each) => each.model === state.model && each.category === state.category);
  $("heads").hidden = maps.length === 0;
  if (!maps.length) return;
  const flow = fill($("heads-flow"), [...new Set(maps.map((each) => each.flow))], arrow);
  const table = fill($("heads-table"), Object.keys(data.head_tables).filter((name) =>
    maps.some((each) => each.flow === flow && each.table === name)), (name) => data.head_tables[name]);
  const map = maps.find((each) => each.flow === flow && each.table === table);
  const intervals = map.low.map((row, head) => row.map((low, layer) =>
    low === null ? "no interval" : `${low} to ${map.high[head][layer]}`));
  const most = Math.max(0.1, ...map.mean.flat().map((each) => Math.abs(each ?? 0)));
  const drawn = { type: "heatmap", z: map.mean, customdata: intervals, zmin: -most, zmax: most,
    colorscale: data.diverging, xgap: 1, ygap: 1,
    colorbar: { title: { text: "change (%)", side: "right" }, thickness: 14 },
    hovertemplate: "layer %{x}, head %{y}: %{z} %<br>95 %: %{customdata}<extra></extra>" };
  Plotly.react($("heads-map"), [drawn], { ...layout("head"), margin: { l: 64, r: 12, t: 36, b: 48 }, plot_bgcolor: "#ddd",
    xaxis: { title: { text: "layer" }, zeroline: false, dtick: data.ticks[state.model] },
    yaxis: { title: { text: "head" }, zeroline: false, autorange: "reversed", dtick: Math.max(1, Math.round(map.mean.length / 8)) } }, options);
  const what = table === "heads" ? "Mean change of the answer's probability with one head knocked out"
    : "Change of the answer's probability by one head more, on average over random subsets of the others";
  $("heads-note").textContent = `${what} (n = ${map.n} questions). Grey: missing. The best of many heads looks better than it is.`;
}

const shown = (number) => String(Number(number.toPrecision(3)));
function drawClaims() {
  const table = make("table");
  const head = make("tr");
  for (const name of ["", "claim", "all categories", state.category]) head.append(make("th", name));
  table.append(head);
  for (const claim of data.claims) {
    const row = make("tr");
    row.append(make("td", claim.claim), make("td", claim.says));
    for (const category of ["all", state.category]) {
      const found = claim.findings.find((each) => each.model === state.model && each.category === category);
      const cell = make("td");
      if (found) {
        cell.append(make("span", found.verdict, { class: `verdict ${found.verdict.replace(" ", "-")}` }));
        if (found.criteria.length) {
          const details = make("details");
          details.append(make("summary", `numbers (n = ${found.n})`));
          for (const one of found.criteria) {
            const numbers = one.value === null ? "–" : `${shown(one.value)} [${shown(one.low)}, ${shown(one.high)}]`;
            details.append(make("div", `${one.what}: ${numbers}; needed ${one.sign} ${shown(one.threshold)}`, { class: "note" }));
          }
          cell.append(details);
        }
      }
      row.append(cell);
    }
    table.append(row);
  }
  $("claims").replaceChildren(table);
}

const columns = { ...(data.lens ? { map: "map" } : {}), id: "id", question: "question", answer: "gold", generated: "answer", correct: "correct", effect: "strongest change (%)" };
function questionsShown() {
  const flow = [...state.flows][0];
  const words = state.search.toLowerCase();
  const rows = data.questions.filter((each) => each.model === state.model && each.category === state.category)
    .map((each) => ({ ...each, effect: strongest(each.curves[flow]), map: hasMap(each) ? "map" : "–" }))
    .filter((each) => !words || `${each.question} ${each.answer} ${each.generated} ${each.id}`.toLowerCase().includes(words));
  const key = state.sort;
  const value = (row) => (row[key] === null ? Infinity : row[key]);
  rows.sort((one, other) => (value(one) < value(other) ? -1 : value(one) > value(other) ? 1 : 0) * (state.down ? -1 : 1));
  return [rows, flow];
}
const hasMap = (one) => Boolean(data.lens && data.lens.maps[`${one.model}/${one.category}/${one.id}`]);
function strongest(curve) {
  if (!curve) return null;
  return curve.reduce((most, each) => (Math.abs(each) > Math.abs(most) ? each : most), 0);
}

function drawQuestions() {
  const [rows, flow] = questionsShown();
  const head = make("tr");
  for (const [key, name] of Object.entries(columns)) {
    const sorted = state.sort === key ? (state.down ? " ▼" : " ▲") : "";
    const button = make("button", name + sorted, { type: "button", "data-key": key });
    button.addEventListener("click", () => {
      state.down = state.sort === key ? !state.down : false;
      state.sort = key;
      drawQuestions();
    });
    const cell = make("th", null, { "aria-sort": state.sort === key ? (state.down ? "descending" : "ascending") : "none" });
    cell.append(button);
    head.append(cell);
  }
  $("questions").tHead.replaceChildren(head);
  $("questions").tBodies[0].replaceChildren(...rows.map((each) => {
    const row = make("tr", null, { tabindex: 0, "data-id": each.id, "aria-selected": each.id === state.chosen });
    if (data.lens) row.append(make("td", each.map));
    row.append(make("td", each.id), make("td", each.question), make("td", each.answer), make("td", each.generated),
      make("td", each.correct ? "yes" : "no"), make("td", each.effect === null ? "missing" : each.effect.toFixed(1), { class: "number" }));
    const open = () => { state.chosen = each.id; drawQuestions(); drawOne(each); };
    row.addEventListener("click", open);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
    return row;
  }));
  const note = data.notes[`${state.model}/${state.category}`];
  $("questions-note").textContent = `${note} Change by ${flow ? arrow(flow) : "–"}, the first of the chosen flows, at the layer where it is largest. Choose a row to see its image${data.lens ? ", and what its visual tokens say if it has a map" : ""}.`;
}

function drawImage(one, thumbnail) {
  const image = make("img", null, { src: thumbnail.uri, alt: "the question's image" });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${thumbnail.width} ${thumbnail.height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  for (const [x, y, width, height] of one.boxes) {
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x, y, width, height, fill: "none", stroke: data.box, "vector-effect": "non-scaling-stroke", "stroke-width": 3 })) box.setAttribute(name, value);
    svg.append(box);
  }
  $("image").replaceChildren(image, svg);
}

function drawOne(one) {
  $("one").hidden = false;
  const thumbnail = data.images[one.image];
  if (!thumbnail) $("image").replaceChildren(make("div", "The image cannot be shown.", { class: "note" }));
  else drawImage(one, thumbnail);
  const lines = [make("strong", one.question), make("div", `answer: ${one.generated} (p = ${one.p.toPrecision(3)}), ${one.correct ? "correct" : "wrong"}; gold: ${one.answer}`)];
  if (one.options) lines.push(make("div", `options: ${one.options.join(" | ")}`));
  lines.push(make("div", `${one.id}, image ${one.image}; ${one.why}`, { class: "note" }));
  $("about").replaceChildren(...lines);
  const traces = Object.entries(one.curves).filter(([flow]) => state.flows.has(flow))
    .map(([flow, curve]) => line(flow, data.centres[state.model][flow], curve, arrow(flow)));
  Plotly.react($("own"), traces, layout(data.measures.change_percent), options);
  openLens(one, thumbnail);
}

function choose(changed) {
  state.model = fill($("model"), data.models);
  state.category = fill($("category"), data.categories);
  state.window = fill($("window"), data.windows[state.model]);
  const curves = curvesShown();
  const measures = Object.keys(data.measures).filter((name) => curves.some((curve) => curve.measures[name]));
  state.measure = fill($("measure"), measures, (name) => data.measures[name]);
  const flows = curves.map((curve) => curve.flow);
  if (changed !== "flows") {
    const kept = flows.filter((flow) => state.flows.has(flow));
    state.flows = new Set(kept.length ? kept : flows.filter((flow) => !flow.includes("~")).slice(0, 6));
    const boxes = flows.map((flow) => {
      const label = make("label");
      const box = make("input", null, { type: "checkbox", value: flow });
      box.checked = state.flows.has(flow);
      box.addEventListener("change", () => {
        const chosen = new Set([...$("flows").querySelectorAll("input:checked")].map((each) => each.value));
        state.flows = chosen;
        choose("flows");
      });
      label.append(box, ` ${arrow(flow)}`);
      return label;
    });
    $("flows").replaceChildren($("flows").querySelector("legend"), ...boxes);
  }
  drawCurves();
  drawHeads();
  drawPatching();
  drawClaims();
  drawQuestions();
  const one = data.questions.find((each) => each.model === state.model && each.category === state.category && each.id === state.chosen);
  if (one) drawOne(one); else $("one").hidden = true;
}

for (const id of ["model", "category", "window", "measure"]) $(id).addEventListener("change", () => choose(id));
for (const id of ["heads-flow", "heads-table"]) $(id).addEventListener("change", drawHeads);
$("heads-choices").addEventListener("submit", (event) => event.preventDefault());
$("choices").addEventListener("submit", (event) => event.preventDefault());
$("search").addEventListener("input", (event) => { state.search = event.target.value; drawQuestions(); });
