"""ecrec_jax: a lightweight JAX research toolkit for e-commerce search and recommendation."""
