"""`--model pausejax` and `--model hf` answer alike (lm-eval, torch, ...).

A random Llama with a row for `<pause>` is saved by transformers and read as a
run: the same requests get the same log-likelihoods and texts. So do requests
with pauses, whose ids transformers is given as text.
"""

import json

import numpy as np
import pytest

from pausejax import cli

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
lm_eval = pytest.importorskip("lm_eval")
tokenizers = pytest.importorskip("tokenizers")

POSITIONS = 96
TEXT = (
  "The quick brown fox jumps over the lazy dog. How much is it? 12, or 4.\n"
)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bos"])
def folders(request, tmp_path_factory):
  """(Hugging Face folder, the same model as a run, whether texts get BOS)."""
  folder = tmp_path_factory.mktemp("parity")
  hf = folder / "hf"
  torch.manual_seed(0)
  size = write_tokenizer(folder, adds_bos=request.param)
  config = transformers.LlamaConfig(
    vocab_size=size,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=POSITIONS,
    bos_token_id=0,
    eos_token_id=0,
    initializer_range=0.3,
    tie_word_embeddings=True,
  )
  model = transformers.LlamaForCausalLM(config).float().eval()
  model.generation_config.suppress_tokens = [size - 1]
  model.save_pretrained(hf)
  for name in ("tokenizer.json", "tokenizer_config.json"):
    (folder / name).rename(hf / name)
  assert cli.main(["import", f"--from={hf}", f"--out={folder / 'run'}"]) == 0
  return str(hf), str(folder / "run"), request.param


def write_tokenizer(folder, *, adds_bos: bool) -> int:
  """Writes a small byte-level BPE with `<pause>`; returns its number of ids."""
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  made.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=["<|endoftext|>"],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator([TEXT] * 3, trainer)
  if adds_bos:
    made.post_processor = tokenizers.processors.TemplateProcessing(
      single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
  pause = tokenizers.AddedToken("<pause>", special=True, normalized=False)
  made.add_special_tokens([pause])
  made.save(str(folder / "tokenizer.json"))
  settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
  settings |= {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
  (folder / "tokenizer_config.json").write_text(json.dumps(settings))
  return made.get_vocab_size()


def models(folders, **settings):
  """(transformers' model, ours), as the harness makes them."""
  from lm_eval.models.huggingface import HFLM

  from pausejax.interop.lm_eval import PauseJaxLM

  hf, run, bos = folders
  return (
    HFLM(hf, device="cpu", dtype="float32", batch_size=4),
    PauseJaxLM(run, batch_size=8, add_bos_token=bos, **settings),
  )


def instances(kind: str, rows: list[tuple]):
  return [lm_eval.api.instance.Instance(kind, {}, row, 0) for row in rows]


def pairs(pauses: str = "") -> list[tuple[str, str]]:
  """Contexts from none to longer than the model, some with options."""
  contexts = ["", "The", "How much is", "ends in spaces  ", TEXT * 2, TEXT * 9]
  contexts += ["<|endoftext|>The", "The <|endoftext|>quick<pause>"]
  return [
    (context + pauses, continuation)
    for context in contexts
    for continuation in (" dog", " the lazy <pause>dog. 12", "é\n", TEXT)
  ]


def test_log_likelihoods(folders):
  hf, ours = models(folders)
  asked = instances("loglikelihood", pairs())
  expected, found = hf.loglikelihood(asked), ours.loglikelihood(asked)
  for (a, a_greedy), (b, b_greedy) in zip(expected, found, strict=True):
    assert a == pytest.approx(b, abs=1e-3)
    assert a_greedy == b_greedy
  assert ours.get_model_info()["num_truncated"] > 0


def test_rolling_log_likelihoods(folders):
  hf, ours = models(folders)
  asked = instances(
    "loglikelihood_rolling",
    [("",), ("The",), ("<|endoftext|>a <pause>",), (TEXT * 9,)],
  )
  expected = hf.loglikelihood_rolling(asked)
  np.testing.assert_allclose(
    ours.loglikelihood_rolling(asked), expected, atol=1e-3
  )


def test_texts(folders):
  hf, ours = models(folders)
  limits = [
    {"until": ["\n"], "max_gen_toks": 40, "do_sample": False},
    {"until": ["e", " "], "max_gen_toks": 40},
    {"until": [], "max_gen_toks": 7, "temperature": 0.0},
  ]
  contexts = ["The", "How much<|endoftext|> is<pause>", TEXT * 2, TEXT * 9]
  rows = [(context, kwargs) for context in contexts for kwargs in limits]
  expected = hf.generate_until(instances("generate_until", rows))
  found = ours.generate_until(instances("generate_until", rows))
  assert found == expected
  assert len({*found}) > 3


@pytest.mark.parametrize("num_pauses", [1, 10])
def test_with_pauses_transformers_reads_them_as_text(folders, num_pauses):
  hf, ours = models(folders, num_pauses=num_pauses)
  text = "<pause>" * num_pauses
  # Contexts that fit and end in no space, which the harness would move.
  rows = [("The", " dog"), ("How much is", " it? 12"), (TEXT.strip(), " lazy")]
  expected = hf.loglikelihood(
    instances("loglikelihood", [(c + text, after) for c, after in rows])
  )
  found = ours.loglikelihood(instances("loglikelihood", rows))
  assert [x for x, _ in found] == pytest.approx(
    [x for x, _ in expected], abs=1e-3
  )
  kwargs = {"until": ["\n"], "max_gen_toks": 20}
  expected = hf.generate_until(
    instances("generate_until", [(c + text, kwargs) for c, _ in rows])
  )
  found = ours.generate_until(
    instances("generate_until", [(c, kwargs) for c, _ in rows])
  )
  assert found == expected
