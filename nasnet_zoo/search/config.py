"""The settings of a search, as checked models. This module does not import Optuna, so help texts do not need it."""
from pathlib import Path
from typing import Annotated, Any, Dict, Literal, Optional, Tuple

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from ..checked import Checked, CliOption, OneOf
from ..data.datasets import DATA_SETS
from ..loggers import LOGGERS
from ..network.stems import STEMS
from ..training.config import LoggerNames
from ..training.recipe import Recipe
from .make_space import OWN_SPACE
from .match import MATCHES
from .objectives import OBJECTIVES
from .ppo_settings import PRESETS
from .presets import SEARCH_PRESETS
from .protocols import PROTOCOLS, REWARDS, default_protocol, merge_settings
from .pruning import PRUNERS
from .samplers import SAMPLERS
from .space import SPACES

__all__ = ['ChildRecipe', 'ChildSettings', 'SearchConfig']

_Limit = Annotated[Optional[int], Field(ge=1)]
_Path = Annotated[Path, Field(strict=False)]  # strings are accepted, too
_Names = Annotated[Tuple[str, ...], Field(strict=False)]  # lists are accepted, too
_NameSet = Annotated[_Names, AfterValidator(lambda names: tuple(sorted(set(names))))]


class ChildRecipe(Recipe):
    """How children are trained: 20 epochs, and otherwise the defaults of a recipe, as in the paper (appendix A.1)."""
    model_config = ConfigDict(title='Training recipe of the children (defaults of --protocol paper; quick has others)')

    epochs: Annotated[int, Field(ge=1, description='Number of epochs for which each child is trained.')] = 20
    aux_weight: Annotated[float, CliOption(hidden=True), Field(ge=0, description=(
        'Weight of the loss of the auxiliary head, which the children of a search do not have.'))] = 0.4


class ChildSettings(Checked):
    """How a child is built and trained.

    The defaults are those of the paper (appendix A.1) and of --protocol paper: N = 2, F = 32, 20 epochs of SGD with
    momentum and one cosine period. A tenth of the training images is held out.
    """
    model_config = ConfigDict(title='Children (defaults of --protocol paper; quick has others)')

    num_cells: Annotated[int, Field(ge=1, description="Number of normal cells in each stage (N in the paper).")] = 2
    cell_filters: Annotated[int, Field(ge=1, description=(
        'Number of filters in the cells of the first stage (F in the paper), unless --match chooses it.'))] = 32
    stem: Annotated[str, OneOf('stem', STEMS), Field(description=(
        "Stem of the children: cifar, or darts_cifar for DARTS's network."))] = 'cifar'
    reductions: Annotated[Literal['extra', 'replace'], CliOption(hidden=True), Field(description=(
        'Whether a reduction cell precedes the normal cells of a stage or replaces the first of them.'))] = 'extra'
    stages: Annotated[int, CliOption(hidden=True), Field(ge=1, le=3, description=(
        'Number of stages of the network that a child consists of; the cost is that of all three.'))] = 3
    match: Annotated[Optional[str], OneOf('match', MATCHES), Field(description=(
        'Give each child the number of filters that brings its cost nearest to the cost target, so that rewards '
        'compare cells and not sizes.'))] = None
    match_below: Annotated[bool, Field(description=(
        'With --match, choose the nearest cost that is not above the cost target.'))] = False
    match_target: Annotated[Optional[float], CliOption(hidden=True), Field(gt=0, description=(
        'Cost that `match` gives each child. A search sets it to `cost_target`.'))] = None
    drop_path_rate: Annotated[float, CliOption(hidden=True), Field(ge=0, le=1, description=(
        'Drop path rate at the end of training: that of the last cell or, with the stems of DARTS, of every cell.'))
    ] = 0.
    aux_head: Annotated[bool, CliOption(hidden=True), Field(description=(
        'Train with an auxiliary head.'))] = False
    val_share: Annotated[float, Field(gt=0, lt=1, description=(
        'Fraction of the training images to hold out for measuring the accuracy of the children.'))] = 0.1
    val_seed: Annotated[int, CliOption(hidden=True), Field(ge=0, description=(
        'Seed of the random choice of the images to hold out.'))] = 0
    img_size: Annotated[Optional[int], Field(ge=4, description=(
        'Height and width in pixels to which images are resized. The default is the size of the images.'))] = None
    limit_train: Annotated[_Limit, Field(description=(
        'Number of training images to use. The default is all of them.'))] = None
    reward: Annotated[str, OneOf('reward', REWARDS), Field(description=(
        'What the reward of a child is. The accuracy is reported, too.'))] = 'accuracy'
    max_params: Annotated[_Limit, Field(description=(
        'Maximum number of parameters. A child with more is not trained, and counts as failed.'))] = None
    max_macs: Annotated[_Limit, Field(description=(
        'Maximum number of mult-adds for one image. A child with more is not trained, and counts as failed.'))] = None
    latency: Annotated[bool, CliOption(hidden=True), Field(description='Measure the latency of each child.')] = False
    time_limit: Annotated[Optional[float], Field(gt=0, description=(
        'Maximum training time of a child in seconds. A child that takes longer counts as failed.'))] = None
    recipe: ChildRecipe = ChildRecipe()


