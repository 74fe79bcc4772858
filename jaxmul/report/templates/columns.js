// Columns of numbers, one a training example, and the rows that are wanted in their order.
const data = JSON.parse(document.getElementById("data").textContent);

function bytes(text) {
  const found = atob(text);
  const result = new Uint8Array(found.length);
  for (let i = 0; i < found.length; i++) result[i] = found.charCodeAt(i);
  return result;
}

const idsOf = (text) => new BigInt64Array(bytes(text).buffer); // a Number cannot hold them all
const ids = idsOf(data.ids);
const labels = new Int32Array(bytes(data.labels).buffer);
const group = bytes(data.group);
const className = (row) => (labels.length ? data.classes[labels[row]] ?? String(labels[row]) : "");
const columns = data.columns.map(({ name, values }) => ({ name, values: new Float32Array(bytes(values).buffer) }));

// What unlearning did is known of the forget set only.
const afterColumns = [];
if (data.after) {
  const rowOfId = new Map(Array.from(ids, (id, row) => [id, row]));
  const forgotten = Array.from(idsOf(data.after.ids), (id) => rowOfId.get(id));
  data.after.methods.forEach((method, m) => {
    const values = new Float32Array(ids.length).fill(NaN);
    forgotten.forEach((row, k) => (values[row] = data.after.confidence[m][k]));
    afterColumns.push({ name: `p of label after ${method}`, method, values });
  });
}
const sortable = [...columns, ...afterColumns];

// Each column is sorted once; what has no value comes last either way. The bits of a float, its sign
// turned, order as the number does; with the row below them they sort without a callback.
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

// Returns the rows that pass the filters; a filter that is null lets everything pass. The id is text.
function wantedRows({ sort, down, label, member, score, least, most, id }) {
  const { values } = sortable[score ?? sort];
  const keep = (row) =>
    (label === null || labels[row] === label) &&
    (member === null || (member < 0 ? group[row] > 0 : group[row] === member)) &&
    (least === null || values[row] >= least) &&
    (most === null || values[row] <= most) &&
    (id === null || String(ids[row]) === id);
  const { known, unknown } = ordered(sortable[sort]);
  const first = known.filter(keep), last = unknown.filter(keep);
  if (down) first.reverse();
  const rows = new Uint32Array(first.length + last.length);
  rows.set(first);
  rows.set(last, first.length);
  return rows;
}
