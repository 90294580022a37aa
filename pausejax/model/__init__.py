"""The decoder, in pure JAX: NNX modules used as plain pytrees."""
