// The page: pictures come in, are asked about two at a time, looked at, and leave as files.

import { zip } from "/page/files.js";
import { coco, csv, labelMap, labelme, labels } from "/page/formats.js";
import { Table, beside, card, drawHistogram, element, paint, row, tell, words } from "/page/panel.js";
import { Picture } from "/page/picture.js";
import { read } from "/page/scale.js";
import { Server } from "/page/server.js";
import { View } from "/page/view.js";

const get = (id) => document.getElementById(id);
const server = new Server(), view = new View(get("view"), get("base"), get("marks"));
const table = new Table(get("numbers"), (one) => select(one, true));
const pictures = [];
const hiddenClasses = new Set();
const AT_ONCE = 2;
let about = null, current = null, onStage = null, asking = 0, isWorstFirst = true, isTable = false;
let lacking = [""]; // why the server cannot be asked yet, with what to do: told until it can be

// The server

async function meet() {
  try {
    about = await server.about();
  } catch (error) {
    if (error.code === "unauthorized") return askKey();
    return tellLack(error.message, ["Try again", meet]);
  }
  const [model] = about.models, { pixels, body_bytes } = about.limits;
  get("model").textContent = `${model.name} · ${model.categories.length === 1 ? model.categories[0].name : `${model.categories.length} classes`}`;
  get("limits").textContent = `Up to ${(pixels / 1e6).toLocaleString("en")} megapixels and ${Math.floor(body_bytes / 2 ** 20)} MiB each. Pictures are sent to this server and nowhere else, and it keeps none.`;
  tellLack("");
  askNext();
}

function tellLack(text, ...actions) {
  lacking = [text, actions];
  notice(...lacking);
}

function askKey() {
  if (!get("key").open) get("key").showModal();
}

const KEY_LACKS = ["This server asks for a key.", ["Enter it", askKey]];
get("key").addEventListener("cancel", () => tellLack(...KEY_LACKS));
get("key-use").addEventListener("click", useKey);
get("key-value").addEventListener("keydown", (event) => event.key === "Enter" && useKey());
function useKey() {
  server.key = get("key-value").value.trim();
  get("key").close();
  for (const picture of pictures) if (picture.code === "unauthorized") picture.state = "waiting";
  meet();
}

// Pictures

function take(files) {
  const names = [], taken = [];
  for (const file of files) {
    names.push(nameFor(file, names));
    taken.push(new Picture(file, names.at(-1)));
  }
  for (const picture of taken) {
    picture.onChange = changed;
    pictures.push(picture);
    get("strip").append(tile(picture));
  }
  if (!taken.length) return;
  get("main").dataset.state = "open";
  get("strip").hidden = pictures.length < 2;
  get("scope").hidden = pictures.length < 2;
  if (!current || current.state === "failed") go(taken[0]);
  askNext();
}

/** Its own name; a number is added where another picture has it, but for the suffix: archives are of other files. */
function nameFor(file, others) {
  const name = file.name || "pasted.png", [, base, suffix] = name.match(/^(.*?)(\.[^.]*)?$/s);
  const taken = new Set([...pictures.map((picture) => picture.name), ...others].map((one) => stem(one).toLowerCase()));
  const isTaken = (tried) => taken.has(stem(tried).toLowerCase());
  for (let i = 2, tried = name; ; tried = `${base}-${i++}${suffix ?? ""}`) if (!isTaken(tried)) return tried;
}

function askNext() {
  while (about && asking < AT_ONCE) {
    const next = pictures.find((picture) => picture.state === "waiting");
    if (!next) return;
    asking++;
    next.ask(server, about.limits).finally(() => (asking--, askNext()));
  }
}

function changed(picture) {
  const tileOf = get(`tile-${picture.id}`);
  tileOf.dataset.state = picture.state;
  tileOf.querySelector("b").textContent = picture.state === "done" ? picture.instances.length : picture.state === "failed" ? "!" : "";
  tileOf.setAttribute("aria-label", `${picture.name}, ${picture.state === "done" ? `${picture.instances.length} instances` : picture.message || "waiting"}`);
  if (picture.state === "failed" && picture.code === "unauthorized") askKey();
  if (picture === current) go(picture, true);
}

function tile(picture) {
  const made = element("button", { type: "button", className: "tile", id: `tile-${picture.id}`, title: picture.name, onclick: () => go(picture) }, picture.thumb, element("b"));
  made.dataset.state = "waiting";
  made.setAttribute("aria-label", `${picture.name}, waiting`);
  return made;
}

