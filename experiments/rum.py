"""The main job: memorization, proxies and RUM on real images, beside retrained models.

For each seed: train the original model (trackers riding along), score memorization by cheap
proxies, unlearn a forget set by every method, and compare each result with a model retrained from
scratch. The ground truth is estimated once. Default: 5,000 real digits, an MLP with 94 % test
accuracy, 200 ground-truth models, 3 seeds; about 4 minutes on 2 CPU cores.

    python -m experiments.rum --out runs/demo

Re-running the same command resumes: what is finished is read back. Nothing is chosen by looking at
test data, and the attack uses neither the test set nor the retain examples that ToW uses.
"""

from experiments import cache, cli, main_job
from experiments.main_job_flags import Config
from experiments.setting import cut, recipe_of


def main(config: Config) -> None:
  """Runs everything on the data set of a config."""
  (dataset, parts), seconds = cache.timed(lambda: cut(config))
  recipe = recipe_of(config, dataset.num_classes)
  main_job.run(config, dataset, parts, recipe, data_seconds=seconds)


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
