"""Exports in transformers, where it is installed: keys, logits, generation.

CI does not have it: run these where torch and transformers are.
"""

import jax
import numpy as np
import pytest

from pausejax import sharding
from pausejax.inference import decode
from pausejax.interop import export
from pausejax.prompt_pauses import PromptPauses
from tests import models
from tests.test_export import saved_run
from tests.test_hf_config import CLASSES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROMPTS = ["The assert statement", "A n\u00e4ive \u201cthing\u201d", "x"]
# Patterns of layers repeat, and prompts are longer than windows.
LARGER = dict(num_layers=6, max_seq_len=128)


@pytest.fixture(autouse=True)
def _scope():
  mesh = sharding.data_mesh(jax.devices()[:1])
  with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
    yield


@pytest.fixture(params=CLASSES)
def exported(request, tmp_path):
  """A run's tokenizer, its random decoder, and both of its export."""
  saved = saved_run(tmp_path, **{**CLASSES[request.param], **LARGER})
  decoder = models.random_model(saved.model, 0)
  out = tmp_path / "out"
  prepared = export.prepare_export(saved, "name")
  export.write_export(prepared, decoder, out)
  model, loading = transformers.AutoModelForCausalLM.from_pretrained(
    out, output_loading_info=True, attn_implementation="eager"
  )
  assert type(model).__name__ == request.param
  assert not any(loading.values()), loading
  loader = (
    "PreTrainedTokenizerFast" if "Qwen2" in request.param else ("AutoTokenizer")
  )
  tokenizer = getattr(transformers, loader).from_pretrained(out)
  return saved.tokenizer, decoder, tokenizer, model.eval()


def test_keys_logits_and_generation_are_those_of_the_run(exported):
  own, decoder, tokenizer, model = exported
  ids_BT = np.random.default_rng(0).integers(0, own.vocab_size, (2, 60))
  batch = dict(
    tokens=ids_BT,
    positions=np.broadcast_to(np.arange(60), ids_BT.shape),
    segment_ids=np.ones_like(ids_BT),
  )
  with torch.no_grad():
    expected = model(torch.tensor(ids_BT)).logits.numpy()
  actual = np.asarray(models.logits(decoder, batch))[..., : own.vocab_size]
  assert np.abs(actual - expected).max() < 1e-4
  for num_pauses in (0, 10):
    _require_same_generation(own, decoder, tokenizer, model, num_pauses)


def _require_same_generation(own, decoder, tokenizer, model, num_pauses):
  pauses = PromptPauses(num_pauses=num_pauses)
  rows = [
    pauses.prompt(ids, bos_id=own.bos_id, pause_id=own.pause_id)
    for ids in own.encode(PROMPTS)
  ]
  texts = [text + "<pause>" * num_pauses for text in PROMPTS]
  inputs = tokenizer(
    texts, padding=True, return_tensors="pt", return_token_type_ids=False
  )
  pairs = zip(inputs.input_ids, inputs.attention_mask, strict=True)
  for row, (ids, is_real) in zip(rows, pairs, strict=True):
    assert ids[is_real.bool()].tolist() == row.tolist()
  new = model.generate(**inputs, max_new_tokens=16)
  new = new[:, inputs.input_ids.shape[1] :].tolist()
  tokens_BT, is_real_BT = decode.left_pad(rows, width=64, pad_id=own.pad_id)
  expected = decode.generate(
    decoder,
    tokens_BT,
    is_real_BT,
    np.zeros_like(is_real_BT),
    jax.random.key(0),
    num_new=16,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_id=own.eos_id,
    pause_id=own.pause_id,
  )
  until = lambda ids: ids[: [*ids, own.eos_id].index(own.eos_id)]
  for ids, row in zip(new, np.asarray(expected).tolist(), strict=True):
    assert until(ids) == until(row)
    assert own.pause_id not in ids
