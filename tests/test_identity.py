"""A digest is equal for equal values in any process, and for no others."""

import dataclasses
import enum
import functools
import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxmul import _identity, bind, losses, models, train, unlearn
from jaxmul._identity import describe, digest
from jaxmul.data import Dataset, Split
from jaxmul.memorization import Estimate


class Colour(enum.Enum):
  RED = 1
  BLUE = 2


@dataclasses.dataclass(frozen=True)
class Flip:
  name: str = "left"
  parent: Any = None

  def apply(self):
    return self


class Inner(nn.Module):
  width: int = 3

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.width)(x)


class Outer(nn.Module):
  inner: nn.Module

  @nn.compact
  def __call__(self, x):
    return self.inner(x)


def linear(w, x):
  return x @ w


IMAGES = np.random.default_rng(0).random((4, 2, 2)).astype(np.float32)
TOY = Dataset(IMAGES, np.array([0, 1, 0, 1]), np.array([7, 5, 9, 2]))
SPLIT = Split(np.array([7, 5]), np.array([9]), np.array([2]))


def estimate(**changes):
  arrays = {f.name: np.arange(3) for f in dataclasses.fields(Estimate)[:-2]}
  return Estimate(**arrays | changes)


# Every value differs from every other one.
VALUES = [
  *(None, True, 1, 1.0, 1j, "1", b"1", "", (), {}, frozenset()),
  *(np.float32(0.1), np.float64(0.1), 0.1, np.int32(1), np.bool_(True)),
  *(("a", "b"), ("a, b",), ("a', 'b",), ("ab",), (("a",), "b"), ("a", ("b",))),
  *({"a": 1}, {"a": "1"}, {"b": 1}, {("a", 1): ()}, {"a": 1, "b": 1}),
  *(float("nan"), float("inf"), -0.0, 0.0),
  *(np.zeros(0), np.zeros(2), np.zeros((2, 1)), np.zeros(2, np.float32), np.array([0.0, -0.0])),
  *(np.zeros((), np.float32), np.zeros(1, np.float32), np.zeros(2, ">f8"), np.array(["a"])),
  *(np.zeros(2, dtype) for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.uint8)),
  *(jnp.zeros(2, jnp.bfloat16), np.zeros(2, np.float16), np.dtype("float32"), jnp.float32),
  *(jax.random.key(0), jax.random.key(1), jax.random.key_data(jax.random.key(0))),
  jax.random.wrap_key_data(jnp.zeros(4, jnp.uint32), impl="rbg"),
  *(Colour.RED, Colour.BLUE, Colour, Flip(), Flip("right"), Flip(parent=1), Flip("right").apply),
  *(np.linalg.norm, linear, train.cosine, functools.partial(linear, 1), functools.partial(linear)),
  *(functools.partial(linear, x=1), functools.partial(linear, y=1)),
  *(models.mlp((3,)), models.mlp((4,)), models.cnn((3,)), train.Recipe(models.mlp((3,)))),
  *(Outer(Inner()), Outer(Inner(name="first")), Outer(Inner(name="second")), Outer(Inner(4))),
  *(train.Recipe(models.mlp((3,)), momentum=0.8), train.MultiStep((1, 2)), train.MultiStep((1,))),
  *(TOY, TOY.take([7, 5, 9]), dataclasses.replace(TOY, num_classes=3)),
  *(dataclasses.replace(TOY, labels=1 - TOY.labels), dataclasses.replace(TOY, ids=TOY.ids + 1)),
  dataclasses.replace(TOY, inputs=IMAGES + np.float32(1e-7)),
  *(SPLIT, dataclasses.replace(SPLIT, heldout=np.zeros(0, int), test=SPLIT.heldout)),
  *(estimate(), estimate(soft=np.arange(3) + 1), estimate(ids=np.arange(1, 4))),
  *(bind(linear, np.eye(2)), bind(linear, np.ones((2, 2))), bind(np.dot, np.eye(2))),
  *(bind(linear, {"w": np.eye(2)}), bind(linear, np.eye(2), {"w": np.ones(1)})),
  *(unlearn.neg_grad().words(), unlearn.neg_grad(0.1).words()),
  *(models.gpt(), models.neox(), models.llama(), models.llama(epsilon=1e-6)),
]


def test_different_values_have_different_digests():
  seen: dict[str, Any] = {}
  for value in VALUES:
    told = digest(value)
    assert told not in seen, (value, seen[told])
    seen[told] = value


