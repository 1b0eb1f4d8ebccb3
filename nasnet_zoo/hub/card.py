"""Model cards: README.md of model folders and of cells, with the metadata by which the Hugging Face Hub files them."""
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from huggingface_hub import EvalResult, ModelCardData

from ..description import describe
from ..files import write_utf8
from ..genotype.loader import load_genotype
from ..genotype.schema import Genotype
from ..network.skeleton import depth_label
from ..version import REPOSITORY
from ..zoo import shipped_weights
from .folder import WEIGHTS, read_accuracy, read_config

__all__ = ['write_card', 'write_cell_card']

_MARK = '<!-- Written by nasnet-zoo at each push; remove this line to keep words of your own. -->'


class _Paper(NamedTuple):
    """A paper that published genotypes."""
    key: str
    title: str
    authors: str
    year: int


_PAPERS = {  # by arXiv identifier
    '1707.07012': _Paper('zoph2018learning', 'Learning Transferable Architectures for Scalable Image Recognition',
                         'Zoph, Barret and Vasudevan, Vijay and Shlens, Jonathon and Le, Quoc V.', 2018),
    '1712.00559': _Paper('liu2018progressive', 'Progressive Neural Architecture Search',
                         'Liu, Chenxi and Zoph, Barret and Neumann, Maxim and Shlens, Jonathon and Hua, Wei and Li, '
                         'Li-Jia and Fei-Fei, Li and Yuille, Alan and Huang, Jonathan and Murphy, Kevin', 2018),
    '1802.01548': _Paper('real2019regularized', 'Regularized Evolution for Image Classifier Architecture Search',
                         'Real, Esteban and Aggarwal, Alok and Huang, Yanping and Le, Quoc V.', 2019),
    '1806.09055': _Paper('liu2019darts', 'DARTS: Differentiable Architecture Search',
                         'Liu, Hanxiao and Simonyan, Karen and Yang, Yiming', 2019),
    '1907.05737': _Paper('xu2020pcdarts', 'PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture '
                         'Search', 'Xu, Yuhui and Xie, Lingxi and Zhang, Xiaopeng and Chen, Xin and Qi, Guo-Jun and '
                         'Tian, Qi and Xiong, Hongkai', 2020),
}

_MODEL_CARD = '''---
{metadata}
---
{mark}
# Model card for {name}

An image classifier built from {genotype} cells ({depth}, F = {cell_filters}, {stem} stem). The genotype is in \
config.json and, by itself, in genotype.json.
{picture}
## Model details

- **Model type:** image classification, feature extraction
- **Parameters:** {params:.2f} M
- **Mult-adds:** {macs:.1f} M
- **Image size:** {input_size} (channels x height x width)
- **Classes:** {num_classes}{class_names}
- **Genotype:** {genotype}{source}, architecture digest {digest}

## Load

```python
import nasnet_zoo  # pip install nasnet-zoo; registers the architecture with timm
import timm

model = timm.create_model('hf-hub:{repo_id}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

Features of each stage instead of classes, and images as vectors:

```python
backbone = timm.create_model('hf-hub:{repo_id}', pretrained=True, features_only=True)
embedder = timm.create_model('hf-hub:{repo_id}', pretrained=True, num_classes=0)
```

## Accuracy

{accuracy}

## Training

{training}

## Limits

The model distinguishes only the {num_classes} classes that it was trained on, and reflects the biases of its training \
images. Images of other kinds or sizes than those it was trained on give less reliable results. Probabilities are not \
calibrated.
{citation}'''

_CELL_CARD = '''---
{metadata}
---
{mark}
# {name}

A genotype of nasnet-zoo: a pair of cells for image classifiers, without \
weights. Its name is {genotype}{source}, and its architecture digest is {digest}.
{picture}
## Load

```python
import nasnet_zoo  # pip install nasnet-zoo

genotype = nasnet_zoo.load_genotype('hf-hub:{repo_id}')
model = nasnet_zoo.compile_genotype(genotype, num_cells=4, cell_filters=44, num_classes=1000)
```

## Cost

| network | parameters | mult-adds |
|---|---|---|
{costs}
{citation}'''


