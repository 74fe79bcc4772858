"""What errors call a thing of a user's own: its type, after "a" or "an"."""

import re


def of(value: object) -> str:
  """Returns what a value is, such as "an int" or "a dict"."""
  return named(type(value).__name__)


def named(name: str) -> str:
  """Returns a name after its article.

  Example:
    >>> [named(name) for name in ("Output", "Unlearner", "UserModel", "dict")]
    ['an Output', 'an Unlearner', 'a UserModel', 'a dict']
  """
  return f"{'an' if re.match(r'[aeio]|u(?!ni|se)', name, re.IGNORECASE) else 'a'} {name}"
