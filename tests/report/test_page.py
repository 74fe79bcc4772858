"""The report as a reader meets it: in a browser, with any names, with many images."""

import json
import shutil
import time

import numpy as np
import pytest

from jaxmul import report
from jaxmul.report.sprites import sprites

HOSTILE = [
  "</script><script>document.title='owned'</script>",
  "<img src=x onerror=\"document.title='owned'\">",
  "<!--<script>",
  "]]>",
  '" onmouseover="document.title=1',
  "' autofocus onfocus='document.title=1",
  "</style><style>*{display:none}",
  "{{ 7 * 7 }}",
  "{% raw %}",
  "${document.title='owned'}",
  "`backtick`",
  "\\u003cb\\u003e",
  "&lt;b&gt; &amp;",
  "line\u2028separator",
  "paragraph\u2029separator",
  "\u202eright to left",
  "עברית العربية",
  "tab\tnew\nline",
  "__proto__",
  "javascript:alert(1)",
]
ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
]


def write_run(
  out,
  images,
  *,
  proxies=("curvature", "confidence"),
  methods=("original", "RUM"),
  dataset="toy",
  class_names=None,
):
  """Writes a made-up run directory over the given images, its ids not in order."""
  n, rng = len(images), np.random.default_rng(0)
  ids = 10 + np.arange(n)
  memorization = np.clip(rng.normal(0, 0.3, n), -1, 1)
  memorization[0] = np.nan
  group = max(1, min(80, n // 4))
  groups = {"low": ids[:group], "medium": ids[group : 2 * group], "high": ids[-group:]}
  report.write_arrays(
    out / "scores.npz",
    {
      "ids": ids,
      "memorization": memorization,
      "memorization_low": memorization - 0.1,
      "memorization_high": memorization + 0.1,
      **{f"group_{name}": members for name, members in groups.items()},
      **{f"proxy_{name}": rng.random((2, n), np.float32) for name in proxies},
    },
  )
  order = rng.permutation(n)
  arrays = {"ids": ids[order], "images": images[order], "labels": np.arange(n)[order] % 5}
  if class_names is not None:
    labels = np.arange(n)[order] % len(class_names)
    arrays |= {"labels": labels, "class_names": np.array(class_names)}
  report.write_arrays(out / "images.npz", arrays)
  forget = np.sort(np.concatenate(list(groups.values())))
  report.write_arrays(
    out / "unlearned.npz",
    {
      "ids": forget,
      "methods": np.array(methods),
      "confidence": rng.random((len(methods), 2, len(forget)), np.float32),
    },
  )
  interval = {"mean": 0.5, "low": 0.4, "high": None}
  metrics = ("ToW", "ToW-MIA", "attack", "forget", "retain", "test", "seconds")
  record = {
    "methods": {name: dict.fromkeys(metrics, interval) for name in methods},
    "proxies": {
      name: {
        "spearman": interval,
        "precision_at_high_group": interval,
        "seconds": interval,
        "speed_up": None,
      }
      for name in proxies
    },
    "ground_truth": {
      "seconds": None,
      "models": 8,
      "examples": n,
      "undefined": 1,
      "exactly_zero": 0.5,
      "above_one_half": 3,
    },
    "intervals": "made up",
    "config": {"dataset": dataset, "model": "mlp", "plan": "salun", "seeds": 2},
    "versions": {"jax": "0"},
  }
  report.write_json(out / "metrics.json", record)
  report.write_json(out / "config.json", {"config": record["config"]})
  return out


@pytest.fixture(scope="module")
def chromium():
  api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
  path = shutil.which("chromium") or shutil.which("google-chrome")
  if path is None:
    pytest.skip("no chromium on PATH: the report was not tried in a browser")
  with api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
    yield browser
    browser.close()


@pytest.fixture
def visit(chromium):
  """Opens a report; afterwards nothing was logged and nothing but the file was asked for."""
  said, asked, pages = [], [], []

  def open_page(path):
    page = chromium.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("#list .item")
    pages.append(page)
    return page

  yield open_page
  assert said == []
  assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
  assert len([url for url in asked if url.startswith("file:")]) == len(pages)
  for page in pages:
    page.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
  images = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 3), np.uint8)
  return report.html(write_run(tmp_path_factory.mktemp("toy"), images))


