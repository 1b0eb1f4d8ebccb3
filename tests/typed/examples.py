"""Uses every public name of the package as users do. A strict type checker checks it; it is not run."""
import warnings
from pathlib import Path
from typing import Any, Dict, List, Union

import numpy as np
import torch

from nasnet_zoo import (
    Classifier,
    Genotype,
    GenotypeError,
    GenotypeWarning,
    NASNet,
    Recipe,
    Skeleton,
    compile_genotype,
    describe,
    draw,
    evaluate,
    export_onnx,
    import_genotype,
    list_genotypes,
    load_foreign_weights,
    load_genotype,
    optimize_for_inference,
    train,
)
from nasnet_zoo.data import FileSet, ImageSet, load_data


def load(name: str) -> Genotype:
    names: List[str] = list_genotypes()
    try:
        genotype = load_genotype(name)
    except GenotypeError as error:
        raise SystemExit(f'{error}; there are {", ".join(names)}') from None
    digest: str = genotype.layout_digest
    genotype.save(f'{digest}.json')
    return genotype


def load_strictly(name: str) -> Genotype:
    with warnings.catch_warnings():
        warnings.simplefilter('error', GenotypeWarning)
        return load_genotype(name)


def read_other_projects_genotype(text: str) -> Genotype:
    return import_genotype(text, name='mine')


def build(genotype: Genotype, weights: Path) -> NASNet:
    model = compile_genotype(genotype, num_cells=2, cell_filters=8, stem='cifar', num_classes=10, device='cpu')
    load_foreign_weights(model, weights)
    load_foreign_weights(model, {'stem.conv.weight': torch.zeros(24, 3, 3, 3)})
    skeleton: Skeleton = model.skeleton
    config: Dict[str, Any] = model.config
    assert skeleton.num_cells == config['num_cells']
    return model


def fit(model: NASNet, name: str) -> float:
    recipe = Recipe(epochs=2, batch_size=64)
    images, test_images = load_data(name)
    trained: NASNet = train(model, images, recipe, device='cpu', on_step=print)
    accuracy = evaluate(trained, test_images, batch_size=128)
    return accuracy.top1


def count(data: Union[ImageSet, FileSet]) -> int:
    return data.size()


def show(genotype: Genotype) -> Dict[str, Any]:
    svg = draw(genotype, 'cells.svg')
    assert svg is not None
    return describe(genotype, img_size=32, num_classes=10)


def deploy(model: NASNet, folder: Path) -> None:
    fast: torch.nn.Module = optimize_for_inference(model, 32)
    logits: torch.Tensor = fast(torch.zeros(1, 3, 32, 32))
    exported = export_onnx(model, folder / 'model.onnx', batch_size=None, half=True)
    path: Path = exported.path
    print(logits.shape, path)


def classify(folder: Path) -> List[str]:
    classifier = Classifier(folder / 'model.onnx')
    labels: List[str] = classifier.classify(np.zeros((1, 3, 32, 32), np.float32))
    names: List[str] = classifier.class_names
    return labels + names
