import collections
import fractions
import itertools
import json
import os
import pathlib
import random
import string

import pytest

from pausejax import errors, metrics

REAL = os.environ.get("PAUSEJAX_REAL_DATA", "")
ALL = (
  metrics.squad_em,
  metrics.squad_f1,
  metrics.coqa_em,
  metrics.coqa_f1,
  metrics.coqa_f1_max,
  metrics.gsm8k_accuracy,
  metrics.gsm8k_flexible,
  metrics.last_word_em,
  metrics.alias_em,
  metrics.exact_match,
)
# Articles, what only looks like one, both kinds of punctuation, characters
# whose lower case is longer, combining marks, no-break spaces, numbers.
PIECES = (
  *("a", "an", "the", "The", "AN", "a.n", "t-he", "the_", "thé", "another"),
  *("cat", "Cat", "dog", "dogs", "cat cat", "U.S.A.", "don't", "’s", "“the”"),
  *("", " ", "\t", "\n", "\u00a0", "\u2003", ".", ",", "—", "…", "«", "_", "$"),
  *("İ", "ẞ", "e\u0301", "日本", "the—cat", "3", "3.5", "1,000", "²", "a²"),
)


def independent_normalize(text):
  """The same rule without a pattern: words are runs of letters and digits."""
  text = "".join(c for c in text.lower() if c not in set(string.punctuation))
  runs = ["".join(run) for _, run in itertools.groupby(text, str.isalnum)]
  kept = [" " if run in ("a", "an", "the") else run for run in runs]
  return " ".join("".join(kept).split())


def independent_f1(prediction, reference):
  """Takes shared words off a list one by one, then precision and recall."""
  predicted = independent_normalize(prediction).split()
  left = independent_normalize(reference).split()
  num_wanted = len(left)
  for word in predicted:
    if word in left:
      left.remove(word)
  num_same = num_wanted - len(left)
  if num_same == 0:
    return fractions.Fraction(0)
  precision = fractions.Fraction(num_same, len(predicted))
  recall = fractions.Fraction(num_same, num_wanted)
  return 2 * precision * recall / (precision + recall)


def adversarial_texts(num_texts, seed):
  rng = random.Random(seed)
  return [
    rng.choice(["", " "]).join(rng.choices(PIECES, k=rng.randrange(9)))
    for _ in range(num_texts)
  ]


def real(name):
  path = pathlib.Path(REAL, name)
  if not path.exists():
    pytest.skip(f"PAUSEJAX_REAL_DATA has no {name}")
  return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
  ("text", "normal"),
  [
    ("The  Cat!", "cat"),
    ("U.S.A.", "usa"),
    ("a well-known\tman", "wellknown man"),
    # Punctuation goes first and leaves no space, so this becomes an article.
    ("a.n", ""),
    ("the_", ""),
    # An article is a whole word; a dash that is not ASCII ends a word.
    ("theatre another", "theatre another"),
    ("the—cat", "—cat"),
    ("“the” cat", "“ ” cat"),
    ("\u00a0x\u00a0", "x"),
    ("", ""),
  ],
)
def test_normalize_answer(text, normal):
  assert metrics.normalize_answer(text) == normal


@pytest.mark.parametrize(
  ("prediction", "reference", "em", "f1"),
  [
    ("The cat.", "cat", 1, 1),
    # big red cat sat / big cat: 2 of 4 are right, 2 of 2 are found.
    ("the big red cat sat", "a big cat", 0, 2 / 3),
    # Repetition counts: 1 of 3 is right, 1 of 2 is found.
    ("cat cat cat", "cat dog", 0, 2 / 5),
    # 2 of 3 are right, 2 of 2 are found.
    ("cat dog cat", "cat cat", 0, 4 / 5),
    ("dog", "cat", 0, 0),
    ("", "cat", 0, 0),
    # Nothing is left of both: equal, and yet no shared word.
    ("the", "...", 1, 0),
    ("", "", 1, 0),
  ],
)
def test_squad_by_hand(prediction, reference, em, f1):
  assert metrics.squad_em(prediction, [reference]) == em
  assert metrics.alias_em(prediction, [reference]) == em
  assert metrics.squad_f1(prediction, [reference]) == pytest.approx(f1)


