"""The report as a reader meets it: with any names, with any part missing, in a frame, on paper."""

import hashlib
import html
import json
import re
import shutil
import time

import numpy as np
import pytest

from jaxmul import report
from jaxmul.report import charts
from jaxmul.report.read import read
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


def test_hostile_names_stay_text(tmp_path, write_run, visit):
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
  controls = page.get_by_role("region", name="Audit").locator("tbody th")
  assert controls.evaluate_all("all => all.map(each => each.textContent)") == HOSTILE
  captions = page.locator("#proxies figcaption b")
  assert captions.evaluate_all("all => all.map(each => each.textContent)") == HOSTILE


def test_phone_width_has_no_sideways_scroll_and_dark_is_dark(toy, chromium):
  page = chromium.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
  page.goto(toy.as_uri())
  assert page.evaluate("document.documentElement.scrollWidth") == 390
  assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
  page.close()


# The size of each text on the screen; a chart is drawn smaller where the screen is narrow.
SIZES = """() => [...document.querySelectorAll("body *")].filter(element =>
    element.checkVisibility() && !["title", "option"].includes(element.tagName)
    && [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
  ).map(element => {
    const size = parseFloat(getComputedStyle(element).fontSize), svg = element.ownerSVGElement;
    return svg ? size * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : size;
  })"""


@pytest.mark.parametrize("width", [360, 390, 800, 1280])
def test_no_text_is_smaller_than_eleven_pixels(toy, chromium, width):
  page = chromium.new_page(viewport={"width": width, "height": 800})
  page.goto(toy.as_uri())
  page.wait_for_selector("#list .item")
  sizes = page.evaluate(SIZES)
  assert len(sizes) > 100
  assert min(sizes) >= 11
  page.close()


def test_a_bar_shows_how_many_of_its_examples_are_forgotten():
  """Thousands looked forgotten where 240 were: whole bars had the colour of the forget set."""
  memorization = np.array([0.0] * 999 + [1.0] * 9)
  drawn = charts.histogram(memorization, {"low": memorization[:9], "high": memorization[999:]})
  first, last = drawn["bars"]
  assert (first["count"], first["groups"]) == (999, {"low": 9})
  assert first["height"] == 1
  assert (
    first["chosen_height"] == last["chosen_height"] == last["height"] < 0.34
  )  # log 10 / log 1000
  assert [count for _, count in drawn["ticks"]] == [1, 10, 100]
  assert (drawn["total"], drawn["chosen"]) == (1008, 18)


def test_where_a_method_forgets_is_told_of_each_group(toy):
  with np.load(toy.parent / "unlearned.npz") as after, np.load(toy.parent / "scores.npz") as scores:
    rows = np.isin(after["ids"], scores["ids"][scores["group"] == 2])
    distance = np.abs(after["confidence"][1] - after["oracles"])[:, rows]
  mean, half = distance.mean(), 12.7062 * np.ptp(distance.mean(axis=1)) / 2  # t of two seeds
  table = toy.read_text().split('aria-label="Example gap by group"')[1].split("</table>")[0]
  (row,) = re.findall(r'<th scope="row">RUM</th>(.*)</tr>', table)
  cell = re.findall(r"<td>(\S+) \[(\S+), (\S+)\]</td>", row)[2]
  assert [float(end) for end in cell] == pytest.approx([mean, mean - half, mean + half], abs=6e-4)


def test_the_cards_have_the_best_of_the_proxies_beside_the_ground_truth(toy, tmp_path):
  record = json.loads((toy.parent / "metrics.json").read_text())
  ways = {"RUM ground truth": 0.1, "RUM shuffle": 0.2, "RUM loss": 0.4, "RUM csl": 0.3}
  ways |= {"RUM heldout_divergence": 0.5, "RUM heldout_divergence, NegGrad+": 0.6}
  record["methods"] = {
    name: {
      "scores": name.removeprefix("RUM ").removesuffix(", NegGrad+"),
      "tuned": False,
      "figures": [{"name": "example gap", "part": "forget", "value": gap}],
    }
    for name, gap in ways.items()
  }
  (tmp_path / "metrics.json").write_text(json.dumps(record))
  page = report.html(tmp_path).read_text()
  cards = re.findall(r"<dt>(.*?)</dt><dd>(\S+)", page)
  assert ("example gap, RUM csl, the best of 3 proxies", "0.30") in cards
  assert ("example gap, RUM ground truth", "0.10") in cards
  assert not any("shuffle" in title for title, _ in cards)
  drawn = re.findall(r'<text class="name".*?>(.*?)<title>', page)
  assert drawn[-2:] == ["RUM heldout_divergence", "RUM heldo…, NegGrad+"]