def shown(page):
  """Returns the ids on the screen, from top to bottom."""
  labels = page.locator("#list .item").evaluate_all(
    """items => {
      const place = item => Number(item.getAttribute("aria-posinset"));
      return items.sort((a, b) => place(a) - place(b)).map(item => item.getAttribute("aria-label"));
    }"""
  )
  return [int(label.split(",")[0].removeprefix("id ")) for label in labels]


def test_it_sorts_both_ways_with_unknown_scores_last(toy, visit):
  page = visit(toy)
  with np.load(toy.parent / "scores.npz") as scores:
    ids, truth = scores["ids"], scores["memorization"]
  known = np.isfinite(truth)
  order = ids[known][np.argsort(truth[known], kind="stable")]
  assert shown(page)[:10] == order[::-1][:10].tolist()
  page.select_option("#direction", "up")
  assert shown(page)[:10] == order[:10].tolist()
  page.locator("#list").press("End")
  assert shown(page)[-1] == 10


def test_filters_by_class_group_range_and_id(toy, visit):
  page = visit(toy)
  page.select_option("#class", "3")
  assert page.locator("#count").inner_text() == "40 of 200 images"
  page.select_option("#group", label="forget: high")
  assert page.locator("#count").inner_text() == "10 of 200 images"
  page.get_by_role("button", name="Reset").click()
  page.wait_for_function("document.querySelector('#count').textContent.startsWith('200')")
  page.fill("#least", "0.3")
  with np.load(toy.parent / "scores.npz") as scores:
    wanted = int(np.sum(scores["memorization"].astype(np.float32) >= np.float32(0.3)))
  assert page.locator("#count").inner_text() == f"{wanted} of 200 images"
  page.fill("#least", "")
  page.fill("#id", "17")
  assert shown(page) == [17]
  page.fill("#id", "5")
  assert page.locator("#count").inner_text() == "0 of 200 images"
  page.locator("#list").press("End")


def test_a_click_and_the_arrow_keys_show_an_images_own_scores(toy, visit):
  page = visit(toy)
  page.locator("#list .item").first.click()
  first = shown(page)[:2]
  assert f"id {first[0]}" in page.locator("#detail h3").inner_text()
  page.locator("#list").press("ArrowRight")
  assert f"id {first[1]}" in page.locator("#detail h3").inner_text()
  with np.load(toy.parent / "scores.npz") as scores:
    row = int(np.flatnonzero(scores["ids"] == first[1])[0])
    curvature = scores["proxy_curvature"].mean(axis=0)[row]
  line = page.locator("#detail tr", has_text="curvature").inner_text()
  assert float(line.split()[-1]) == pytest.approx(curvature, abs=0.006)
  chosen = page.locator("#list").get_attribute("aria-activedescendant")
  assert page.locator(f"#{chosen}").get_attribute("aria-selected") == "true"


def test_each_image_is_drawn_beside_its_own_id(toy, visit):
  page = visit(toy)
  page.fill("#id", "42")
  page.wait_for_timeout(200)
  drawn = page.evaluate(
    "Array.from(document.querySelector('#list canvas').getContext('2d').getImageData(0,0,8,8).data)"
  )
  with np.load(toy.parent / "images.npz") as file:
    image = file["images"][file["ids"] == 42][0]
  np.testing.assert_array_equal(np.reshape(drawn, (8, 8, 4))[..., :3], image)


def test_hostile_names_stay_text(tmp_path, visit):
  images = np.zeros((80, 4, 4), np.uint8)
  names = {"proxies": HOSTILE, "methods": HOSTILE, "class_names": HOSTILE}
  path = report.html(write_run(tmp_path, images, dataset=HOSTILE[0], **names))
  page = visit(path)
  page.locator("#list .item").first.click()
  assert page.title() == f"jaxmul report: {HOSTILE[0]}, mlp"
  assert page.locator("script").count() == 2
  assert page.locator("style").count() == 1
  assert page.locator("img, [onmouseover], [onfocus], [onerror]").count() == 0
  assert page.locator("#class option").evaluate_all("all => all.slice(1).map(o => o.value)") == [
    str(i) for i in range(20)
  ]
  texts = (
    page.locator("#unlearning table")
    .first.locator("tbody th")
    .evaluate_all("all => all.map(each => each.textContent)")
  )
  assert texts == HOSTILE
  options = page.evaluate("JSON.parse(document.getElementById('data').textContent).classes")
  assert options == HOSTILE


