"""Sheets of images."""

import numpy as np
from PIL import Image

from jaxmul.report import plots


def test_every_image_is_on_its_sheet(tmp_path):
  red = np.zeros((5, 8, 8, 3))
  red[..., 0] = 1
  plots.sheets(tmp_path / "one.png", {"red": red}, columns=3)
  plots.sheets(tmp_path / "two.png", {"red": red, "blue": red[:2, ..., ::-1]}, columns=3)
  shares = []
  for name in ("one", "two"):
    pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
    shares.append([(pixels == colour).all(-1).sum() for colour in ([255, 0, 0], [0, 0, 255])])
  assert shares[0][0] > 5000
  assert shares[0][1] == 0
  assert 0.3 < shares[1][1] / shares[1][0] < 0.5  # two images and five
