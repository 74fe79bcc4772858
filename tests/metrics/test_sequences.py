"""What MUSE and TOFU measure, against hand-made cases, rouge-score, and slow plain loops."""

import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import binomtest

from jaxmul import bind, data, models, train
from jaxmul.metrics import extraction, find, intervals, sequences

FILE = json.loads((Path(__file__).parent / "muse_cases.json").read_text())
CASES = {
  kind: [case for case in FILE["cases"] if case["kind"] == kind]
  for kind in ("verbatim", "forget_question", "retain_question")
}
EXPECTED = FILE["expected"]
TEXTS = 20 + 4 + 4
WORDS = sorted({word for case in FILE["cases"] for word in json.dumps(case).split('"')})
WORDS = sorted({word for text in WORDS for word in text.split()})
VOCABULARY = TEXTS + len(WORDS)


def tokens(text):
  return [TEXTS + WORDS.index(word) for word in text.split()]


def decode(row):
  return " ".join(WORDS[token - TEXTS] for token in row)


def told(table, given):
  """A network that says what its table holds for the text whose number is the first token."""
  return table[given[:, 0], : given.shape[1]]


def number(case):
  return FILE["cases"].index(case)


def asked(kind):
  prompts = [[number(case), *tokens(case["prompt"])] for case in CASES[kind]]
  return data.questions(
    prompts, [tokens(case["truth"]) for case in CASES[kind]], num_classes=VOCABULARY
  )


def saying(answers, side="retrained"):
  """Returns the network that gives these texts, by case, and a side's losses of members."""
  table = np.zeros((TEXTS, 16, VOCABULARY), np.float32)
  for case, text in answers:
    first = len(case["prompt"].split())  # the number of the text stands before it
    for place, token in enumerate(tokens(text)):
      table[number(case), first + place, token] = 5.0
  for row, powers in enumerate(FILE["privacy"]["forget"][side] + FILE["privacy"]["heldout"][side]):
    for place, power in enumerate(powers):
      p = 0.5**power
      table[20 + row, place] = np.log((1 - p) / (VOCABULARY - 1))
      table[20 + row, place, TEXTS] = np.log(p)
  return bind(told, jnp.asarray(table))


def members(rows):
  inputs = np.array([[20 + row, *[TEXTS] * 4] for row in rows])
  return data.Dataset(inputs, np.full((len(rows), 5), TEXTS), num_classes=VOCABULARY)


TASKS = sequences.Tasks(
  verbatim=asked("verbatim"),
  forget=members(range(4)),
  heldout=members(range(4, 8)),
  forget_questions=asked("forget_question"),
  retain_questions=asked("retain_question"),
  retain=asked("retain_question"),
)
UNLEARNED, RETRAINED = (
  saying([(case, case[side]) for case in FILE["cases"]], side)
  for side in ("unlearned", "retrained")
)


@functools.cache
def figures():
  return sequences.muse(UNLEARNED, RETRAINED, TASKS)


@pytest.mark.parametrize(
  ("name", "part"), [("VerbMem", "forget"), ("KnowMem", "forget"), ("KnowMem", "retain")]
)
def test_rouge_is_that_of_the_hand_made_cases(name, part):
  ours, theirs = EXPECTED[name if name == "VerbMem" else f"{name} {part}"]
  assert find(figures(), name, part).value == pytest.approx(ours, abs=1e-12)
  assert find(figures(), name, part, of="oracle").value == pytest.approx(theirs, abs=1e-12)
  gap = find(figures(), f"{name} gap", part)
  assert gap.value == pytest.approx(ours - theirs, abs=1e-12)
  assert gap.low <= gap.value <= gap.high
  assert "over-forgetting" not in gap.note


def test_leakage_is_that_of_the_hand_made_cases():
  ours, theirs = EXPECTED["AUC"]
  assert find(figures(), "Min-K AUC").value == pytest.approx(ours)
  assert find(figures(), "Min-K AUC", of="oracle").value == pytest.approx(theirs)
  leak = find(figures(), "PrivLeak")
  assert leak.value == pytest.approx(EXPECTED["PrivLeak"])
  assert leak.low <= leak.value <= leak.high
  right = [case["unlearned"] == case["truth"] for case in CASES["retain_question"]]
  assert find(figures(), "accuracy", "retain").value == np.mean(right)


@pytest.mark.parametrize(
  ("goal", "answers"), [("scalability", "after_sizes"), ("sustainability", "after_turns")]
)
def test_utility_after_each_request_is_that_of_the_hand_made_cases(goal, answers):
  for request, want in enumerate(EXPECTED[goal]):
    network = saying([(case, case[answers][request]) for case in CASES["retain_question"]])
    found = sequences.muse(network, RETRAINED, TASKS)
    assert find(found, "KnowMem", "retain").value == pytest.approx(want, abs=1e-12)


