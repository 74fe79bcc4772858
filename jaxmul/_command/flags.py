"""Flags that several commands have: the same name means the same in all of them."""

import dataclasses
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro

from jaxmul._command import inputs, saved_config
from jaxmul._paths import local
from jaxmul.data import Dataset
from jaxmul.train import Recipe

PathOrNone = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Flags of every command on one's own network and data.

  Attributes:
    network: package.module:name of a train.Recipe, or of a function that returns one.
    data: an .npz, a folder of images by class, or tfds:NAME of a prepared TFDS data set: what was
      trained on, held-out examples and test examples.
    out: folder to write. The same command again goes on after a kill.
    config: a config.json that an earlier run wrote, or a JSON object of flags; those on the line
      override it.
  """

  network: str
  data: str
  out: Path
  config: PathOrNone = None

  @property
  def folder(self) -> Path:
    """`out`, where it really is."""
    return local(self.out)

  def given(self, product: str) -> tuple[Recipe, Dataset]:
    """Returns recipe and data, once the folder is known to hold no product of another run."""
    saved_config.refuse_other(self, self.folder, product)
    recipe = inputs.recipe(self.network)
    return recipe, inputs.dataset(self.data)

  def save(self) -> None:
    """Writes config.json into the folder."""
    saved_config.write(self, self.folder)


class Unseen(NamedTuple):
  """Ids that were never trained on: heldout, for choosing and attacks, and test."""

  heldout: np.ndarray
  test: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split(Flags):
  """Flags of commands that delete examples, or judge what was deleted.

  Attributes:
    heldout: file of ids never trained on, for choosing and for attacks.
    test: file of ids never trained on, for final figures only.
    oracles: networks that are retrained without the ids.
    key: number from which all randomness follows.
  """

  heldout: Path
  test: Path
  oracles: int = 3
  key: int = 0

  @property
  def jax_key(self) -> jax.Array:
    """The key of all random choices."""
    return jax.random.key(self.key)

  def unseen(self, dataset: Dataset) -> Unseen:
    """Returns what the files of held-out and test ids hold."""
    heldout = inputs.ids_in(self.heldout, dataset, "heldout")
    return Unseen(heldout, inputs.ids_in(self.test, dataset, "test"))
