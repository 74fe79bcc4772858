"""Runs whose examples are sequences: the report shows text where it showed a picture."""

import base64
import json
import re

import numpy as np
import pytest

from jaxmul import report
from jaxmul.report import plots, token_plots

TOKENS = np.random.default_rng(0).integers(0, 50, (40, 6), np.int32)
HOSTILE = "</script><script>document.title='owned'</script>"
LONG = "word " * 200
TEXTS = [f"text {i}" for i in range(38)] + [HOSTILE, LONG]


def shown(path):
  """Returns what the script of a page is given."""
  return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def by_id(data):
  """Returns {id: text}; ids are int64 in base64, as the script reads them."""
  ids = np.frombuffer(base64.b64decode(data["ids"]), "<i8")
  return dict(zip(ids.tolist(), data["texts"], strict=True))


def test_tokens_stand_beside_their_own_id_and_are_no_classes(tmp_path, write_run):
  path = report.html(write_run(tmp_path, TOKENS))
  data = shown(path)
  assert by_id(data) == {10 + i: " ".join(map(str, row)) for i, row in enumerate(TOKENS)}
  assert data["classes"] == []
  assert data["labels"] == ""
  assert "sprites" not in data
  text = path.read_text()
  assert "Training texts</h2>" in text
  assert "Texts: whole." in text
  body = text.split("<body>")[1].split("<script")[0]
  assert "image" not in body.lower().replace("images.npz", "")


def test_decoded_texts_are_cut_and_stay_text(tmp_path, write_run):
  path = report.html(write_run(tmp_path, TOKENS, decode=TEXTS))
  texts = by_id(shown(path))
  assert texts[10] == "text 0"
  assert texts[48] == HOSTILE
  assert texts[49].endswith("word…")
  assert len(texts[49]) <= 400
  assert path.read_text().count("<script") == 2
  assert "owned'</script>" not in path.read_text()
  assert "Texts: the first 400 characters." in path.read_text()


def test_many_texts_are_cut_shorter_or_refused():
  assert report.texts.fitted([LONG] * 3, 400) == (
    [report.texts.cut(LONG, 100)] * 3,
    "the first 100 characters",
  )
  with pytest.raises(ValueError, match="3 texts do not fit into 2 bytes; raise max_bytes"):
    report.texts.fitted([LONG] * 3, 2)


def test_pixels_are_no_text():
  for inputs in (np.zeros((2, 3), np.uint8), np.zeros((2, 3)), np.zeros((2, 3, 3), np.int32)):
    assert report.texts.of_inputs(inputs) is None
  assert report.texts.of_inputs(np.array(["a\ud800"])) == ["a?"]


def test_a_reader_sees_the_text_and_no_class(tmp_path, write_run, visit):
  page = visit(report.html(write_run(tmp_path, TOKENS, decode=TEXTS)))
  page.fill("#id", "48")
  assert page.locator("#list pre").inner_text() == HOSTILE
  assert page.locator("#count").inner_text() == "1 of 40 texts"
  page.locator("#list .item").click()
  assert page.locator("#detail pre").inner_text() == HOSTILE
  assert page.locator("#detail h3").inner_text() == "id 48"
  assert page.locator("script").count() == 2
  assert not page.title().startswith("owned")
  assert not page.locator("#class").is_visible()
  page.fill("#id", "")
  boxes = page.locator("#list .item").evaluate_all(
    "all => all.map(e => e.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom])"
  )
  widths = {round(right - left) for left, _, right, _ in boxes}
  assert widths == {240}
  assert page.locator("#list canvas").count() == 0


@pytest.mark.parametrize("inputs", [TOKENS, np.array([*TEXTS[:39], "$x_1$ \\frac"])])
def test_the_gallery_writes_texts(tmp_path, inputs):
  memorization = np.linspace(0, 1, 40)
  plots.gallery(tmp_path / "texts.png", inputs, TOKENS, memorization, memorization)
  assert (tmp_path / "texts.png").stat().st_size > 10_000


def test_what_networks_say_of_each_token_is_highlighted(tmp_path, write_run):
  folder = write_run(tmp_path, TOKENS, decode=TEXTS)
  probability = np.full((2, 3, 8, 3), 0.25, np.float32)
  probability[0, :, 5] = [0.4, 0.9, 0.8]  # the original says this one best
  probability[1, :, 5] = [0.1, 0.2, 0.3]
  probability[..., 0] = np.nan
  tokens = np.array([[f"<{row}", " ", "b"] for row in range(8)])
  ids = 10 + np.arange(8)
  report.write_arrays(
    folder / "tokens.npz",
    {"ids": ids, "methods": ["original", "retrain"], "tokens": tokens, "probability": probability},
  )
  page = report.html(folder).read_text()
  section = page.split('<section id="tokens"')[1].split("</section>")[0]
  assert re.findall(r"<caption>id (\d+)", section) == ["15", "10", "11", "12", "13", "14"]
  best = section.split("</table>")[0]
  assert best.count('class="prompt">&lt;5<') == 2
  original, retrain = re.findall(r'<tr><th scope="row">\w+.*</tr>', best)
  assert re.findall(r'style="--p: (\d+)%" title="([\d.]+)"', original) == [
    ("54", "0.90"),
    ("48", "0.80"),
  ]
  assert re.findall(r'title="([\d.]+)"', retrain) == ["0.20", "0.30"]


def test_pictures_of_tokens_show_every_network_and_kind(tmp_path):
  rng = np.random.default_rng(0)
  said = {name: rng.random((3, 4, 5)) for name in ("original", "retrain", "RUM")}
  said["original"][..., 0] = np.nan
  token_plots.by_position(tmp_path / "positions.png", said)
  tokens = np.array([list("ab$\n^")] * 4)
  token_plots.token_heat_map(tmp_path / "map.png", tokens, {n: p[0] for n, p in said.items()})
  kinds = {"clean": rng.random(9), "1×": rng.random(1), "3×": np.zeros(0)}
  plots.by_kind(tmp_path / "kinds.png", {"exact": kinds, "e^−ℓ": kinds}, "memorization")
  for name in ("positions", "map", "kinds"):
    assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
