"use strict";
// The explorer: columns of numbers, an order of rows, and as many items as fit on the screen.
{
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
function bytes(text) {
  const found = atob(text);
  const result = new Uint8Array(found.length);
  for (let i = 0; i < found.length; i++) result[i] = found.charCodeAt(i);
  return result;
}

const ids = new Float64Array(bytes(data.ids).buffer);
const labels = new Int32Array(bytes(data.labels).buffer);
const group = bytes(data.group);
const columns = data.columns.map(({ name, values }) => ({ name, values: new Float32Array(bytes(values).buffer) }));
const after = data.after ?? { ids: [], methods: [], confidence: [] };
const rowOfId = new Map(Array.from(ids, (id, row) => [id, row]));
const afterOfRow = new Map(after.ids.map((id, k) => [rowOfId.get(id), k]));
after.methods.forEach((name, m) => {
  const values = new Float32Array(ids.length).fill(NaN);
  for (const [row, k] of afterOfRow) values[row] = after.confidence[m][k];
  columns.push({ name: `p of label after ${name}`, values });
});
const className = (label) => data.classes[label] ?? String(label);

// Orders: each column is sorted once; what has no value comes last either way. The bits of a float,
// its sign turned, order as the number does; with the row below them they sort without a callback.
const ROWS = 2 ** 20;
function ordered(column) {
  if (!column.order) {
    const bits = new Uint32Array(column.values.buffer);
    const keys = [], unknown = [];
    column.values.forEach((value, row) => {
      if (Number.isNaN(value)) unknown.push(row);
      else keys.push(((bits[row] >>> 31 ? ~bits[row] : bits[row] ^ 0x80000000) >>> 0) * ROWS + row);
    });
    const known = Uint32Array.from(Float64Array.from(keys).sort(), (key) => key % ROWS);
    column.order = { known, unknown: Uint32Array.from(unknown) };
  }
  return column.order;
}

let rows = new Uint32Array(0);
let chosen = 0; // a position in rows
function select() {
  const column = columns[$("sort").value];
  const { known, unknown } = ordered(column);
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  const [label, wanted, least, most, id] = ["class", "group", "least", "most", "id"].map(number);
  const keep = (row) =>
    (label === null || labels[row] === label) &&
    (wanted === null || (wanted < 0 ? group[row] > 0 : group[row] === wanted)) &&
    (least === null || column.values[row] >= least) &&
    (most === null || column.values[row] <= most) &&
    (id === null || ids[row] === id);
  const up = known.filter(keep);
  if ($("direction").value === "down") up.reverse();
  const rest = unknown.filter(keep);
  rows = new Uint32Array(up.length + rest.length);
  rows.set(up);
  rows.set(rest, up.length);
  chosen = 0;
  $("list").scrollTop = 0;
  const total = ids.length.toLocaleString("en");
  $("count").textContent = `${rows.length.toLocaleString("en")} of ${total} images`;
  items.forEach((item) => item.remove());
  items.clear();
  layOut();
}

// Sprites are decoded when one of their images is first on the screen.
const bitmaps = new Map();
const perSprite = data.sprite_columns ** 2;
async function decoded(number) {
  const image = new Image();
  image.src = `data:image/webp;base64,${data.sprites[number]}`;
  await image.decode();
  return createImageBitmap(image);
}
function bitmap(number) {
  if (!bitmaps.has(number)) bitmaps.set(number, decoded(number));
  return bitmaps.get(number);
}
function picture(row) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [data.width, data.height];
  if (data.sprites.length) {
    const place = row % perSprite;
    const x = (place % data.sprite_columns) * data.width;
    const y = Math.floor(place / data.sprite_columns) * data.height;
    bitmap(Math.floor(row / perSprite)).then((sprite) => {
      canvas.getContext("2d").drawImage(sprite, x, y, data.width, data.height, 0, 0, data.width, data.height);
    });
  }
  return canvas;
}

