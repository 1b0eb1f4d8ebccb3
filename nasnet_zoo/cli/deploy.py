"""The commands of deployment: export and classify."""
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from ..checked import printable
from ..checkpoints.entries import Entry
from ..data.pictures import find_pictures
from ..data.preprocessing import Preprocessing
from ..data.tree import LeftOut, describe_left_out
from ..deploy.classifier import Classifier, Prediction
from ..deploy.config import ExportConfig, parse_numbers, parse_size
from ..deploy.runtimes import AUTO_PROVIDERS, RUNTIME_PRECISIONS, RUNTIMES
from ..progress import make_progress
from .common import AsJson, drop_none, exit_on_error, print_report
from .options import with_settings

__all__ = ['classify', 'export']


def _read_lines(path: Optional[Path]) -> Optional[List[str]]:
    """Return the lines of a text file. Editors on Windows begin it with a byte order mark."""
    try:
        return None if path is None else path.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: is not UTF-8 ({error}); save it in this encoding') from None


@with_settings(ExportConfig)
def export(
        config: ExportConfig,
        labels: Optional[Path] = typer.Option(None, help='File with the names of the classes, one per line.'),
        half: bool = typer.Option(False, '--half', help='Same as --precision float16.'),
        int8: bool = typer.Option(False, '--int8', help='Same as --precision int8.'),
        as_json: AsJson = False,
) -> None:
    """Export a trained model to a file that runs without this package, with its class names and a manifest.

    The graph is rewritten for speed, and the outputs of the file are compared with PyTorch's before it is kept.
    """
    from ..deploy.bundle import deploy
    with exit_on_error():
        given = {'--precision': config.precision} if 'precision' in config.model_fields_set else {}
        given.update({'--half': 'float16'} if half else {}, **({'--int8': 'int8'} if int8 else {}))
        if len(given) > 1:
            raise ValueError(f'{", ".join(given)}: choose one')
        changes = drop_none(class_names=_read_lines(labels), precision=next(iter(given.values()), None))
        config = ExportConfig(**{**dict(config), **changes})
        manifest = deploy(config, command=[Path(sys.argv[0]).name, *sys.argv[1:]])
    print_report(manifest, as_json, lambda manifest: _print_manifest(config.out, manifest))


def _print_manifest(out: Path, manifest: Dict[str, Any]) -> None:
    shapes = ' -> '.join(f'{name} {shape}' for name, shape in manifest['shapes'].items())
    print(printable(f'{out / manifest["file"]["path"]}: {manifest["file"]["bytes"]:,} bytes, {shapes}'))
    weights = manifest['weights'] or {}
    if weights.get('entry') or weights.get('ignored'):
        described = Entry(weights['entry'], {}, tuple(weights['others']), tuple(weights['ignored'])).describe()
        print(printable(f'{weights["file"]}: {described}'))
    for kind, found in manifest['compared_with_pytorch'].items():
        images = 'random images' if kind == 'random' else 'given images'
        print(f'{images}: relative difference from PyTorch {found["relative_difference"]:.1e}, same class for '
              f'{found["same_top1"]} of {found["count"]}')
    found = manifest['accuracy']
    if found:
        print(f'accuracy on {found["count"]:,} test images of {found["dataset"]}: {found["file"]:.2%}, '
              f'of PyTorch in float32 {found["model"]:.2%}')


def _override(field: str, help: str, *flags: str) -> Any:
    """Return an option that overrides a field of the file's preprocessing, with the field's choices in its help."""
    choices = get_args(Preprocessing.model_fields[field].annotation)
    return typer.Option(None, *flags, help=help + (f' One of: {", ".join(choices)}.' if choices else ''))


_PATHS = typer.Argument(
    None, metavar='[PATH…]', help='Image files and folders of images. They may be left out with --data.')
