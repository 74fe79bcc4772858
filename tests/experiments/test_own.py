"""Methods and proxies of one's own in the main table, and the table as a file."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import main_job, main_job_flags, main_job_results, main_job_seed
from jaxmul import data, models, train
from jaxmul._command import export, own
from jaxmul.metrics import Figure
from jaxmul.metrics.figures import over_seeds

ROOT = Path(__file__).parents[2]
MODULE = """
from jaxmul import proxies, rum, unlearn

def f(params, batch):
  return 2 * proxies.loss(params, batch)

def mine():
  return unlearn.neg_grad_plus(0.02)

def step():
  return rum.Step(unlearn.fine_tune(), epochs=3)

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  (tmp_path / "mypkg_mod.py").write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, "mypkg_mod", raising=False)
  return tmp_path / "mypkg_mod.py"


@pytest.mark.usefixtures("module")
def test_a_method_is_an_unlearner_or_a_step():
  found = own.step("mypkg_mod:mine", 64)
  assert (found.epochs, found.batch_size) == (5, 64)
  assert found.unlearner is not None
  assert found.unlearner.name == "neg_grad_plus"
  assert own.step("mypkg_mod:step", 64).epochs == 3
  with pytest.raises(ValueError, match="gives an int, must give an unlearn"):
    own.step("mypkg_mod:number", 64)
  with pytest.raises(ValueError, match="--proxy mypkg_mod:number is an int, must be"):
    own.proxy("mypkg_mod:number")
  with pytest.raises(ValueError, match="--proxy mypkg_mod:g: AttributeError"):
    own.proxy("mypkg_mod:g")


def test_other_code_of_ones_own_is_told(module):
  names = ("confidence", "mypkg_mod:f")
  before = own.files(names)
  assert list(before) == ["mypkg_mod:f"]
  module.write_text(MODULE + "\n# another\n")
  assert own.files(names) != before


def test_own_rows_are_in_the_table_and_are_compared():
  config = main_job_flags.Config(proxy=("confidence", "mypkg_mod:f"), method=("mypkg_mod:mine",))
  methods = main_job_seed.methods_of(config, main_job.work_of(config).plain)
  assert "RUM f" in methods
  assert methods["mine"].own
  figures = {
    name: [over_seeds([0.1 * row, 0.3], name=figure) for figure in main_job_results.HEADLINE]
    for row, name in enumerate(methods)
  }
  differences = main_job_results.differences_of(methods, figures)
  assert list(differences["mine"])[1] == "SalUn vanilla"
  assert "SalUn vanilla" in differences["RUM f"]


def test_both_plans_have_rows_each_beside_its_own(capsys):
  config = main_job_flags.Config(plan="both", proxy=("confidence",))
  methods = main_job_seed.methods_of(config, main_job.work_of(config).plain)
  alone = {"salun": "SalUn vanilla", "neg_grad_plus": "NegGrad+ vanilla"}
  assert set(alone.values()) < set(methods)
  for plan, end in {"salun": "", "neg_grad_plus": ", NegGrad+"}.items():
    rum = methods[f"RUM confidence{end}"]
    truth = f"RUM ground truth{end}"
    assert (rum.plan, rum.tuned, rum.scores) == (plan, False, "confidence")
    assert rum.beside == (f"RUM shuffle{end}", alone[plan], "vanilla, tuned", truth)
    assert methods[f"RUM shuffle{end}"].beside == ()
  assert list(main_job.steps_of(config)) == [
    *("low", "medium", "high"),
    *("low, NegGrad+", "medium, NegGrad+", "high, NegGrad+"),
  ]
  figures = {
    name: [over_seeds([0.1 * row, 0.3], name=figure) for figure in main_job_results.HEADLINE]
    for row, name in enumerate(methods)
  }
  differences = main_job_results.differences_of(methods, figures)
  assert "RUM shuffle" not in differences
  main_job_results.show_differences(differences, "ToW", 2)
  first, second = capsys.readouterr().out.split("ToW minus that of another")[1:]
  assert "− SalUn vanilla" in first
  assert "NegGrad+" not in first
  assert "− NegGrad+ vanilla" in second
  assert "SalUn" not in second


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"proxy": ("hope",)}, "--proxy hope: must be one of confidence"),
    ({"proxy": ("confidence", "a:confidence")}, "have one name"),
    ({"method": ("a:mine", "b:mine")}, "have one name"),
  ],
)
def test_names_that_are_unknown_or_alike_are_refused(flags, message):
  with pytest.raises(ValueError, match=message):
    main_job_flags.Config(**flags)


