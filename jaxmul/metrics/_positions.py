"""What reads logits of one label an example, and not those of every position of a text."""

from jaxmul.data.dataset import Dataset


def refuse_positions(dataset: Dataset, caller: str, cure: str) -> None:
  """Raises ValueError where examples have labels at positions, and logits at each of them."""
  if dataset.labels.ndim > 1:
    raise ValueError(
      f"{caller} is for one label per example; labels here are {list(dataset.labels.shape)}. "
      f"{cure}."
    )
