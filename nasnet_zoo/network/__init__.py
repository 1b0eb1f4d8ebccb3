"""Compiles a genotype on a skeleton to a timm model."""