class SearchConfig(Checked):
    """All settings of a search. ``child.recipe.seed`` is the seed of the sampler, too."""
    out: Annotated[_Path, Field(description='Search folder, to which all results are written.')]
    data: Annotated[str, Field(description=(
        f'Data set of small images: {", ".join(DATA_SETS)}, or a folder or archive (train/CLASS/IMAGE and '
        'test/CLASS/IMAGE).'))] = 'digits'
    preset: Annotated[Optional[str], OneOf('preset', SEARCH_PRESETS), Field(description=(
        'Settings of a whole search, for those that are not given.'))] = None
    space: Annotated[str, OneOf('space', SPACES, others=OWN_SPACE), Field(description=(
        'Search space. FILE.py:NAME is one of your own: a Space in a Python file, or a function that returns '
        'one.'))] = 'nasnet'
    blocks: Annotated[_Limit, Field(description=(
        "Number of blocks in a cell. The default depends on the search space: 5 for nasnet, 4 for darts."))] = None
    forbid_op: Annotated[_NameSet, CliOption(metavar='NAME'), Field(description=(
        'Operation to leave out of the search space. Repeat the option to leave out several.'))] = ()
    sampler: Annotated[str, OneOf('sampler', SAMPLERS), Field(description='Algorithm that proposes cells.')] = 'gp'
    ppo_preset: Annotated[str, OneOf('preset of PPO', PRESETS), Field(description=(
        'Settings of the ppo sampler: model also learns from predicted rewards, and needs the fewest children; fast '
        'takes less time per child; paper is for tens of thousands of children.'))] = 'model'
    trials: Annotated[int, Field(ge=1, description=(
        'Number of different children to train, including failed ones and, with --resume, those trained '
        'before.'))] = 100
    workers: Annotated[_Limit, Field(description=(
        'Number of children that are trained at the same time. They share the CPU cores and the GPUs. The default is 1 '
        'or, on a Ray cluster, as many as fit.'))] = None
    ray: Annotated[Optional[str], Field(description=(
        'Train the children on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for a new cluster on this '
        'machine.'))] = None
    cpus_per_child: Annotated[float, Field(ge=0, description=(
        'Number of CPUs that a child needs on a Ray cluster.'))] = 1.
    gpus_per_child: Annotated[float, Field(ge=0, description=(
        'Number of GPUs that a child needs on a Ray cluster. With a fraction, several children share a GPU.'))] = 0.
    resume: Annotated[bool, Field(description='Continue the search in --out.')] = False
    warm_start: Annotated[_Names, CliOption(metavar='CELL'), Field(description=(
        'Genotype to evaluate first, from which the sampler then learns: a file, or the name of a built-in genotype. '
        'Repeat the option for several.'))] = ()
    reuse: Annotated[Tuple[_Path, ...], Field(strict=False, description=(
        'Folder of another search whose children are taken over with their rewards: those that are in the search '
        'space. They must have been trained and rated in the same way, and they count towards --trials. Repeat the '
        'option for several.'))] = ()
    prune: Annotated[Optional[str], OneOf('pruner', PRUNERS), Field(description=(
        'Stop the training of unpromising children early.'))] = None
    objective: Annotated[Optional[str], OneOf('objective', OBJECTIVES), Field(description=(
        'Second objective, which is minimised.'))] = None
    cost_target: Annotated[Optional[float], Field(gt=0, description=(
        'Cost that --match gives each child; with --objective, the cost at which the second objective does not change '
        'the reward. The default is the cost of a child with the cells of NASNet-A.'))] = None
    baseline: Annotated[Optional[_Path], Field(description=(
        'Folder of another search to show in the plots of the report, for comparison.'))] = None
    storage: Annotated[Optional[str], Field(description=(
        'URL of an Optuna storage for the trials. The default is a journal file in --out.'))] = None
    log: Annotated[LoggerNames, Field(strict=False, description=(
        f'Where the metrics of each child are logged: {", ".join(LOGGERS)}. May be repeated. log.csv is then written, '
        'too. The default is nowhere but in the study and the report.'))] = ()
    data_root: Annotated[Optional[_Path], Field(description="Folder in which torchvision stores data sets.")] = None
    download: Annotated[bool, Field(description='Let torchvision download the data set if it is missing.')] = False
    top: Annotated[int, Field(ge=1, description=(
        'Number of the best children to train again, for longer, at the end.'))] = 3
    final_epochs: Annotated[_Limit, Field(description=(
        'Number of epochs for which the best children are trained again. The default, also if this is not more than '
        '--epochs, is three times --epochs.'))] = None
    final_seeds: Annotated[int, Field(ge=1, description=(
        'Number of seeds with which each of the best children is trained again. The winner has the highest mean '
        'accuracy.'))] = 1
    protocol: Annotated[Optional[str], OneOf('protocol', PROTOCOLS), Field(description=(
        'How children are built, trained and rated, where no option says otherwise. The default is quick on a CPU and '
        'paper on a GPU.'))] = None
    child: ChildSettings = ChildSettings()

    @model_validator(mode='before')
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        preset = given.get('preset') if isinstance(given, dict) else None
        return merge_settings(SEARCH_PRESETS[preset].settings, given) if preset in list(SEARCH_PRESETS) else given

    @model_validator(mode='after')
    def _check_combinations(self) -> 'SearchConfig':
        if self.prune and self.objective:
            raise ValueError('prune: Optuna prunes by a single objective only; leave out --prune or --objective')
        if self.child.match and self.objective:
            raise ValueError('match: children of equal cost need no second objective; leave out --match (which presets '
                             'set) or --objective')
        if self.child.match_below and not self.child.match:
            raise ValueError('match_below: has no effect without --match')
        if self.cost_target is not None and not (self.child.match or self.objective):
            raise ValueError('cost_target: has no effect without --match or --objective')
        return self

    @property
    def seed(self) -> int:
        """The seed of the sampler, which is that of the children's recipe."""
        return self.child.recipe.seed

    def with_protocol(self, on_gpu: bool, side: int, images: int) -> 'SearchConfig':
        """Return these settings with a protocol, and with its values for the children's settings that were not given.

        Args:
            on_gpu: Whether children are trained on a GPU, which decides about the protocol if none was given.
            side: Height and width of the images.
            images: Number of images, those held out included.
        """
        name = self.protocol or default_protocol(on_gpu)
        left = round(images * (1 - self.child.val_share))
        if not left:
            raise ValueError(f'val_share: with {self.child.val_share}, none of the {images} images is left to train on')
        defaults = PROTOCOLS[name].settings(side, left)
        child = ChildSettings(**merge_settings(defaults, self.child.model_dump(exclude_unset=True)))
        return self.model_copy(update=dict(protocol=name, child=child))

    def stored(self) -> Dict[str, Any]:
        """Return what ``search.json`` keeps, as JSON data.

        A storage's URL may contain a password, the settings of a preset are stored themselves, and the other fields
        left out concern one run of the process.
        """
        return self.model_dump(mode='json', exclude={'out', 'resume', 'log', 'download', 'storage', 'preset'})
