"""Everything that ``nasnet-zoo train`` takes, as checked settings."""
from pathlib import Path
from typing import Annotated, Any, Dict, Optional

from pydantic import Field

from ..checked import Checked, CliOption, OneOf
from ..data.datasets import DATA_SETS
from ..network.stems import STEMS
from .recipe import Recipe

__all__ = ['TrainConfig']

_Count = Annotated[int, Field(ge=1)]
_NETWORK = ('num_cells', 'cell_filters', 'filters', 'stem', 'drop_path_rate', 'aux_head')
_LOCAL_PATH = Field(strict=False)  # a string will do


class TrainConfig(Checked):
    """A training run: what is trained on what, how, and in which folder.

    Raises:
        ValueError: If a value has the wrong type or is out of bounds. The message names the field.
    """
    source: Annotated[str, CliOption(argument=True, metavar='NAME_OR_JSON'), Field(description=(
        'What to train: a model name, a model folder, the name of a shipped genotype, or a genotype file.'))]
    data: Annotated[str, Field(description=(
        f"Data set: {', '.join(DATA_SETS)}, a folder or archive of images (train/CLASS/IMAGE and "
        "test/CLASS/IMAGE), or one of timm's data sets such as hfds/…."))] = 'digits'
    out: Annotated[Path, _LOCAL_PATH, Field(description='Folder of the run.')]
    resume: Annotated[bool, Field(description="Continue from the run's last checkpoint.")] = False
    val_share: Annotated[float, Field(ge=0, lt=1, description=(
        'Fraction of the training images that is held out for validation after each epoch.'))] = 0.
    data_root: Annotated[Optional[Path], _LOCAL_PATH, Field(description=(
        "Folder of torchvision's or timm's data sets."))] = None
    download: Annotated[bool, Field(description='Let torchvision or timm download the data set.')] = False
    img_size: Annotated[Optional[_Count], Field(description=(
        "Side in pixels to which images are resized. The default is a named model's own size, and otherwise the size "
        'of the images.'))] = None
    num_cells: Annotated[Optional[_Count], Field(description='Normal cells in each stage, the N of the paper.')] = None
    cell_filters: Annotated[Optional[_Count], Field(description=(
        "Filters of the first stage's cells, the F of the paper."))] = None
    filters: Annotated[Optional[_Count], Field(description=(
        'Width of the penultimate layer, the F of "N @ F"; an alternative to --cell-filters.'))] = None
    stem: Annotated[Optional[str], OneOf('stem', STEMS), Field(description='Stem of the network.')] = None
    drop_path_rate: Annotated[float, Field(ge=0, le=1, description=(
        'Probability with which the last cell drops a path at the end of training, 1 minus the keep probability.'))
    ] = 0.4
    aux_head: Annotated[bool, Field(description='Train with the auxiliary classifier.')] = True
    pretrained: Annotated[bool, Field(description='Start from published weights.')] = False
    device: Annotated[Optional[str], Field(description='cpu, cuda, …; the default is cuda if there is a GPU.')] = None
    workers: Annotated[int, Field(ge=0, description='Number of processes that read large images.')] = 2
    recipe: Recipe = Recipe()

    @property
    def network_args(self) -> Dict[str, Any]:
        """The arguments of the network that were given."""
        return {name: getattr(self, name) for name in _NETWORK if getattr(self, name) is not None}
