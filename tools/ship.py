"""Make the result of a finished training run the weights of a model of the package:

    python tools/ship.py runs/b nasnet_b_cifar_small --data …

This tool is for maintainers and works in a checkout only. It writes the weights to nasnet_zoo/weights/NAME.safetensors
in half precision, measures the accuracy on the test images once in full and once in half precision, and copies the
settings, the log and the learning curve of the run to docs/results/NAME.
"""
import argparse
import json
import shutil
from pathlib import Path

import timm

from nasnet_zoo.files import atomic_write
from nasnet_zoo.hub.folder import WEIGHTS, write_folder
from nasnet_zoo.training.validate import validate

ROOT = Path(__file__).resolve().parent.parent
MAX_LOSS = 5e-4  # of top-1 accuracy, by half precision


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run', type=Path, help='Run folder of the finished training run.')
    parser.add_argument('name', help='Name of the model that gets the weights.')
    parser.add_argument('--data', required=True, help='Data set with the test images.')
    return parser


def main() -> None:
    args = make_parser().parse_args()

    model = timm.create_model(f'local-dir:{args.run}', pretrained=True).eval()
    timm.create_model(args.name).load_state_dict(model.state_dict())  # raises unless it is the same network
    half = write_folder(model, args.run / 'half', half=True) / WEIGHTS
    weights = ROOT / 'nasnet_zoo' / 'weights' / f'{args.name}.safetensors'
    weights.parent.mkdir(exist_ok=True)
    with atomic_write(weights) as part:
        shutil.copyfile(half, part)

    full = validate(str(args.run), args.data)
    shipped = validate(args.name, args.data, record=True)
    if abs(full['top1'] - shipped['top1']) > MAX_LOSS:
        raise SystemExit(f'half precision changes the accuracy too much: from {full["top1"]:.2%} to '
                         f'{shipped["top1"]:.2%}')
    results = ROOT / 'docs' / 'results' / args.name
    results.mkdir(parents=True, exist_ok=True)
    for name in ('log.csv', 'curve.png'):
        shutil.copy(args.run / name, results / name)
    run = json.loads((args.run / 'run.json').read_text(encoding='utf-8'))
    run.pop('config', None)  # it names local folders
    for name, content in (('run.json', run), ('accuracy.json', dict(shipped=shipped, full_precision=full))):
        with atomic_write(results / name) as part:
            part.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    print(json.dumps(shipped))


if __name__ == '__main__':
    main()
