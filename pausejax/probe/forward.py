"""A forward pass in which pauses can be cut off, replaced or transplanted.

One jitted function takes the lesion as arrays, so all lesions of a shape share
one compiled program. Without a lesion it computes what `Decoder` computes.

A lesion changes, for chosen layers and pauses, one of three things:

  is_cut          no other position attends to the pause in this layer; the
                  pause attends to itself, and all positions stay as they are
  is_replaced     another vector enters the layer at the pause, so that its
                  keys and values are others here and in all later layers
  is_transplanted in this layer, the pause's key and value are computed from
                  another vector, at the pause's own position; the vector of
                  the pause is not changed

B batch, T tokens, D d_model, N query heads, K kv heads, H head_dim, L layers,
M pauses, P places (S M), O options, C ids of the answer, V vocabulary rows,
S depths: the input of every layer, the output.

Rows may have different numbers of pauses: M is that of a prompt of T ids.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pausejax import sharding
from pausejax.config import ModelConfig
from pausejax.inference import decode, score
from pausejax.model import attention, products
from pausejax.model.decoder import Decoder


class Rows(NamedTuple):
  """Prompts with their answers, padded on the right.

  Attributes:
    tokens_BT: int32 ids: prompt, answer.
    positions_BT: int32, the position of each id.
    in_prefix_BT: bool, read only if the prefix is bidirectional.
    pauses_BM: int32, the index in T of each pause; any index for no pause.
    is_probed_BM: bool, whether a lesion changes it: False for no pause, and for
      the pause at which the answer is read.
    reads_BC: int32, the index in T that predicts each id of the answer.
    answers_BC: int32 ids of the answer.
    num_ids_B: int32, how many of them there are.
  """

  tokens_BT: jax.Array
  positions_BT: jax.Array
  in_prefix_BT: jax.Array
  pauses_BM: jax.Array
  is_probed_BM: jax.Array
  reads_BC: jax.Array
  answers_BC: jax.Array
  num_ids_B: jax.Array


class Lesion(NamedTuple):
  """What is changed in which layer at which pause.

  Attributes:
    is_cut_LM: bool.
    is_replaced_LM: bool.
    is_transplanted_LM: bool.
    vectors_LBMD: the other vectors, as they enter each layer.
  """

  is_cut_LM: jax.Array
  is_replaced_LM: jax.Array
  is_transplanted_LM: jax.Array
  vectors_LBMD: jax.Array


class Pass(NamedTuple):
  """What a pass returns.

  Attributes:
    log_prob_B: float32 nats, the sum over the ids of the answer.
    is_greedy_B: bool, whether greedy decoding gives the answer.
    stream_SBMD: the residual stream at the pauses: what enters each layer, and
      what leaves the last one.
    mass_LBNM: float32, the attention of the reading position to each pause.
    even_LBM: float32, the same if all positions that it sees had equal shares.
  """

  log_prob_B: jax.Array
  is_greedy_B: jax.Array
  stream_SBMD: jax.Array
  mass_LBNM: jax.Array
  even_LBM: jax.Array


@jax.jit
def run_rows(
  model: Decoder, rows: Rows, lesion: Lesion, pause_id: jax.Array | int
) -> Pass:
  """Scores the answers of rows under a lesion.

  Args:
    model: the decoder.
    rows: the rows.
    lesion: what is changed; all False for nothing.
    pause_id: the id that greedy decoding never chooses.
  """
  c, positions_BT = model.config, rows.positions_BT

  def run_layer(x_BTD, of_layer):
    block, layer, is_cut_M, is_replaced_M, is_transplanted_M, other_BMD = (
      of_layer
    )
    own_BMD = at_positions(x_BTD, rows.pauses_BM)
    other_BMD = other_BMD.astype(x_BTD.dtype)
    x_BTD = _replaced(x_BTD, rows, is_replaced_M, other_BMD)
    source_BTD = _replaced(x_BTD, rows, is_transplanted_M, other_BMD)
    kept = {}

    def keep(q, k, v, *, window):
      del window
      kept["keys"], kept["values"] = k, v
      return jnp.zeros_like(q)

    def attend(q, k, v, *, window):
      del k, v
      may_BTT = _mask(c, rows, is_cut_M, window)
      weights_BNTT = attention_weights(q, kept["keys"], may_BTT)
      kept["mass"] = _mass(weights_BNTT, rows)
      even_BTT = may_BTT / may_BTT.sum(axis=-1, keepdims=True)
      kept["even"] = _mass(even_BTT[:, None], rows)[:, 0]
      return mix_values(weights_BNTT, kept["values"])

    # Of the first call only the keys and values are computed.
    block(source_BTD, layer, positions_BT, keep, None, 0)
    x_BTD, _ = block(x_BTD, layer, positions_BT, attend, None, 0)
    x_BTD = sharding.constrain(x_BTD, "batch", None, None)
    return x_BTD, (own_BMD, kept["mass"], kept["even"])

  x_BTD, (inputs_LBMD, mass_LBNM, even_LBM) = jax.lax.scan(
    run_layer,
    model.embed(rows.tokens_BT, positions_BT),
    (model.blocks, jnp.arange(c.num_layers), *lesion),
  )
  last_BMD = at_positions(x_BTD, rows.pauses_BM)
  stream_SBMD = jnp.concatenate([inputs_LBMD, last_BMD[None]])
  scores = _scores(model, model.final_norm(x_BTD), rows, pause_id)
  return Pass(*scores, stream_SBMD, mass_LBNM, even_LBM)


@jax.jit
def lens(
  model: Decoder,
  stream_SBMD: jax.Array,
  ids_B: jax.Array,
  pause_id: jax.Array | int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Reads vectors of pauses as if they were the output of the last layer.

  The final norm and the head are applied at every depth (nostalgebraist, 2020,
  "interpreting GPT: the logit lens").

  Args:
    model: the decoder.
    stream_SBMD: from `run_rows`.
    ids_B: int32, the first id of each row's answer.
    pause_id: an id that is never the most likely one.

  Returns:
    (log_prob_SMB, is_top_SMB, top_SMB): float32 nats of `ids_B`, whether it is
    the most likely id, and the most likely id.
  """
  num_depths, batch_size, num_pauses, d_model = stream_SBMD.shape

  def of_place(x_BD):
    logits_BV = model.logits(model.final_norm(x_BD[:, None]))[:, 0]
    log_probs_BV = jax.nn.log_softmax(logits_BV)
    of_ids_B = jnp.take_along_axis(log_probs_BV, ids_B[:, None], axis=1)[:, 0]
    top_B = jnp.argmax(decode.without_pauses(logits_BV, pause_id), axis=1)
    return of_ids_B, top_B == ids_B, top_B

  places_PBD = stream_SBMD.swapaxes(1, 2).reshape(-1, batch_size, d_model)
  read = jax.lax.map(of_place, places_PBD)
  shape = (num_depths, num_pauses, batch_size)
  return jax.tree.map(lambda x: x.reshape(shape), read)


