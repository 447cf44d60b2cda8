// Activation patching: the share of each position set by layer.
function drawPatching() {
  const ofCategory = (each) => each.model === state.model && each.category === state.category;
  const found = data.patching ? data.patching.curves.filter(ofCategory) : [];
  $("patching").hidden = found.length === 0;
  if (!found.length) return;
  const direction = fill($("patching-direction"), data.patching.directions,
    (name) => ({ both: "mean of both", noising: "own image, patched with the pair's", denoising: "pair's image, patched with the own" })[name]);
  const traces = [];
  for (const curve of found.filter((each) => each.direction === direction)) {
    const common = { x: curve.layers, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
    traces.push({ ...common, y: curve.low }, { ...common, y: curve.high, fill: "tonexty", fillcolor: fade(look(curve.set).colour, 0.18) });
    traces.push(line(curve.set, curve.layers, curve.share, `${curve.set.replaceAll("_", " ")} (n = ${curve.n})`));
  }
  const drawn = layout("share of the difference (%)");
  drawn.xaxis.title.text = "layers passed before the patch";
  Plotly.react($("patching-curves"), traces, drawn, options);
  const sentences = data.patching.sentences.filter(ofCategory).map((each) => make("li", each.sentence));
  $("patching-sentences").replaceChildren(...sentences);
}
$("patching-direction").addEventListener("change", drawPatching);
$("patching-choices").addEventListener("submit", (event) => event.preventDefault());
