"""What errors call a thing of a user's own: its type, after "a" or "an"."""

import re


def of(value: object) -> str:
  """Returns what a value is, such as "an int" or "a dict"."""
  return named(type(value).__name__)


def line(value: object) -> str:
  """Returns the text of a value in one line: that of an array or a data class may have several.

  Example:
    >>> import numpy as np
    >>> line(np.eye(2))
    'array([[1., 0.], [0., 1.]])'
  """
  return " ".join(repr(value).split())


def named(name: str) -> str:
  """Returns a name after its article.

  Example:
    >>> [named(name) for name in ("Output", "Unlearner", "UserModel", "dict")]
    ['an Output', 'an Unlearner', 'a UserModel', 'a dict']
  """
  return f"{'an' if re.match(r'[aeio]|u(?!ni|se)', name, re.IGNORECASE) else 'a'} {name}"
