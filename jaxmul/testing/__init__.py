"""Contracts that your own methods can be held to; each raises an AssertionError that says why."""

from jaxmul.testing.proxy import check_proxy, small_networks
from jaxmul.testing.unlearner import check_unlearner

__all__ = ["check_proxy", "check_unlearner", "small_networks"]