def no_lesion(config: ModelConfig, batch_size: int, num_pauses: int) -> Lesion:
  """Returns the lesion that changes nothing."""
  nowhere_LM = np.zeros((config.num_layers, num_pauses), bool)
  shape = config.num_layers, batch_size, num_pauses, config.d_model
  dtype = products.compute_dtype(config.dtype)
  vectors_LBMD = put_vectors(jnp.zeros(shape, dtype))
  return Lesion(nowhere_LM, nowhere_LM, nowhere_LM, vectors_LBMD)


def put_vectors(vectors_LBMD: jax.Array) -> jax.Array:
  """Returns vectors with their rows split as those of a batch."""
  where = jax.sharding.NamedSharding(
    sharding.current_mesh(), sharding.spec(None, "batch")
  )
  return jax.device_put(vectors_LBMD, where)


def at_positions(x_BTD: jax.Array, positions_BM: jax.Array) -> jax.Array:
  """Returns [B, M, D], the vectors at positions of each row."""
  return jnp.take_along_axis(x_BTD, positions_BM[..., None], axis=1)


def attention_weights(
  q_BTNH: jax.Array, k_BTKH: jax.Array, may_BTT: jax.Array
) -> jax.Array:
  """Returns float32 [B, N, T, T], softmax(q k / sqrt(H)) under a mask."""
  k_BTNH = jnp.repeat(k_BTKH, q_BTNH.shape[2] // k_BTKH.shape[2], axis=2)
  scores_BNTT = jnp.einsum(
    "btnh,bsnh->bnts", q_BTNH, k_BTNH, preferred_element_type=jnp.float32
  ) / math.sqrt(q_BTNH.shape[-1])
  return jax.nn.softmax(jnp.where(may_BTT[:, None], scores_BNTT, -1e30))


def mix_values(weights_BNTT: jax.Array, v_BTKH: jax.Array) -> jax.Array:
  """Returns [B, T, N, H], the weighted sums of values, in their dtype."""
  v_BTNH = jnp.repeat(v_BTKH, weights_BNTT.shape[1] // v_BTKH.shape[2], axis=2)
  return jnp.einsum(
    "bnts,bsnh->btnh", weights_BNTT.astype(v_BTKH.dtype), v_BTNH
  )


def _replaced(x_BTD, rows: Rows, is_other_M, other_BMD) -> jax.Array:
  return x_BTD.at[_changed(rows, is_other_M)].set(other_BMD, mode="drop")


def _changed(rows: Rows, is_on_M) -> tuple[jax.Array, jax.Array]:
  """Returns the indices of changed pauses; of others, one that is dropped."""
  num_rows, num_tokens = rows.tokens_BT.shape
  is_on_BM = rows.is_probed_BM & is_on_M
  row_B1 = jnp.arange(num_rows)[:, None]
  return row_B1, jnp.where(is_on_BM, rows.pauses_BM, num_tokens)


def _mask(config, rows: Rows, is_cut_M, window) -> jax.Array:
  """Returns bool [B, T, T]: the model's own mask, without what is cut."""
  num_tokens = rows.tokens_BT.shape[1]
  is_bidirectional = config.prefix_attention == "bidirectional"
  may_BTT = attention.attention_mask(
    num_tokens, None, rows.in_prefix_BT if is_bidirectional else None, window
  )
  is_cut_BT = jnp.zeros(rows.tokens_BT.shape, bool)
  is_cut_BT = is_cut_BT.at[_changed(rows, is_cut_M)].set(True, mode="drop")
  itself_TT = jnp.eye(num_tokens, dtype=bool)
  return may_BTT & (~is_cut_BT[:, None] | itself_TT)


def _mass(weights_BNTT, rows: Rows) -> jax.Array:
  """Returns [B, N, M], what the reading position gives to each pause."""
  reads_B111 = rows.reads_BC[:, :1, None, None]
  of_reader_BNT = jnp.take_along_axis(weights_BNTT, reads_B111, axis=2)[:, :, 0]
  return jnp.take_along_axis(of_reader_BNT, rows.pauses_BM[:, None], axis=2)


def _scores(model: Decoder, x_BTD, rows: Rows, pause_id):
  """Returns (log_prob_B, is_greedy_B) of the answers."""
  answers_BC = rows.answers_BC
  steps_C = jnp.arange(answers_BC.shape[1])
  is_id_BC = steps_C < rows.num_ids_B[:, None]
  log_prob_BOC, is_greedy_BOC = score.score_tokens(
    model,
    at_positions(x_BTD, rows.reads_BC)[:, None],
    answers_BC[:, None],
    pause_id,
  )
  log_prob_BC, is_greedy_BC = log_prob_BOC[:, 0], is_greedy_BOC[:, 0]
  return (
    jnp.sum(jnp.where(is_id_BC, log_prob_BC, 0.0), axis=1),
    jnp.all(is_greedy_BC | ~is_id_BC, axis=1),
  )
