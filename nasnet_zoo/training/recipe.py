"""How a network is trained, as checked settings. The training itself is in :mod:`nasnet_zoo.training.trainer`."""
from typing import Annotated, Any, Dict, Literal, Mapping, Optional, Tuple

from pydantic import ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError
from timm.optim import list_optimizers

from ..checked import Checked, CliOption, shorten, suggest

__all__ = ['Recipe', 'with_defaults']

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=0)]


def _parse_sizes(text: str) -> Tuple[Tuple[int, int], ...]:
    """Convert '0:16,10:32' to pairs of an epoch and an image size in pixels."""
    try:
        return tuple((int(epoch), int(side)) for epoch, side in (pair.split(':') for pair in text.split(',')))
    except ValueError:
        raise ValueError(f'{text!r} is not of the form EPOCH:SIZE,…, such as 0:16,10:32') from None


class Recipe(Checked):
    """How a network is trained. The defaults are those of the NASNet paper for CIFAR, in Google's code
    (nasnet.py and image_processing in tensorflow/models). ``training/recipes.py`` lists other published recipes.

    Three more settings are arguments of the network: ``drop_path_rate`` (Google's 0.4), ``drop_rate`` and ``aux_head``.

    Raises:
        ValueError: If a value has the wrong type or is out of bounds. The message names the field.
    """
    model_config = ConfigDict(title='Training recipe')

    epochs: Annotated[int, Field(ge=1, description='Number of passes over the training images.')] = 600
    batch_size: Annotated[int, Field(ge=1, description='Number of images in a batch, summed over all processes.')] = 32
    opt: Annotated[str, Field(description=(
        "Optimiser, by its name in timm: momentum (SGD with momentum), nesterov, adamw, lamb, nmuon or another name in "
        'timm.optim.list_optimizers().'))] = 'momentum'
    lr: Annotated[_Positive, Field(description=(
        'Learning rate at the start of the schedule, after the warm-up.'))] = 0.025
    opt_eps: Annotated[Optional[_Positive], Field(description=(
        "Epsilon of the optimiser; the default is timm's."))] = None
    momentum: Annotated[_Fraction, Field(description='Momentum, for optimisers that use it.')] = 0.9
    weight_decay: Annotated[_Fraction, Field(description=(
        'Weight decay. It is not applied to biases or to the weights of normalisation layers.'))] = 5e-4
    sched: Annotated[Literal['cosine', 'poly', 'step', 'tanh'], Field(description=(
        'Learning rate schedule, by its name in timm; step multiplies the rate by --decay-rate every --decay-epochs '
        'epochs.'))] = 'cosine'
    decay_epochs: Annotated[_Positive, Field(description=(
        'Number of epochs after which the learning rate is multiplied by --decay-rate, for --sched step.'))] = 2.4
    decay_rate: Annotated[float, Field(gt=0, le=1, description=(
        'Factor by which the learning rate decays, for --sched step.'))] = 0.97
    warmup_epochs: Annotated[float, Field(ge=0, description=(
        'Number of epochs in which the learning rate rises linearly from lr / 10 to lr; at most a fifth of all '
        'epochs.'))] = 1.
    clip_grad: Annotated[_Positive, Field(description='Norm to which the gradient is clipped.')] = 5.
    aux_weight: Annotated[float, Field(ge=0, description="Weight of the loss of the auxiliary head.")] = 0.4
    label_smoothing: Annotated[_Fraction, Field(description=(
        'Fraction of the target probability that is spread evenly over all classes.'))] = 0.
    pad: Annotated[_Count, Field(description=(
        'Shift small images at random by up to this number of pixels in each direction.'))] = 4
    pad_mode: Annotated[Literal['zero', 'edge'], Field(description=(
        'How the border of shifted images is filled: zero (the mean colour) or edge (the nearest pixel).'))] = 'zero'
    flip: Annotated[bool, Field(description='Flip images horizontally at random.')] = True
    cutout: Annotated[_Count, Field(description=(
        'Size in pixels of the square that is erased from small images (cutout), or 0 for none; 16 is usual for '
        'CIFAR.'))] = 0
    mixup: Annotated[float, Field(ge=0, description="Alpha of timm's mixup, or 0 for no mixup.")] = 0.
    cutmix: Annotated[float, Field(ge=0, description="Alpha of timm's cutmix, or 0 for no cutmix.")] = 0.
    ema: Annotated[_Fraction, Field(description=(
        'Decay of the exponential moving average (EMA) of the weights, or 0 for none. If there is one, it is saved as '
        'the trained network.'))] = 0.
    sizes: Annotated[
        Tuple[Annotated[Tuple[_Count, Annotated[int, Field(ge=4)]], Field(strict=False)], ...],
        CliOption(parse=_parse_sizes, metavar='EPOCH:SIZE,…'),
        Field(strict=False, description=(
            'Resize small images to a size that changes during training: 0:16,10:32 means 16 pixels at first, and 32 '
            'pixels from epoch 10 on.')),
    ] = ()
    bf16: Annotated[bool, Field(description='Train in mixed precision with bfloat16.')] = False
    channels_last: Annotated[bool, Field(description='Use the channels-last memory format.')] = True
    compile: Annotated[bool, Field(description='Compile the network with torch.compile.')] = False
    seed: Annotated[int, Field(ge=0, lt=2 ** 31, description='Seed of all random numbers.')] = 0

    @field_validator('opt')
    @classmethod
    def _check_opt(cls, opt: str) -> str:
        name = opt.lower().split('_')[-1]  # timm also takes lookahead_NAME
        if name not in list_optimizers():
            raise PydanticCustomError('unknown_name', '{text}', {
                'text': f'unknown optimiser {shorten(opt)!r}; {suggest(name[:100], list_optimizers())}'})
        return opt

    def size_at(self, epoch: int) -> int:
        """Return the size in pixels to which small images are resized in an epoch, counted from 0; 0 for none."""
        return max((pair for pair in self.sizes if pair[0] <= epoch), default=(0, 0))[1]


def with_defaults(stored: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a recipe that was stored as JSON data, with the fields that the version that stored it did not have."""
    return {**Recipe().model_dump(mode='json'), **stored}
