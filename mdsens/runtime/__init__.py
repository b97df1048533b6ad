"""Files, progress bars, and what JAX has compiled."""
