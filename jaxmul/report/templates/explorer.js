// The list: only what is on the screen exists as an element. And one chosen example in detail.
const $ = (id) => document.getElementById(id);
const list = $("list"), sheet = $("sheet");
const WIDTH = data.texts ? 240 : 92, HEIGHT = 120; // as in report.css
const items = new Map(); // by position in rows
let rows = new Uint32Array(0);
let chosen = 0; // a position in rows

function select() {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  rows = wantedRows({
    sort: number("sort"), down: $("direction").value === "down", label: number("class"), member: number("group"),
    score: number("score"), least: number("least"), most: number("most"), id: $("id").value || null,
  });
  chosen = 0;
  list.scrollTop = 0;
  $("count").textContent = `${rows.length.toLocaleString("en")} of ${ids.length.toLocaleString("en")} ${data.texts ? "texts" : "images"}`;
  items.forEach((item) => item.remove());
  items.clear();
  layOut();
  if (rows.length) show(rows[chosen]);
  else $("detail").replaceChildren(element("p", "Nothing passes these filters.", "muted"));
}

const perRow = () => Math.max(1, Math.floor(list.clientWidth / WIDTH));
function layOut() {
  const across = perRow();
  sheet.style.height = `${Math.ceil(rows.length / across) * HEIGHT}px`;
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
    if (!items.has(position)) items.set(position, fresh.appendChild(itemAt(position)));
    const item = items.get(position);
    item.style.left = `${(position % across) * WIDTH}px`;
    item.style.top = `${Math.floor(position / across) * HEIGHT}px`;
    item.setAttribute("aria-selected", String(position === chosen));
  }
  sheet.append(fresh);
  if (items.has(chosen)) list.setAttribute("aria-activedescendant", `item${chosen}`);
  else list.removeAttribute("aria-activedescendant");
}

function itemAt(position) {
  const row = rows[position];
  const { name, values } = sortable[$("sort").value];
  const [label, score] = [className(row), shown(values[row])];
  const item = element("div", "", group[row] ? "item forget" : "item");
  item.id = `item${position}`;
  item.setAttribute("role", "option");
  item.setAttribute("aria-posinset", position + 1);
  item.setAttribute("aria-setsize", rows.length);
  const said = [`id ${ids[row]}`, data.texts?.[row], label, `${name} ${score}`, data.groups[group[row]]];
  item.setAttribute("aria-label", said.filter(Boolean).join(", "));
  item.append(picture(row), element("b", label), score);
  item.addEventListener("click", () => choose(position));
  return item;
}

function shown(value) {
  if (Number.isNaN(value)) return "–";
  return value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(1) : value.toFixed(2);
}

function element(tag, text, className = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className });
}

function choose(position) {
  if (!rows.length) return;
  chosen = Math.min(Math.max(position, 0), rows.length - 1);
  const top = Math.floor(chosen / perRow()) * HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  layOut();
  show(rows[chosen]);
}

function show(row) {
  const where = group[row] ? `forget set, ${data.groups[group[row]]} group` : data.groups[0];
  const title = element("h3", [className(row), `id ${ids[row]}`].filter(Boolean).join(", "));
  const found = [picture(row), title, element("p", where, "muted"), table("Scores", columns, row)];
  if (group[row] && afterColumns.length) found.push(table("Probability of the label after", afterColumns, row));
  $("detail").replaceChildren(...found);
}

function table(title, shownColumns, row) {
  const result = element("table", "");
  result.createCaption().textContent = title;
  for (const { name, method, values } of shownColumns) {
    const line = result.insertRow();
    const head = line.appendChild(element("th", method ?? name));
    head.scope = "row";
    const cell = line.insertCell();
    if (method !== undefined) {
      cell.append(element("span", "", "level"));
      cell.firstChild.style.setProperty("--share", values[row]);
    }
    cell.append(shown(values[row]));
  }
  return result;
}

sortable.forEach(({ name }, i) => ["sort", "score"].forEach((id) => $(id).add(new Option(name, i))));
data.classes.forEach((name, i) => $("class").add(new Option(name, i)));
if (data.groups.length > 1) $("group").add(new Option("forget set", -1));
data.groups.forEach((name, i) => $("group").add(new Option(i ? `forget: ${name}` : name, i)));

const moves = {
  ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: perRow, ArrowUp: () => -perRow(),
  PageDown: () => 4 * perRow(), PageUp: () => -4 * perRow(),
  Home: () => -rows.length, End: () => rows.length, Enter: () => 0, " ": () => 0,
};
list.addEventListener("keydown", (event) => {
  if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  choose(chosen + moves[event.key]());
});
list.addEventListener("scroll", () => requestAnimationFrame(layOut), { passive: true });
$("controls").addEventListener("input", select);
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("controls").addEventListener("reset", () => setTimeout(select));
new ResizeObserver(layOut).observe(list);
select();
