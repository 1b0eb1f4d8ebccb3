"""From a search to classified images, on scikit-learn's digits: python tools/demo.py [--out DIR]

Searches for a cell, compiles the winner and NASNet-A to networks of the same size, trains both alike, writes the
winner's as ONNX, classifies the digits held out in ONNX Runtime and compares with PyTorch. Two minutes on two cores.
"""
import argparse
import json
import time
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import optuna
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors.torch import save_model

from nasnet_zoo import compile_genotype, draw, load_genotype
from nasnet_zoo.data import load_digits
from nasnet_zoo.deploy.classifier import Classifier
from nasnet_zoo.deploy.export import export_onnx, make_preprocessing
from nasnet_zoo.description import describe
from nasnet_zoo.genotype.schema import Genotype
from nasnet_zoo.network.nasnet import NASNet
from nasnet_zoo.search import ChildSettings, SearchConfig, run_search
from nasnet_zoo.training.metrics import evaluate
from nasnet_zoo.training.recipe import Recipe
from nasnet_zoo.training.trainer import train

NETWORK = dict(num_cells=1, stem='cifar', img_size=8, num_classes=10, in_chans=1)
RECIPE = dict(batch_size=64, opt='nesterov', lr=0.1, pad=1, pad_mode='edge', flip=False)
FILTERS = 12  # of NASNet-A
COLUMNS = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
console = Console(highlight=False)


def search(args: argparse.Namespace) -> Tuple[Genotype, Dict[str, Any]]:
    """Children of one cell a stage, 8 filters and a few epochs; goes on where it was interrupted."""
    console.print(f'[bold]1. Search[/] the NASNet space with PPO: {args.trials} children, two at a time')
    folder = args.out / 'search'
    text = TextColumn('   best {task.fields[best]:.1%} of the digits held out of training')
    with Progress(text, *COLUMNS, console=console) as progress:
        task = progress.add_task('', total=args.trials, best=0.)
        config = SearchConfig(
            out=folder, data='digits', trials=args.trials, workers=2, top=2, final_epochs=6,
            resume=(folder / 'search.json').exists(),
            child=ChildSettings(num_cells=1, cell_filters=8, val_share=0.2,
                                recipe=dict(RECIPE, epochs=2, seed=args.seed)))
        report = run_search(
            config, on_progress=lambda now: progress.update(task, completed=now.finished, best=now.best or 0.),
            log=lambda line: progress.console.print(f'   {line}'))
    console.print(f'   {folder / "report.html"} has it all')
    return load_genotype(folder / 'cell.json'), report


def filters_for(genotype: Genotype, params: int) -> int:
    """Filters with which the network comes closest to so many parameters."""
    return min(range(4, 41, 2), key=lambda filters: abs(
        describe(genotype, cell_filters=filters, **NETWORK)['params'] - params))


def trained(genotype: Genotype, cell_filters: int, args: argparse.Namespace) -> Tuple[NASNet, Dict[str, Any]]:
    """A network after its training, and what it reaches on the digits held out."""
    train_set, test_set = load_digits()
    torch.manual_seed(args.seed)
    model = compile_genotype(genotype, cell_filters=cell_filters, drop_path_rate=0.1, **NETWORK)
    params = sum(p.numel() for p in model.parameters())
    begun = time.perf_counter()
    text = TextColumn(f'   {genotype.name}, F = {cell_filters}, {params:,} parameters: loss {{task.fields[loss]:.3f}}')
    with Progress(text, *COLUMNS, console=console) as progress:
        task = progress.add_task('', total=None, loss=float('nan'))
        train(model, train_set, Recipe(epochs=args.epochs, seed=args.seed, **RECIPE), on_step=lambda s: progress.update(
            task, completed=s['step'], total=s['steps'], loss=s['loss']))
    seconds = time.perf_counter() - begun
    accuracy = evaluate(model, test_set).top1
    return model, dict(genotype=genotype.name, cell_filters=cell_filters, params=params, accuracy=accuracy,
                       train_seconds=round(seconds, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('demo'), help='folder for what is made (demo)')
    parser.add_argument('--trials', type=int, default=16, help='children of the search')
    parser.add_argument('--epochs', type=int, default=10, help='of the networks')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    files = {name: args.out / name for name in ('cells.png', 'model.safetensors', 'model.onnx', 'report.json')}

    cell, found = search(args)
    draw(cell, files['cells.png'])

    rival = load_genotype('nasnet_a')
    console.print(f'[bold]2. Compile and train[/] the winner and NASNet-A for {args.epochs} epochs')
    size = describe(rival, cell_filters=FILTERS, **NETWORK)['params']
    model, ours = trained(cell, filters_for(cell, size), args)
    _, theirs = trained(rival, FILTERS, args)
    model.eval()
    save_model(model, str(files['model.safetensors']))

    console.print('[bold]3. Export[/] the winner to ONNX')
    test_set = load_digits()[1]
    preprocessing = make_preprocessing(model, test_set.class_names, test_set.mean, test_set.std)
    export_onnx(model, files['model.onnx'], preprocessing, batch_size=None)

    classifier = Classifier(files['model.onnx'])
    images = test_set.images.numpy()
    logits = classifier.logits(images)
    with torch.inference_mode():
        expected = model(test_set.normalized()).numpy()
    difference = float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
    onnx_accuracy = float((logits.argmax(1) == test_set.labels.numpy()).mean())
    console.print(f'[bold]4. Classify[/] in ONNX Runtime: {onnx_accuracy:.2%} right, logits differ from PyTorch\'s by '
                  f'{difference:.1e}')
    for image, guess, label in list(zip(images, classifier.classify(images), test_set.labels.tolist()))[:2]:
        rows = [''.join(' ░▒▓█'[pixel // 52] * 2 for pixel in row) for row in image[0]]
        console.print('\n'.join(rows), f'a {label}, classified as {guess}', sep='\n', markup=False)

    files['report.json'].write_text(json.dumps(dict(
        data='scikit-learn digits, 1,347 to train and 450 to test', epochs=args.epochs, seed=args.seed,
        search=dict(children=found['children'], accuracy_held_out=found['accuracy']), winner=ours, nasnet_a=theirs,
        onnx_accuracy=onnx_accuracy, onnx_relative_difference=difference), indent=2) + '\n')
    table = Table('network', 'F', 'parameters', 'training', f'of {len(images)} digits held out', title_justify='left',
                  title='Beside NASNet-A, one seed: such differences are mostly luck')
    for row in ours, theirs:
        table.add_row(row['genotype'], str(row['cell_filters']), f'{row["params"]:,}', f'{row["train_seconds"]:.0f} s',
                      f'{row["accuracy"]:.2%}')
    console.print(table)
    table = Table('file', 'what', title='Made', title_justify='left')
    for file, what in ((args.out / 'search', 'the search: cell.json, report.html, every child'), *zip(files.values(), (
            "the winner's cells", 'its weights', 'its network for ONNX Runtime', 'these figures'))):
        table.add_row(str(file), what)
    console.print(table)
    if ours['accuracy'] < 0.9 or onnx_accuracy < 0.9 or difference > 1e-4:
        raise SystemExit('The winner did not reach 90 % or ONNX Runtime differs from PyTorch: something is broken.')


if __name__ == '__main__':
    main()