def test_each_case_is_what_rouge_score_says():
  for case in FILE["cases"]:
    for side in ("unlearned", "retrained"):
      score = sequences.rouge_l([tokens(case[side])], [tokens(case["truth"])])[0]
      assert score == pytest.approx(case[f"rouge_{side}"], abs=1e-12)


def test_words_give_the_same_as_tokens_where_each_token_is_a_word():
  pytest.importorskip("rouge_score", reason="rouge-score is in the extra rouge")
  found = sequences.muse(UNLEARNED, RETRAINED, dataclasses.replace(TASKS, decode=decode))
  for one, other in zip(found, figures(), strict=True):
    assert dataclasses.astuple(one)[:4] == dataclasses.astuple(other)[:4]
    np.testing.assert_allclose(one.value, other.value, atol=1e-12)


def common(a, b):
  """Length of the longest common subsequence by trying all of them."""
  kept = [
    tuple(a[i] for i in places)
    for size in range(len(a), -1, -1)
    for places in itertools.combinations(range(len(a)), size)
  ]
  for part in kept:
    rest = iter(b)
    if all(token in rest for token in part):
      return len(part)
  raise AssertionError


def rows(rng, count, length):
  """Tokens of three kinds, some of the positions holding none."""
  return np.where(rng.uniform(size=(count, length)) < 0.3, -1, rng.integers(0, 3, (count, length)))


@pytest.mark.parametrize(("made", "true"), [(6, 7), (8, 3), (1, 1), (3, 8)])
def test_rouge_is_the_longest_common_subsequence(made, true):
  rng = np.random.default_rng(made)
  a, b = rows(rng, 60, made), rows(rng, 60, true)
  for score, x, y in zip(sequences.rouge_l(a, b), a, b, strict=True):
    x, y = x[x >= 0].tolist(), y[y >= 0].tolist()
    if not y:
      assert np.isnan(score)
      continue
    shared = common(x, y)
    want = 0.0
    if shared:
      precision, recall = shared / len(x), shared / len(y)
      want = 2 * precision * recall / (precision + recall)
    assert score == pytest.approx(want, abs=1e-12)


def test_rouge_is_that_of_rouge_score():
  rouge_scorer = pytest.importorskip(
    "rouge_score.rouge_scorer", reason="rouge-score is in the extra rouge"
  )
  scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
  rng = np.random.default_rng(0)
  made, true = rng.integers(0, 9, (2, 300, 12))
  words = ["cats", "cat", "ran", "running", "7", "b2", "the", "a", "sea"]  # a stemmer would join
  cut = rng.integers(1, 13, (2, 300))
  texts = [
    [" ".join(words[token] for token in row[:n]) for row, n in zip(side, length, strict=True)]
    for side, length in zip((made, true), cut, strict=True)
  ]
  want = [scorer.score(t, m)["rougeL"].fmeasure for m, t in zip(*texts, strict=True)]
  made, true = (
    np.where(np.arange(12) < n[:, None], side, -1)
    for side, n in zip((made, true), cut, strict=True)
  )
  assert np.ptp(want) > 0.5
  np.testing.assert_allclose(sequences.rouge_l(made, true), want, atol=1e-12)
  np.testing.assert_array_equal(sequences.rouge_l_of_texts(*texts), want)
  odd = sequences.rouge_l_of_texts(["The CAT, ran!", "", "x"], ["the cat ran", "a", "?!"])
  np.testing.assert_array_equal(odd, [1, 0, np.nan])


MODEL = models.gpt(9, length=15, width=16, depth=1, heads=2)


@functools.cache
def memorized():
  """A network that was trained on nothing but 24 random texts, these, and 24 others."""
  whole = np.random.default_rng(0).integers(0, 9, (48, 16))
  text = data.Dataset(whole[:, :-1], whole[:, 1:], num_classes=9)
  recipe = train.Recipe(MODEL, epochs=80, batch_size=24, learning_rate=1e-2, optimizer=optax.adamw)
  network = train.fit(recipe, text, jax.random.key(0), np.arange(24)).network
  return network, text.take(np.arange(24)), text.take(np.arange(24, 48))


def fresh():
  """A network that never saw any of them."""
  return models.init(MODEL, jax.random.key(1), jnp.zeros((1, 15), jnp.int32))


