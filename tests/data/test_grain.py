"""Grain's own sources and data sets, and what is read as they are, hold the same real digits."""

import numpy as np
import pytest
from PIL import Image

from jaxmul import data
from jaxmul.data import sources

DIGITS = data.digits().take(np.arange(40))
PAIRS = list(zip(DIGITS.inputs, DIGITS.labels, strict=True))


def rows():
  return [
    {"image": image, "label": label, "key": 10**12 - id}
    for image, label, id in zip(DIGITS.inputs, DIGITS.labels, DIGITS.ids, strict=True)
  ]


def refusal(*parts, **options):
  source = options.pop("source")
  with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
    data.from_grain(source, **options)
  for part in parts:
    assert part in str(caught.value)


@pytest.fixture
def grain():
  return pytest.importorskip("grain", reason="grain is not installed")


def test_a_map_data_set_is_read_in_its_order(grain):
  read = data.from_grain(grain.MapDataset.source(rows()), ids="key", num_classes=12)
  np.testing.assert_array_equal(read.inputs, DIGITS.inputs)
  np.testing.assert_array_equal(read.labels, DIGITS.labels)
  np.testing.assert_array_equal(read.ids, 10**12 - DIGITS.ids)
  assert (read.inputs.dtype, read.num_classes) == (np.uint8, 12)


def test_what_a_filter_drops_leaves_the_positions_of_the_others(grain):
  kept = grain.MapDataset.source(rows()).filter(lambda example: example["label"] != 3)
  read = data.from_grain(kept)
  np.testing.assert_array_equal(read.ids, DIGITS.ids[DIGITS.labels != 3])
  np.testing.assert_array_equal(read.inputs, DIGITS.inputs[DIGITS.labels != 3])


class Squares:
  """A source of one's own, as Grain wants it."""

  def __len__(self):
    return 3

  def __getitem__(self, index):
    return {"x": np.float32([index**2]), "y": index % 2}


def test_a_random_access_source_is_read_as_grain_reads_it(grain):
  for source in (Squares(), grain.MapDataset.source(Squares())):
    read = data.from_grain(source, inputs="x", label="y")
    assert read.inputs.tolist() == [[0.0], [1.0], [4.0]]
    assert read.labels.tolist() == [0, 1, 0]


def test_pairs_are_an_input_and_a_label_as_in_pytorch():
  read = data.from_grain([(Image.fromarray(image), int(label)) for image, label in PAIRS])
  np.testing.assert_array_equal(read.inputs, DIGITS.inputs)
  np.testing.assert_array_equal(read.labels, DIGITS.labels)
  assert data.from_grain([(7, *pair) for pair in PAIRS[:1]], inputs=1, label=2, ids=0).ids == [7]


def test_what_is_no_single_example_is_refused(grain):
  source = grain.MapDataset.source(rows())
  refusal("it is a batch, not one example", source=source.batch(4))
  refusal("GiB", source=source.repeat())
  refusal("needs a source with len(source)", "MapDataset", source=source.to_iter_dataset())


def test_what_does_not_fit_gets_one_line(monkeypatch):
  refusal("has no 'labels', but ['image', 'key', 'label']", source=rows(), label="labels")
  refusal("has no 2, but 2 parts", source=PAIRS, ids=2)
  refusal("it holds no example", source=[])
  refusal("several sizes, (8, 8) and (7, 8)", source=[PAIRS[0], (np.zeros((7, 8), np.uint8), 0)])
  refusal("several dtypes, uint8 and float64", source=[PAIRS[0], (np.zeros((8, 8)), 0)])
  refusal("its mode is P", source=[(Image.new("P", (8, 8)), 0)])
  refusal("must be an array of numbers", source=[(object(), 0)])
  monkeypatch.setattr(sources, "MAX_BYTES", 40 * 64 - 1)
  refusal("the limit is", source=PAIRS)