def write_card(
        folder: Union[str, os.PathLike],
        repo_id: str,
        license: Optional[str] = None,
        tags: Sequence[str] = (),
) -> Path:
    """Write the model card of a model folder, README.md, with what timm's users expect: cells, cost, how to load it,
    accuracy, training, limits, citation, and metadata for the Hub.

    A README.md that does not contain the line that marks a generated card is left as it is.

    Args:
        folder: A model folder.
        repo_id: The repository, OWNER/NAME.
        license: The Hub's identifier of the weights' licence. The default is the licence in the configuration, or
            apache-2.0 if it has none.
        tags: More tags for the Hub.

    Raises:
        HubError: If `folder` is not a model folder.
    """
    folder = Path(folder)
    path = folder / 'README.md'
    if _is_own(path):
        return path
    config, record = read_config(folder), read_accuracy(folder / WEIGHTS)
    args, cfg = config['model_args'], config['pretrained_cfg']
    name, genotype = repo_id.split('/')[-1], load_genotype(args['genotype'])
    cost = describe(str(folder))
    results, table = _results(record)
    metadata = ModelCardData(
        library_name='timm', license=license or cfg.get('license') or 'apache-2.0', model_name=name,
        pipeline_tag='image-classification', tags=['image-classification', 'timm', 'nasnet', 'nasnet-zoo', *tags],
        eval_results=results, datasets=[re.sub(r'[^\w.-]+', '-', record['dataset'])] if record else None)
    class_names = config.get('label_names') or ()
    write_utf8(path, _MODEL_CARD.format(
        metadata=metadata.to_yaml(), mark=_MARK, name=name, repo_id=repo_id, **_genotype_facts(genotype, folder),
        depth=depth_label(args), cell_filters=args['cell_filters'], stem=args['stem'], params=cost['params'] / 1e6,
        macs=cost['macs'] / 1e6, input_size=' x '.join(map(str, cfg['input_size'])), accuracy=table,
        num_classes=config['num_classes'], training=_training(folder, record),
        class_names=f' ({", ".join(map(str, class_names))})' if 0 < len(class_names) <= 20 else ''))
    return path


def write_cell_card(
        folder: Union[str, os.PathLike], genotype: Genotype, repo_id: str, license: Optional[str] = None,
        tags: Sequence[str] = (),
) -> Path:
    """Write README.md for a genotype without weights: its cells, how to load it, and what networks of it cost.

    Args:
        folder: The folder of the card.
        genotype: The genotype.
        repo_id, license, tags: See :func:`write_card`.
    """
    path = Path(folder) / 'README.md'
    if _is_own(path):
        return path
    metadata = ModelCardData(
        library_name='nasnet-zoo', license=license or 'apache-2.0', pipeline_tag='image-classification',
        tags=['nasnet', 'nasnet-zoo', 'neural-architecture-search', 'genotype', *tags])
    costs = []
    for what, settings in (('CIFAR, N = 2, F = 16', dict(num_cells=2, cell_filters=16, stem='cifar', num_classes=10)),
                           ('ImageNet, N = 4, F = 44', dict(num_cells=4, cell_filters=44, num_classes=1000))):
        cost = describe(genotype, **settings)
        costs.append(f'| {what} | {cost["params"] / 1e6:.2f} M | {cost["macs"] / 1e6:.1f} M |')
    write_utf8(path, _CELL_CARD.format(
        metadata=metadata.to_yaml(), mark=_MARK, name=repo_id.split('/')[-1], repo_id=repo_id, costs='\n'.join(costs),
        **_genotype_facts(genotype, Path(folder))))
    return path