def test_members_of_a_network_that_has_only_memorized_them_are_told_apart():
  network, seen, unseen = memorized()
  tasks = sequences.Tasks(verbatim=data.after_prompt(seen, 6), forget=seen, heldout=unseen)
  found = sequences.muse(network, fresh(), tasks)
  auc, oracle = (find(found, "Min-K AUC", of=of).value for of in ("unlearned", "oracle"))
  assert auc > 0.85
  assert 0.2 < oracle < 0.8
  leak = find(found, "PrivLeak")
  assert leak.value == pytest.approx(100 * (auc - oracle) / oracle)
  assert leak.low > 0
  assert leak.note == "95 % bootstrap over examples"
  assert find(found, "VerbMem").value > find(found, "VerbMem", of="oracle").high
  # The other way round what never knew S stands beside what does: that is no success.
  back = sequences.muse(fresh(), network, tasks)
  for name in ("PrivLeak", "VerbMem gap"):
    assert find(back, name).high < 0
    assert find(back, name).note.endswith("; over-forgetting")
  assert not any("over-forgetting" in figure.note for figure in found)


def test_the_oracle_itself_leaks_nothing_and_nothing_is_said_without_one():
  network, seen, unseen = memorized()
  tasks = sequences.Tasks(verbatim=data.after_prompt(seen, 6), forget=seen, heldout=unseen)
  for figure in sequences.muse(network, network, tasks):
    if figure.name in ("PrivLeak", "VerbMem gap"):
      assert (figure.value, figure.low, figure.high) == (0, 0, 0)
      assert "over-forgetting" not in figure.note
  several = [network, fresh()]
  leak = find(sequences.muse(several, several, tasks), "PrivLeak")
  assert leak.value == pytest.approx(0, abs=1e-9)
  assert len(leak.seeds) == 2
  for nothing in ([], (), None):
    with pytest.raises(ValueError, match=r"got no retrained network.*unlearn\.retrain"):
      sequences.muse(network, nothing, tasks)
  with pytest.raises(ValueError, match="priv_leak needs the losses of a retrained network"):
    sequences.priv_leak(([1.0], [2.0]), None)


def pairs(inside, outside):
  """AUC by its definition."""
  wins = [(h > s) + (h == s) / 2 for s in inside for h in outside]
  return sum(wins) / len(wins)


def test_leakage_is_that_of_all_pairs_and_of_texts_drawn_again():
  rng = np.random.default_rng(0)
  ours, theirs = ((rng.integers(0, 9, 7), rng.integers(2, 9, 9)) for _ in range(2))
  auc, oracle, leak = sequences.priv_leak(ours, theirs)
  want = [pairs(*ours), pairs(*theirs)]
  assert [auc.value, oracle.value] == pytest.approx(want)
  assert leak.value == pytest.approx(100 * (want[0] - want[1]) / want[1])
  # The same draws, one after another: each text as often as it was drawn, for both networks.
  rng = np.random.default_rng(0)
  inside, outside = (rng.multinomial(n, np.full(n, 1 / n), 1000) for n in (7, 9))
  drawn = []
  for a, b in zip(inside, outside, strict=True):
    u, r = (pairs(np.repeat(side[0], a), np.repeat(side[1], b)) for side in (ours, theirs))
    drawn.append([u, r, 100 * (u - r) / r])
  for figure, values in zip((auc, oracle, leak), np.sort(drawn, axis=0).T, strict=True):
    assert [figure.low, figure.high] == pytest.approx(values[[25, 974]])


def test_of_several_networks_the_interval_is_over_them():
  rng = np.random.default_rng(0)
  ours, theirs = rng.uniform(size=(3, 8)) / 2, rng.uniform(size=(2, 8)) / 2 + 0.5
  own, oracle, gap = sequences.beside_retrained(ours, theirs, name="VerbMem")
  assert own.seeds == pytest.approx(ours.mean(1))
  assert oracle.seeds == pytest.approx(theirs.mean(1))
  assert gap.seeds == pytest.approx(ours.mean(1) - theirs.mean())
  want = intervals.t_interval(ours.mean(1) - theirs.mean())
  assert (gap.value, gap.low, gap.high) == pytest.approx(tuple(want))
  assert gap.note == "95 % t over training seeds; over-forgetting"
  unsure = sequences.beside_retrained([0.1, 0.9, 0.3], [0.9, 0.1, 0.4], name="VerbMem")[2]
  assert unsure.low < 0 < unsure.high
  assert unsure.note.endswith("; over-forgetting, or chance")
  on_retain = sequences.beside_retrained(ours, theirs, name="KnowMem", part="retain")[2]
  assert "over-forgetting" not in on_retain.note
  single = sequences.beside_retrained([0.5], [0.5], name="VerbMem")
  assert all(np.isnan(each.low) and "no interval" in each.note for each in single)


