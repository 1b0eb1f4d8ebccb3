"""From a search to classified images, on scikit-learn's digits.

The demo searches for a cell, compiles the winner, NASNet-A and NASNet-Z to networks of about the same size, trains them
in the same way, exports the winner to ONNX, classifies the test digits in ONNX Runtime, and compares the results with
PyTorch. It takes about two minutes on two CPU cores.
"""
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors.torch import save_model

from .data.datasets import load_digits
from .deploy.classifier import Classifier
from .deploy.export import export_onnx, make_preprocessing
from .drawing import draw
from .extras import require
from .files import write_json
from .genotype.loader import load_genotype
from .genotype.schema import Genotype
from .graph.compare import relative_difference
from .network.nasnet import NASNet, compile_genotype
from .progress import make_progress
from .search.config import ChildSettings, SearchConfig
from .search.match import matched_filters, reference_cost
from .training.metrics import evaluate
from .training.recipe import Recipe
from .training.trainer import train

__all__ = ['DemoError', 'DemoSettings', 'run_demo']

NETWORK: Dict[str, Any] = dict(num_cells=1, stem='cifar', img_size=8, num_classes=10, in_chans=1)
RECIPE = dict(batch_size=64, opt='nesterov', lr=0.1, pad=1, pad_mode='edge', flip=False)
FILTERS = 12  # of NASNet-A's first cells
OTHERS = ('nasnet_a', 'nasnet_z')  # trained like the winner
CONTENT = {
    'search': 'the search: cell.json, report.html, every child', 'cells.png': "the winner's cells",
    'model.safetensors': "the winner's weights", 'model.onnx': 'the winner for ONNX Runtime',
    'report.json': 'the figures above'}
console = Console(highlight=False)


class DemoError(RuntimeError):
    """Raised if the results of the demo show that something is broken."""


class DemoSettings(NamedTuple):
    """What can be chosen about the demo.

    Attributes:
        out: Folder for the files.
        trials: Number of children in the search.
        epochs: Number of epochs for which the networks are trained.
        seed: Seed of all random numbers.
    """
    out: Path
    trials: int = 16
    epochs: int = 10
    seed: int = 0


def _search(args: DemoSettings) -> Tuple[Genotype, Dict[str, Any]]:
    """Search with small children: one normal cell in each stage, 8 filters, two epochs. It resumes when interrupted."""
    console.print(f'[bold]1. Search[/] in the NASNet space: {args.trials} children, two at a time')
    import optuna

    from .search.run import run_search
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = args.out / 'search'
    with make_progress(
            '   best accuracy {task.fields[best]:.1%} on digits held out of training', stderr=False) as progress:
        task = progress.add_task('', total=args.trials, best=0.)
        config = SearchConfig(
            out=folder, data='digits', protocol='paper', trials=args.trials, workers=2, top=2, final_epochs=6,
            resume=(folder / 'search.json').exists(),
            child=ChildSettings(num_cells=1, cell_filters=8, val_share=0.2,
                                recipe=dict(RECIPE, epochs=2, seed=args.seed)))
        report = run_search(
            config, on_progress=lambda now: progress.update(task, completed=now.finished, best=now.best or 0.),
            log=lambda line: progress.console.print(f'   {escape(line)}'))
    console.print(f'   The full report is {escape(str(folder / "report.html"))}')
    return load_genotype(folder / 'cell.json'), report


def _compile_and_train(genotype: Genotype, cell_filters: int, args: DemoSettings) -> Tuple[NASNet, Dict[str, Any]]:
    """Return a trained network, and its size, accuracy on the test digits and training time."""
    train_set, test_set = load_digits()
    torch.manual_seed(args.seed)
    model = compile_genotype(genotype, cell_filters=cell_filters, drop_path_rate=0.1, **NETWORK)
    params = sum(p.numel() for p in model.parameters())
    begun = time.perf_counter()
    text = f'   {genotype.name}, F = {cell_filters}, {params:,} parameters: loss {{task.fields[loss]:.3f}}'
    with make_progress(text, stderr=False) as progress:
        task = progress.add_task('', total=None, loss=float('nan'))
        train(model, train_set, Recipe(epochs=args.epochs, seed=args.seed, **RECIPE), on_step=lambda s: progress.update(
            task, completed=s['step'], total=s['steps'], loss=s['loss']))
    seconds = time.perf_counter() - begun
    accuracy = evaluate(model, test_set).top1
    return model, dict(genotype=genotype.name, cell_filters=cell_filters, params=params, accuracy=accuracy,
                       train_seconds=round(seconds, 1))


