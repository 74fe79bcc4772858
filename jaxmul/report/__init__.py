"""Run directories: what was run, what came out, and pictures of it."""

from jaxmul.report import plots, token_plots
from jaxmul.report.page import html
from jaxmul.report.record import versions, write_arrays, write_json

__all__ = ["html", "plots", "token_plots", "versions", "write_arrays", "write_json"]
