"""Metrics of decoded text, by the rules of each task's official script.

A metric is a function of one example, `(prediction, references) -> float` in
[0, 1], where `references` are the correct answers, at least one. The score of a
task is the mean over all its examples in percent, reported with n, the number
of examples: see `score_predictions`.

  SQuAD v1.1             `squad_em`, `squad_f1`          evaluate-v1.1.py
  CoQA                   `coqa_em`, `coqa_f1`            coqa evaluate-v1.0.py
                         `coqa_f1_max`                   T5
  GSM8K                  `gsm8k_accuracy`                grade-school-math
                         `gsm8k_flexible`                lm-evaluation-harness
  LAMBADA                `last_word_em`
  WebQuestions, NQ-open  `alias_em`                      DrQA, T5
  CommonsenseQA, others  `exact_match`

`mean_and_std` gives the spread over seeds; the uncertainty of a score or a
difference is in `evaluation/intervals.py`.
"""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pausejax import errors

TextMetric = Callable[[str, Sequence[str]], float]

_REMOVE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_GSM8K_ANSWER = re.compile(r"#### (-?[0-9.,]+)")
_GSM8K_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")


def normalize_answer(text: str) -> str:
  """Returns the text normalized as in SQuAD's evaluate-v1.1.py.

  In this order: lowercase, remove ASCII punctuation, replace the words a, an,
  the by a space, collapse white space. So "U.S.A." becomes "usa", "well-known"
  becomes "wellknown", and curly quotes and dashes are kept.
  """
  text = text.lower().translate(_REMOVE_PUNCTUATION)
  return " ".join(_ARTICLE.sub(" ", text).split())


def squad_em(prediction: str, references: Sequence[str]) -> float:
  """Returns 1.0 if the normalized prediction equals any reference, else 0.0.

  Two texts that are empty after normalization are equal, as in
  evaluate-v1.1.py.
  """
  return max(_same_answer(prediction, ref) for ref in references)


def squad_f1(prediction: str, references: Sequence[str]) -> float:
  """Returns the largest F1 of words, in [0, 1], over the references.

  Words are those of `normalize_answer`, counted with repetition. Two texts that
  are empty after normalization score 0.0, as in evaluate-v1.1.py, although
  their `squad_em` is 1.0. SQuAD v2 and CoQA score them 1.0.
  """
  return max(_word_f1(prediction, ref) for ref in references)


def coqa_em(prediction: str, references: Sequence[str]) -> float:
  """Returns CoQA's exact match in [0, 1], by the rule of `coqa_f1`."""
  return _leave_one_out([_same_answer(prediction, ref) for ref in references])


def coqa_f1(prediction: str, references: Sequence[str]) -> float:
  """Returns CoQA's F1 in [0, 1]: mean over i of the maximum without answer i.

  The official script leaves each human answer out once, so that humans, who are
  scored against the others, and systems are compared with the same number of
  answers. A prediction that matches one answer of four scores 3/4. A single
  reference is used as it is. Equal references each count; the
  lm-evaluation-harness removes duplicates first, so its numbers differ.
  """
  return _leave_one_out([_coqa_word_f1(prediction, ref) for ref in references])


def coqa_f1_max(prediction: str, references: Sequence[str]) -> float:
  """Returns the largest CoQA F1 over all references, in [0, 1], as in T5."""
  return max(_coqa_word_f1(prediction, ref) for ref in references)


def gsm8k_accuracy(prediction: str, references: Sequence[str]) -> float:
  """Returns 1.0 if the number after the first "#### " is correct, else 0.0.

  This is strict-match of the lm-evaluation-harness. Numbers are compared as
  strings without commas, dollar signs and one trailing dot: "18.0" is not "18".
  `is_correct` of openai/grade-school-math differs only in that it keeps the
  dot, so that "18." is incorrect there.

  Args:
    prediction: a solution; without "#### " and a number it is incorrect.
    references: the full published answer ("... #### 18"), or its number.
  """
  match = _GSM8K_ANSWER.search(prediction)
  return _same_number(match.group(1) if match else None, references)


def gsm8k_flexible(prediction: str, references: Sequence[str]) -> float:
  """Returns 1.0 if the last number of the prediction is correct, else 0.0.

  This is flexible-extract of the lm-evaluation-harness, whose pattern matches
  any two or more of `$0-9.,` as a number: "18..." and "18 ..." are incorrect.
  Arguments and comparison are those of `gsm8k_accuracy`.
  """
  matches = _GSM8K_NUMBER.findall(prediction)
  return _same_number(matches[-1] if matches else None, references)


