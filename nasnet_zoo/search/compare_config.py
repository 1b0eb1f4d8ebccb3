"""The settings of ``nasnet-zoo compare``, as a checked model."""
from pathlib import Path
from typing import Annotated, Any, Dict, Literal, Optional, Tuple

from pydantic import ConfigDict, Field, model_validator

from ..checked import Checked, CliOption, OneOf
from ..data.datasets import DATA_SETS
from ..loggers import LOGGERS
from ..network.stems import STEMS
from ..training.config import LoggerNames
from .config import ChildRecipe
from .match import MATCHES

__all__ = ['CompareConfig', 'CompareRecipe']

_Count = Annotated[int, Field(ge=1)]
_Path = Annotated[Path, Field(strict=False)]  # strings are accepted, too


class CompareRecipe(ChildRecipe):
    """How the networks are trained: the defaults are those of children. Each training run gets its own ``seed``."""
    model_config = ConfigDict(title='Training recipe')

    aux_weight: Annotated[float, Field(ge=0, description='Weight of the loss of the auxiliary head.')] = 0.4
    seed: Annotated[int, CliOption(hidden=True), Field(ge=0, lt=2 ** 31, description=(
        'Is left at 0; --first-seed and --seeds say which seeds are used.'))] = 0


class CompareConfig(Checked):
    """The settings of a comparison of cells: which cells, on which data, at which cost, how often and how trained.

    Raises:
        ValueError: If a value has the wrong type or is out of bounds. The message names the field.
    """
    cells: Annotated[Tuple[str, ...], CliOption(argument=True, metavar='CELL...'), Field(
        min_length=1, strict=False, description=(
            'Cells to compare: genotype files, or names of built-in genotypes. The first one is compared with each of '
            'the others.'))]
    out: Annotated[_Path, Field(description=(
        'Folder to which the results and a folder for each training run are written.'))]
    data: Annotated[str, Field(description=(
        f'Data set: {", ".join(DATA_SETS)}, or a folder or archive of images (train/CLASS/IMAGE and '
        'test/CLASS/IMAGE).'))] = 'digits'
    split: Annotated[Literal['test', 'validation'], Field(description=(
        'Images on which accuracies are measured: the test images, or the fraction --val-share of the training images, '
        'which is then held out. Cells are chosen on validation images, and reported on test images.'))] = 'test'
    match: Annotated[Optional[str], OneOf('match', MATCHES), Field(description=(
        'Give each cell the number of filters that brings its network nearest to the cost target, so that the '
        'comparison is one of cells and not of sizes.'))] = None
    cost_target: Annotated[Optional[float], Field(gt=0, description=(
        'Cost that --match gives each network. The default is the cost of NASNet-A at --num-cells and '
        '--cell-filters.'))] = None
    match_below: Annotated[bool, Field(description=(
        'With --match, choose the nearest cost that is not above the cost target.'))] = False
    seeds: Annotated[int, Field(ge=1, description='Number of times that each cell is trained.')] = 5
    first_seed: Annotated[int, Field(ge=0, description='The seed of the first training of each cell.')] = 0
    num_cells: Annotated[_Count, Field(description='Number of normal cells in each stage (N in the paper).')] = 2
    cell_filters: Annotated[_Count, Field(description=(
        'Number of filters in the cells of the first stage (F in the paper), unless --match chooses it.'))] = 32
    stem: Annotated[str, OneOf('stem', STEMS), Field(description=(
        "Stem of the networks: cifar, or darts_cifar for DARTS's network."))] = 'cifar'
    img_size: Annotated[Optional[int], Field(ge=4, description=(
        'Height and width in pixels to which images are resized. The default is the size of the images.'))] = None
    drop_path_rate: Annotated[float, Field(ge=0, le=1, description=(
        'Drop path rate at the end of training: that of the last cell or, with the stems of DARTS, of every cell.'))
    ] = 0.
    aux_head: Annotated[bool, Field(description='Train with an auxiliary head.')] = False
    val_share: Annotated[float, Field(gt=0, lt=1, description=(
        'Fraction of the training images to hold out, with --split validation.'))] = 0.1
    val_seed: Annotated[int, Field(ge=0, description=(
        'Seed of the random choice of the images to hold out. Searches hold out those of seed 0; with another seed, '
        'cells are compared on images most of which did not decide which cells the search found.'))] = 0
    workers: Annotated[Optional[_Count], Field(description=(
        'Number of networks that are trained at the same time. They share the CPU cores. The default is 1 or, on a Ray '
        'cluster, as many as fit.'))] = None
    ray: Annotated[Optional[str], Field(description=(
        'Train on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for a new cluster on this machine.'))
    ] = None
    cpus_per_child: Annotated[float, Field(ge=0, description=(
        'Number of CPUs that a network needs on a Ray cluster.'))] = 1.
    gpus_per_child: Annotated[float, Field(ge=0, description=(
        'Number of GPUs that a network needs on a Ray cluster. With a fraction, several networks share a GPU.'))] = 0.
    resume: Annotated[bool, Field(description=(
        'Continue the comparison in --out. Cells and seeds may be added.'))] = False
    log: Annotated[LoggerNames, Field(strict=False, description=(
        f'Where the metrics of each epoch of each training run are logged: {", ".join(LOGGERS)}. May be repeated. '
        'log.csv in the folder of each run is always written. The default is tensorboard if it is installed.'))] = ()
    data_root: Annotated[Optional[_Path], Field(description='Folder in which torchvision stores data sets.')] = None
    download: Annotated[bool, Field(description='Let torchvision download the data set if it is missing.')] = False
    recipe: CompareRecipe = CompareRecipe()

    @model_validator(mode='after')
    def _check_combinations(self) -> 'CompareConfig':
        if self.match_below and not self.match:
            raise ValueError('match_below: has no effect without --match')
        if self.cost_target is not None and not self.match:
            raise ValueError('cost_target: has no effect without --match')
        unused = {'val_share', 'val_seed'} & self.model_fields_set
        if unused and self.split != 'validation':
            raise ValueError(f'{min(unused)}: has no effect without --split validation')
        if self.recipe.seed:
            raise ValueError('seed: each training run has its own seed; --first-seed chooses the first of them')
        return self

    @property
    def network_args(self) -> Dict[str, Any]:
        """The arguments of ``compile_genotype`` that all networks have in common, and the width to start from."""
        return self.model_dump(include={'num_cells', 'cell_filters', 'stem', 'drop_path_rate', 'aux_head'})

    def stored(self) -> Dict[str, Any]:
        """Return the settings that a comparison must be resumed with, as JSON data."""
        return self.model_dump(mode='json', exclude={
            'cells', 'out', 'seeds', 'first_seed', 'workers', 'ray', 'cpus_per_child', 'gpus_per_child', 'resume',
            'log', 'data_root', 'download'})
