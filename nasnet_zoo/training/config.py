"""The settings of ``nasnet-zoo train``, as a checked model."""
from pathlib import Path
from typing import Annotated, Any, Dict, Optional, Tuple

from pydantic import Field, model_validator

from ..checked import Checked, CliOption, OneOf
from ..data.datasets import DATA_SETS
from ..loggers import LOGGERS
from ..network.stems import STEMS
from .recipe import Recipe
from .recipes import DEFAULT_RECIPE, RECIPES

__all__ = ['LoggerNames', 'TrainConfig']

LoggerNames = Tuple[Annotated[str, OneOf('logger', LOGGERS)], ...]

_Count = Annotated[int, Field(ge=1)]
_NETWORK = (
    'num_cells', 'num_layers', 'cell_filters', 'filters', 'stem', 'bn_momentum', 'drop_rate', 'drop_path_rate',
    'aux_head')
_LOCAL_PATH = Field(strict=False)  # strings are accepted, too


class TrainConfig(Checked):
    """The settings of a training run: what to train, on which data, how, and in which folder.

    Raises:
        ValueError: If a value has the wrong type or is out of bounds. The message names the field.
    """
    source: Annotated[str, CliOption(argument=True, metavar='NAME_OR_JSON'), Field(description=(
        'What to train: the name of a model or of a built-in genotype, a genotype file, a model folder, or '
        'hf-hub:OWNER/NAME.'))]
    data: Annotated[str, Field(description=(
        f"Data set: {', '.join(DATA_SETS)}, a folder or archive of images (train/CLASS/IMAGE and "
        "test/CLASS/IMAGE), or one of timm's data sets such as hfds/…."))] = 'digits'
    out: Annotated[Path, _LOCAL_PATH, Field(description=(
        'Run folder, to which checkpoints, logs and the trained model are written.'))]
    resume: Annotated[bool, Field(description="Continue the run in --out from its last checkpoint.")] = False
    recipe_name: Annotated[str, OneOf('recipe', RECIPES), CliOption(flag='--recipe'), Field(description=(
        'Published recipe, which sets the options that are not given.'))] = DEFAULT_RECIPE
    val_share: Annotated[float, Field(ge=0, lt=1, description=(
        'Fraction of the training images to hold out for validation after each epoch.'))] = 0.
    val_seed: Annotated[int, Field(ge=0, description='Seed of the random choice of the images to hold out.')] = 0
    data_root: Annotated[Optional[Path], _LOCAL_PATH, Field(description=(
        "Folder in which torchvision or timm stores data sets."))] = None
    download: Annotated[bool, Field(description=(
        'Let torchvision or timm download the data set if it is missing.'))] = False
    img_size: Annotated[Optional[_Count], Field(description=(
        "Height and width in pixels to which images are resized. The default is the input size of the model if "
        "a model is named and --data is none of the built-in data sets, and otherwise the size of the images."))] = None
    num_cells: Annotated[Optional[_Count], Field(description=(
        'Number of normal cells in each stage (N in the paper).'))] = None
    num_layers: Annotated[Optional[_Count], Field(description=(
        'Number of all cells behind the stem, as DARTS counts; an alternative to --num-cells.'))] = None
    cell_filters: Annotated[Optional[_Count], Field(description=(
        "Number of filters in the cells of the first stage (F in the paper)."))] = None
    filters: Annotated[Optional[_Count], Field(description=(
        'Width of the penultimate layer, the second number in "N @ filters"; an alternative to '
        '--cell-filters.'))] = None
    stem: Annotated[Optional[str], OneOf('stem', STEMS), Field(description=(
        "Stem of the network: imagenet for large images, cifar for small ones; darts_imagenet and darts_cifar for "
        "DARTS's networks."))] = None
    bn_momentum: Annotated[Optional[float], Field(gt=0, le=1, description=(
        'Momentum of batch norms, the weight of a new batch in the running statistics. The default is that of the '
        'stem: 0.0003 for imagenet, which needs thousands of steps, and 0.1 for the others.'))] = None
    drop_rate: Annotated[float, Field(ge=0, lt=1, description='Probability of dropout before the classifier.')] = 0.
    drop_path_rate: Annotated[float, Field(ge=0, le=1, description=(
        'Drop path rate at the end of training: that of the last cell or, with the stems of DARTS, of every cell.'))
    ] = 0.4
    aux_head: Annotated[bool, Field(description='Train with an auxiliary head.')] = True
    pretrained: Annotated[bool, Field(description=(
        'Start from the pretrained weights of the model instead of random ones.'))] = False
    device: Annotated[str, Field(description=(
        'Device to train on: auto, cpu, mps, cuda, cuda:1, …. The default, auto, is a GPU if there is one.'))] = 'auto'
    workers: Annotated[int, Field(ge=0, description=(
        'Number of processes that read images, for images that are too large to be kept in memory.'))] = 2
    log: Annotated[LoggerNames, Field(strict=False, description=(
        f'Where the metrics of each epoch are logged: {", ".join(LOGGERS)}. May be repeated. log.csv is always '
        'written. The default is tensorboard if it is installed.'))] = ()
    recipe: Recipe = Recipe()

    @model_validator(mode='before')
    @classmethod
    def _fill_in(cls, fields: Any) -> Any:
        """Give the fields that are left out the values of the named recipe."""
        name = fields.get('recipe_name') if isinstance(fields, dict) else None
        named = RECIPES.get(name) if isinstance(name, str) else None
        if named is None:
            return fields  # the defaults of this class are those of the default recipe
        given = fields.get('recipe', {})
        if isinstance(given, Recipe):  # a derived class may have other defaults
            given = {name: value for name, value in given if name in given.model_fields_set
                     or value != Recipe.model_fields[name].default}
        values = named.values(str(fields.get('source')).split('.')[0])
        recipe = {**values['recipe'], **given} if isinstance(given, dict) else given
        return {**values, **fields, 'recipe': recipe}

    @property
    def network_args(self) -> Dict[str, Any]:
        """The arguments of ``compile_genotype`` that were given."""
        return {name: getattr(self, name) for name in _NETWORK if getattr(self, name) is not None}
