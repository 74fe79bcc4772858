"""What accelerators are said to do at most, and what that would make of a number of FLOPs.

A prediction and no measurement: nothing here was run on any of these. `SHARE` of the peak is a
guess at what convolutions of 64 to 512 channels reach.
"""

from typing import NamedTuple

SHARE = 0.4


class Device(NamedTuple):
  """One chip, by its maker's figures; without sparsity.

  Attributes:
    kind: of number in which JAX multiplies float32 there unless it is told otherwise
      (`jax.lax.Precision.DEFAULT`), "tf32" or "bf16".
    float32: 10¹² FLOP/s of products in that kind.
    bfloat16: 10¹² FLOP/s of products of bfloat16.
    plain: 10¹² FLOP/s in float32 itself, None where it is not published.
    gigabytes: of memory.
    bandwidth: 10⁹ bytes/s of that memory.
    source: where the figures stand.
  """

  kind: str
  float32: float
  bfloat16: float
  plain: float | None
  gigabytes: float
  bandwidth: float
  source: str


HOPPER = {"kind": "tf32", "float32": 494.7, "bfloat16": 989.4, "plain": 67}
DEVICES = {
  "A100 SXM": Device(
    kind="tf32",
    float32=156,
    bfloat16=312,
    plain=19.5,
    gigabytes=80,
    bandwidth=2039,
    source="NVIDIA A100 data sheet, 80 GB SXM",
  ),
  "H100 SXM": Device(
    **HOPPER,
    gigabytes=80,
    bandwidth=3350,
    source="NVIDIA H100 data sheet; half of its figures, which are with sparsity",
  ),
  "H200 SXM": Device(
    **HOPPER,
    gigabytes=141,
    bandwidth=4800,
    source="NVIDIA H200 data sheet; half of its figures, which are with sparsity",
  ),
  "TPU v4": Device(
    kind="bf16",
    float32=275,
    bfloat16=275,
    plain=None,
    gigabytes=34.4,
    bandwidth=1200,
    source="Google Cloud, TPU v4: 275 teraflops, 32 GiB, 1200 GBps",
  ),
  "TPU v5e": Device(
    kind="bf16",
    float32=197,
    bfloat16=197,
    plain=None,
    gigabytes=16,
    bandwidth=819,
    source="Google Cloud, TPU v5e: 197 TFLOPs, 16 GB, 819 GBps",
  ),
}


def seconds(flops: float, device: Device, *, bfloat16: bool = False) -> float:
  """Returns the predicted seconds of so many FLOPs at `SHARE` of the peak."""
  return flops / (SHARE * 1e12 * (device.bfloat16 if bfloat16 else device.float32))


def seconds_of_bytes(count: float, device: Device) -> float:
  """Returns the seconds that the memory takes for so many bytes at its whole bandwidth."""
  return count / (1e9 * device.bandwidth)


def row(name: str, flops: float) -> str:
  """Returns a line of a Markdown table: FLOPs, and float32 and bfloat16 times of each device."""
  cells = [name, f"{flops / 1e9:,.0f}"]
  for device in DEVICES.values():
    times = [_short(seconds(flops, device, bfloat16=narrow)) for narrow in (False, True)]
    cells.append(" / ".join(dict.fromkeys(times)))
  return f"| {' | '.join(cells)} |"


def _short(seconds: float) -> str:
  value, unit = (seconds, "s") if seconds >= 1 else (1e3 * seconds, "ms")
  return f"{value:.3g} {unit}"