FIGURES = {
  "RUM my_f": [over_seeds([0.8, 0.9], name="ToW"), Figure(name="seconds", value=2.0)],
  "original": [over_seeds([0.5], name="ToW"), Figure(name="seconds", value=1.0)],
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_export_holds_every_figure_with_its_interval(kind, tmp_path):
  path = export.write(tmp_path, kind, FIGURES, ["ToW"])
  if kind == "csv":
    with path.open() as file:
      rows = list(csv.DictReader(file))
  else:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = pandas.read_parquet(path).to_dict("records")
  assert [(row["method"], row["figure"]) for row in rows] == [
    (name, figure) for name in FIGURES for figure in ("ToW", "seconds")
  ]
  tow = FIGURES["RUM my_f"][0]
  ends = [float(rows[0][name]) for name in ("low", "value", "high")]
  np.testing.assert_allclose(ends, [tow.low, tow.value, tow.high])
  assert rows[0]["interval"] == "95 % t over training seeds"
  assert rows[2]["low"] == "" or np.isnan(rows[2]["low"])


def test_latex_has_half_widths_and_escaped_names(tmp_path):
  text = export.write(tmp_path, "latex", FIGURES, ["ToW"]).read_text()
  assert r"RUM my\_f & $0.850 \pm 0.635$ \\" in text
  assert r"original & $0.500$ \\" in text


def test_parquet_without_its_packages_says_what_to_install(monkeypatch):
  monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
  export.check("csv")
  with pytest.raises(ImportError, match="pip install pandas pyarrow"):
    export.check("parquet")


@pytest.mark.slow
def test_own_method_and_proxy_end_to_end(module):
  out = module.parent / "run"
  flags = "--dataset digits --num-models 8 --epochs 1 --seeds 2 --group-size 30 --audit-models 0"
  flags += " --proxy confidence mypkg_mod:f --method mypkg_mod:mine --export csv"
  environment = os.environ | {"PYTHONPATH": f"{module.parent}:{ROOT}"}
  command = [sys.executable, "-m", "experiments.rum", *flags.split(), "--out", str(out)]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
  assert done.returncode == 0, done.stderr
  methods = json.loads((out / "metrics.json").read_text())["methods"]
  assert {"mine", "RUM f"} <= set(methods)
  with np.load(out / "scores.npz") as scores:
    names = scores["proxy_names"].tolist()
    assert np.ptp(scores["proxies"][names.index("f")]) > 0
  assert "mine,seconds,all," in (out / "table.csv").read_text()


BROKEN = """
import optax
from jaxmul import unlearn

def by_class(params, batch):
  return params(batch[0])

def mine():
  return [1]

@unlearn.algorithm
def no_pair():
  def objective(network, turn, memory):
    return unlearn.batch_risk(network, turn.retain, turn.key)[0]
  return unlearn.descend(objective, optax.sgd(0.1))

@unlearn.algorithm
def wild():
  return unlearn.neg_grad(1e30)
"""


@pytest.mark.parametrize(
  ("methods", "scored", "message"),
  [
    (
      (),
      ("mypkg_broken:by_class",),
      r"\A--proxy mypkg_broken:by_class does not work on.*\[B\]",
    ),
    (("mypkg_broken:no_pair",), (), r"\A--method mypkg_broken:no_pair does .*\(value, network\)"),
  ],
)
def test_what_does_not_work_is_named_before_anything_is_trained(
  tmp_path, monkeypatch, methods, scored, message
):
  (tmp_path / "mypkg_broken.py").write_text(BROKEN)
  monkeypatch.syspath_prepend(tmp_path)
  digits = data.digits()
  recipe = train.Recipe(models.mlp((8,)), epochs=1)
  with pytest.raises(ValueError, match=message) as caught:
    own.try_out(methods, scored, recipe, digits)
  assert "\n" not in str(caught.value)
  own.try_out(("mypkg_broken:wild",), (), recipe, digits)  # diverges on what is not trained: fine