def greedy(network, prompt, count):
  """One token after another, each from all that is before it."""
  row = list(prompt)
  for _ in range(count):
    given = np.zeros((1, 15), np.int32)
    given[0, : len(row)] = row
    row.append(int(np.argmax(network(jnp.asarray(given))[0, len(row) - 1])))
  return row[len(prompt) :]


def test_continuations_are_those_of_decoding_token_by_token():
  network, seen, unseen = memorized()
  whole = np.r_[np.c_[seen.inputs, seen.labels[:, -1]], np.c_[unseen.inputs, unseen.labels[:, -1]]]
  cuts = np.random.default_rng(0).integers(1, 15, (48, 2)).clip(1, 15)
  cuts[:, 1] = np.minimum(cuts[:, 0] + cuts[:, 1], 16)
  asked_of = data.questions(
    [row[:a] for row, (a, _) in zip(whole, cuts, strict=True)],
    [row[a:b] for row, (a, b) in zip(whole, cuts, strict=True)],
  )
  made = sequences.continuations(network, asked_of)
  np.testing.assert_array_equal(made < 0, asked_of.labels < 0)
  forward = jax.jit(lambda tokens: network(tokens))
  for row in range(0, 48, 7):
    a, b = cuts[row]
    assert made[row, a - 1 : b - 1].tolist() == greedy(forward, whole[row, :a], b - a)
  after = data.after_prompt(seen, 6)
  alone = models.generate(network, jnp.asarray(seen.inputs[:, :6]), 10, model=MODEL)
  np.testing.assert_array_equal(sequences.continuations(network, after)[:, 5:], alone)
  assert (made == asked_of.labels).any(1).sum() > 10
  assert (made != asked_of.labels).any(1).sum() > 10


def test_what_is_given_between_two_answers_is_read_and_not_what_was_answered():
  counts = bind(lambda _, x: jax.nn.one_hot((x + 1) % 10, 10), {})
  text = data.Dataset(np.array([[1, 5, 7, 3]]), np.array([[2, -1, 4, 5]]), num_classes=10)
  # 1 gives 2; at its place 2 is read, not 5; 7 is given and gives 8, which is read, not 3.
  assert sequences.continuations(counts, text).tolist() == [[2, -1, 8, 9]]


def shares(logits, labels):
  """Right tokens, and the longest right end, of one text by loops."""
  right = [int(np.argmax(z)) == y for z, y in zip(logits, labels, strict=True) if y >= 0]
  k = next(k for k in range(len(right) + 1) if all(right[k:]))
  return sum(right) / len(right), 1 - k / len(right)


def test_shares_of_tokens_are_those_of_plain_loops():
  rng = np.random.default_rng(0)
  table = rng.normal(size=(40, 8, 3)).astype(np.float32)
  labels = np.where(rng.uniform(size=(40, 8)) < 0.6, table.argmax(-1), rng.integers(0, 3, (40, 8)))
  labels = np.where(rng.uniform(size=(40, 8)) < 0.4, -1, labels)
  labels[:, 3] = table[:, 3].argmax(-1)
  labels[:8] = np.where(labels[:8] >= 0, table[:8].argmax(-1), -1)
  text = data.Dataset(np.tile(np.arange(40)[:, None], 8), labels, num_classes=40)
  network = bind(told, jnp.asarray(table))
  exact, strength = zip(*map(shares, table, labels), strict=True)
  np.testing.assert_allclose(sequences.exact_memorization(network, text), exact, atol=1e-6)
  found = sequences.extraction_strength(network, text)
  np.testing.assert_allclose(found, strength, atol=1e-6)
  np.testing.assert_array_equal(found == 1, extraction.is_extracted(network, text))
  assert (found == 0).any()
  assert (found == 1).any()


@pytest.mark.parametrize("filler", [0, VOCABULARY - 1])
def test_padding_and_the_size_of_a_batch_change_nothing(filler):

  def padded(text):
    count = len(text)
    inputs, labels = (np.full((count, 5), value) for value in (filler, -1))
    return data.Dataset(
      np.c_[text.inputs, inputs], np.c_[text.labels, labels], num_classes=VOCABULARY
    )

  parts = [field.name for field in dataclasses.fields(TASKS) if field.name != "decode"]
  longer = sequences.Tasks(**{name: padded(getattr(TASKS, name)) for name in parts})
  for tasks, size in ((longer, 1024), (TASKS, 3)):
    again = sequences.muse(UNLEARNED, RETRAINED, tasks, batch_size=size)
    for one, two in zip(figures(), again, strict=True):
      assert (one.title, one.part) == (two.title, two.part)
      np.testing.assert_allclose([one.value, one.low], [two.value, two.low], atol=1e-12)
  made = sequences.continuations(UNLEARNED, TASKS.verbatim)
  np.testing.assert_array_equal(
    sequences.continuations(UNLEARNED, longer.verbatim), np.c_[made, np.full((8, 5), -1)]
  )
  for function in (sequences.exact_memorization, sequences.extraction_strength):
    np.testing.assert_allclose(
      function(UNLEARNED, longer.verbatim), function(UNLEARNED, TASKS.verbatim), atol=1e-7
    )


