"use strict";
// Texts of items, files and models are only ever text nodes.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d31", "#56b4e9", "#999999", "#e69f00"];
const TOOLS = [["zeros", "zeros"], ["noise", "noise"], ["other_item", "another item's"], ["future", "the true future"]];
let shown = {}, request = null, groups = [], pressed = null, drawing = 0;

function el(name, fields = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(fields)) {
    if (key === "class") node.className = value;
    else if (key === "onclick") node.addEventListener("click", value);
    else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

function figure(image, caption, note, kind) {
  const text = el("figcaption", {}, caption, note ? el("small", {}, note) : null);
  return el("figure", { class: kind || "" }, el("img", { src: image, alt: caption }), text);
}

// ---- what is shown: the question, both answers, the chart

function drawPrompt(item) {
  const listed = (line) => item.options.some((option) => line.trim() === `${option.letter}. ${option.text}`);
  const lines = item.question.split("\n").filter((line) => !/^frame_\d+$/.test(line.trim()) && !listed(line));
  const right = (option) => (option.letter === item.right ? " ✓" : "");
  $("prompt").replaceChildren(
    el("div", { class: "frames" }, ...item.frames.map((image, k) => figure(image, `observed frame ${k + 1}`))),
    el("div", { class: "text" }, el("h2", {}, item.name), lines.join("\n").trim()),
    el("div", {}, item.options.length ? el("h2", {}, "Options") : null,
      ...item.options.map((option) => el("p", {}, `${option.letter}. ${option.text}${right(option)}`)),
      item.right ? el("small", {}, item.options.length ? "✓ is the right one" : `right: ${item.right}`) : null));
  $("prompt").hidden = false;
  $("believe").textContent = `A distance below 1: the latents are nearer to this frame than to the last observed one. ${item.believe}`;
}

function drawEdits({ item, after }) {
  const bar = $("edits"), names = item.edits;
  bar.replaceChildren(
    names.length && !after?.changes ? "" : el("b", {}, names.length ? "Changed:" : "Nothing is changed."),
    ...(after?.changes ?? []).map((label) => el("span", { class: "chip" }, label)));
  if (live()) {
    const tool = (label, onclick, disabled) =>
      el("button", { type: "button", onclick, disabled, "data-tool": label }, label);
    bar.append(
      tool("Undo", () => go(item.key, names.slice(0, -1)), !names.length),
      tool("Start over", () => go(item.key, []), !names.length),
      tool("Add a span", () => go(item.key, [...names, "add"]), !item.opens_spans),
      tool("Grey out the frames", () => go(item.key, ["no_frames"]), names.includes("no_frames")),
      tool("Copy link", copyLink));
  }
  bar.hidden = false;
}

async function copyLink({ target }) {
  try {
    await navigator.clipboard.writeText(location.href);
    target.textContent = "Link copied";
  } catch (error) { say("The browser does not let this page copy: take the link from its address bar."); }
}

function drawAnswers() {
  cancelAnimationFrame(drawing);
  drawing = 0;
  const { item, before, after } = shown;
  const cards = [];
  if (item.edits.length && before) cards.push(card(before, "Before", false));
  if (after) cards.push(card(after, item.edits.length ? ["After", ...(after.changes ?? []).slice(-1)].join(": ") : "Answer", true));
  $("answers").replaceChildren(...cards);
  $("result").dataset.cards = cards.length;
}

function card(answer, title, last) {
  const verdict = answer.finished == null || answer.right == null ? null : verdictOf(answer);
  const cut = answer.finished === false ? el("span", { class: "verdict wrong" }, "cut at the limit of new tokens") : null;
  const seconds = answer.seconds == null ? null
    : el("small", {}, `${answer.tokens} tokens in ${answer.seconds.toFixed(2)} s`);
  const paid = answer.attention && el("p", { class: "quiet" }, attentionText(answer.attention));
  return el("article", { class: "card answer-card" }, el("h2", { tabindex: -1 }, title, verdict, cut, seconds),
    ...answer.blocks.map((block) => drawBlock(block, answer, last)), ...(paid ? [paid] : []));
}

function attentionText({ spans, frames, text }) {
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const all = Object.values(spans).reduce((sum, share) => sum + share, 0);
  return `From <answer> on it attends to spans with ${percent(all)}, to frames with ${percent(frames)}, to text with ${percent(text)}.`;
}

function verdictOf(answer) {
  const { right } = answer;
  const chosen = answer.options?.find((option) => option.letter === answer.choice);
  const named = answer.choice ?? "no option";
  const text = chosen && chosen.text !== answer.choice ? `${answer.choice}. ${chosen.text}` : named;
  return el("span", { class: `verdict ${right ? "right" : "wrong"}` }, `${right ? "✓ right" : "✗ not right"}: ${text}`);
}

// Tokens may come faster than a long answer is drawn.
function drawSoon() {
  drawing ||= requestAnimationFrame(drawAnswers);
}

// What a screen reader says of an answer that is complete: a page that is read token by token cannot be followed.
function spoken({ item, before, after }) {
  const text = ({ blocks }) => blocks.map((block) =>
    block.number ? `span ${block.number} of ${block.latents} latents` : block.pieces.map(([piece]) => piece).join("")).join("; ");
  const verdict = after.right == null ? "" : `, ${after.right ? "right" : "not right"}`;
  const changed = before && item.edits.length
    ? (text(before) === text(after) ? "The same answer as before the change: " : "Another answer than before the change: ") : "Answer: ";
  return `${changed}${text(after)}${verdict}.`;
}

function drawBlock(block, answer, last) {
  if (block.kind !== "span") {
    const pieces = block.pieces.map(([text, differs]) => (differs ? el("mark", {}, text) : text));
    return el("div", { class: `block ${block.kind}` }, el("b", {}, block.kind), ...pieces);
  }
  const squares = Array.from({ length: Math.min(block.latents, 16) }, () => el("i"));
  const mark = answer.marks?.[block.number];
  const node = el("div", { class: "block span" },
    el("b", {}, `span ${block.number}`, el("span", { class: "squares" }, ...squares),
      `${block.latents} latent${block.latents === 1 ? "" : "s"}`,
      mark ? el("span", { class: "changed" }, mark) : null));
  const pictures = answer.spans[block.number];
  if (pictures) {
    const frames = pictures.nearest.map((frame) => figure(frame.image, frame.label,
      frame.distance == null ? "" : `distance ${frame.distance.toFixed(2)}`, frame.unobserved ? "unobserved" : ""));
    const painting = pictures.painting && figure(pictures.painting, "painted", "from the latents", "painting");
    node.append(el("div", { class: "frames" }, ...(painting ? [painting] : []), ...frames));
  }
  const paid = answer.attention?.spans?.[block.number];
  if (paid != null) {
    const bar = el("i");
    bar.style.width = `${Math.min(100, 100 * paid)}%`;
    node.append(el("p", { class: "quiet" }, el("span", { class: "meter" }, bar),
      `${(100 * paid).toFixed(1)} % of the answer's attention`));
  }
  if (last && live() && answer.finished != null) node.append(tools(block.number));
  return node;
}

function tools(number) {
  const tool = (kind, label) => el("button", {
    type: "button", onclick: () => go(shown.item.key, [...shown.item.edits, `${kind}.${number}`]), "data-tool": `${kind}.${number}`,
    disabled: kind === "future" && number > shown.item.future_frames,
  }, label);
  return el("div", { class: "tools" }, el("small", {}, "Replace by"), ...TOOLS.map(([kind, label]) => tool(kind, label)),
    el("small", {}, "or"), tool("cut", "empty it"), tool("forbid", "forbid spans from here"),
    tool("hide", "hide the frames after it"));
}

// ---- the chart: probabilities of the options along the answer

// The axis of two answers: the shortest list of labels that has those of each in their order, and the places of each there.
function axisOf(points, earlier) {
  const [m, n] = [points.length, earlier.length];
  const same = (i, j) => points[i].after === earlier[j].after;
  const common = Array.from({ length: m + 1 }, () => new Array(n + 1).fill(0));  // labels that both have, from i and j on
  for (let i = m - 1; i >= 0; i--)
    for (let j = n - 1; j >= 0; j--)
      common[i][j] = same(i, j) ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  const [labels, places, earlierPlaces] = [[], [], []];
  for (let i = 0, j = 0; i < m || j < n;) {
    const both = i < m && j < n && same(i, j);
    const ours = i < m && (both || j === n || common[i + 1][j] >= common[i][j + 1]);
    const place = labels.push((ours ? points[i] : earlier[j]).after) - 1;
    if (ours) places[i++] = place;
    if (both || !ours) earlierPlaces[j++] = place;
  }
  return { labels, places, earlierPlaces };
}

function drawChart() {
  const { before, after, item } = shown;
  const points = after?.probabilities;
  $("chart").hidden = !points?.length;
  if (!points?.length) return;
  const earlier = item.edits.length && before?.probabilities?.length ? before.probabilities : null;
  const { labels, places, earlierPlaces } = axisOf(points, earlier ?? []);
  const [left, top, width, height] = [48, 12, 470, 220];
  const x = (place) => left + (labels.length < 2 ? width / 2 : (width * place) / (labels.length - 1));
  const y = (value) => top + height * (1 - value);
  const svg = svgNode("svg", { viewBox: "0 0 720 270", role: "img", "aria-label": chartText(after) });
  for (const level of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(svgNode("line", { class: "grid", x1: left, x2: left + width, y1: y(level), y2: y(level) }),
      svgNode("text", { class: "axis", x: left - 8, y: y(level) + 4, "text-anchor": "end" }, `${100 * level} %`));
  }
  const every = Math.ceil(labels.length / 8);  // so many labels have room
  labels.forEach((label, place) => place % every ? null :
    svg.append(svgNode("text", { class: "axis", x: x(place), y: top + height + 22, "text-anchor": "middle" }, label)));
  const line = (list, at, letter, fields) => svgNode("polyline", {
    fill: "none", points: list.map(({ values }, i) => `${x(at[i])},${y(values[letter])}`).join(" "), ...fields });
  const ends = after.options.map(({ letter, text }, number) => {
    const colour = COLOURS[number % COLOURS.length];
    if (earlier) svg.append(line(earlier, earlierPlaces, letter, { stroke: colour, "stroke-width": 1.6, "stroke-dasharray": "4 4", opacity: 0.7 }));
    svg.append(line(points, places, letter, { stroke: colour, "stroke-width": 2.6 }));
    points.forEach(({ values }, i) => svg.append(svgNode("circle", { cx: x(places[i]), cy: y(values[letter]), r: 3, fill: colour })));
    const value = points.at(-1).values[letter];
    return { at: y(value), colour, label: `${text === letter ? "" : `${letter}. `}${text}`.slice(0, 22) + ` ${(100 * value).toFixed(0)} %` };
  }).sort((a, b) => a.at - b.at);
  let highest = top + height + 20;
  for (const end of ends.reverse()) {
    highest = Math.min(end.at + 4, highest - 16);
    svg.append(svgNode("rect", { x: left + width + 14, y: highest - 10, width: 10, height: 10, rx: 2, fill: end.colour }),
      svgNode("text", { x: left + width + 30, y: highest }, end.label));
  }
  $("chart").replaceChildren(el("h2", {}, "If it had to answer now: the probability of each option along the answer"), svg,
    el("p", { class: "quiet" }, earlier ? "Solid: after the change; dashed: before. " : "",
      "At each place <answer> is put behind the answer so far. What is missing to 100 % is any other text."));
}

const chartText = (answer) => answer.options.map(({ letter, text }) =>
  `${text}: ${(100 * answer.probabilities.at(-1).values[letter]).toFixed(0)} %`).join(", ");

function svgNode(name, fields, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(fields)) node.setAttribute(key, value);
  if (text != null) node.textContent = text;
  return node;
}