def respond(page, name, value):
  """Changes a control and returns the milliseconds until the next frame was drawn."""
  page.bring_to_front()
  return page.evaluate(
    """([id, value]) => new Promise(done => {
      const control = document.getElementById(id);
      control.value = value;
      const start = performance.now();
      control.dispatchEvent(new Event("input", { bubbles: true }));
      requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
    })""",
    [name, value],
  )


@pytest.mark.slow  # a time on a shared machine
def test_fifty_thousand_images_stay_small_and_quick(tmp_path, visit):
  rng = np.random.default_rng(0)
  smooth = rng.integers(0, 256, (50_000, 8, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2)
  images = (smooth // 2 + rng.integers(0, 40, smooth.shape, np.uint8)).astype(np.uint8)
  path = report.html(write_run(tmp_path, images, proxies=[f"proxy {i}" for i in range(10)]))
  assert path.stat().st_size < 25_000_000
  changes = [("sort", str(i)) for i in range(8)] + [("direction", "up"), ("class", "2")]
  changes += [("group", "-1"), ("group", ""), ("class", ""), ("least", "0.1"), ("least", "")]
  # The better of two fresh pages for each change: a busy machine may hold back any one frame.
  pages = [visit(path) for _ in range(2)]
  milliseconds = [[respond(page, *change) for page in pages] for change in changes]
  print([round(min(both)) for both in milliseconds], "ms")
  assert max(min(both) for both in milliseconds) < 200
  page = pages[-1]
  assert page.locator("#list .item").count() < 300
  page.locator("#list").evaluate("list => list.scrollTop = list.scrollHeight")
  page.wait_for_function("document.querySelector('#list [aria-posinset=\"50000\"]')")


def test_phone_width_has_no_sideways_scroll_and_dark_is_dark(toy, chromium):
  page = chromium.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
  page.goto(toy.as_uri())
  assert page.evaluate("document.documentElement.scrollWidth") == 390
  assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
  page.close()


def test_without_images_the_rest_of_the_page_stands(toy, tmp_path):
  for name in ("config.json", "metrics.json", "scores.npz"):
    shutil.copy(toy.parent / name, tmp_path)
  text = report.html(tmp_path).read_text()
  assert "Deletion record" in text
  assert "<script" not in text


def test_hashes_are_those_of_the_files(toy):
  import hashlib

  text = toy.read_text()
  for name in ("scores.npz", "metrics.json", "unlearned.npz"):
    assert hashlib.sha256((toy.parent / name).read_bytes()).hexdigest() in text


@pytest.mark.parametrize("images", [(3, 5), (0, 4, 4)])
def test_inputs_that_are_no_pictures_give_no_sprites(images):
  assert sprites(np.zeros(images, np.uint8), 1000).files == []


def test_noise_is_made_to_fit():
  noise = np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3), np.uint8)
  start = time.perf_counter()
  packed = sprites(noise, 100_000)
  assert sum(map(len, packed.files)) <= 100_000
  assert packed.note != "lossless"
  assert time.perf_counter() - start < 60
  with pytest.raises(ValueError, match="500 images do not fit"):
    sprites(noise, 10)


def test_an_unfinished_or_damaged_run_is_named(toy, tmp_path):
  with pytest.raises(ValueError, match=r"no config\.json"):
    report.html(tmp_path)
  shutil.copytree(toy.parent, tmp_path / "run")
  (tmp_path / "run" / "scores.npz").write_bytes(b"PK")
  with pytest.raises(ValueError, match="damaged"):
    report.html(tmp_path / "run")
  assert json.loads((toy.parent / "metrics.json").read_text())["intervals"] == "made up"