/** Show a picture, or what has become of it. */
function go(picture, isSame = false) {
  const isNew = picture !== current || onStage !== picture.bitmap;
  current = picture;
  for (const made of get("strip").children) made.setAttribute("aria-current", made.id === `tile-${picture.id}`);
  if (!isSame) get(`tile-${picture.id}`).scrollIntoView({ block: "nearest", inline: "nearest" });
  get("name").textContent = get("name").title = picture.name;
  if (isNew) {
    view.show(picture.bitmap ? picture : null);
    onStage = picture.bitmap;
    get("card").hidden = true;
    get("view").classList.toggle("blank", !picture.bitmap);
    brighten(isBright());
  }
  tellState(picture);
  fillClasses();
  fillList();
  filter();
}

function tellState(picture) {
  get("view").classList.toggle("working", ["asking", "waiting"].includes(picture.state));
  if (lacking[0]) notice(...lacking);
  else if (picture.state === "failed") notice(`${picture.name}: ${picture.message}`, picture.canRetry ? [["Try again", () => again(picture)]] : [], "wrong");
  else notice(["busy", "done"].includes(picture.state) ? picture.message : "");
  if (picture.state !== "done") tellCounts(picture.state === "failed" ? "No answer" : picture.message || "Waiting …");
  get("main").classList.toggle("has-instances", picture.state === "done");
}

function again(picture) {
  picture.state = "waiting";
  changed(picture);
  askNext();
}

function notice(text, actions = [], kind = "") {
  const box = get("notice"), buttons = actions.map(([name, act]) => element("button", { type: "button", textContent: name, onclick: act }));
  box.className = `notice ${kind}`;
  box.hidden = !text;
  box.replaceChildren(element("span", { textContent: text }), ...buttons);
}

// What is shown

const listed = () => (current?.instances ?? []).toSorted((a, b) => (isWorstFirst ? 1 : -1) * (a.quality - b.quality || a.score - b.score));
const shown = (picture) => picture.instances.filter((one) => passes(one) && !one.isOut);
const passes = (one) => one.score >= limit("score") && one.quality >= limit("quality") && !hiddenClasses.has(one.label);
const limit = (id) => Number(get(id).value);
const scale = () => read(get("pixel-size").value).scale;

/** Apply sliders and classes: at once, here. */
function filter() {
  for (const id of ["score", "quality"]) get(`${id}-value`).textContent = limit(id).toFixed(2);
  const all = current?.instances ?? [];
  for (const one of all) {
    one.isShown = passes(one) && !one.isOut;
    const made = get(`row-${one.index}`);
    made.hidden = !passes(one);
    made.classList.toggle("out", one.isOut);
  }
  for (const id of ["score", "quality"]) drawHistogram(get(`${id}-histogram`), all.map((one) => one[id]), limit(id));
  if (view.selected && !passes(view.selected)) select(null);
  if (current?.state === "done") summarize(all);
  if (isTable) table.fill(current?.instances ? shown(current) : [], view.selected, scale());
  view.draw();
}

function summarize(all) {
  const seen = all.filter((one) => one.isShown), middle = median(seen.map((one) => one.quality));
  if (!all.length) tellCounts("Nothing was found");
  else tellCounts(`${seen.length} of ${all.length} shown`, seen.length ? `median quality ${middle.toFixed(2)}` : "");
}

