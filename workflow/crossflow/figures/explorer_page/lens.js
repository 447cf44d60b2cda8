// The lens over the image of the chosen question.
const lensKinds = { word: "most likely word", answer: "probability of the answer", object: "probability of the object's name",
  last: "attention from the last position", question: "attention from the question" };
const lens = { map: null, thumbnail: null, cell: 0 };

const codesOf = (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Uint16Array.from({ length: bytes.length / 2 }, (_, at) => bytes[2 * at] + 256 * bytes[2 * at + 1]);
};
const numberOf = (code) => (code === 0 ? 0 : 10 ** ((code / 65535 - 1) * data.lens.decades));
const svgMade = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const percent = (share) => `${shown(100 * share)} %`;

function openLens(one, thumbnail) {
  const given = data.lens && data.lens.maps[`${one.model}/${one.category}/${one.id}`];
  $("lens").hidden = !given || !thumbnail;
  lens.map = null;
  if ($("lens").hidden) return;
  const codes = {};
  for (const name of ["word", "top", ...Object.keys(lensKinds)]) if (given[name]) codes[name] = codesOf(given[name]);
  Object.assign(lens, { map: { ...given, codes }, thumbnail, cell: 0 });
  const image = make("img", null, { src: thumbnail.uri, alt: "the question's image, in grey" });
  const svg = svgMade("svg", { viewBox: `0 0 ${thumbnail.width} ${thumbnail.height}` });
  $("lens-image").replaceChildren(image, svg);
  fill($("lens-kind"), Object.keys(lensKinds).filter((name) => codes[name]), (name) => lensKinds[name]);
  const whole = given.whole, all = given.boxes.length;
  const views = [["whole", whole], ["parts", all - whole]].filter(([, count]) => count).map(([name]) => name);
  fill($("lens-view"), views, (name) => (name === "whole" ? "the whole image" : "its parts"));
  $("lens-view").parentElement.hidden = views.length < 2;
  $("lens-layer").value = Math.floor(given.states / 2);
  drawLens();
}

// Number of a cell's value in an array by layer and cell.
const lensAt = (cell) => Number($("lens-layer").value) * lens.map.boxes.length + cell;
const wordOf = (cell) => lens.map.words[lens.map.codes.word[lensAt(cell)]];
const writtenWord = (word) => word.trim() || JSON.stringify(word);
function aboutCell(cell) {
  const { codes } = lens.map, at = lensAt(cell);
  const parts = [`“${writtenWord(wordOf(cell))}” (p = ${shown(numberOf(codes.top[at]))})`];
  for (const name of ["answer", "object", "last", "question"]) {
    if (codes[name] && at < codes[name].length) {
      const value = numberOf(codes[name][at]);
      parts.push(`${lensKinds[name]} ${name === "last" || name === "question" ? percent(value) : shown(value)}`);
    }
  }
  return parts.join("; ");
}

function drawLens() {
  if (!lens.map) return;
  const { map, thumbnail } = lens, kind = $("lens-kind").value;
  const attention = kind === "last" || kind === "question";
  const states = attention ? map.states - 1 : map.states;
  $("lens-layer").max = states - 1;
  if ($("lens-layer").value > states - 1) $("lens-layer").value = states - 1;
  const layer = Number($("lens-layer").value);
  $("lens-at").textContent = `${layer} of ${states - 1}`;
  const codes = map.codes[kind === "word" ? "top" : kind];
  const [from, to] = $("lens-view").value === "parts" ? [map.whole, map.boxes.length] : [0, map.whole];
  if (lens.cell < from || lens.cell >= to) lens.cell = from;
  let most = 0;
  for (let state = 0; state < states; state++) for (let cell = from; cell < to; cell++) most = Math.max(most, codes[state * map.boxes.length + cell]);
  most = kind === "word" ? 1 : numberOf(most);
  const svg = $("lens-image").querySelector("svg");
  const scale = thumbnail.width / ($("lens-image").clientWidth || thumbnail.width);
  const cells = [];
  for (let cell = from; cell < to; cell++) {
    const [x, y, width, height] = map.boxes[cell];
    const share = most ? Math.sqrt(numberOf(codes[lensAt(cell)]) / most) : 0;
    const box = svgMade("rect", { x, y, width, height, fill: attention ? "#00682a" : "#c2410c", "fill-opacity": (0.62 * share).toFixed(3) });
    box.append(svgMade("title", {}));
    box.firstChild.textContent = aboutCell(cell);
    box.addEventListener("pointerenter", () => chooseCell(cell));
    cells.push(box);
    const room = Math.floor(width / scale / 7);
    if (kind === "word" && room >= 4 && height / scale >= 13) {
      const text = svgMade("text", { x: x + width / 2, y: y + height / 2, "font-size": 12 * scale, "stroke-width": 3 * scale });
      const word = writtenWord(wordOf(cell));
      text.textContent = word.length > room ? `${word.slice(0, room - 1)}…` : word;
      cells.push(text);
    }
  }
  svg.replaceChildren(...cells, svgMade("rect", { id: "lens-chosen", "stroke-width": 2.5 * scale }));
  chooseCell(lens.cell);
  const without = map.without ? ` ${map.without} tokens show nothing of the image (padding, newlines) and have no cell` : "";
  const elsewhere = attention && map.without ? `; ${percent(map.elsewhere[kind][layer])} of the attention lies on them.` : without && ".";
  const sum = () => {
    let total = 0;
    for (let cell = from; cell < to; cell++) total += numberOf(codes[lensAt(cell)]);
    return total;
  };
  const aligned = attention ? `Attention in layer ${layer}, mean over heads; the cells together draw ${percent(sum())}.`
    : `After ${layer} layers, which is what layer ${layer} reads; with the final norm.`;
  $("lens-note").textContent = `${aligned} Darkest: ${attention ? percent(most) : `p = ${shown(most)}`}; colour grows with the square root.${without}${elsewhere}`;
}

function chooseCell(cell) {
  lens.cell = cell;
  const [x, y, width, height] = lens.map.boxes[cell];
  const mark = document.getElementById("lens-chosen");
  for (const [name, value] of Object.entries({ x, y, width, height })) mark.setAttribute(name, value);
  $("lens-cell").textContent = aboutCell(cell);
}

// Arrow keys go to the nearest cell on that side.
function moveCell(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !lens.map) return;
  event.preventDefault();
  const { map } = lens;
  const middle = ([x, y, width, height]) => [x + width / 2, y + height / 2];
  const [from, to] = $("lens-view").value === "parts" ? [map.whole, map.boxes.length] : [0, map.whole];
  const here = middle(map.boxes[lens.cell]);
  let best = null, least = Infinity;
  for (let cell = from; cell < to; cell++) {
    const [dx, dy] = middle(map.boxes[cell]).map((each, axis) => each - here[axis]);
    const along = dx * step[0] + dy * step[1], aside = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
    if (along > 0.5 && along + 10 * aside < least) [best, least] = [cell, along + 10 * aside];
  }
  if (best !== null) chooseCell(best);
}

for (const id of ["lens-kind", "lens-view"]) $(id).addEventListener("change", drawLens);
$("lens-layer").addEventListener("input", drawLens);
$("lens-choices").addEventListener("submit", (event) => event.preventDefault());
$("lens-image").addEventListener("keydown", moveCell);
window.addEventListener("resize", drawLens);

choose("start");