def test_the_truth_ratio_is_a_ratio_of_geometric_means():
  rng = np.random.default_rng(0)
  right = [rng.uniform(0.1, 1, size) for size in (1, 3, 5)]
  wrong = [[rng.uniform(0.1, 1, size) for size in (2, 4)] for _ in right]

  def of_answer(p):
    return math.prod(p) ** (1 / len(p))

  want = [
    math.prod(map(of_answer, others)) ** (1 / len(others)) / of_answer(own)
    for own, others in zip(right, wrong, strict=True)
  ]
  losses = [-np.log(p).mean() for p in right]
  others = [[-np.log(p).mean() for p in each] for each in wrong]
  np.testing.assert_allclose(sequences.truth_ratio(losses, others), want)
  np.testing.assert_allclose(
    sequences.truth_ratio(losses, [each[0] for each in others]),
    [of_answer(each[0]) / of_answer(own) for own, each in zip(right, wrong, strict=True)],
  )
  assert sequences.truth_ratio([900.0], [1.0]).tolist() == [np.inf]


def farthest(a, b):
  """The statistic of Kolmogorov and Smirnov, by looking at each value."""
  return max(abs(np.mean(np.array(a) <= x) - np.mean(np.array(b) <= x)) for x in (*a, *b))


def test_forget_quality_is_the_share_of_orders_that_are_as_far_apart():
  rng = np.random.default_rng(1)
  for shift in (0.0, 0.5, 2.0):
    ours, theirs = rng.normal(size=4) + shift, rng.normal(size=5)
    both, seen = np.r_[ours, theirs], farthest(ours, theirs)
    far = [
      farthest(both[list(rows)], np.delete(both, list(rows))) >= seen - 1e-12
      for rows in itertools.combinations(range(9), 4)
    ]
    found = sequences.forget_quality(ours, theirs)
    assert found.value == pytest.approx(np.mean(far))
    assert f"{seen:.2f} apart" in found.note
    # No matter which way the ratio is taken.
    assert sequences.forget_quality(-ours, -theirs).value == pytest.approx(found.value)
  known, unknown = np.linspace(0, 0.2, 30), np.linspace(0.8, 1.1, 30)
  more, less = sequences.forget_quality(known, unknown), sequences.forget_quality(unknown, known)
  assert more.value == less.value < 1e-6
  assert more.note.endswith("more is known")
  assert less.note.endswith("over-forgetting")


def test_exposure_of_drawn_canaries_covers_that_of_all_of_them():
  rng = np.random.default_rng(0)
  everyone = rng.normal(size=5000).round(2)  # with ties
  canaries = np.array([-3.5, -2.0, -1.0, 0.0])
  truth = extraction.exposure(canaries, everyone)
  covered = np.zeros(4)
  for _ in range(200):
    drawn = rng.choice(everyone, 60)
    found = extraction.exposure_of_drawn(canaries, drawn, 5001)
    assert all(each.low <= each.mean <= each.high for each in found)
    covered += [each.low <= want <= each.high for each, want in zip(found, truth, strict=True)]
  assert (covered / 200 > 0.93).all()
  almost = extraction.exposure_of_drawn(canaries, everyone, 5002)
  np.testing.assert_allclose([each.mean for each in almost], truth, atol=1e-3)
  assert all(each.high - each.low < 0.6 for each in almost[1:])
  drawn = np.arange(40.0)
  for below in (0, 1, 17, 40):
    mean, low, high = extraction.exposure_of_drawn([below - 0.5], drawn, 1024)[0]
    share = binomtest(below, 40).proportion_ci(0.95, "exact")
    want = [10 - np.log2(1 + q * 1023) for q in (below / 40, share.high, share.low)]
    assert [mean, low, high] == pytest.approx(want)
  tied = np.array([1.0, 2, 2, 2, 2, 3, 4, 5, 6, 7])
  mean, low, high = extraction.exposure_of_drawn([2.0], tied, 1024)[0]
  most, fewest = (binomtest(k, 10).proportion_ci(0.95, "exact") for k in (5, 1))
  want = [10 - np.log2(1 + q * 1023) for q in (0.3, most.high, fewest.low)]
  assert [mean, low, high] == pytest.approx(want)


