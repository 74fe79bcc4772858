"""jaxmul: memorization-based machine unlearning in JAX.

Know cheaply which training examples a network memorized, and use that to delete data well.
Importing this package imports nothing heavy; submodules load when first named.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
  from jaxmul import (
    checkpoint,
    data,
    deletion,
    hub,
    losses,
    memorization,
    metrics,
    models,
    proxies,
    report,
    retraining,
    rum,
    sisa,
    testing,
    train,
    unlearn,
  )
  from jaxmul.binding import Network, bind
  from jaxmul.deletion.forgetting import forget

__all__ = [
  "Network",
  "__version__",
  "bind",
  "checkpoint",
  "data",
  "deletion",
  "forget",
  "hub",
  "losses",
  "memorization",
  "metrics",
  "models",
  "proxies",
  "report",
  "retraining",
  "rum",
  "sisa",
  "testing",
  "train",
  "unlearn",
]


def __getattr__(name: str):
  if name in ("bind", "Network"):
    return getattr(importlib.import_module("jaxmul.binding"), name)
  if name == "forget":
    return importlib.import_module("jaxmul.deletion").forget
  if name in __all__:
    return importlib.import_module(f"jaxmul.{name}")
  raise AttributeError(f"module 'jaxmul' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted(__all__)
