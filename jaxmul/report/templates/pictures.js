// Pictures come from a few sprites; one is decoded when one of its images is first on the screen.
const perSprite = data.sprite_columns ** 2;
const bitmaps = new Map();
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
