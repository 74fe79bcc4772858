"""What a benchmark's figures depend on besides the code: the processor, its cores, XLA's flags.

And how much of the machine's memory a process takes.
"""

import os
import platform
from pathlib import Path

import loky


def facts() -> dict[str, str | int]:
  """Returns {"cpu", "cores": those that this process may use, "XLA_FLAGS"}."""
  return {
    "cpu": cpu(),
    "cores": loky.cpu_count(),
    "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
  }


def cpu() -> str:
  """Returns the model of this machine's processor, as far as the system tells it."""
  info = Path("/proc/cpuinfo")
  if not info.exists():
    return platform.processor() or platform.machine()
  told = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
  fields = {name.strip(): value.strip() for name, value in told.items()}
  said = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU part")
  found = [fields[name] for name in said if name in fields]
  return " ".join(found if "model name" in fields else [platform.machine(), *found])


def memory(name: str) -> float:
  """Returns the bytes that Linux tells of this process: VmRSS now, VmHWM at most."""
  # Not ru_maxrss, which begins with what the parent had.
  status = Path("/proc/self/status").read_text()
  return 1024.0 * int(status.partition(f"{name}:")[2].split()[0])
