"""Log-likelihoods of given answers, for all options of a row at once.

The prefix, with its pauses, is processed once. The tokens of all options then
go through one pass, as branches of a tree: an option attends to the prefix and
to itself, and its positions continue from the end of the prefix.

B batch, T prefix tokens, O options of a row, C tokens of an option, J tokens
of all branches of a row, S cache slots, D d_model, V vocabulary rows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pausejax import errors
from pausejax.inference import cached, decode
from pausejax.model.decoder import Decoder
from pausejax.prompt_pauses import NO_TOKEN_PAUSES, TokenPauses

# How to normalize the sum of log-probabilities before comparing options.
NORMALIZATIONS = ("sum", "per_token", "per_character")

_TOKENS_AT_A_TIME = 256  # Their logits take 33 MB at 32k ids.


def normalize(
  how: str,
  log_prob_BO: np.ndarray,
  num_tokens_BO: np.ndarray,
  num_characters_BO: np.ndarray,
) -> np.ndarray:
  """Returns float [B, O] in nats: the sum, or the mean per token or character.

  Raises:
    UsageError: `how` is not one of `NORMALIZATIONS`.
  """
  errors.require_one_of("normalization", how, NORMALIZATIONS)
  sizes = {
    "sum": np.ones_like(num_tokens_BO),
    "per_token": num_tokens_BO,
    "per_character": num_characters_BO,
  }
  return log_prob_BO / np.maximum(sizes[how], 1)


@functools.partial(jax.jit, static_argnames="behind")
def score_options(
  model: Decoder,
  tokens_BT: jax.Array,
  is_real_BT: jax.Array,
  in_prefix_BT: jax.Array,
  options_BOC: jax.Array,
  num_tokens_BO: jax.Array,
  moves_BT: jax.Array | None = None,
  *,
  pause_id: jax.Array | int,
  behind: TokenPauses = NO_TOKEN_PAUSES,
) -> tuple[jax.Array, jax.Array]:
  """Scores the options of each row.

  Probabilities are over the whole vocabulary, including `<pause>`.

  Args:
    model: the decoder.
    tokens_BT: int32 prefixes with their pauses, from `decode.left_pad`.
    is_real_BT: bool, False on the padding.
    in_prefix_BT: bool, see `cached.prefill`.
    options_BOC: int32 ids, padded on the right.
    num_tokens_BO: int32; 0 if there is no such option.
    moves_BT: bool or None, see `cached.prefill`.
    pause_id: first id of the pauses, which greedy decoding never chooses.
    behind: the pauses after each id of an option.

  Returns:
    (log_prob_BO, is_greedy_BO): float32 nats, the sum over an option's tokens,
    -inf for no option; and bool, True where greedy decoding gives the option.
  """
  _, num_options, option_len = options_BOC.shape
  decoder = cached.unstack(model)
  prefix = cached.prefill(
    decoder,
    tokens_BT,
    is_real_BT,
    in_prefix_BT,
    moves_BT,
    num_free=num_options * (option_len - 1) * behind.period,
  )
  x_BOCD = _branch_vectors(decoder, prefix, options_BOC, behind)
  log_prob_BOC, is_greedy_BOC = score_tokens(
    decoder.model, x_BOCD, options_BOC, pause_id
  )
  is_token_BOC = jnp.arange(option_len) < num_tokens_BO[..., None]
  is_option_BO = num_tokens_BO > 0
  sum_BO = jnp.sum(jnp.where(is_token_BOC, log_prob_BOC, 0.0), axis=-1)
  return (
    jnp.where(is_option_BO, sum_BO, -jnp.inf),
    jnp.all(is_greedy_BOC | ~is_token_BOC, axis=-1) & is_option_BO,
  )


def require_numbers(log_probs: np.ndarray) -> None:
  """Raises UserError if a log-probability is NaN."""
  if np.isnan(log_probs).any():
    raise errors.UserError(
      "the model gives NaN as the log-probability of an answer, although its "
      "parameters are finite: its activations overflow; use another step"
    )


def _branch_vectors(decoder, prefix, options_BOC, behind):
  """Returns [B, O, C, D]: the vectors that predict the options' tokens."""
  # The last token of an option predicts nothing.
  inputs_BOC = behind.spread(options_BOC[:, :, :-1])
  batch_size, num_options, branch_len = inputs_BOC.shape
  moves_C = behind.moves(branch_len // behind.period)
  option_J = jnp.repeat(jnp.arange(num_options), branch_len)
  index_J = jnp.tile(jnp.arange(branch_len), num_options)
  is_own_JJ = option_J[:, None] == option_J
  last = decoder.model.config.max_seq_len - 1
  moved_J = jnp.tile(jnp.cumsum(moves_C) - 1, num_options)
  # Only padding exceeds the model's positions.
  positions_BJ = jnp.minimum(prefix.next_position_B1() + moved_J, last)
  prefix_len = prefix.is_real_BT.shape[1]
  places_J = prefix_len + index_J
  x_BJD, _ = cached.extend(
    decoder,
    inputs_BOC.reshape(batch_size, len(option_J)),
    positions_BT=positions_BJ,
    places_T=places_J,
    places_S=jnp.concatenate([jnp.arange(prefix_len), places_J]),
    mask_BTS=_prefix_and_options(
      prefix.is_real_BT, is_own_JJ & (index_J <= index_J[:, None])
    ),
    cache=prefix.cache,
    offset=prefix_len,
  )
  # The last pause after a token predicts the next one.
  later_BOCD = x_BJD.reshape(*inputs_BOC.shape, x_BJD.shape[-1])
  later_BOCD = later_BOCD[:, :, behind.period - 1 :: behind.period]
  first_BO1D = jnp.broadcast_to(
    prefix.last_BD[:, None, None],
    (batch_size, num_options, 1, x_BJD.shape[-1]),
  )
  return jnp.concatenate([first_BO1D, later_BOCD], axis=2)


def _prefix_and_options(is_real_BT, sees_JJ):
  """Returns bool [B, J, S]: the prefix without padding, then `sees_JJ`."""
  rows = (is_real_BT.shape[0], *sees_JJ.shape)
  is_real_BJT = jnp.broadcast_to(
    is_real_BT[:, None], (rows[0], rows[1], is_real_BT.shape[1])
  )
  return jnp.concatenate([is_real_BJT, jnp.broadcast_to(sees_JJ, rows)], axis=2)


def score_tokens(model, x_BOCD, ids_BOC, pause_id):
  """Returns each token's log-probability and whether it is the greedy one."""
  batch_size, d_model = len(x_BOCD), x_BOCD.shape[-1]

  def one_of_each_row(x_BD, ids_B):
    logits_BV = model.logits(x_BD[:, None])[:, 0]
    id_B1 = ids_B[:, None]
    logit_B = jnp.take_along_axis(logits_BV, id_B1, axis=1)[:, 0]
    greedy_B = jnp.argmax(decode.without_pauses(logits_BV, pause_id), axis=1)
    return logit_B - jax.nn.logsumexp(logits_BV, axis=1), greedy_B == ids_B

  # Each chunk has all rows, since a mesh splits them.
  scores = jax.lax.map(
    lambda x_and_ids: one_of_each_row(*x_and_ids),
    (
      jnp.moveaxis(x_BOCD.reshape(batch_size, -1, d_model), 1, 0),
      ids_BOC.reshape(batch_size, -1).T,
    ),
    batch_size=-(-_TOKENS_AT_A_TIME // batch_size),
  )
  return tuple(x.T.reshape(ids_BOC.shape) for x in scores)