def test_equal_values_have_equal_digests_in_another_process_and_in_any_order():
  code = "import sys; sys.path.insert(0, sys.argv[1]); import test_identity as t; t.show()"
  command = [sys.executable, "-c", code, str(Path(__file__).parent)]
  done = subprocess.run(
    command,
    capture_output=True,
    text=True,
    timeout=120,
    env=os.environ | {"PYTHONHASHSEED": "5"},
    cwd=Path(__file__).parents[1],
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == [digest(value).replace(__name__, "") for value in in_this_module()]


def test_a_field_that_came_later_is_told_only_where_it_is_used():
  fields = [field.name for field in dataclasses.fields(models.GPT)][:10]
  was = ", ".join(f"{name}={getattr(models.gpt(), name)!r}" for name in fields)
  assert describe(models.gpt()) == f"jaxmul.models.transformer.GPT({was})"
  assert "layout=jaxmul.models.transformer.Layout(" in describe(models.llama())


def in_this_module():
  """Values of which the text does not name this module: its name depends on who imports it."""
  return [value for value in VALUES if "test_identity" not in describe(value)]


def show():
  print(*map(digest, in_this_module()))


def test_order_is_told_where_it_decides_and_only_there():
  assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
  assert digest({"x", "y"}) == digest({"y", "x"})
  assert digest((1, 2)) == digest([1, 2]) != digest([2, 1])
  assert digest(TOY) == digest(TOY.take([2, 9, 5, 7]))
  far = Dataset(
    IMAGES[:2], np.array([0, 1]), np.array([2**63 - 1, -(2**63)])
  )  # 1 apart if it wraps
  assert digest(far) == digest(far.take(far.ids[::-1]))
  turned = Split(np.array([5, 7]), np.array([9]), np.array([2]))
  assert digest(SPLIT) == digest(turned)
  assert digest(np.asfortranarray(IMAGES)) == digest(IMAGES) == digest(jnp.asarray(IMAGES))
  assert digest(IMAGES[::-1][::-1]) == digest(IMAGES)


def test_the_design_of_an_estimate_is_words():
  assert digest(estimate(design="8 models")) == digest(estimate())


@pytest.mark.parametrize(
  ("value", "said"),
  [
    (lambda x: x, r"<lambda> cannot be told.*module-level function"),
    (functools.partial(lambda x: x, 1), "cannot be told"),
    (Path("truth.npz"), r"path 'truth\.npz' does not tell what is there"),
    ({"at": (Path("x"),)}, "does not tell what is there"),
    (Flip(Path("x")), "does not tell what is there"),
    (object(), "an object has no text of its own"),
    (np.array([object()]), "array of objects"),
    (bind(lambda w, x: x, np.eye(2)), "cannot be told"),
    (iter([1]), "has no text of its own"),
  ],
)
def test_what_cannot_be_told_is_refused_in_one_line(value, said):
  with pytest.raises(ValueError, match=said) as caught:
    digest(value)
  assert "\n" not in str(caught.value)


def test_versions_hold_the_number_of_the_results(monkeypatch):
  before = _identity.versions("scipy")
  assert before["results"] == str(_identity.RESULTS)
  assert before["jax"] == jax.__version__
  assert "scipy" in before
  assert "scipy" not in _identity.versions()
  monkeypatch.setattr(_identity, "RESULTS", _identity.RESULTS + 1)
  assert _identity.versions() != before
  assert _identity.versions("no-such-package")["no-such-package"] == "not installed"


def test_a_loss_of_its_own_an_embedding_strata_and_numbers_count_and_usual_ones_do_not():
  def of(**more):
    return digest(bind(np.dot, np.ones(2), **more))

  def data(**more):
    return digest(Dataset(np.eye(3), np.array([0, 1, 1]), **more))

  assert len({of(), of(loss=np.subtract), of(embed=np.add), of(loss=np.add)}) == 4
  assert of(loss=losses.cross_entropy) == of()
  three = np.arange(3)
  assert len({data(), data(strata=three), data(strata=three[::-1]), data(classes=False)}) == 4


def test_the_digest_of_a_data_set_does_not_copy_it():
  images = np.zeros((2000, 4096), np.uint8)
  dataset = Dataset(images, np.arange(2000) % 3)
  known = digest(dataset)
  tracemalloc.start()
  again = digest(dataset), digest({"tree": images}), _identity.tree_digest({"w": images})
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert most < images.nbytes / 2
  assert again[0] == known == digest(dataset.take(dataset.ids[::-1]))


@pytest.mark.parametrize(
  "array", [np.zeros((0, 3)), np.array(2.5), np.array(["a", "bc"]), np.arange(6.0).reshape(2, 3).T]
)
def test_an_array_is_hashed_as_its_bytes(array):
  text = f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
  assert describe(array) == text