def test_squad_takes_the_best_reference():
  references = ["dog", "a white cat", "Cat."]
  assert metrics.squad_em("the cat", references) == 1
  assert metrics.squad_f1("the cat", references) == 1
  # white / white cat: all of 1 is right, 1 of 2 is found.
  assert metrics.squad_f1("white", references) == pytest.approx(2 / 3)


def test_squad_agrees_with_an_independent_definition():
  predictions = adversarial_texts(900, seed=0)
  references = adversarial_texts(900, seed=1)
  seen = collections.Counter()
  for prediction, reference in zip(predictions, references, strict=True):
    normal = independent_normalize(prediction)
    same = normal == independent_normalize(reference)
    f1 = independent_f1(prediction, reference)
    assert metrics.normalize_answer(prediction) == normal
    assert metrics.squad_em(prediction, [reference]) == same
    assert metrics.squad_f1(prediction, [reference]) == pytest.approx(float(f1))
    seen[same, 0 < f1 < 1] += 1
  # The texts meet all cases: equal, partly equal, different.
  assert min(seen[True, False], seen[False, True], seen[False, False]) > 20


@pytest.mark.parametrize(
  ("prediction", "references", "em", "f1", "f1_max"),
  [
    ("The cat", ["cat"], 1, 1, 1),
    # Whichever is left out, a "yes" is among the others.
    ("yes", ["yes", "Yes.", "no", "yeah"], 1, 1, 1),
    # Without the third reference nothing is right: (1 + 1 + 0 + 1) / 4.
    ("no", ["yes", "Yes.", "no", "yeah"], 3 / 4, 3 / 4, 1),
    ("cat", ["cat", "dog"], 1 / 2, 1 / 2, 1),
    # Alone they give F1 1, 2/3 and 1/2; (2/3 + 1 + 1) / 3 = 8/9.
    ("white cat", ["the white cat", "cat", "a white dog"], 2 / 3, 8 / 9, 1),
    # Two empty answers agree, one alone does not.
    ("the", [""], 1, 1, 1),
    ("", ["cat"], 0, 0, 0),
    ("", ["!", "cat"], 1 / 2, 1 / 2, 1),
  ],
)
def test_coqa_by_hand(prediction, references, em, f1, f1_max):
  assert metrics.coqa_em(prediction, references) == pytest.approx(em)
  assert metrics.coqa_f1(prediction, references) == pytest.approx(f1)
  assert metrics.coqa_f1_max(prediction, references) == pytest.approx(f1_max)


@pytest.mark.parametrize(
  ("prediction", "reference", "strict", "flexible"),
  [
    ("She has <<9*2=18>>18.\n#### 18", "9 * 2 = 18\n#### 18", 1, 1),
    ("#### 18", "18", 1, 1),
    ("#### 18.", "18", 1, 1),
    ("#### 1,450,000", "#### 1450000", 1, 1),
    ("#### -3", "-3", 1, 1),
    ("So it is $1,080.", "1,080", 0, 1),
    # Strings are compared, not numbers.
    ("#### 18.0", "18", 0, 0),
    # The pattern wants the number right after one space.
    ("#### $18", "18", 0, 1),
    ("####18", "18", 0, 1),
    # The first "####" counts for one, the last number for the other.
    ("#### 18\n#### 20", "18", 1, 0),
    ("#### 20 or 18", "18", 0, 1),
    # Dots alone pass for a number.
    ("It is 18 ...", "18", 0, 0),
    ("no idea", "18", 0, 0),
    ("", "18", 0, 0),
  ],
)
def test_gsm8k_by_hand(prediction, reference, strict, flexible):
  assert metrics.gsm8k_accuracy(prediction, [reference]) == strict
  assert metrics.gsm8k_flexible(prediction, [reference]) == flexible