def last_word_em(prediction: str, references: Sequence[str]) -> float:
  """Returns 1.0 if the first word of the prediction is the reference.

  Words end at white space. Case counts ("shane" is not "Shane"), and so does
  punctuation, in which no reference ends ("Shane." is incorrect). A model
  finetuned on LAMBADA stops after the word. The lm-evaluation-harness instead
  checks whether greedy decoding starts with the reference's tokens, whatever
  follows, and so may accept "Shane.".

  Args:
    prediction: the decoded continuation.
    references: one word each; a reference of several words never matches.
  """
  first = prediction.split()[:1]
  return max(float(first == [ref.strip()]) for ref in references)


def alias_em(prediction: str, references: Sequence[str]) -> float:
  """Returns 1.0 if the prediction is any alias after SQuAD's normalization.

  DrQA and T5's closed-book tasks score WebQuestions and NQ-open in this way.
  The lm-evaluation-harness scores NQ-open by its own patterns, which leave
  double spaces, and WebQuestions by whether an alias is decoded greedily; its
  numbers are not comparable.
  """
  return squad_em(prediction, references)


def exact_match(prediction: str, references: Sequence[str]) -> float:
  """Returns 1.0 if the prediction, stripped of white space, is a reference.

  Case, punctuation and inner white space count.
  """
  return max(float(prediction.strip() == ref.strip()) for ref in references)


def score_predictions(
  predictions: Mapping[str, str],
  references: Mapping[str, Sequence[str]],
  metrics: Mapping[str, TextMetric],
) -> dict[str, float]:
  """Returns the mean of each metric over all references, in percent.

  A question without a prediction scores 0 and counts in the mean, as in SQuAD's
  evaluate-v1.1.py. (CoQA's script leaves it out.)

  Args:
    predictions: id -> decoded text; ids that `references` lacks are ignored.
    references: id -> correct answers.
    metrics: name -> function of one example.

  Returns:
    "n": number of references; "num_missing": number of references without a
    prediction; "num_unknown": number of ignored predictions; and name ->
    percent in [0, 100].

  Raises:
    UserError: there are no references, or an id has no list of at least one.
  """
  _require_references(references)
  answered = [key for key in references if key in predictions]
  scores = {
    name: sum(metric(predictions[key], references[key]) for key in answered)
    for name, metric in metrics.items()
  }
  return {
    "n": len(references),
    "num_missing": len(references) - len(answered),
    "num_unknown": len(predictions) - len(answered),
    **{name: 100.0 * s / len(references) for name, s in scores.items()},
  }


def mean_and_std(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
  """Returns the mean and the sample standard deviation (divided by n - 1).

  The deviation of a single value is 0.0.
  """
  std = np.std(values, ddof=1) if len(values) > 1 else 0.0
  return float(np.mean(values)), float(std)


def _same_answer(prediction: str, reference: str) -> float:
  return float(normalize_answer(prediction) == normalize_answer(reference))


def _word_f1(prediction: str, reference: str) -> float:
  """2 P R / (P + R), which is 2 x shared words / (words + words)."""
  predicted = normalize_answer(prediction).split()
  expected = normalize_answer(reference).split()
  shared = collections.Counter(predicted) & collections.Counter(expected)
  return 2 * shared.total() / max(1, len(predicted) + len(expected))


def _coqa_word_f1(prediction: str, reference: str) -> float:
  """CoQA's script normalizes like SQuAD's; two empty answers score 1.0."""
  if not normalize_answer(prediction) and not normalize_answer(reference):
    return 1.0
  return _word_f1(prediction, reference)


def _leave_one_out(scores: list[float]) -> float:
  """Mean over i of the maximum without scores[i]; a single score unchanged."""
  if len(scores) == 1:
    return scores[0]
  best = [max(scores[:i] + scores[i + 1 :]) for i in range(len(scores))]
  return sum(best) / len(best)


def _same_number(number: str | None, references: Sequence[str]) -> float:
  """1.0 if the cleaned number is that of a reference; 0.0 if it is None."""
  if number is None:
    return 0.0
  expected = [_clean_number(ref.split("####")[-1]) for ref in references]
  return float(_clean_number(number) in expected)


def _clean_number(text: str) -> str:
  text = text.strip().replace(",", "").replace("$", "")
  return text.removesuffix(".")


def _require_references(references: Mapping[str, Sequence[str]]) -> None:
  if not references:
    raise errors.UserError("there are no references to score against")
  for key, answers in references.items():
    # A str is a sequence of letters, too.
    if isinstance(answers, str) or not answers:
      raise errors.UserError(
        f"references of {key!r}: expected a list of at least one answer, "
        f"got {answers!r}"
      )
