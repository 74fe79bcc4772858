// Pictures come from sprites; one is decoded when one of its images is first on the screen, each in
// a task of its own, so that what was clicked or typed is answered in between.
const perSprite = data.sprite_columns ** 2;
const bitmaps = new Map();
const MOST = 128; // decoded at a time, each of about a megabyte; the oldest goes first
let turn = Promise.resolve();
function bitmap(number) {
  if (!bitmaps.has(number)) {
    turn = turn.then(() => new Promise((next) => setTimeout(next)));
    const file = () => new Blob([bytes(data.sprites[number])], { type: "image/webp" });
    bitmaps.set(number, turn.then(() => createImageBitmap(file())));
    if (bitmaps.size > MOST) bitmaps.delete(bitmaps.keys().next().value);
  }
  return bitmaps.get(number);
}
function picture(row) {
  if (data.texts) return element("pre", data.texts[row]);
  const canvas = document.createElement("canvas");
  const { width, height } = Object.assign(canvas, { width: data.width, height: data.height });
  if (data.sprites.length) {
    const place = row % perSprite;
    const x = (place % data.sprite_columns) * width;
    const y = Math.floor(place / data.sprite_columns) * height;
    bitmap(Math.floor(row / perSprite)).then((sprite) => {
      canvas.getContext("2d").drawImage(sprite, x, y, width, height, 0, 0, width, height);
    });
  }
  return canvas;
}