def test_rounded_weights_are_the_nearest_of_each_channel():
  rng = np.random.default_rng(0)
  params = {
    "kernel": jnp.asarray(rng.normal(size=(5, 6)) * 10.0 ** np.arange(-3, 3), jnp.float32),
    "filters": jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.bfloat16),
    "bias": jnp.asarray(rng.normal(size=6), jnp.float32),
    "empty": jnp.zeros((5, 6)),
  }
  network = bind(lambda p, x: x @ p["kernel"] + p["bias"], params)
  for bits in (8, 4):
    rounded = sequences.quantized(network, bits)
    kernel, found = (np.asarray(each.params["kernel"], float) for each in (network, rounded))
    for old, new in zip(kernel.T, found.T, strict=True):
      step = np.abs(old).max() / (2 ** (bits - 1) - 1)
      want = [step * min(range(-200, 200), key=lambda k: abs(k * step - w)) for w in old]
      np.testing.assert_allclose(new, want, rtol=1e-5)
    assert len({round(w / step) for w in new}) > 1
    assert rounded.params["filters"].dtype == jnp.bfloat16
    for name in ("bias", "empty"):
      np.testing.assert_array_equal(rounded.params[name], params[name])
    again = sequences.quantized(rounded, bits).params["kernel"]
    np.testing.assert_allclose(again, found, rtol=1e-5)


def test_relearning_is_adam_on_the_mean_loss_of_all_texts():
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(5, 5)).astype(np.float32)
  network = bind(lambda w, x: w[x], jnp.asarray(weights))
  labels = rng.integers(0, 5, (12, 6))
  labels[:, 4:] = -1
  text = data.Dataset(rng.integers(0, 5, (12, 6)), labels, num_classes=5)
  little, rest = text.take(np.arange(4)), text.take(np.arange(4, 12))
  curve = sequences.relearned(network, little, rest, steps=12, learning_rate=0.1)
  w, m, v = weights.astype(float), np.zeros((5, 5)), np.zeros((5, 5))
  for step in range(13):
    scores = []
    for given, wanted in zip(rest.inputs, rest.labels, strict=True):
      made, token = [], given[0]  # no prompt: the first token alone is given
      for _ in range(4):
        token = int(w[token].argmax())
        made.append(token)
      scores.append(2 * common(made, wanted[:4].tolist()) / 8)
    np.testing.assert_allclose(curve[step], scores, atol=1e-12)
    gradient = np.zeros((5, 5))
    for given, wanted in zip(little.inputs, little.labels, strict=True):
      for x, y in zip(given[:4], wanted[:4], strict=True):
        p = np.exp(w[x]) / np.exp(w[x]).sum()
        gradient[x] += (p - np.eye(5)[y]) / 4 / 4
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    scaled = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
    w = w - 0.1 * scaled
  assert (curve[-1] != curve[0]).any()


def test_steps_are_counted_to_the_first_that_reaches_the_level():
  curve = np.array([[0, 0, 0.3], [0.2, 0.4, 0.6], [0.1, 0.1, 0.1], [1, 1, 1]])
  for level, want in ((0.05, 0), (0.4, 1), (0.41, 3), (1.0, 3)):
    assert sequences.steps_until(curve, level).mean == want
  never = sequences.steps_until(curve[:3], 0.5)
  assert never.mean == np.inf
  assert (never.low, never.high) == (1, np.inf)  # the third text alone has reached it
  draws = np.random.default_rng(0).integers(0, 3, (4000, 3))
  first = [np.argmax(curve[:, rows].mean(1) >= 0.4) for rows in draws]
  found = sequences.steps_until(curve, 0.4)
  assert (found.low, found.high) == tuple(np.percentile(first, [2.5, 97.5]))
  assert np.isnan(sequences.steps_until(curve[:, :1], 0.1).low)
  broken = sequences.steps_until(np.r_[curve[:2], np.full((2, 3), np.nan)], 0.9)
  assert broken.mean == np.inf


def test_questions_of_all_lengths_become_one_data_set():
  text = data.questions([[1], [2, 3, 4]], [[5, 6], [7]])
  assert text.inputs.tolist() == [[1, 5, 0], [2, 3, 4]]
  assert text.labels.tolist() == [[5, 6, -1], [-1, -1, 7]]
  assert text.num_classes == 8
  assert data.questions([[1]], [[2]], num_classes=50).num_classes == 50


