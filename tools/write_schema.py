"""Write genotypes/schema.json from the code: python tools/write_schema.py"""
import json

from nasnet_zoo.genotype.loader import genotypes_dir
from nasnet_zoo.genotype.schema import json_schema

(genotypes_dir() / 'schema.json').write_text(json.dumps(json_schema(), indent=2) + '\n', encoding='utf-8')