_BATCH_SIZE = typer.Option(16, min=1, help='Number of images in a batch, if the batch size of the file is dynamic.')
_DATA = typer.Option(None, help='Data set of small images, on whose test images the accuracy is measured.')
_MEAN = typer.Option(
    None, parser=parse_numbers, metavar='R,G,B', help='Mean of each channel, for pixel values from 0 to 1.')
_STD = typer.Option(None, parser=parse_numbers, metavar='R,G,B', help='Standard deviation of each channel.')
_IMG_SIZE = typer.Option(None, parser=parse_size, metavar='SIZE|H,W', help='Size of the input in pixels.')
_RUNTIME = typer.Option('auto', help=(
    'What runs the file; auto uses the installed runtime that is fastest for this file on this machine. '
    f'One of: auto, {", ".join(RUNTIMES)}.'))
_PROVIDER = typer.Option('auto', help=(
    f'Execution provider of ONNX Runtime, or device of OpenVINO; auto uses the first of {", ".join(AUTO_PROVIDERS)} '
    'that works. One of: auto, '
    + '; '.join(f'{", ".join(row.providers)} ({row.title})' for row in RUNTIMES.values()) + '.'))
_PRECISION = typer.Option(None, help=(
    "Precision of the computation, where the runtime can choose it; the default is the file's own. The results are "
    'compared with those in the own precision, on at most 200 of the images. '
    f'One of: {", ".join(RUNTIME_PRECISIONS)}.'))
_TRIAL = typer.Option(True, help=(
    'With --runtime auto, run a new file in each installed runtime, for up to two seconds, to find the fastest. The '
    'result is stored.'))


def classify(
        model: Path = typer.Argument(metavar='MODEL.onnx', help='An ONNX file, written by "export" or by others.'),
        paths: Optional[List[Path]] = _PATHS,
        top: int = typer.Option(5, min=1, help='Number of most likely classes to print for each image.'),
        batch_size: int = _BATCH_SIZE,
        runtime: str = _RUNTIME,
        provider: str = _PROVIDER,
        precision: Optional[str] = _PRECISION,
        trial: bool = _TRIAL,
        data: Optional[str] = _DATA,
        threads: Optional[int] = typer.Option(None, min=1, help='Number of CPU threads.'),
        labels: Optional[Path] = typer.Option(None, help='File with the names of the classes, one per line.'),
        mean: Optional[Any] = _MEAN,
        std: Optional[Any] = _STD,
        img_size: Optional[Any] = _IMG_SIZE,
        interpolation: Optional[str] = _override('interpolation', 'Interpolation for resizing images.'),
        crop_pct: Optional[float] = _override('crop_pct', (
            'Size of the centre crop, as a fraction of the shorter side of the resized image.')),
        color_order: Optional[str] = _override('color_order', 'Order of the colour channels; L is greyscale.'),
        data_layout: Optional[str] = _override('layout', 'Order of the axes of the input.', '--layout'),
        dtype: Optional[str] = _override('dtype', (
            'Type of the input. With uint8, the file must include the normalisation.')),
        output: Optional[str] = _override('output', 'What the output of the file is.'),
        as_json: AsJson = False,
) -> None:
    """Classify images with an ONNX file.

    The options from --labels to --output describe the preprocessing of a file without metadata, and override the
    metadata of other files.
    """
    with exit_on_error():
        mean, std, img_size = (value and list(value) for value in (mean, std, img_size))
        changes = drop_none(
            class_names=_read_lines(labels), img_size=img_size, mean=mean, std=std, interpolation=interpolation,
            crop_pct=crop_pct, color_order=color_order, layout=data_layout, dtype=dtype, output=output)
        if not paths and data is None:
            raise ValueError('nothing to classify: pass image files or folders, or a data set with --data')
        classifier = Classifier(model, provider, threads, changes, runtime=runtime, precision=precision, trial=trial)
        predictions, left_out, speed = _predict(classifier, paths or [], top, batch_size)
        report = dict(_report(classifier, predictions, left_out, speed), **_measure(classifier, predictions, data))
    print_report(report, as_json, _print_results)
    _print_refused(predictions)
    if paths and not any(p.top for p in predictions):
        raise typer.Exit(1)


