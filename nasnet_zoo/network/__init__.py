"""From a genotype and a skeleton to a timm model."""
