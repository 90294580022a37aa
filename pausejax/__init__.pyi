"""The public names as type checkers see them."""

from pausejax import config as config
from pausejax.api import insert_pauses as insert_pauses
from pausejax.api import make_batch as make_batch
from pausejax.api import read_metrics as read_metrics
from pausejax.api import train as train
from pausejax.errors import UserError as UserError
from pausejax.inference.loaded import LoadedRun as LoadedRun
from pausejax.inference.loaded import load as load
from pausejax.losses import masked_loss as masked_loss
from pausejax.pause import PauseSpec as PauseSpec
from pausejax.pause import remove_pauses as remove_pauses
from pausejax.prompt_pauses import PromptPauses as PromptPauses

__version__: str
