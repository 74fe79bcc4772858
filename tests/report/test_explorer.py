"""The explorer of the training images as a reader meets it: in a browser, with many images."""

import re

import numpy as np
import pytest

from jaxmul import report


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
  page.locator("#count", has_text=re.compile("^200")).wait_for()  # no eval: the page forbids it
  page.fill("#least", "0.3")
  with np.load(toy.parent / "scores.npz") as scores:
    wanted = int(np.sum(scores["memorization"].astype(np.float32) >= np.float32(0.3)))
  assert page.locator("#count").inner_text() == f"{wanted} of 200 images"
  page.select_option("#sort", label="curvature")
  page.select_option("#score", label="memorization")
  assert page.locator("#count").inner_text() == f"{wanted} of 200 images"
  page.fill("#least", "")
  page.fill("#id", "17")
  assert shown(page) == [17]
  page.fill("#id", "5")
  assert page.locator("#count").inner_text() == "0 of 200 images"
  page.locator("#list").press("End")


def test_ids_of_64_bits_are_told_apart(tmp_path, write_run, visit):
  """As floats each of these would be one of its neighbours, and so would its p of label."""
  images, first = np.zeros((8, 4, 4), np.uint8), 2**53 + 1
  page = visit(report.html(write_run(tmp_path, images, first=first)))
  assert sorted(shown(page)) == [first + i for i in range(8)]
  page.fill("#id", str(first))
  assert shown(page) == [first]
  with np.load(tmp_path / "unlearned.npz") as after:
    expected = after["confidence"].mean(axis=1)[:, list(after["ids"]).index(first)]
  cells = page.locator("#detail table").last.locator("td").all_inner_texts()
  assert [cell.strip() for cell in cells] == [f"{value:.2f}" for value in expected]


def test_the_panel_shows_what_is_highlighted_after_every_filter(toy, visit):
  page = visit(toy)

  def highlighted():
    label = page.locator('#list [aria-selected="true"]').get_attribute("aria-label")
    return label.split(",")[0]

  assert highlighted() in page.locator("#detail h3").inner_text()
  page.locator("#list .item").nth(3).click()
  for name, value in (("#class", "3"), ("#group", "3"), ("#class", "4")):
    page.select_option(name, value)
    assert highlighted() in page.locator("#detail h3").inner_text()
  page.fill("#id", "5")
  assert page.locator("#detail").inner_text() == "Nothing passes these filters."


def test_it_sorts_by_the_disagreement_of_the_proxies(toy, visit):
  page = visit(toy)
  with np.load(toy.parent / "scores.npz") as scores:
    ids = scores["ids"]
    ranks = [
      np.argsort(np.argsort(scores["proxies"][scores["proxy_names"] == name][0].mean(0)))
      for name in ("curvature", "confidence")
    ]
  apart = np.abs(ranks[0] - ranks[1])  # of two ranks the standard deviation is half of that
  page.select_option("#sort", label="disagreement of proxies")
  assert shown(page)[0] == ids[np.argmax(apart)]
  found = apart[np.array(shown(page)) - 10]
  assert (np.diff(found) <= 0).all()


def test_a_click_and_the_arrow_keys_show_an_images_own_scores(toy, visit):
  page = visit(toy)
  page.locator("#list .item").first.click()
  first = shown(page)[:2]
  assert f"id {first[0]}" in page.locator("#detail h3").inner_text()
  page.locator("#list").press("ArrowRight")
  assert f"id {first[1]}" in page.locator("#detail h3").inner_text()
  with np.load(toy.parent / "scores.npz") as scores:
    row = int(np.flatnonzero(scores["ids"] == first[1])[0])
    curvature = scores["proxies"][0].mean(axis=0)[row]
  line = page.locator("#detail tr", has_text="curvature").inner_text()
  assert float(line.split()[-1]) == pytest.approx(curvature, abs=0.006)
  with np.load(toy.parent / "unlearned.npz") as after:
    known = dict(zip(after["ids"], after["confidence"].mean(axis=1).T, strict=True))
  if first[1] in known:
    line = page.locator("#detail tr", has_text="RUM").inner_text()
    assert float(line.split()[-1]) == pytest.approx(known[first[1]][1], abs=0.006)
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


def test_it_is_worked_from_the_keyboard_alone(toy, visit):
  page = visit(toy)
  page.locator("#sort").focus()
  for _ in range(9):  # over the other controls and their button
    page.keyboard.press("Tab")
  assert page.evaluate("document.activeElement.id") == "list"
  page.keyboard.press("End")
  assert shown(page)[-1] == 10
  assert "id 10" in page.locator("#detail h3").inner_text()
  page.keyboard.press("Tab")
  assert page.evaluate("document.activeElement.id") == "detail"


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


@pytest.mark.slow  # compresses 50,000 images, and takes times on a shared machine
def test_fifty_thousand_images_stay_small_and_quick(tmp_path, write_run, visit, cifar10_small):
  images = np.resize(cifar10_small.inputs, (50_000, 32, 32, 3))
  path = report.html(write_run(tmp_path, images, proxies=[f"proxy {i}" for i in range(10)]))
  assert path.stat().st_size < 25_000_000
  changes = [("sort", str(i)) for i in range(14)] + [("direction", "up"), ("class", "2")]
  changes += [("group", "-1"), ("group", ""), ("class", ""), ("score", "0"), ("least", "0.1")]
  changes += [("least", ""), ("id", "5000"), ("id", "")]
  # The better of two fresh pages for each change: a busy machine may hold back any one frame.
  pages = [visit(path) for _ in range(2)]
  milliseconds = [[respond(page, *change) for page in pages] for change in changes]
  print([round(min(both)) for both in milliseconds], "ms", path.stat().st_size, "bytes")
  assert max(min(both) for both in milliseconds) < 200
  page = pages[-1]
  assert page.locator("#list .item").count() < 300
  page.locator("#list").evaluate("list => list.scrollTop = list.scrollHeight")
  page.locator('#list [aria-posinset="50000"]').wait_for()
