"""Commands of deployment: export, classify."""
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .common import drop_none, exit_on_error

__all__ = ['classify', 'export']

_OF_CHANNELS = 'By which pictures are normalised, over 0 to 1.'


def _numbers(text: str) -> List[float]:
    return [float(number) for number in text.split(',')]


def _lines(path: Optional[Path]) -> Optional[List[str]]:
    return path and path.read_text(encoding='utf-8').splitlines()


def _sides(text: str) -> List[int]:
    """Height and width, from both or from one for both."""
    sides = [int(side) for side in text.split(',')]
    if len(sides) > 2:
        raise ValueError(f'{len(sides)} sides')
    return [sides[0], sides[-1]]


def export(
        source: str = typer.Argument(metavar='MODEL', help='A name of the zoo, a model folder or hf-hub:OWNER/NAME.'),
        out: Path = typer.Option(..., help='Folder for the files.'),
        checkpoint: Optional[Path] = typer.Option(None, help="MODEL's weights: ours, timm's, Cadene's or Keras'."),
        format: str = typer.Option('onnx', help='onnx, or pt2, a program of torch.export.'),
        layout: str = typer.Option('plain', help='plain, triton or photoprism.'),
        name: Optional[str] = typer.Option(None, help="Of the model in a server's layout; MODEL's by default."),
        labels: Optional[Path] = typer.Option(None, help="The classes' names, one a line."),
        mean: Optional[Any] = typer.Option(None, parser=_numbers, metavar='R,G,B', help=_OF_CHANNELS),
        std: Optional[Any] = typer.Option(None, parser=_numbers, metavar='R,G,B', help=_OF_CHANNELS),
        img_size: Optional[Any] = typer.Option(None, parser=_sides, metavar='SIDE|H,W', help='Of the images.'),
        opset: int = typer.Option(17, help="ONNX's."),
        batch_size: Optional[int] = typer.Option(None, min=1, help='Images at a time; 1 by default.'),
        dynamic_batch: bool = typer.Option(False, '--dynamic-batch', help='Any number of images at a time.'),
        dynamic_size: bool = typer.Option(False, '--dynamic-size', help='Any height and width.'),
        half: bool = typer.Option(False, '--half', help='Compute in float16.'),
        int8: bool = typer.Option(False, '--int8', help='Quantise, calibrated on some of --pictures.'),
        pictures: List[Path] = typer.Option([], help='Pictures, or folders, to compare with PyTorch on.'),
        calibrate: int = typer.Option(64, min=1, help='So many of the pictures are calibrated on.'),
        data: Optional[str] = typer.Option(None, help='A data set on whose test images to measure the accuracy.'),
        softmax: bool = typer.Option(False, '--softmax', help='Give probabilities instead of logits.'),
        with_preprocessing: bool = typer.Option(
            False, '--with-preprocessing', help='Take uint8 images, channels last, and normalise in the graph.'),
        passes: Optional[str] = typer.Option(None, help='Rewrites to apply, by commas, or "none"; all by default.'),
        license: Optional[str] = typer.Option(None, help='Of the weights.'),
        timestamp: Optional[str] = typer.Option(None, help='For the manifest; the same one gives the same bytes.'),
        as_json: bool = typer.Option(False, '--json', help='Print the manifest.'),
) -> None:
    """Write a model as ONNX, rewritten for speed, compared with PyTorch, and with all that goes beside it."""
    from ..deploy.bundle import deploy
    with exit_on_error():
        if half and int8:
            raise ValueError('--half, --int8: choose one')
        any_number = dynamic_batch or layout == 'triton'  # which makes its batches itself
        if any_number and batch_size:
            raise ValueError('--batch-size: goes with neither --dynamic-batch nor --layout triton')
        manifest = deploy(
            source, out, checkpoint=checkpoint, format=format, layout=layout, name=name, class_names=_lines(labels),
            mean=mean, std=std, img_size=img_size, opset=opset, batch_size=None if any_number else batch_size or 1,
            dynamic_size=dynamic_size, precision='float16' if half else 'int8' if int8 else 'float32',
            softmax=softmax, with_preprocessing=with_preprocessing, pictures=pictures or None, calibrate=calibrate,
            data=data, license=license, timestamp=timestamp, command=[Path(sys.argv[0]).name, *sys.argv[1:]],
            passes=None if passes is None else [] if passes == 'none' else passes.split(','))
    if as_json:
        print(json.dumps(manifest))
        return
    shapes = ' -> '.join(f'{name} {shape}' for name, shape in manifest['shapes'].items())
    print(f'{out / manifest["file"]["path"]}: {manifest["file"]["bytes"]:,} bytes, {shapes}')
    for kind, found in manifest['compared_with_pytorch'].items():
        what = 'random images' if kind == 'random' else kind
        print(f'on {what} {found["relative_difference"]:.1e} from PyTorch, the same class for '
              f'{found["same_top1"]} of {found["count"]}')
    if manifest['accuracy']:
        found = manifest['accuracy']
        print(f'of {found["count"]:,} test images of {found["dataset"]} {found["file"]:.2%} right, '
              f'PyTorch in float32 {found["model"]:.2%}')


