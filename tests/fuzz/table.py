"""All readers."""

from tests.fuzz import models, runs, stores, texts

READERS = [*texts.READERS, *stores.READERS, *runs.READERS, *models.READERS]
