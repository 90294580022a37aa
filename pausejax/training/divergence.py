"""What a run says that cannot go on, and the checkpoint it leaves newest.

Skipped steps change no parameter, so a checkpoint made between them only holds
a longer series of them. The last one from before the series is made the newest
again: the same command then goes on from there, with other settings if given.
"""

from pausejax import errors
from pausejax.checkpoints.store import Store


def error(
  what: str, store: Store, last_good: int, learning_rate: float
) -> errors.Diverged:
  """Moves later checkpoints to `set_aside` and returns the error to raise.

  Args:
    what: the reason, as the beginning of the message.
    store: the run's checkpoints; all processes call this together.
    last_good: last step that was not skipped.
    learning_rate: peak, of this run.
  """
  step, moved = store.set_aside_after(last_good)
  lower = f"with a lower optim.learning_rate (now {learning_rate:g})"
  if step is None:
    advice = f"no step was saved before that; start again {lower}"
  else:
    advice = (
      f"the last step saved before that is {step}; start the same command "
      f"{lower}, and the run goes on from step {step}"
    )
  if moved:
    steps = ", ".join(map(str, moved))
    advice += f" (later checkpoints, {steps}, were moved to set_aside)"
  return errors.Diverged(f"training diverged: {what}; {advice}")
