"""Make a finished run the weights of a model of the zoo: python tools/ship.py runs/b nasnet_b_cifar_small --data …

Writes nasnet_zoo/weights/NAME.safetensors in half precision, copies the run's settings, log and curve to docs/results,
and measures the accuracy of both precisions on the test images, once each. It is for maintainers, in a checkout.
"""
import argparse
import json
import shutil
from pathlib import Path

import timm

from nasnet_zoo.hub import folder as hub
from nasnet_zoo.training.validate import validate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('run', type=Path)
parser.add_argument('name')
parser.add_argument('--data', required=True)
args = parser.parse_args()
root = Path(__file__).resolve().parent.parent

model = timm.create_model(f'local-dir:{args.run}', pretrained=True).eval()
timm.create_model(args.name).load_state_dict(model.state_dict())  # the same network, or an error
half = hub.write_folder(model, args.run / 'half', half=True) / hub.WEIGHTS
weights = root / 'nasnet_zoo' / 'weights' / f'{args.name}.safetensors'
weights.parent.mkdir(exist_ok=True)
shutil.copy(half, weights)

full = validate(str(args.run), args.data)
shipped = validate(args.name, args.data, record=True)
if abs(full['top1'] - shipped['top1']) > 5e-4:
    raise SystemExit(f'half precision costs too much: {full["top1"]:.2%} became {shipped["top1"]:.2%}')
results = root / 'docs' / 'results' / args.name
results.mkdir(parents=True, exist_ok=True)
for name in ('run.json', 'log.csv', 'curve.png'):
    shutil.copy(args.run / name, results / name)
(results / 'accuracy.json').write_text(json.dumps(dict(shipped=shipped, full_precision=full), indent=2) + '\n')
print(json.dumps(shipped))
