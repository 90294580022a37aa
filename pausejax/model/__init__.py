"""The decoder: NNX modules, used as plain pytrees with `jax` transforms."""
