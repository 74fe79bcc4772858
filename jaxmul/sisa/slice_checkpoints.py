"""The checkpoint of a network after each slice, in files named by all that decides them.

A file is found again where everything is as it was: recipe, key, the examples of its slice and of
those before it, JAX's settings and versions. It is sealed and nothing in it can execute.
"""

import dataclasses
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _identity, _settings
from jaxmul._dataset import Dataset
from jaxmul._files import npz, read_npz, read_sealed, write_sealed
from jaxmul._steps import Carry
from jaxmul.train import Recipe

_NAME = re.compile(r"\.?shard\d+-slice\d+-[0-9a-f]{16}\.npz(\..*\.tmp)?")


def names_of(
  recipe: Recipe, key: jax.Array, number: int, parts: Sequence[Dataset]
) -> tuple[str, ...]:
  """Returns the name of a file for each slice of a shard.

  Args:
    recipe: of all slices.
    key: of the shard.
    number: of the shard.
    parts: the examples of each slice.
  """
  around = (_identity.versions(), _settings.current())
  name, names = _identity.digest(recipe, key, len(parts), around), []
  for at, part in enumerate(parts):
    name = _identity.digest(name, part)
    names.append(f"shard{number}-slice{at}-{name[:16]}.npz")
  return tuple(names)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
  """Checkpoints in a folder.

  Attributes:
    folder: made when the first is written.
    like: a network with its optimizer's state, of which the structure and shapes are used.
  """

  folder: Path
  like: Carry

  def last(self, names: Sequence[str]) -> tuple[int, Carry | None]:
    """Returns how many slices are finished, and the network after them.

    A damaged file is named in a warning and counts as missing.
    """
    for done in range(len(names), 0, -1):
      path = self.folder / names[done - 1]
      if path.exists():
        carry = self._read(path)
        if carry is not None:
          return done, carry
        warnings.warn(f"{path} is damaged and is computed again.", stacklevel=4)
    return 0, None

  def write(self, name: str, carry: Carry) -> None:
    """Writes a checkpoint, whole or not at all.

    Raises:
      OSError: the folder cannot be written.
      ValueError: an array is of none of NumPy's dtypes, such as bfloat16.
    """
    leaves = {f"{at}": np.asarray(leaf) for at, leaf in enumerate(jax.tree.leaves(carry))}
    write_sealed(self.folder / name, npz(leaves, compressed=False), "zip")

  def keep_only(self, names: Collection[str]) -> None:
    """Removes all other checkpoints, also of other versions and of writes that were killed."""
    if not self.folder.is_dir():
      return
    for path in self.folder.iterdir():
      if _NAME.fullmatch(path.name) and path.name not in names:
        path.unlink()

  def _read(self, path: Path) -> Carry | None:
    shapes, structure = jax.tree.flatten(self.like)
    try:
      arrays = read_npz(path, [f"{at}" for at in range(len(shapes))], read_sealed(path, "zip"))
    except ValueError:
      return None
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in arrays.values()])