// ---- events of an answer, live or from an exported page

function take(event) {
  if (event.event === "queued") say(event.ahead ? `${event.ahead} before this one: waiting` : "");
  if (event.event === "error") {
    if (shown.after && shown.after.finished == null) { shown.after = null; drawAnswers(); }
    say(event.message);
    document.body.dataset.state = "error";
  }
  if (event.event === "earlier") say("Making the answers that this one needs");
  if (["item", "before", "blocks", "report"].includes(event.event)) say("");
  if (event.event === "item") {
    shown = { item: event, after: { blocks: [], spans: {} } };
    $("chart").hidden = true;  // it is another answer's
    drawPrompt(event);
  }
  if (event.event === "changes") Object.assign(shown.after, event);
  if (event.event === "item" || event.event === "changes") drawEdits(shown);
  if (event.event === "before") shown.before = event.report;
  if (event.event === "blocks") shown.after.blocks.splice(event.from, Infinity, ...event.blocks);
  if (event.event === "span") shown.after.spans[event.number] = event;
  if (event.event === "report") shown.after = event.report;
  if (event.event === "blocks" || event.event === "span") drawSoon();
  if (event.event === "before" || event.event === "report") drawAnswers();
  if (event.event === "report") { drawChart(); $("spoken").textContent = spoken(shown); document.body.dataset.state = "done"; }
  if (event.event === "report" || event.event === "error") refocus();
}