function tellCounts(text, more = "") {
  get("counts").textContent = text;
  get("middle").textContent = more;
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function fillList() {
  const now = scale();
  get("rows").replaceChildren(...listed().map((one) => row(one, view.by, now)));
  markRow();
}

/** A chip a class, where there are several in the picture, or one that was hidden in another. */
function fillClasses() {
  const counts = new Map();
  for (const { label, class: name } of current?.instances ?? []) counts.set(label, [name, (counts.get(label)?.[1] ?? 0) + 1]);
  const chips = [...counts].sort(([a], [b]) => a - b).map(([label, [name, count]]) => {
    const chip = element("button", { type: "button", textContent: `${name} ${count}`, onclick: () => toggleClass(label, chip) });
    chip.setAttribute("aria-pressed", !hiddenClasses.has(label));
    return chip;
  });
  const isHidden = [...counts.keys()].some((label) => hiddenClasses.has(label));
  get("classes").replaceChildren(...(chips.length > 1 || isHidden ? chips : []));
}

function toggleClass(label, chip) {
  if (!hiddenClasses.delete(label)) hiddenClasses.add(label);
  chip.setAttribute("aria-pressed", !hiddenClasses.has(label));
  filter();
}

/** Say every size in the unit; what is wrong with it is told once it was written to its end. */
function rescale({ type }) {
  const field = get("pixel-size"), { scale: now, wrong } = read(field.value), told = `${wrong} Shown in ${now.name}.`.trim();
  if (type === "change" || !wrong) {
    field.setAttribute("aria-invalid", Boolean(wrong));
    get("pixel-size-wrong").textContent = wrong && told;
  }
  if (type === "change") get("status").textContent = told;
  for (const one of current?.instances ?? []) tell(get(`row-${one.index}`), one, now);
  get("area-unit").textContent = `area ${now.symbol}²`;
  filter();
  showCard();
}

for (const kind of ["input", "change"]) get("pixel-size").addEventListener(kind, rescale);
for (const id of ["score", "quality"]) get(id).addEventListener("input", filter);
for (const input of document.querySelectorAll("[name=colour]"))
  input.addEventListener("change", () => {
    view.by = input.value;
    for (const one of current?.instances ?? []) paint(get(`row-${one.index}`), one, view.by);
    view.draw();
  });
get("order").addEventListener("click", () => {
  isWorstFirst = !isWorstFirst;
  get("order").textContent = isWorstFirst ? "Worst first" : "Best first";
  fillList();
  filter();
});

// One instance

function select(one, isFar = false) {
  view.selected = one;
  markRow();
  if (one) {
    get("status").textContent = words(one, scale());
    if (isFar && !isTable) view.reveal(one);
  }
  if (isTable) table.hold(one);
  view.mark();
  showCard();
}

function hover(one) {
  if (one === view.hovered) return;
  view.hovered = one;
  get("marks").style.cursor = one ? "pointer" : "";
  view.mark();
  showCard();
}

function markRow() {
  for (const made of get("rows").querySelectorAll("[aria-selected=true]")) made.setAttribute("aria-selected", false);
  const made = view.selected && get(`row-${view.selected.index}`);
  if (!made) return get("rows").removeAttribute("aria-activedescendant");
  made.setAttribute("aria-selected", true);
  get("rows").setAttribute("aria-activedescendant", made.id);
  const { offsetTop: top, offsetHeight: height } = made, rows = get("rows");
  if (top < rows.scrollTop || top + height > rows.scrollTop + rows.clientHeight) rows.scrollTop = top - rows.clientHeight / 2;
}

/** Above the instance, below it where there is no room. */
function showCard() {
  const one = view.hovered ?? view.selected, box = get("card");
  box.hidden = !one?.isShown || view.areHidden;
  if (box.hidden) return;
  box.replaceChildren(...card(one, scale()));
  const { x, top, bottom } = view.screen(one), { clientWidth: width, clientHeight: height } = view.box;
  const above = top - box.offsetHeight - 10, below = bottom + 10;
  const y = above >= 4 ? above : below + box.offsetHeight < height ? below : 8;
  box.style.left = `${Math.min(Math.max(x - box.offsetWidth / 2, 8), width - box.offsetWidth - 8)}px`;
  box.style.top = `${y}px`;
}

function step(by) {
  const next = beside(listed().filter((one) => one.isShown || one.isOut).filter(passes), view.selected, by);
  if (next) select(next, true);
}

function toggleOut() {
  const one = view.selected;
  if (!one) return;
  one.isOut = !one.isOut;
  tell(get(`row-${one.index}`), one, scale());
  get("status").textContent = words(one, scale());
  filter();
  showCard();
}

view.onHover = hover;
view.onSelect = (one) => select(one);
view.onMove = showCard;
get("rows").addEventListener("click", (event) => {
  const made = event.target.closest("li");
  if (made) select(current.instances[Number(made.id.slice(4))], true);
});
get("rows").addEventListener("pointermove", (event) => {
  const made = event.pointerType === "mouse" && event.target.closest("li");
  hover(made ? current.instances[Number(made.id.slice(4))] : null);
});
get("rows").addEventListener("pointerleave", () => hover(null));

// Picture or table

function choose(isNumbers) {
  isTable = isNumbers;
  get("tab-picture").setAttribute("aria-selected", !isTable);
  get("tab-numbers").setAttribute("aria-selected", isTable);
  get("tab-picture").tabIndex = isTable ? -1 : 0;
  get("tab-numbers").tabIndex = isTable ? 0 : -1;
  get("view").hidden = isTable;
  get("numbers").hidden = !isTable;
  filter();
}
get("tab-picture").addEventListener("click", () => choose(false));
get("tab-numbers").addEventListener("click", () => choose(true));
for (const tab of document.querySelectorAll("[role=tab]"))
  tab.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    choose(!isTable);
    get(isTable ? "tab-numbers" : "tab-picture").focus();
    event.stopPropagation();
  });

// Downloads