def _predict(
        classifier: Classifier, paths: Sequence[Path], top: int, batch_size: int,
) -> Tuple[List[Prediction], LeftOut, float]:
    """Return predictions for all images, refusals of paths without any first; what folders have besides images, by
    the reason for which it is left out; and the images per second."""
    files: List[Path] = []
    predictions: List[Prediction] = []
    left_out: LeftOut = {}
    for path in paths:
        try:
            found, others = find_pictures([path])
            files += found
            for reason, names in others.items():
                left_out.setdefault(reason, []).extend(names)
        except (ValueError, OSError) as error:
            predictions.append(Prediction(path, None, str(error).removeprefix(f'{path}: ')))
    begun = time.perf_counter()
    with make_progress('{task.fields[speed]:.1f} img/s', transient=True) as progress:
        task = progress.add_task('', total=len(files), speed=0.)
        for count, prediction in enumerate(classifier.predict(files, top, batch_size), 1):
            predictions.append(prediction)
            progress.update(task, completed=count, speed=count / (time.perf_counter() - begun))
    classified = sum(prediction.top is not None for prediction in predictions)
    return predictions, left_out, classified / (time.perf_counter() - begun)


def _print_refused(predictions: Sequence[Prediction]) -> None:
    for p in predictions:
        if p.top is None:
            print(printable(f'refused: {p.path}: {p.reason}'), file=sys.stderr)


def _measure(classifier: Classifier, predictions: Sequence[Prediction], data: Optional[str]) -> Dict[str, Any]:
    """Return ``cost``, how the results differ from those in the file's own precision, and ``accuracy``, each None if
    it is not to be measured."""
    from ..deploy.cost import compare_accuracy, compare_precisions
    classified = [p.path for p in predictions if p.top]
    is_other = classifier.precision is not None
    reference = classifier.in_own_precision() if is_other else classifier
    return dict(
        cost=compare_precisions(classifier, reference, classified) if is_other and classified else None,
        accuracy=None if data is None else compare_accuracy(classifier, reference, data))


def _report(
        classifier: Classifier, predictions: Sequence[Prediction], left_out: LeftOut, speed: float,
) -> Dict[str, Any]:
    """Return what ``classify --json`` prints."""
    names = classifier.class_names
    return dict(
        model=str(classifier.path), runtime=classifier.runtime, provider=classifier.provider,
        precision=classifier.precision, images_per_second=speed,
        results=[dict(path=str(p.path), top=[dict(label=names[k], index=k, probability=share) for k, share in p.top])
                 for p in predictions if p.top],
        refused=[dict(path=str(p.path), reason=p.reason) for p in predictions if p.top is None], left_out=left_out)


def _print_results(report: Dict[str, Any]) -> None:
    table = Table(Column('image', overflow='fold'), Column('class', overflow='fold'), 'probability')
    for result in report['results']:
        for i, entry in enumerate(result['top']):
            path = '' if i else escape(printable(result['path']))
            table.add_row(path, escape(printable(entry['label'])), f'{entry["probability"]:.2%}')
    if report['results']:
        Console().print(table)
        print(f'{len(report["results"])} images, {report["images_per_second"]:.1f} per second, in '
              f'{RUNTIMES[report["runtime"]].title} on {report["provider"]}')
    precision, cost, accuracy = report['precision'], report['cost'], report['accuracy']
    for found in (cost, accuracy):
        if precision and found:
            print(f"{precision}: relative difference from the file's own precision "
                  f'{found["relative_difference"]:.1e}, same class for {found["same_top1"]} of {found["count"]}')
    if accuracy:
        own = f", {accuracy['own_precision']:.2%} in the file's own precision" if precision else ''
        print(f'accuracy on {accuracy["count"]:,} test images of {accuracy["dataset"]}: {accuracy["file"]:.2%}{own}')
    if report['left_out']:
        print(describe_left_out(report['left_out']))
