"""Contracts that your own methods can be held to; each raises an AssertionError that says why."""

from jaxmul.testing.proxy import check_proxy, small_networks

__all__ = ["check_proxy", "small_networks"]
