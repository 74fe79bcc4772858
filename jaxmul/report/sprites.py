"""Many small images as a few WebP files within a given size, for a page that cannot load any."""

import dataclasses
import io

import numpy as np

_SIDE = 512  # pixels of a sprite: in a random order each image on the screen is in another one
_SAMPLES = 4
_QUALITIES = (None, 85, 70, 55, 40, 25)  # None is lossless


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sprites:
  """Images laid out row by row, `columns` a row and `columns`² a file.

  Attributes:
    files: the WebP files; none where the inputs are no pictures.
    width, height: of an image in pixels.
    columns: images a row.
    note: one line on what was lost, such as "WebP at quality 70".
  """

  files: list[bytes]
  width: int
  height: int
  columns: int
  note: str


def sprites(images: np.ndarray, max_bytes: int) -> Sprites:
  """Packs images losslessly if that fits, else at the best WebP quality or size that does.

  Args:
    images: [n, H, W], [n, H, W, 1] or [n, H, W, 3], uint8; floats are stretched to their range.
    max_bytes: of all files together.

  Returns:
    `Sprites`; without files if the inputs have another shape.

  Raises:
    ValueError: even single pixels do not fit.

  Example:
    >>> packed = sprites(np.zeros((5, 8, 8), np.uint8), 10_000)
    >>> len(packed.files), packed.width, packed.note
    (1, 8, 'lossless')
  """
  if images.ndim == 4 and images.shape[-1] == 1:
    images = images[..., 0]
  if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3) or not len(images):
    note = "the inputs are no pictures"
    return Sprites(files=[], width=0, height=0, columns=1, note=note)
  step = 1
  while step <= max(images.shape[1:3]):
    small = _as_uint8(images[:, ::step, ::step])
    height, width = small.shape[1:3]
    columns = max(1, _SIDE // max(height, width))
    parts = [small[i : i + columns**2] for i in range(0, len(small), columns**2)]
    sample = parts[:: max(1, len(parts) // _SAMPLES)]
    for quality in _QUALITIES:
      guess = np.mean([len(_webp(part, columns, quality)) for part in sample]) * len(parts)
      if guess > max_bytes:
        continue
      files = [_webp(part, columns, quality) for part in parts]
      if sum(map(len, files)) <= max_bytes:
        note = "lossless" if quality is None else f"WebP at quality {quality}"
        note += f", 1/{step} size" * (step > 1)
        return Sprites(files=files, width=width, height=height, columns=columns, note=note)
    step *= 2
  raise ValueError(f"{len(images)} images do not fit into {max_bytes} bytes; raise max_bytes.")


def _as_uint8(images: np.ndarray) -> np.ndarray:
  if images.dtype == np.uint8:
    return images
  low, high = float(images.min()), float(images.max())
  return ((images - low) / (high - low or 1) * 255).round().astype(np.uint8)


def _webp(images: np.ndarray, columns: int, quality: int | None) -> bytes:
  """Returns one sprite: images [k, H, W, ...] with k at most columns²."""
  from PIL import Image

  _, height, width = images.shape[:3]
  rows = -(-len(images) // columns)
  used = min(columns, len(images))
  sheet = np.zeros((rows * used, *images.shape[1:]), np.uint8)
  sheet[: len(images)] = images
  sheet = sheet.reshape(rows, used, *images.shape[1:]).swapaxes(1, 2)
  sheet = sheet.reshape(rows * height, used * width, *images.shape[3:])
  buffer = io.BytesIO()
  options = {"lossless": True} if quality is None else {"quality": quality}
  Image.fromarray(sheet).save(buffer, "webp", method=2, **options)
  return buffer.getvalue()