@pytest.mark.parametrize(
  ("prediction", "score"),
  [
    ("Shane", 1),
    (" Shane\n", 1),
    ("Shane went", 1),
    ("shane", 0),
    ("Shane.", 0),
    ("Shanes", 0),
    ("went Shane", 0),
    ("", 0),
  ],
)
def test_last_word(prediction, score):
  assert metrics.last_word_em(prediction, [" Shane"]) == score


def test_alias_is_any_of_them():
  aliases = ["Jamaican Creole English Language", "Jamaican English"]
  assert metrics.alias_em("the jamaican  english", aliases) == 1
  assert metrics.alias_em("English", aliases) == 0


def test_exact_match_keeps_case_and_punctuation():
  assert metrics.exact_match(" bank\n", ["park", "bank"]) == 1
  assert metrics.exact_match("Bank", ["bank"]) == 0
  assert metrics.exact_match("bank.", ["bank"]) == 0


@pytest.mark.parametrize("metric", ALL, ids=lambda m: m.__name__)
def test_a_score_is_a_float_from_0_to_1(metric):
  texts = adversarial_texts(200, seed=2)
  for prediction, *references in zip(texts, texts[1:], texts[2:], strict=False):
    score = metric(prediction, references)
    assert type(score) is float
    assert 0 <= score <= 1


def test_missing_predictions_score_zero_and_unknown_ones_are_counted():
  references = {"x": ["cat"], "y": ["dog"], "z": ["a cow", "cow"], "w": [""]}
  predictions = {"x": "the cat", "y": "dog house", "other": "cat"}
  scores = metrics.score_predictions(
    predictions, references, {"em": metrics.squad_em, "f1": metrics.squad_f1}
  )
  # z and w are missing although "" would have matched w.
  assert scores == {
    "n": 4,
    "num_missing": 2,
    "num_unknown": 1,
    "em": 25.0,
    "f1": pytest.approx(100 * (1 + 2 / 3) / 4),
  }


@pytest.mark.parametrize("references", [{}, {"x": []}, {"x": "cat"}])
def test_references_that_cannot_be_scored_are_refused(references):
  with pytest.raises(errors.UserError, match="reference"):
    metrics.score_predictions({"x": "cat"}, references, {})


def test_mean_and_std():
  # Squares of the distances from 2.5 sum to 5, divided by 3.
  assert metrics.mean_and_std([1, 2, 3, 4]) == pytest.approx((2.5, 1.2909944))
  assert metrics.mean_and_std([7.5]) == (7.5, 0.0)


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
@pytest.mark.parametrize(
  ("system", "em", "f1", "num_missing", "num_unknown"),
  [
    ("bert_ens", 86.20624, 92.19558, 0, 0),
    ("lr_baseline", 40.14191, 50.98154, 13, 28),
  ],
)
def test_squad_of_published_systems(system, em, f1, num_missing, num_unknown):
  articles = json.loads(real("squad/dev-v1.1.json"))["data"]
  references = {
    qa["id"]: [answer["text"] for answer in qa["answers"]]
    for article in articles
    for paragraph in article["paragraphs"]
    for qa in paragraph["qas"]
  }
  scores = metrics.score_predictions(
    json.loads(real(f"squad/predictions/{system}.json")),
    references,
    {"em": metrics.squad_em, "f1": metrics.squad_f1},
  )
  assert scores == {
    "n": 10_570,
    "num_missing": num_missing,
    "num_unknown": num_unknown,
    "em": pytest.approx(em, abs=5e-6),
    "f1": pytest.approx(f1, abs=5e-6),
  }


@pytest.mark.skipif(not REAL, reason="PAUSEJAX_REAL_DATA is not set")
def test_gsm8k_answers_are_right_by_both_metrics():
  lines = real("gsm8k/test.jsonl").splitlines()
  answers = {str(i): json.loads(line)["answer"] for i, line in enumerate(lines)}
  scores = metrics.score_predictions(
    answers,
    {key: [answer] for key, answer in answers.items()},
    {"strict": metrics.gsm8k_accuracy, "flexible": metrics.gsm8k_flexible},
  )
  assert (scores["n"], scores["num_missing"]) == (1319, 0)
  assert (scores["strict"], scores["flexible"]) == (100.0, 100.0)