const stem = (name) => name.replace(/\.[^.]*$/, "");
const text = (content) => new TextEncoder().encode(content);

/** Name and content of the file, or of an archive of several. */
async function made(format, chosen, categories) {
  const many = chosen.length > 1, named = many ? "pictures" : stem(chosen[0].name);
  switch (format) {
    case "coco":
      return [`${named}.coco.json`, text(coco(chosen, categories))];
    case "csv":
      return [`${named}.csv`, text(csv(chosen, scale()))];
    case "labelme":
      return bundled(chosen, "labelme.zip", ".json", async (one) => text(await labelme(one)), [["labels.txt", text(labels(categories))]]);
    case "label_map":
      return bundled(chosen, "label_maps.zip", "_labels.png", labelMap, [["measurements.csv", text(csv(chosen, scale()))]]);
    case "overlay":
      return bundled(chosen, "overlays.zip", "_overlay.png", async (one) => new Uint8Array(await (await view.overlay(one.picture, one.shown)).arrayBuffer()), []);
  }
}

async function bundled(chosen, name, ending, write, extra) {
  const files = [];
  for (const one of chosen) files.push([stem(one.name) + ending, await write(one)]);
  return files.length === 1 ? files[0] : [name, zip([...files, ...extra])];
}

async function download(format) {
  const ready = (get("scope").value === "all" ? pictures : [current]).filter((picture) => picture?.state === "done");
  if (!ready.length) return;
  const chosen = ready.map((picture) => ({ picture, name: picture.name, width: picture.width, height: picture.height, shown: shown(picture) }));
  try {
    const [name, bytes] = await made(format, chosen, about.models[0].categories);
    const link = element("a", { href: URL.createObjectURL(new Blob([bytes])), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    get("status").textContent = `${name} is being saved`;
  } catch (error) {
    notice(`The file could not be made: ${error.message}`, [], "wrong");
  }
}
for (const button of document.querySelectorAll("[data-format]")) button.addEventListener("click", () => download(button.dataset.format));

// Getting pictures in

for (const id of ["choose", "choose-too"]) get(id).addEventListener("click", () => get("files").click());
get("files").addEventListener("change", () => {
  take(get("files").files);
  get("files").value = "";
});
addEventListener("paste", (event) => take([...event.clipboardData.files]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files);
});

// Keys

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function arrow(event, way) {
  const focus = document.activeElement;
  if (focus === get("rows")) return way[1] && step(way[1]), true;
  if (get("numbers").contains(focus)) return way[1] && (table.step(way[1]), true); // sideways it scrolls
  if (focus !== get("marks") && focus !== document.body) return false;
  if (event.shiftKey) view.move(-64 * way[0], -64 * way[1]);
  else {
    const next = view.neighbour(way);
    if (next) select(next, true);
  }
  return true;
}

function peek(areHidden) {
  view.areHidden = areHidden;
  get("peek").setAttribute("aria-pressed", areHidden);
  view.draw();
  showCard();
}

function brighten(isOn) {
  get("brighten").setAttribute("aria-pressed", isOn);
  view.gain = isOn ? (current?.gain ?? 1) : 1;
  view.draw();
}
const isBright = () => get("brighten").getAttribute("aria-pressed") === "true";

function turn(by) {
  const next = pictures[pictures.indexOf(current) + by];
  if (next) go(next);
}

const KEYS = {
  n: () => step(1), p: () => step(-1), h: () => peek(!view.areHidden), b: () => brighten(!isBright()), t: () => choose(!isTable),
  "+": () => view.zoom(1.4), "=": () => view.zoom(1.4), "-": () => view.zoom(1 / 1.4), 0: () => view.fit(),
  "[": () => turn(-1), "]": () => turn(1), Delete: toggleOut, Backspace: toggleOut, Escape: () => select(null),
  "?": () => get("help").showModal(),
};

addEventListener("keydown", (event) => {
  const isField = event.target.matches("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || isField || document.querySelector("dialog[open]")) return;
  const way = ARROWS[event.key], act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const isDone = way ? current && arrow(event, way) : act && (event.key === "?" || current) && (act(), true);
  if (isDone) event.preventDefault();
});

get("zoom-in").addEventListener("click", () => view.zoom(1.4));
get("zoom-out").addEventListener("click", () => view.zoom(1 / 1.4));
get("zoom-fit").addEventListener("click", () => view.fit());
get("peek").addEventListener("click", () => peek(!view.areHidden));
get("brighten").addEventListener("click", () => brighten(!isBright()));
get("help-open").addEventListener("click", () => get("help").showModal());
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", filter);
new ResizeObserver(() => filter()).observe(get("score-histogram"));

meet();