def _export(model: NASNet, file: Path) -> Classifier:
    """Write the trained network as an ONNX file, and return it opened in ONNX Runtime."""
    console.print('[bold]3. Export[/] the winner to ONNX')
    test_set = load_digits()[1]
    preprocessing = make_preprocessing(model, test_set.class_names, test_set.mean, test_set.std)
    export_onnx(model, file, preprocessing, batch_size=None)
    return Classifier(file)


def _classify(classifier: Classifier, model: NASNet) -> Dict[str, float]:
    """Classify the test digits with the file, show two of them, and return accuracy and difference from PyTorch."""
    test_set = load_digits()[1]
    images = test_set.images.numpy()
    logits = classifier.logits(images)
    with torch.inference_mode():
        expected = model(test_set.normalized()).numpy()
    difference = relative_difference(logits, expected)
    accuracy = float((logits.argmax(1) == test_set.labels.numpy()).mean())
    console.print(f'[bold]4. Classify[/] in ONNX Runtime: accuracy {accuracy:.2%}, relative difference of the logits '
                  f'from PyTorch {difference:.1e}')
    for image, guess, label in list(zip(images, classifier.classify(images), test_set.labels.tolist()))[:2]:
        rows = [''.join(' ░▒▓█'[pixel // 52] * 2 for pixel in row) for row in image[0]]
        console.print('\n'.join(rows), f'a {label}, classified as {guess}', sep='\n', markup=False)
    return dict(onnx_accuracy=accuracy, onnx_relative_difference=difference)


def _print_tables(networks: List[Dict[str, Any]], files: Dict[str, Path]) -> None:
    """Print the results of the networks, and the files that were written."""
    table = Table('network', 'F', 'parameters', 'training', 'accuracy on test digits', title_justify='left',
                  title='The winner and cells of the package. With a single seed, such differences are mostly chance.')
    for row in networks:
        table.add_row(row['genotype'], str(row['cell_filters']), f'{row["params"]:,}', f'{row["train_seconds"]:.0f} s',
                      f'{row["accuracy"]:.2%}')
    console.print(table)
    table = Table('file', 'content', title='Files', title_justify='left')
    for name, content in CONTENT.items():
        table.add_row(escape(str(files[name])), content)
    console.print(table)


def run_demo(args: DemoSettings) -> Dict[str, Any]:
    """Run the demo. It prints what it does. If it was interrupted, it resumes the search and trains again.

    Returns:
        The results as JSON data, which are also in ``report.json``.

    Raises:
        ImportError: If a package that the demo needs is not installed.
        DemoError: If the winner does not reach an accuracy of 90 %, or if ONNX Runtime differs from PyTorch.
    """
    require('the demo', 'demo')
    args.out.mkdir(parents=True, exist_ok=True)
    files = {name: args.out / name for name in CONTENT}

    cell, found = _search(args)
    draw(cell, files['cells.png'])

    console.print(f'[bold]2. Compile and train[/] the winner, NASNet-A and NASNet-Z for {args.epochs} epochs')
    wanted = dict(NETWORK, cell_filters=FILTERS)
    target = reference_cost('params', **wanted)
    (model, ours), *others = [_compile_and_train(genotype, matched_filters(genotype, 'params', target, **wanted), args)
                              for genotype in (cell, *map(load_genotype, OTHERS))]
    rows = [row for _, row in others]
    model.eval()
    save_model(model, str(files['model.safetensors']))

    onnx_results = _classify(_export(model, files['model.onnx']), model)
    report = dict(
        data='scikit-learn digits, 1,347 to train and 450 to test', epochs=args.epochs, seed=args.seed,
        search=dict(children=found['children'], accuracy_held_out=found['accuracy']), winner=ours,
        **dict(zip(OTHERS, rows)), **onnx_results)
    write_json(files['report.json'], report)
    _print_tables([ours, *rows], files)
    accuracy = min(ours['accuracy'], onnx_results['onnx_accuracy'])
    difference = onnx_results['onnx_relative_difference']
    if difference > 1e-4:
        raise DemoError(f'{files["model.onnx"]}: the logits in ONNX Runtime differ from those in PyTorch by '
                        f'{difference:.1e}; at most 1e-4 is expected')
    if accuracy < 0.9:
        raise DemoError(f'the winner classifies only {accuracy:.2%} correctly after {args.epochs} epochs; 90 % is '
                        'expected after ten epochs (--epochs)')
    return report