function say(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

// The button that was pressed has been drawn anew: whoever has no mouse goes on from there.
function refocus() {
  const tool = (name) => document.querySelector(`[data-tool="${name}"]:not(:disabled)`);
  if (pressed && document.activeElement === document.body)
    (tool(pressed) ?? document.querySelector(".answer-card:last-child h2") ?? tool("Undo"))?.focus({ preventScroll: true });
}

const live = () => !$("export");

async function play() {
  request?.abort();
  const current = (request = new AbortController());
  document.body.dataset.state = "running";
  if (document.activeElement !== document.body) pressed = document.activeElement.dataset.tool;
  select(new URLSearchParams(location.hash.slice(1)).get("item"));
  try {
    const answer = await fetch(`show?${location.hash.slice(1)}`, { method: "POST", signal: current.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (!current.signal.aborted) take(JSON.parse(line));
    }
  } catch (error) {
    if (!current.signal.aborted) take({ event: "error", message: "The explorer does not answer: is it still running?" });
  }
}

function go(item, edits) {
  const hash = `#item=${encodeURIComponent(item).replaceAll("%2F", "/")}${edits.length ? `&edits=${edits.join(",")}` : ""}`;
  if (location.hash === hash) play();
  else location.hash = hash;
}

// ---- choosing an item

function select(key) {
  const group = groups.find((one) => one.items.some(([name]) => name === key));
  if (!group) return;
  if ($("group").value !== group.name || !$("item").options.length) fill(group);
  $("item").value = key;
}

function fill(group) {
  $("group").value = group.name;
  $("item").replaceChildren(...group.items.map(([key, title]) => el("option", { value: key }, title)));
}

function step(by) {
  const list = $("item");
  const place = list.selectedIndex + by;
  if (place >= 0 && place < list.options.length) go(list.options[place].value, []);
}

async function upload(event) {
  event.preventDefault();
  const [file] = $("clip").files;
  const query = new URLSearchParams({ name: file.name, frames: $("keys").value, question: $("question").value });
  say("Reading the clip");
  try {
    const answer = await (await fetch(`upload?${query}`, { method: "POST", body: file })).json();
    if (answer.error) say(answer.error);
    else { await list(); go(answer.key, []); }
  } catch (error) { say("The clip was not taken: is it larger than the limit, is the explorer still running?"); }
}

async function list() {
  const answer = await (await fetch("items")).json();
  groups = answer.groups;
  $("model").textContent = answer.model;
  $("group").replaceChildren(...groups.map((group) => el("option", { value: group.name }, group.name)));
}

async function start() {
  if (!live()) {
    for (const node of document.querySelectorAll(".live")) node.hidden = true;
    const { model, events } = JSON.parse($("export").textContent);
    $("model").textContent = model;
    events.forEach(take);
    return;
  }
  await list();
  $("group").addEventListener("change", () => {
    const group = groups.find((one) => one.name === $("group").value);
    fill(group);
    go(group.items[0][0], []);
  });
  $("item").addEventListener("change", () => go($("item").value, []));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("own").addEventListener("click", () => {
    $("upload").hidden = !$("upload").hidden;
    $("own").setAttribute("aria-expanded", !$("upload").hidden);
  });
  $("upload").addEventListener("submit", upload);
  window.addEventListener("hashchange", play);
  const first = groups.find((group) => group.items.length);
  if (location.hash.length > 1) play();
  else if (first) go(first.items[0][0], []);
  else $("own").click();
}

start();