@pytest.mark.parametrize("add", [models.with_adapters, models.with_low_rank])
def test_rounding_reaches_the_frozen_weights_of_a_network_with_adapters(add):
  x = jnp.ones((2, 3))
  network = models.init(models.mlp((8,), 2), jax.random.key(0), x)
  adapted = add(network, x, ("Dense_0",), 2, jax.random.key(1))
  params = jax.tree.map(
    lambda leaf: leaf + 0.01 * jnp.arange(leaf.size).reshape(leaf.shape), adapted.params
  )
  rounded = sequences.quantized(adapted.replace(params=params), 4)
  by_hand = sequences.quantized(network, 4)
  jax.tree.map(
    np.testing.assert_array_equal, models.without_adapters(rounded).params, by_hand.params
  )
  assert (by_hand.params["Dense_0"]["kernel"] != network.params["Dense_0"]["kernel"]).any()
  for small, whole in zip(jax.tree.leaves(rounded.params), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(small, sequences.quantized(bind(jnp.matmul, whole), 4).params)
    assert (small != whole).any()


IMAGES = data.Dataset(np.eye(3, dtype=np.float32), np.array([0, 1, 2]))
NO_TOKENS = {
  "dict": data.Dataset({"id": np.ones((2, 3), np.float32)}, np.ones((2, 3), int)),
  "floats": data.Dataset(np.ones((2, 3), np.float32), np.ones((2, 3), int)),
  "vectors": data.Dataset(np.ones((2, 3, 4), np.float32), np.ones((2, 3), int)),
  "bytes": data.Dataset(np.ones((2, 3), np.uint8), np.ones((2, 3), int)),
}
SHORT = members(range(2))


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda: sequences.rouge_l([[1.0]], [[1]]), r"int \[B, A\].*float64"),
    (lambda: sequences.rouge_l([[1]], [[1], [2]]), r"\[1, 1\] and int64 \[2, 1\]"),
    (lambda: sequences.rouge_l_of_texts(["a"], []), "as many strings of each, got 1 and 0"),
    (lambda: sequences.rouge_l_of_texts([[1]], ["a"]), r"\['list', 'str'\]"),
    (lambda: sequences.continuations(np.eye(3), IMAGES, jnp.matmul), r"labels \[n, T\], got \[3\]"),
    (lambda: sequences.beside_retrained([0.5], [50.0], name="x"), r"50\.0, must be in \[0, 1\]"),
    (lambda: sequences.beside_retrained([0.5], [0.5, 1], name="x"), "got 1 and 2 examples"),
    (lambda: sequences.beside_retrained({}, [0.5], name="x"), "unlearned as an array of numbers"),
    (lambda: sequences.steps_until({}, 0.5), "steps_until needs curve .* got a dict"),
    (lambda: sequences.steps_until([[0.5]], "a"), "level='a', must be a number"),
    (lambda: sequences.truth_ratio({}, [1.0]), "truth_ratio needs right_loss .* got a dict"),
    (lambda: sequences.forget_quality({}, [1.0]), "forget_quality needs truth ratios .* a dict"),
    (lambda: sequences.rouge_l_of_texts("abc", ["abc"]), r"got a str\. One text is \[text\]"),
    (lambda: sequences.rouge_l_of_texts([1.0], ["abc"]), "needs as many strings of each"),
    (lambda: sequences.rouge_l_of_texts(1.0, 1.0), "needs lists of strings, got a float"),
    (lambda: sequences.beside_retrained([np.nan], [0.5], name="x"), "1 of 1 numbers"),
    (lambda: sequences.priv_leak(([1.0], [2.0]), ([1.0, 2], [2.0])), "1 and 2 forget texts"),
    (lambda: sequences.priv_leak(([np.nan], [2.0]), ([1.0], [2.0])), "1 of 1 losses are NaN"),
    (lambda: sequences.truth_ratio([1.0], [[]]), r"\[1\] and \[1, 0\]"),
    (lambda: sequences.truth_ratio([-1.0], [1.0]), r"right_loss -1\.0, must be at least 0"),
    (lambda: sequences.truth_ratio([1.0], [np.nan]), "wrong_losses nan"),
    (lambda: sequences.forget_quality([], [1.0]), "not empty"),
    (lambda: sequences.quantized({"w": 1}, 8), "needs a Network, got dict"),
    (lambda: sequences.quantized(UNLEARNED, 1), r"bits=1, must be in \[2, 16\]"),
    (lambda: sequences.quantized(UNLEARNED, 4.0), r"bits=4\.0"),
    (lambda: sequences.relearned(UNLEARNED, SHORT, SHORT), r"id 0 among the texts .* \(2 in all"),
    (lambda: sequences.relearned(UNLEARNED, SHORT, SHORT, steps=0), "steps=0"),
    (lambda: sequences.relearned(UNLEARNED, SHORT, SHORT, learning_rate=0.0), "learning_rate=0"),
    (lambda: sequences.steps_until([0.1], 0.5), r"a curve \[steps \+ 1, n\], got \[1\]"),
    (lambda: sequences.steps_until([[np.nan]], 0.5), r"\[1, 1\] that begins with NaN"),
    (lambda: sequences.steps_until([[0.1]], 0.0), r"level=0\.0, must be in \(0, 1\]"),
    (lambda: extraction.exposure_of_drawn([1.0], [2.0, 3.0], 3), "size=3.*Use exposure"),
    (lambda: extraction.exposure_of_drawn([1.0], [2.0, 3.0], 2), "size=2, must be at least 3"),
    (lambda: extraction.exposure_of_drawn([np.nan], [2.0], 9), "exposure_of_drawn needs canary"),
    (lambda: data.questions([[1]], []), "1 prompts and 0 answers"),
    (lambda: data.questions([[1]], [[]]), "each answer int"),
    (lambda: data.questions(["word"], [[1]]), "each prompt int.*Encode texts first"),
    (lambda: dataclasses.replace(TASKS, heldout=IMAGES), "heldout to be a Dataset of sequences"),
    (lambda: dataclasses.replace(TASKS, verbatim=None), "verbatim to be a Dataset"),
    (lambda: dataclasses.replace(TASKS, decode="utf-8"), "decode='utf-8'"),
    (lambda: sequences.muse([], RETRAINED, TASKS), "got no unlearned network"),
    (lambda: sequences.muse({"w": 1.0}, RETRAINED, TASKS), r"params is a dict with keys \['w'\]"),
    (lambda: sequences.muse(UNLEARNED, 0.5, TASKS), "params is a float, not callable"),
    (lambda: sequences.muse(UNLEARNED, RETRAINED, {}), r"got a dict, must be sequences\.Tasks"),
    (lambda: sequences.continuations(UNLEARNED, {}), "got a dict as the data, must be a Dataset"),
    (lambda: sequences.relearned(UNLEARNED, SHORT, 0.5), "got a float as the data"),
    (
      lambda: sequences.relearned(UNLEARNED, SHORT.take([0]), NO_TOKENS["floats"].take([1])),
      r"relearned needs tokens int \[n, T\]",
    ),
    (lambda: sequences.priv_leak(0.5, ([1.0], [2.0])), "got a float as losses of unlearned"),
    (lambda: sequences.priv_leak(([1.0], [2.0]), [1.0]), "got a list as losses of retrained"),
  ],
)
def test_mistakes_get_one_line(call, said):
  with pytest.raises(ValueError, match=said) as caught:
    call()
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("kind", "said"),
  [
    ("dict", "got a dict of"),
    ("floats", r"got float32 \[2, 3\]"),
    ("vectors", r"got float32 \[2, 3, 4\]"),
    ("bytes", r"got uint8 \[2, 3\]"),
  ],
)
def test_what_is_no_text_gets_one_line(kind, said):
  for call in (
    lambda: dataclasses.replace(TASKS, retain=NO_TOKENS[kind]),
    lambda: sequences.continuations(UNLEARNED, NO_TOKENS[kind]),
  ):
    with pytest.raises(ValueError, match=rf"needs tokens int \[n, T\] .*{said}") as caught:
      call()
    assert "\n" not in str(caught.value)


def test_a_network_that_diverged_is_named_by_the_text():
  broken = bind(told, UNLEARNED.params.at[2].set(jnp.nan))
  with pytest.raises(ValueError, match="logits of id 2 are NaN"):
    sequences.continuations(broken, TASKS.verbatim)
  with pytest.raises(ValueError, match="logits of id 2 are NaN"):
    sequences.extraction_strength(broken, TASKS.verbatim)


def test_an_absent_package_names_the_extra(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "rouge_score", None)
  with pytest.raises(ImportError, match=r"needs rouge-score.*pip install 'jaxmul\[rouge\]'"):
    sequences.rouge_l_of_texts(["a"], ["a"])


def test_where_nothing_is_told_from_held_out_texts_there_is_nothing_to_divide_by():
  found = sequences.priv_leak(([1.0], [2.0]), ([3.0], [2.0]))[2]
  assert np.isnan(found.value)
  assert "AUC is 0" in found.note
