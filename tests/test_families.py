"""Open models: the same logits as transformers, and what is refused.

The cases are in `open_families.py`. Without torch and transformers, stored
logits of transformers are compared; with them, those that it computes, too.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pausejax.checkpoints import leaves
from pausejax.config import ModelConfig
from pausejax.inference import decode
from pausejax.interop import families
from pausejax.model import decoder
from tests import numpy_decoder, open_families
from tests.open_families import CASES, IDS_T, NUM_IDS, NUM_LAST

# Of the shapes of tensors: another value is refused with a table of tensors.
SIZES = {
  *("num_layers", "d_model", "num_heads", "num_kv_heads", "head_dim", "d_ff"),
  "max_seq_len",
}
FIRST = [f"{kind}_0" for kind in families.FAMILIES]
PAGE = "docs/architectures.md"
QUICK = ["llama_0", "gemma3_text_0", "gpt_neox_0", "gpt2_0", "phi_0"]
REST = [name for name in CASES if name not in QUICK]


@functools.cache
def saved() -> dict[str, np.ndarray]:
  with np.load(open_families.SAVED) as file:
    return dict(file)


@functools.cache
def named(name: str) -> dict[str, np.ndarray]:
  return open_families.leaves_of(CASES[name])


def jax_model(name: str, **changes) -> decoder.Decoder:
  config = open_families.model_config(CASES[name], **changes)
  abstract = jax.eval_shape(lambda: decoder.init(config, 0))
  values = {n: jnp.asarray(x) for n, x in named(name).items()}
  return leaves.unflatten(abstract, values)


@jax.jit
def jax_logits(model: decoder.Decoder) -> jax.Array:
  positions_BT = jnp.arange(len(IDS_T))[None]
  x_BTD = model(
    jnp.asarray(IDS_T[None]),
    positions_BT=positions_BT,
    segment_ids_BT=jnp.ones_like(positions_BT),
  )
  return model.logits(x_BTD)[0, :, :NUM_IDS]


@functools.cache
def numpy_logits(name: str, dropped: str = "") -> np.ndarray | None:
  """Logits without one field; None: its tensors are not those of the file."""
  config = open_families.model_config(CASES[name], dropped)
  shapes = {n: s for n, (s, _) in open_families.shapes(config).items()}
  weights = {n: x for n, x in named(name).items() if x.shape == shapes.get(n)}
  if weights.keys() != shapes.keys():
    return None
  return numpy_decoder.forward(config, weights, IDS_T)


def test_every_family_has_models():
  assert open_families.OPTIONS.keys() == families.FAMILIES.keys()
  stored = {n for n in saved() if not n.endswith("_bfloat16_error")}
  assert stored == {*CASES}, "run python -m tests.open_families"
  assert open_families.SAVED.stat().st_size < 500_000


@pytest.mark.parametrize(
  "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in REST)]
)
def test_logits_are_those_of_transformers(name):
  logits_TV = np.asarray(jax_logits(jax_model(name)))
  np.testing.assert_allclose(
    logits_TV[-NUM_LAST:], saved()[name], atol=1e-4, rtol=0
  )


@pytest.mark.parametrize("kind", families.FAMILIES)
def test_the_numpy_decoder_has_the_logits_of_every_model(kind):
  for name in (n for n in CASES if n.rpartition("_")[0] == kind):
    np.testing.assert_allclose(
      numpy_logits(name)[-NUM_LAST:],
      saved()[name],
      atol=1e-4,
      rtol=0,
      err_msg=f"{name} {CASES[name]}",
    )


@pytest.mark.parametrize("kind", families.FAMILIES)
def test_logits_differ_without_any_one_of_the_fields(kind):
  names = [n for n in CASES if n.rpartition("_")[0] == kind]
  differs: dict[str, bool] = {}
  for name in names:
    config = open_families.model_config(CASES[name])
    for field in families.parse_config(CASES[name])[1]:
      if field in SIZES or differs.get(field):
        continue
      other = open_families.model_config(CASES[name], field)
      if not same_model(config, other):
        differs[field] = is_far(numpy_logits(name), numpy_logits(name, field))
  assert differs and all(differs.values()), differs


def same_model(config: ModelConfig, other: ModelConfig) -> bool:
  """Whether they differ in nothing, or in defaults of fields that are given."""
  only_bias = dataclasses.replace(
    other, bias=config.bias, norm_bias=config.norm_bias
  )
  return only_bias == config and (
    open_families.shapes(config) == open_families.shapes(other)
  )


def is_far(logits_TV: np.ndarray | None, other_TV: np.ndarray | None) -> bool:
  return other_TV is None or np.abs(logits_TV - other_TV).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_bfloat16_is_as_near_as_that_of_transformers(name):
  logits_TV = np.asarray(jax_logits(jax_model(name, dtype="bfloat16")))
  error = open_families.relative_error(logits_TV, numpy_logits(name))
  # Both are rounded, in other places.
  assert 0 < error < 1.5 * saved()[f"{name}_bfloat16_error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST)
def test_cached_decoding_with_pauses_is_that_of_the_whole_row(name):
  model = jax_model(name)
  pause_id = NUM_IDS - 1
  rows = [[*IDS_T[:n] % pause_id, *[pause_id] * 3] for n in (3, 17, 9)]
  tokens_BT, is_real_BT = decode.left_pad(rows, width=24, pad_id=0)
  answers = decode.generate(
    model,
    tokens_BT,
    is_real_BT,
    is_real_BT & (tokens_BT != pause_id),
    jax.random.key(0),
    num_new=8,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    eos_id=NUM_IDS,  # Never.
    pause_id=pause_id,
  )
  for row, answer in zip(rows, np.asarray(answers), strict=True):
    ids = list(row)
    for _ in range(8):
      last_V = numpy_decoder.forward(model.config, named(name), ids)[-1]
      last_V[pause_id] = -np.inf
      ids.append(int(np.argmax(last_V)))
    assert answer.tolist() == ids[len(row) :]


@pytest.mark.slow
@pytest.mark.parametrize("kind", families.FAMILIES)
def test_transformers_computes_the_stored_logits(kind):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  for name, values in CASES.items():
    if values["model_type"] != kind:
      continue
    exact_TV, error = open_families.transformers_logits(values)
    np.testing.assert_allclose(
      exact_TV[-NUM_LAST:], saved()[name], atol=2e-5, rtol=0, err_msg=name
    )
    assert error == pytest.approx(saved()[f"{name}_bfloat16_error"], rel=0.3)
    # What today's transformers writes is read as the same model.
    written = transformers.AutoConfig.for_model(**values).to_dict()
    config = open_families.model_config(values)
    again = open_families.model_config(written)
    changed = {
      f.name: (getattr(config, f.name), getattr(again, f.name))
      for f in dataclasses.fields(config)
      if getattr(config, f.name) != getattr(again, f.name)
    }
    assert not changed, name


def page_rows() -> list[str]:
  """The table of docs/architectures.md."""
  rows = []
  for kind, family in families.FAMILIES.items():
    fields: dict[str, None] = {}
    for values in CASES.values():
      if values["model_type"] == kind:
        fields |= dict.fromkeys(families.parse_config(values)[1])
    names = ", ".join(f"`{f}`" for f in fields if f not in {*SIZES, "bias"})
    rows.append(f"| `{kind}` | {family.architecture} | {names} |")
  return rows


def test_the_page_of_architectures_is_true():
  page = (pathlib.Path(__file__).parent.parent / PAGE).read_text()
  _, *rows = [line for line in page.splitlines() if line.startswith("| `")]
  assert rows == page_rows()
  assert f"{len(CASES)} small random models" in page