FILES = ("config.json", "metrics.json", "audit.json", "scores.npz", "images.npz", "unlearned.npz")
PARTS = {
  "metrics.json": ("Seconds and cost", "plan, low group", "precision at the high group"),
  "audit.json": ("Checks of the evaluation itself",),
  "scores.npz": ("Memorization profile", 'id="explorer"'),
  "images.npz": ('id="explorer"',),
  "unlearned.npz": ("Before and after",),
}


@pytest.mark.parametrize("absent", FILES)
def test_any_file_may_be_absent(toy, tmp_path, visit, absent):
  for name in set(FILES) - {absent}:
    shutil.copy(toy.parent / name, tmp_path)
  text = report.html(tmp_path).read_text()
  assert "Deletion record" in text
  for part in {part for parts in PARTS.values() for part in parts}:
    assert (part in text) == (part not in PARTS.get(absent, ())), part
  assert f"SHA-256 of {absent}" not in text
  if absent != "images.npz" and absent != "scores.npz":
    visit(tmp_path / "report.html").locator("#list .item").first.click()


def test_what_the_audit_found_blind_is_in_no_table(toy, tmp_path):
  for name in ("metrics.json", "scores.npz"):
    shutil.copy(toy.parent / name, tmp_path)
  assert '<th scope="col">ToW-MIA</th>' in report.html(tmp_path).read_text()
  blind = [{"name": "ToW-MIA"}, {"name": "accuracy", "part": "forget"}]
  control = {"name": "ToW-MIA", "passed": None, "said": "0.1", "blind": blind}
  audit = {"line": "passed", "blind": blind, "audit": {"controls": [control]}}
  (tmp_path / "audit.json").write_text(json.dumps(audit))
  text = report.html(tmp_path).read_text()
  assert '<th scope="col">ToW</th>' in text
  assert '<th scope="col">ToW-MIA</th>' not in text
  assert "<figcaption><b>ToW-MIA</b>" not in text
  assert "<td>blind here</td>" in text
  assert "The audit found blind here, so not shown: ToW-MIA, accuracy/forget." in text
  assert '<th scope="col">forget acc.</th>' not in text
  assert '<th scope="col">test acc.</th>' in text


def test_seconds_that_are_not_known_are_not_shown_as_none(toy, tmp_path):
  """As where the ground truth was read from a file: it did not cost nothing."""
  record = json.loads((toy.parent / "metrics.json").read_text())
  unknown = {"name": "scoring", "value": None}
  record["methods"]["RUM"]["figures"].append(unknown)
  (tmp_path / "metrics.json").write_text(json.dumps(record))
  row = report.html(tmp_path).read_text().split('<th scope="row">RUM</th>')[-1]
  assert row.startswith("<td>–</td><td>0.50</td><td>–</td><td>–</td></tr>")


def test_seconds_by_stage_are_told_with_their_shares(toy, tmp_path, visit):
  for name in ("scores.npz", "images.npz"):
    shutil.copy(toy.parent / name, tmp_path)
  assert "Seconds and cost" not in report.html(tmp_path).read_text()
  stages = {"data": 0.25, "ground truth": 30.0, "oracles": None, "audit": 9.75}
  (tmp_path / "seconds.json").write_text(json.dumps(stages))
  report.html(tmp_path)
  table = visit(tmp_path / "report.html").locator("#cost table")
  rows = [row.split("\t") for row in table.inner_text().splitlines()]
  assert [[cell.replace("\xa0", " ").strip() for cell in row] for row in rows[1:]] == [
    ["data", "0.2", "1 %"],
    ["ground truth", "30.0", "75 %"],
    ["oracles", "–", "–"],
    ["audit", "9.8", "24 %"],
    ["in all", "40.0", ""],
  ]


def test_a_methods_row_holds_its_own_figures_and_not_those_of_oracles(toy, tmp_path):
  record = json.loads((toy.parent / "metrics.json").read_text())
  beside = {"name": "accuracy", "of": "oracle", "part": "test", "value": 0.987}
  for method in record["methods"].values():
    method["figures"].insert(0, beside)
  (tmp_path / "metrics.json").write_text(json.dumps(record))
  text = report.html(tmp_path).read_text()
  assert '<th scope="col">test acc.</th>' in text
  assert "0.99" not in text