def classify(
        model: Path = typer.Argument(metavar='MODEL.onnx', help='A file that "export" wrote, or another.'),
        paths: List[Path] = typer.Argument(metavar='PATH…', help='Pictures, and folders of pictures.'),
        top: int = typer.Option(5, min=1, help='Classes to name.'),
        batch_size: int = typer.Option(16, min=1, help='Pictures at a time, where the file leaves it open.'),
        provider: str = typer.Option('auto', help='tensorrt, cuda or cpu; auto takes the first that works.'),
        threads: Optional[int] = typer.Option(None, min=1, help='Of the CPU.'),
        labels: Optional[Path] = typer.Option(None, help="The classes' names, one a line."),
        mean: Optional[Any] = typer.Option(None, parser=_numbers, metavar='R,G,B', help=_OF_CHANNELS),
        std: Optional[Any] = typer.Option(None, parser=_numbers, metavar='R,G,B', help=_OF_CHANNELS),
        img_size: Optional[Any] = typer.Option(None, parser=_sides, metavar='SIDE|H,W', help='Of the images.'),
        interpolation: Optional[str] = typer.Option(None, help='nearest, bilinear, bicubic or lanczos.'),
        crop_pct: Optional[float] = typer.Option(None, help='Of the resized short side, what is cropped.'),
        color_order: Optional[str] = typer.Option(None, help='RGB, BGR or L.'),
        data_layout: Optional[str] = typer.Option(None, '--layout', help='NCHW or NHWC.'),
        dtype: Optional[str] = typer.Option(None, help='float32, or uint8 where the file normalises.'),
        output: Optional[str] = typer.Option(None, help='logits or probabilities.'),
        as_json: bool = typer.Option(False, '--json', help='Print JSON.'),
) -> None:
    """Classify pictures with an ONNX file. What it says of its input can be overruled, or said for it."""
    from ..deploy.classifier import Classifier, Prediction, find_pictures
    with exit_on_error():
        changes: Dict[str, Any] = drop_none(
            class_names=_lines(labels), img_size=img_size, mean=mean, std=std, interpolation=interpolation,
            crop_pct=crop_pct, color_order=color_order, layout=data_layout, dtype=dtype, output=output)
        classifier = Classifier(model, provider, threads, changes)
        files, refused = [], []
        for path in paths:
            try:
                files += find_pictures([path])
            except ValueError as error:
                refused.append(Prediction(path, None, str(error).removeprefix(f'{path}: ')))
        columns = TextColumn('{task.fields[speed]:.1f} img/s'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        found, begun = [], time.perf_counter()
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task('', total=len(files), speed=0.)
            for prediction in classifier.predict(files, top, batch_size):
                found.append(prediction)
                progress.update(task, advance=1, speed=len(found) / (time.perf_counter() - begun))
    speed = len(found) / (time.perf_counter() - begun)
    refused += [p for p in found if p.top is None]
    names = classifier.class_names
    if as_json:
        print(json.dumps(dict(
            model=str(model), provider=classifier.provider, images_per_second=speed,
            results=[dict(path=str(p.path), top=[dict(label=names[k], index=k, probability=share)
                                                 for k, share in p.top]) for p in found if p.top],
            refused=[dict(path=str(p.path), reason=p.reason) for p in refused])))
    else:
        table = Table('picture', 'class', 'probability')
        for p in found:
            for i, (k, share) in enumerate(p.top or []):
                table.add_row('' if i else escape(str(p.path)), escape(names[k]), f'{share:.2%}')
        Console().print(table)
        print(f'{len(found)} pictures, {speed:.1f} a second, on {classifier.provider}')
    for p in refused:
        print(f'refused: {p.path}: {p.reason}', file=sys.stderr)
    if not any(p.top for p in found):
        raise typer.Exit(1)