def _is_own(path: Path) -> bool:
    """Return whether a README.md was written by the user."""
    return path.exists() and _MARK not in path.read_text(encoding='utf-8')


def _genotype_facts(genotype: Genotype, folder: Path) -> Dict[str, str]:
    """Return what both kinds of cards say of a genotype."""
    source = ' '.join((genotype.source or '').split())
    return dict(
        genotype=genotype.name, digest=genotype.architecture_digest[:12], citation=_citation(genotype),
        source=f' ({source})' if source else '',
        picture='\n![The cells](cells.svg)\n' if (folder / 'cells.svg').exists() else '')


def _citation(genotype: Genotype) -> str:
    """Return a section with the paper that published a genotype, or with this package if it found it, else ''."""
    papers = [(number, _PAPERS[number]) for number in re.findall(r'arXiv:(\d{4}\.\d{4,5})', genotype.source or '')
              if number in _PAPERS]
    entries = [f'@misc{{{paper.key},\n  title={{{paper.title}}},\n  author={{{paper.authors}}},\n'
               f'  year={{{paper.year}}},\n  eprint={{{number}}},\n  archivePrefix={{arXiv}}\n}}'
               for number, paper in papers]
    if genotype.search is not None:
        entries.append('@software{nasnetzoo,\n  title={nasnet-zoo},\n  author={{The nasnet-zoo authors}},\n'
                       f'  url={{{REPOSITORY}}}\n}}')
    return '\n## Citation\n\n```bibtex\n{}\n```\n'.format('\n\n'.join(entries)) if entries else ''


def _training(folder: Path, record: Optional[Mapping[str, Any]]) -> str:
    """Return how the model of a run folder was trained."""
    path = folder / 'report.json'
    try:
        report = json.loads(path.read_text(encoding='utf-8'))
        recipe = report['recipe']
        return (f'Trained with nasnet-zoo on {report["train_images"]:,} images of {report["data"]} for '
                f'{recipe["epochs"]} epochs: optimiser {recipe["opt"]}, batch size {recipe["batch_size"]}, learning '
                f'rate {recipe["lr"]:g} ({recipe["sched"]} schedule), weight decay {recipe["weight_decay"]:g}, seed '
                f'{recipe["seed"]}. report.json has all settings.')
    except (OSError, ValueError, KeyError, TypeError):  # the folder was not written by `train`
        if record and record.get('model') in [name.split('.')[0] for name in shipped_weights()]:
            return ('The weights are part of nasnet-zoo. [Accuracy of the weights]('
                    f'{REPOSITORY}/blob/main/docs/results/README.md) has the commands, settings, logs and learning '
                    'curves of the training runs.')
        return 'The folder does not say how the weights were trained.'


def _results(record: Optional[Mapping[str, Any]]) -> Tuple[Optional[List[EvalResult]], str]:
    """Return a measured accuracy as metadata for the Hub and as a table in Markdown."""
    if not record:
        return None, 'Its accuracy has not been measured.'
    slug = re.sub(r'[^a-z0-9]+', '-', record['dataset'].lower()).strip('-')
    results = [EvalResult(
        task_type='image-classification', dataset_type=slug, dataset_name=record['dataset'],
        dataset_split=record['split'], metric_type=metric, metric_name=title,
        metric_value=round(100 * record[name], 2)) for name, metric, title in (
            ('top1', 'accuracy', 'Top-1 accuracy'), ('top5', 'top_5_accuracy', 'Top-5 accuracy'))]
    low, high = record['interval_95']
    return results, (
        f'| data | images | top-1 | 95 % interval | top-5 |\n|---|---|---|---|---|\n'
        f'| {record["dataset"]}, {record["split"]} | {record["count"]:,} | {record["top1"]:.2%} | '
        f'{low:.2%} to {high:.2%} | {record["top5"]:.2%} |\n\nMeasured by `nasnet-zoo validate`.')
