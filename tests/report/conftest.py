"""Made-up run directories, and a real browser to open their reports in."""

import shutil

import numpy as np
import pytest

from jaxmul import report
from jaxmul.metrics import Figure

ARGUMENTS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
]


def _write_run(
  out,
  images,
  *,
  proxies=("curvature", "confidence"),
  methods=("original", "RUM"),
  dataset="toy",
  class_names=None,
  decode=None,
  first=10,
):
  n, rng = len(images), np.random.default_rng(0)
  ids = first + np.arange(n)
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
      "group": np.select([np.isin(ids, members) for members in groups.values()], range(3), -1),
      "group_names": np.array(list(groups)),
      "proxies": rng.random((len(proxies), 2, n), np.float32),
      "proxy_names": np.array(proxies),
    },
  )
  order = rng.permutation(n)
  arrays = {"ids": ids[order], "images": images[order], "labels": np.arange(n)[order] % 5}
  if class_names is not None:
    labels = np.arange(n)[order] % len(class_names)
    arrays |= {"labels": labels, "class_names": np.array(class_names)}
  if images.dtype == np.int32:  # a text, and a label of each token
    arrays |= {"labels": images[order]}
  if decode is not None:
    arrays |= {"decode": np.array(decode)[order]}
  report.write_arrays(out / "images.npz", arrays)
  forget = np.sort(np.concatenate(list(groups.values())))
  report.write_arrays(
    out / "unlearned.npz",
    {
      "ids": forget,
      "methods": np.array(methods),
      "confidence": rng.random((len(methods), 2, len(forget)), np.float32),
      "oracles": rng.random(len(forget), np.float32),
    },
  )
  interval = {"value": 0.5, "low": 0.4, "high": float("nan")}
  figures = [Figure(name=name, **interval) for name in ("ToW", "ToW-MIA", "seconds")]
  figures.append(Figure(name="attack rate", part="forget", **interval))
  figures += [
    Figure(name="accuracy", part=part, **interval) for part in ("forget", "retain", "test")
  ]
  ranks = [Figure(name=name, **interval) for name in ("spearman", "precision at high group")]
  ranks += [Figure(name="seconds", **interval), Figure(name="speed-up", value=float("nan"))]
  record = {
    "methods": {name: {"scores": None, "tuned": False, "figures": figures} for name in methods},
    "proxies": dict.fromkeys(proxies, ranks),
    "ground_truth": {
      "seconds": None,
      "models": 8,
      "examples": n,
      "undefined": 1,
      "exactly_zero": 0.5,
      "above_one_half": 3,
    },
    "intervals": "made up",
    "plan": dict.fromkeys(groups, f"{methods[0]}(0.1), 5 epochs"),
    "record": {"ground_truth_schedule": "0" * 64},
    "config": {"dataset": dataset, "model": "mlp", "plan": "salun", "seeds": 2},
    "versions": {"jax": "0", "device": "a made-up device"},
  }
  report.write_json(out / "metrics.json", record)
  report.write_json(out / "config.json", {name: record[name] for name in ("config", "versions")})
  controls = [{"name": name, "passed": None, "said": name} for name in methods]
  audit = {"passed": True, "line": f"audit passed: {methods[-1]}", "audit": {"controls": controls}}
  report.write_json(out / "audit.json", audit)
  return out


@pytest.fixture(scope="session")
def write_run():
  """`write_run(out, images, …)` writes a made-up run directory; ids of images are not in order."""
  return _write_run


@pytest.fixture(scope="session")
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

  def open_page(path, **options):
    page = chromium.new_page(**options)
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


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
  images = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 3), np.uint8)
  return report.html(_write_run(tmp_path_factory.mktemp("toy"), images))
