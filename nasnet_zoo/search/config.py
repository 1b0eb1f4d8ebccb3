"""The settings of a search, as checked models. They need neither Optuna nor a data set, so commands can list them."""
from pathlib import Path
from typing import Annotated, Any, Dict, Optional

from pydantic import ConfigDict, Field, model_validator

from ..checked import Checked, CliOption, OneOf
from ..data.datasets import DATA_SETS
from ..training.recipe import Recipe
from .objectives import OBJECTIVES
from .ppo_settings import PRESETS
from .pruning import PRUNERS
from .samplers import SAMPLERS
from .space import SPACES

__all__ = ['ChildRecipe', 'ChildSettings', 'SearchConfig']

_Limit = Annotated[Optional[int], Field(ge=1)]
_Path = Annotated[Path, Field(strict=False)]  # a string will do


class ChildRecipe(Recipe):
    """How children are trained: 20 epochs, and otherwise the defaults of a recipe, as in the paper (appendix A.1)."""
    model_config = ConfigDict(title='Recipe of the children')

    epochs: Annotated[int, Field(ge=1, description='Number of epochs for which a child is trained.')] = 20


class ChildSettings(Checked):
    """How a child is built and trained.

    The defaults are those of the paper (appendix A.1): N = 2, F = 32, 20 epochs of SGD with momentum and one cosine
    period. A tenth of the training images is held out.
    """
    model_config = ConfigDict(title='Children')

    num_cells: Annotated[int, Field(ge=1, description="Number of normal cells per stage (the paper's N).")] = 2
    cell_filters: Annotated[int, Field(ge=1, description='Filters of the cells in the first stage (F).')] = 32
    drop_path_rate: Annotated[float, CliOption(hidden=True), Field(ge=0, le=1, description=(
        'Probability of dropping a path in the last cell at the end of the training.'))] = 0.
    aux_head: Annotated[bool, CliOption(hidden=True), Field(description=(
        'Train with an auxiliary classifier.'))] = False
    val_share: Annotated[float, Field(gt=0, lt=1, description=(
        'Share of the training images that is held out to measure the accuracy of a child.'))] = 0.1
    img_size: Annotated[Optional[int], Field(ge=4, description=(
        'Resize the images to this side length in pixels.'))] = None
    limit_train: Annotated[_Limit, Field(description='Train each child on this number of images only.')] = None
    max_params: Annotated[_Limit, Field(description=(
        'Largest number of parameters; a larger child is not trained.'))] = None
    max_macs: Annotated[_Limit, Field(description=(
        'Largest number of mult-adds per image; a more expensive child is not trained.'))] = None
    latency: Annotated[bool, CliOption(hidden=True), Field(description='Measure the latency of each child.')] = False
    time_limit: Annotated[Optional[float], Field(gt=0, description=(
        'Longest time in seconds for which a child may be trained.'))] = None
    recipe: ChildRecipe = ChildRecipe()


class SearchConfig(Checked):
    """All settings of a search. ``child.recipe.seed`` is the seed of the sampler, too."""
    out: Annotated[_Path, Field(description='Folder of the search.')]
    data: Annotated[str, Field(description=(
        f'Images: {", ".join(DATA_SETS)}, or a folder or archive of small images.'))] = 'digits'
    space: Annotated[str, OneOf('space', SPACES), Field(description='Search space.')] = 'nasnet'
    blocks: Annotated[_Limit, Field(description=(
        "Number of blocks in a cell; the space's usual number by default."))] = None
    sampler: Annotated[str, OneOf('sampler', SAMPLERS), Field(description='Algorithm that proposes children.')] = 'ppo'
    preset: Annotated[str, OneOf('preset', PRESETS), Field(description='Settings of the ppo sampler.')] = 'fast'
    trials: Annotated[int, Field(ge=1, description=(
        'Number of different children to train. Failed children and those before --resume count.'))] = 100
    workers: Annotated[_Limit, Field(description=(
        'Number of children that are trained at the same time, sharing the CPU cores; 1 by default. On a Ray cluster, '
        'as many as fit by default.'))] = None
    ray: Annotated[Optional[str], Field(description=(
        'Train the children on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for this machine.'))] = None
    cpus_per_child: Annotated[float, Field(ge=0, description='CPUs that a child takes on a Ray cluster.')] = 1.
    gpus_per_child: Annotated[float, Field(ge=0, description=(
        'GPUs that a child takes on a Ray cluster. With a fraction, children share a GPU.'))] = 0.
    resume: Annotated[bool, Field(description='Continue the search in --out.')] = False
    warm_start: Annotated[Optional[str], Field(description=(
        'Genotype to evaluate first: a file, or the name of a shipped one.'))] = None
    prune: Annotated[Optional[str], OneOf('pruner', PRUNERS), Field(description=(
        'Stop the training of unpromising children early.'))] = None
    objective: Annotated[Optional[str], OneOf('objective', OBJECTIVES), Field(description=(
        'Second objective, to be minimised.'))] = None
    cost_target: Annotated[Optional[float], Field(gt=0, description=(
        'Value of --objective at which a child is rewarded with its plain accuracy; by default that of NASNet-A as a '
        'child.'))] = None
    baseline: Annotated[Optional[_Path], Field(description=(
        'Folder of another search, whose best accuracy the report shows for comparison.'))] = None
    storage: Annotated[Optional[str], Field(description=(
        "URL of an Optuna storage for the trials; a journal file in --out by default."))] = None
    data_root: Annotated[Optional[_Path], Field(description="Folder of torchvision's data sets.")] = None
    download: Annotated[bool, Field(description='Let torchvision download the data set if it is missing.')] = False
    top: Annotated[int, Field(ge=1, description=(
        'Number of the best children that are trained again, for longer.'))] = 3
    final_epochs: Annotated[_Limit, Field(description=(
        'Number of epochs of that training; three times --epochs by default.'))] = None
    child: ChildSettings = ChildSettings()

    @model_validator(mode='after')
    def _check_objectives(self) -> 'SearchConfig':
        if self.prune and self.objective:
            raise ValueError('prune: Optuna prunes by a single objective only; leave out --prune or --objective')
        return self

    @property
    def seed(self) -> int:
        """The seed of the sampler, which is that of the children's recipe."""
        return self.child.recipe.seed

    def stored(self) -> Dict[str, Any]:
        """Return what ``search.json`` keeps, as JSON data.

        A storage's URL may contain a password, and the other fields left out concern one run of the process.
        """
        return self.model_dump(mode='json', exclude={'out', 'resume', 'download', 'storage'})
