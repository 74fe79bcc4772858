"""Tables of pandas and Polars: real digits as columns, and every way in which a table is none."""

import numpy as np
import pytest

from jaxmul import data

pandas = pytest.importorskip("pandas", reason="pandas comes with mlxtend")

DIGITS = data.digits().take(np.arange(50))
NAMES = np.array(
  ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
)


def table():
  columns = {f"pixel{i}": column for i, column in enumerate(DIGITS.inputs.reshape(50, 64).T)}
  shade = {"shade": DIGITS.inputs.reshape(50, 64).mean(1) / 255}
  more = shade | {"digit": DIGITS.labels, "name": NAMES[DIGITS.labels], "key": 10**12 - DIGITS.ids}
  return columns | more


@pytest.fixture(params=["pandas", "polars"])
def frame(request):
  library = pytest.importorskip(request.param, reason=f"{request.param} is not installed")
  return library.DataFrame(table())


def refusal(frame, *parts, **options):
  with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
    data.from_dataframe(frame, **options)
  for part in parts:
    assert part in str(caught.value)


PIXELS = [f"pixel{i}" for i in range(64)]


def test_columns_become_inputs_labels_ids_and_strata(frame):
  read = data.from_dataframe(frame, label="digit", inputs=PIXELS, ids="key", strata="digit")
  assert read.inputs.dtype == np.uint8
  np.testing.assert_array_equal(read.inputs, DIGITS.inputs.reshape(50, 64))
  np.testing.assert_array_equal(read.labels, DIGITS.labels)
  np.testing.assert_array_equal(read.ids, 10**12 - DIGITS.ids)
  np.testing.assert_array_equal(read.strata, DIGITS.labels)
  assert read.num_classes == 10


def test_text_is_numbered_as_class_names_say_and_all_else_is_an_input(frame):
  some = frame[["shade", "digit", "name"]]
  read = data.from_dataframe(some, label="name", class_names=NAMES.tolist())
  np.testing.assert_array_equal(read.labels, DIGITS.labels)
  want = np.stack([table()["shade"], DIGITS.labels], axis=1).astype(np.float32)
  assert read.inputs.dtype == np.float32
  np.testing.assert_array_equal(read.inputs, want)
  assert read.ids.tolist() == list(range(50))
  backwards = data.from_dataframe(some, label="name", class_names=NAMES[::-1].tolist())
  np.testing.assert_array_equal(backwards.labels, 9 - DIGITS.labels)
  # A part without the larger classes has the same number of them.
  few = data.from_dataframe(some[:5], label="name", class_names=NAMES.tolist())
  assert (few.labels.tolist(), few.num_classes) == ([0, 1, 2, 3, 4], 10)


def test_numbers_to_predict_are_no_classes():
  frame = pandas.DataFrame({"x": [0.5, 1.5], "is_old": [True, False], "price": [2.5, -1.0]})
  read = data.from_dataframe(frame, label="price")
  assert (read.classes, read.labels.tolist()) == (False, [2.5, -1.0])
  assert read.inputs.tolist() == [[0.5, 1.0], [1.5, 0.0]]


def test_what_does_not_fit_gets_one_line(frame):
  pixels = {"inputs": PIXELS}
  refusal(frame, "0 columns 'digits', must have one", "'key'", label="digits")
  refusal(frame, "class_names=sorted(frame['name'].unique())", label="name", **pixels)
  refusal(frame, "'name' is", "pandas.get_dummies", label="digit")
  refusal(frame, "'name' is", "integers to serve as ids", label="digit", ids="name", **pixels)
  refusal(frame, "label 'neun' (", label="name", class_names=NAMES[:9].tolist(), **pixels)
  refusal(frame, "twice in class_names", label="name", class_names=["eins", "eins"], **pixels)
  refusal(frame[["digit", "key"]], "no column is left", label="digit", ids="key")
  refusal(np.eye(2), "got a ndarray, needs a pandas or Polars", label="digit")


def test_missing_values_and_doubled_columns_are_refused():
  frame = pandas.DataFrame({"x": [0.5, np.nan], "y": [np.inf, 1.0], "label": [0, 1]})
  refusal(frame, "'x' holds 1 values that are missing", label="label")
  refusal(frame, "'y' holds 1 values", label="label", inputs=["y"])
  refusal(frame.astype({"x": "Float64"}), "'x'", label="label", inputs=["x"])
  double = pandas.concat([frame, frame], axis=1)
  refusal(double, "2 columns 'label', must have one", label="label")
