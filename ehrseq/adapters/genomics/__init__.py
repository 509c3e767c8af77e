"""Genomes: variants, scores, expression and wearables as tables; association and sequence models in JAX."""