// Only what is on the screen exists as an element.
const WIDTH = 92, HEIGHT = 120;
const items = new Map();
const perRow = () => Math.max(1, Math.floor($("list").clientWidth / WIDTH));
function layOut() {
  const list = $("list");
  const across = perRow();
  $("sheet").style.height = `${Math.ceil(rows.length / across) * HEIGHT}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 1) * across;
  const last = Math.min(rows.length, (Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 1) * across);
  for (const [position, item] of items) {
    if (position < first || position >= last) {
      item.remove();
      items.delete(position);
    }
  }
  const fresh = document.createDocumentFragment();
  for (let position = first; position < last; position++) {
    if (!items.has(position)) {
      items.set(position, fresh.appendChild(itemAt(position)));
    }
    const item = items.get(position);
    item.style.left = `${(position % across) * WIDTH}px`;
    item.style.top = `${Math.floor(position / across) * HEIGHT}px`;
    item.setAttribute("aria-selected", String(position === chosen));
  }
  $("sheet").append(fresh);
  if (items.has(chosen)) list.setAttribute("aria-activedescendant", `item${chosen}`);
  else list.removeAttribute("aria-activedescendant");
}
function itemAt(position) {
  const row = rows[position];
  const column = columns[$("sort").value];
  const item = document.createElement("div");
  item.className = group[row] ? "item forget" : "item";
  item.id = `item${position}`;
  item.setAttribute("role", "option");
  item.setAttribute("aria-posinset", position + 1);
  item.setAttribute("aria-setsize", rows.length);
  item.setAttribute("aria-label",
    `id ${ids[row]}, ${className(labels[row])}, ${column.name} ${shown(column.values[row])}, ${data.groups[group[row]]}`);
  const label = document.createElement("b");
  label.textContent = className(labels[row]);
  item.append(picture(row), label, shown(column.values[row]));
  item.addEventListener("click", () => choose(position));
  return item;
}
function shown(value) {
  if (Number.isNaN(value)) return "–";
  return value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(1) : value.toFixed(2);
}

function choose(position) {
  if (!rows.length) return;
  chosen = Math.min(Math.max(position, 0), rows.length - 1);
  const list = $("list");
  const top = Math.floor(chosen / perRow()) * HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  layOut();
  show(rows[chosen]);
}
function show(row) {
  const title = document.createElement("h3");
  title.textContent = `${className(labels[row])}, id ${ids[row]}`;
  const where = document.createElement("p");
  where.className = "muted";
  where.textContent = group[row] ? `forget set, ${data.groups[group[row]]} group` : data.groups[0];
  const table = document.createElement("table");
  for (const { name, values } of columns) {
    if (Number.isNaN(values[row]) && after.methods.length && name.startsWith("p of label")) continue;
    const line = table.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    line.append(head);
    line.insertCell().textContent = shown(values[row]);
  }
  $("detail").replaceChildren(picture(row), title, where, table);
}

columns.forEach(({ name }, i) => $("sort").add(new Option(name, i)));
data.classes.forEach((name, i) => $("class").add(new Option(name, i)));
if (data.groups.length > 1) $("group").add(new Option("forget set", -1));
data.groups.forEach((name, i) => $("group").add(new Option(i ? `forget: ${name}` : name, i)));

const moves = {
  ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: perRow, ArrowUp: () => -perRow(),
  PageDown: () => 4 * perRow(), PageUp: () => -4 * perRow(),
  Home: () => -rows.length, End: () => rows.length, Enter: () => 0, " ": () => 0,
};
$("list").addEventListener("keydown", (event) => {
  if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  choose(chosen + moves[event.key]());
});
$("list").addEventListener("scroll", () => requestAnimationFrame(layOut), { passive: true });
$("controls").addEventListener("input", select);
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("controls").addEventListener("reset", () => setTimeout(select));
new ResizeObserver(layOut).observe($("list"));
select();
}
