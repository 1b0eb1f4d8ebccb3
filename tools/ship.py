"""Make the result of a finished training run the weights of a model of the package:

    python tools/ship.py runs/b nasnet_b_cifar_small --data …

This tool is for maintainers and works in a checkout only. It measures the accuracy on the test images once in full and
once in half precision, copies the weights in half precision to nasnet_zoo/weights/NAME.safetensors, and the settings,
the log and the learning curve of the run to docs/results/NAME.
"""
import argparse
import json
import shutil
import tempfile
from pathlib import Path

import timm

from nasnet_zoo.cli.common import exit_on_error
from nasnet_zoo.files import atomic_write, write_json
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
    with exit_on_error():
        ship(args.run, args.name, args.data)


def ship(run_folder: Path, name: str, data: str) -> None:
    """Measure both precisions, and then copy everything."""
    model = timm.create_model(f'local-dir:{run_folder}', pretrained=True).eval()
    timm.create_model(name).load_state_dict(model.state_dict())  # raises unless it is the same network
    run = json.loads((run_folder / 'run.json').read_text(encoding='utf-8'))
    run.pop('config', None)  # it names local folders
    full = validate(str(run_folder), data)
    with tempfile.TemporaryDirectory() as temporary:
        half = write_folder(model, Path(temporary, name), half=True)
        shipped = validate(str(half), data, record=True)
        if abs(full['top1'] - shipped['top1']) > MAX_LOSS:
            raise ValueError(f'half precision changes the accuracy too much: from {full["top1"]:.2%} to '
                             f'{shipped["top1"]:.2%}')
        weights = ROOT / 'nasnet_zoo' / 'weights' / f'{name}.safetensors'
        with atomic_write(weights) as part:
            shutil.copyfile(half / WEIGHTS, part)
    results = ROOT / 'docs' / 'results' / name
    results.mkdir(parents=True, exist_ok=True)
    for file in ('log.csv', 'curve.png'):
        shutil.copy(run_folder / file, results / file)
    write_json(results / 'run.json', run)
    write_json(results / 'accuracy.json', dict(shipped=shipped, full_precision=full))
    print(json.dumps(shipped))


if __name__ == '__main__':
    main()
