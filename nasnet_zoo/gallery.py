"""A page that shows every shipped genotype: its cells, its costs, published results, and the code that builds it."""
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

from . import html
from .description import describe
from .files import write_utf8
from .genotype.loader import list_genotypes, load_genotype
from .genotype.schema import Genotype
from .zoo import models_of

__all__ = ['show_genotype', 'write_gallery']

# The sizes at which genotypes without a named model are measured
_SIZES: Dict[str, Dict[str, Any]] = {
    'for ImageNet': dict(num_cells=4, cell_filters=44),
    'for CIFAR': dict(num_cells=6, cell_filters=32, stem='cifar', num_classes=10)}
_UNITS = dict(percent='%', millions='M')  # the last word of a key in a genotype's `results`


def write_gallery(
        folder: Union[str, os.PathLike], on_genotype: Optional[Callable[[str, int], None]] = None) -> Path:
    """Write ``index.html``, a page of all shipped genotypes that needs no other file and no network.

    Args:
        folder: The folder of the page. It is created if necessary.
        on_genotype: Called with the name of each genotype and the number of all, before it is measured and drawn.

    Returns:
        The path of the page.

    Raises:
        ImportError: If matplotlib is not installed.
        OSError: If the page cannot be written.
    """
    path, names, sections = Path(folder) / 'index.html', list_genotypes(), []
    for name in names:
        if on_genotype:
            on_genotype(name, len(names))
        sections.append(html.section(name, *show_genotype(load_genotype(name))))
    write_utf8(path, html.page('Searched cells', [
        html.paragraph('The genotypes of nasnet-zoo: cells that were found by neural architecture search. Parameters '
                       'include the classifier. Mult-adds are those of convolutions and of the classifier, for one '
                       'image.'),
        html.contents(names), *sections]))
    return path


def show_genotype(genotype: Genotype) -> List[str]:
    """Return what the gallery shows of a genotype, as elements of HTML.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    named = models_of(genotype.name)
    models = named or _SIZES
    code = ['import nasnet_zoo, timm', *(f'timm.create_model({name!r})' for name in named)] if named else [
        'import nasnet_zoo', *(_call(genotype.name, args) for args in _SIZES.values())]
    search = '. '.join(f'{_heading(name)}: {value}' for name, value in (genotype.search or {}).items())
    return [
        html.paragraph(f'Source: {genotype.source or "unknown"}'),
        html.pictures([html.show_cells('Cells', genotype)]),
        html.paragraph('Costs', soft=True),
        html.table(f'Costs of {genotype.name}', [
            _cost(name, args, describe(name) if named else describe(genotype, **args))
            for name, args in models.items()], texts=['model', 'network']),
        html.code('\n'.join(code)),
        _results(genotype),
        html.paragraph(search, soft=True) if search else '',
        html.paragraph(f'Architecture digest: {genotype.architecture_digest}', soft=True),
        html.paragraph(f'Layout digest: {genotype.layout_digest}', soft=True)]


def _call(genotype: str, args: Mapping[str, Any]) -> str:
    """Return the call that builds a network."""
    return f'nasnet_zoo.compile_genotype({", ".join([repr(genotype), *(f"{k}={v!r}" for k, v in args.items())])})'


def _cost(name: str, args: Mapping[str, Any], report: Mapping[str, Any]) -> Dict[str, str]:
    """Return the row of a network in the table of costs."""
    depth = [f'{text} = {args[key]}' for key, text in (
        ('num_cells', 'N'), ('num_layers', 'layers'), ('cell_filters', 'F')) if key in args]
    return {'model': name, 'network': ', '.join(depth), 'input': ' x '.join(map(str, report['input_size'])),
            'parameters': f'{report["params"] / 1e6:,.3f} M', 'mult-adds': f'{report["macs"] / 1e6:,.1f} M'}


def _results(genotype: Genotype) -> str:
    """Return the table of published results, or nothing if there are none."""
    results = genotype.results or []
    rows: List[Dict[str, Any]] = [dict(row) for row in (results if isinstance(results, list) else [results])]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    texts = [_heading(name) for name in columns if any(isinstance(row.get(name), str) for row in rows)]
    if not rows:
        return ''
    return html.paragraph('Published results', soft=True) + html.table(
        f'Published results of {genotype.name}',
        [{_heading(name): _show(row.get(name, '–')) for name in columns} for row in rows], texts=texts)


def _show(value: Any) -> str:
    return f'{value:,}' if isinstance(value, (int, float)) else str(value)


def _heading(name: str) -> str:
    """Return a key of JSON data as a heading: ``top1_error_percent`` as ``top1 error, %``."""
    *words, last = name.split('_')
    return f'{" ".join(words)}, {_UNITS[last]}' if words and last in _UNITS else ' '.join([*words, last])
