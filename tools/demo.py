"""From a genotype to classified images, on scikit-learn's digits: python tools/demo.py [--out DIR]

Draws NASNet-A's cells, compiles a small network of them, trains it, writes it as ONNX, classifies the digits held out
in ONNX Runtime and compares with PyTorch. Two minutes on two cores.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors.torch import save_file

from nasnet_zoo import compile_genotype, draw, load_genotype
from nasnet_zoo.data import load_digits
from nasnet_zoo.export import export_onnx
from nasnet_zoo.recipe import Recipe
from nasnet_zoo.runtime import Classifier
from nasnet_zoo.training import train
from nasnet_zoo.validation import evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('--out', type=Path, default=Path('demo'), help='folder for what is made (demo)')
parser.add_argument('--genotype', default='nasnet_a', help='shipped name or .json file (nasnet_a)')
parser.add_argument('--epochs', type=int, default=25)
parser.add_argument('--seed', type=int, default=0)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
console = Console(highlight=False)
files = {name: args.out / name for name in ('cells.png', 'model.safetensors', 'model.onnx', 'report.json')}

genotype = load_genotype(args.genotype)
draw(genotype, files['cells.png'])
console.print(f'[bold]1. Load and draw[/] {genotype.name} ({genotype.source})')

train_set, test_set = load_digits()
torch.manual_seed(args.seed)
model = compile_genotype(
    genotype, num_cells=1, cell_filters=16, stem='cifar', img_size=8, num_classes=10, in_chans=1, drop_path_rate=0.1)
params = sum(p.numel() for p in model.parameters())
console.print(f'[bold]2. Compile[/] N = 1, F = 16: {len(model.cells)} cells, {params:,} parameters')

console.print(f'[bold]3. Train[/] on {len(train_set.labels):,} digits for {args.epochs} epochs')
start = time.perf_counter()
columns = TextColumn('   loss {task.fields[loss]:.3f}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
with Progress(*columns, console=console) as progress:
    task = progress.add_task('', total=None, loss=float('nan'))
    recipe = Recipe(epochs=args.epochs, batch_size=64, opt='nesterov', lr=0.1, pad=1, pad_mode='edge', flip=False,
                    seed=args.seed)
    train(model, train_set, recipe, on_step=lambda s: progress.update(
        task, completed=s['step'], total=s['steps'], loss=s['loss']))
seconds = time.perf_counter() - start
accuracy = evaluate(model, test_set).top1
save_file(model.state_dict(), files['model.safetensors'])
console.print(f'   {accuracy:.2%} of {len(test_set.labels)} digits held out, after {seconds:.0f} s')

console.print('[bold]4. Export[/] to ONNX')
export_onnx(model, files['model.onnx'], test_set.mean, test_set.std, test_set.class_names)

classifier = Classifier(files['model.onnx'])
images = test_set.images.numpy()
logits = classifier.logits(images)
with torch.inference_mode():
    expected = model(test_set.normalized()).numpy()
difference = float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
onnx_accuracy = float((logits.argmax(1) == test_set.labels.numpy()).mean())
console.print(f'[bold]5. Classify[/] in ONNX Runtime: {onnx_accuracy:.2%} right, {agreement:.2%} as PyTorch has it, '
              f'logits differ by {difference:.1e}')
for image, guess, label in list(zip(images, classifier.classify(images), test_set.labels.tolist()))[:3]:
    rows = [''.join(' ░▒▓█'[pixel // 52] * 2 for pixel in row) for row in image[0]]
    console.print('\n'.join(rows), f'a {label}, classified as {guess}', sep='\n', markup=False)

files['report.json'].write_text(json.dumps(dict(
    genotype=genotype.name, params=params, epochs=args.epochs, seed=args.seed, train_seconds=round(seconds, 1),
    data='scikit-learn digits, 1,347 to train and 450 to test', accuracy=accuracy, onnx_accuracy=onnx_accuracy,
    onnx_relative_difference=difference), indent=2) + '\n')
table = Table('file', 'what', title='Made', title_justify='left')
for file, what in zip(files.values(), ('both cells', 'weights', 'the network for ONNX Runtime', 'these figures')):
    table.add_row(str(file), what)
console.print(table)
if accuracy < 0.97 or onnx_accuracy < 0.97 or difference > 1e-4:
    raise SystemExit('The demo did not reach 97 % or ONNX Runtime differs from PyTorch: something is broken.')