def test_a_run_of_an_older_version_is_named(toy, tmp_path):
  record = json.loads((toy.parent / "metrics.json").read_text())
  record["methods"]["original"] = {"ToW": {"mean": 0.5, "low": None, "high": None}}
  (tmp_path / "metrics.json").write_text(json.dumps(record))
  with pytest.raises(ValueError, match=r"metrics\.json holds 'original' as an older jaxmul wrote"):
    report.html(tmp_path)
  shutil.copy(toy.parent / "metrics.json", tmp_path)
  (tmp_path / "audit.json").write_text(json.dumps({"line": "", "blind": ["ToW-MIA"]}))
  with pytest.raises(ValueError, match=r"audit\.json holds 'ToW-MIA' as an older jaxmul wrote"):
    report.html(tmp_path)
  report.write_arrays(tmp_path / "scores.npz", {"ids": np.arange(3), "proxy_loss": np.ones((2, 3))})
  with pytest.raises(ValueError, match=r"scores\.npz names no proxies.* an older jaxmul wrote"):
    report.html(tmp_path)


def test_names_of_proxies_and_groups_are_read_as_they_stand(tmp_path):
  ids, scores = np.array([30, 10, 20]), np.array([[[1.0, 2, 3], [3, 4, 5]], [[0, 0, 9], [0, 0, 9]]])
  arrays = {"ids": ids, "group": np.array([1, -1, 0]), "proxies": scores}
  names = {"proxy_names": np.array(["group_a", "proxy_"]), "group_names": np.array(["low", "g_"])}
  report.write_arrays(tmp_path / "scores.npz", arrays | names)
  run = read(tmp_path)
  assert {name: of.tolist() for name, of in run.groups.items()} == {"low": [20], "g_": [30]}
  for name, of_seeds in zip(("group_a", "proxy_"), scores, strict=True):
    assert dict(zip(run.ids, run.proxies[name], strict=True)) == dict(
      zip(ids, of_seeds.mean(0), strict=True)
    )


def test_each_of_metrics_and_scores_makes_a_report_alone(toy, tmp_path):
  shutil.copy(toy.parent / "scores.npz", tmp_path)
  assert "Deletion record" in report.html(tmp_path).read_text()
  (tmp_path / "scores.npz").unlink()
  shutil.copy(toy.parent / "metrics.json", tmp_path)
  assert "Seconds and cost" in report.html(tmp_path).read_text()


def test_in_a_notebooks_frame_it_works_and_its_links_stay_inside(toy, tmp_path, chromium):
  notebook = tmp_path / "notebook.html"
  frame = f'<iframe width="700" height="800" srcdoc="{html.escape(toy.read_text())}"></iframe>'
  notebook.write_text(f"<!doctype html><p>a cell</p>{frame}")
  page = chromium.new_page()
  page.goto(notebook.as_uri())
  inside = page.frames[1]
  inside.wait_for_selector("#list .item")
  inside.get_by_role("link", name="Deletion record").click()
  assert page.url == notebook.as_uri()
  assert len(page.frames) == 2
  assert inside.evaluate("document.activeElement.id") == "deletion"
  assert inside.locator("#deletion-title").bounding_box()["y"] < 800
  inside.select_option("#class", "3")
  assert inside.locator("#count").inner_text() == "40 of 200 images"
  page.close()


def test_put_into_a_page_as_colab_does_it_works(toy, tmp_path, chromium):
  cell = tmp_path / "cell.html"
  text = json.dumps(toy.read_text()).replace("<", "\\u003c")
  put = f"document.body.append(document.createRange().createContextualFragment({text}))"
  cell.write_text(f"<!doctype html><body><script>{put}</script>")
  page = chromium.new_page()
  page.goto(cell.as_uri())
  page.wait_for_selector("#list .item")
  page.select_option("#class", "3")
  assert page.locator("#count").inner_text() == "40 of 200 images"
  page.close()


def test_paper_is_light_and_shows_every_section_and_id(toy, chromium):
  page = chromium.new_page(color_scheme="dark")
  page.goto(toy.as_uri())
  page.wait_for_selector("#list .item")

  def visible():
    return page.locator("section, .ids").evaluate_all("all => all.map(e => e.checkVisibility())")

  assert sorted(visible()) == [False] * 3 + [True] * 9
  page.emulate_media(media="print")
  assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
  assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
  assert visible() == [True] * 12
  page.close()


def test_hashes_are_those_of_the_files(toy):
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
  with pytest.raises(ValueError, match=r"neither metrics\.json nor scores\.npz"):
    report.html(tmp_path)
  shutil.copytree(toy.parent, tmp_path / "run")
  (tmp_path / "run" / "scores.npz").write_bytes(b"PK")
  with pytest.raises(ValueError, match="damaged"):
    report.html(tmp_path / "run")
  (tmp_path / "run" / "metrics.json").write_text("{")
  with pytest.raises(ValueError, match=r"metrics\.json is damaged"):
    report.html(tmp_path / "run")
  assert json.loads((toy.parent / "metrics.json").read_text())["intervals"] == "made up"
