"""The genotype language: schema, loader and importer."""
