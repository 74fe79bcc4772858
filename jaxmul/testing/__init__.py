"""Contracts that users' own methods can be held to."""

from jaxmul.testing.unlearner import check_unlearner

__all__ = ["check_unlearner"]
