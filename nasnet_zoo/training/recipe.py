"""How a network is trained, as checked settings. The training itself is in :mod:`nasnet_zoo.training.trainer`."""
from typing import Annotated, Literal, Tuple

from pydantic import ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError
from timm.optim import list_optimizers

from ..checked import Checked, CliOption, shorten, suggest

__all__ = ['Recipe']

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=0)]


def _parse_sizes(text: str) -> Tuple[Tuple[int, int], ...]:
    """Convert '0:16,10:32' to pairs of an epoch and a side in pixels."""
    try:
        return tuple((int(epoch), int(side)) for epoch, side in (pair.split(':') for pair in text.split(',')))
    except ValueError:
        raise ValueError(f'{text!r} is not of the form 0:16,10:32') from None


class Recipe(Checked):
    """How a network is trained. The defaults are those of the NASNet paper for CIFAR, in Google's code
    (nasnet.py and image_processing in tensorflow/models).

    Two more of the paper's settings are arguments of the network: ``drop_path_rate`` (Google's 0.4) and ``aux_head``.

    Raises:
        ValueError: If a value has the wrong type or is out of bounds. The message names the field.
    """
    model_config = ConfigDict(title='Recipe')

    epochs: Annotated[int, Field(ge=1, description='Number of passes over the training images.')] = 600
    batch_size: Annotated[int, Field(ge=1, description='Images in a batch, over all processes.')] = 32
    opt: Annotated[str, Field(description=(
        "Optimiser, by timm's name: momentum (SGD with momentum), nesterov, adamw, lamb, nmuon or any other that "
        'timm.optim.list_optimizers() lists.'))] = 'momentum'
    lr: Annotated[_Positive, Field(description='Highest learning rate.')] = 0.025
    momentum: Annotated[_Fraction, Field(description='Momentum, for optimisers that have one.')] = 0.9
    weight_decay: Annotated[_Fraction, Field(description=(
        'Weight decay. It is not applied to biases and normalisation layers.'))] = 5e-4
    sched: Annotated[Literal['cosine', 'poly', 'tanh'], Field(description=(
        "Learning rate schedule, by timm's name."))] = 'cosine'
    warmup_epochs: Annotated[float, Field(ge=0, description=(
        'Epochs in which the learning rate rises linearly from a tenth of lr; at most a fifth of all epochs.'))] = 1.
    clip_grad: Annotated[_Positive, Field(description='Largest norm of the gradient.')] = 5.
    aux_weight: Annotated[float, Field(ge=0, description="Weight of the auxiliary head's loss.")] = 0.4
    label_smoothing: Annotated[_Fraction, Field(description=(
        'Fraction of the target probability that is spread evenly over all classes.'))] = 0.
    pad: Annotated[_Count, Field(description=(
        'Small images are shifted at random by up to this many pixels.'))] = 4
    pad_mode: Annotated[Literal['zero', 'edge'], Field(description=(
        'What shifted images are filled with: zero (the mean colour) or edge (the nearest pixel).'))] = 'zero'
    flip: Annotated[bool, Field(description='Mirror images at random.')] = True
    cutout: Annotated[_Count, Field(description=(
        'Side in pixels of the square that is blanked in small images, or 0 for none; 16 is usual for CIFAR.'))] = 0
    mixup: Annotated[float, Field(ge=0, description="timm's mixup alpha, or 0 for no mixup.")] = 0.
    cutmix: Annotated[float, Field(ge=0, description="timm's cutmix alpha, or 0 for no cutmix.")] = 0.
    ema: Annotated[_Fraction, Field(description=(
        'Decay of the moving average of the weights, or 0 for none. The average becomes the trained network.'))] = 0.
    sizes: Annotated[
        Tuple[Annotated[Tuple[_Count, Annotated[int, Field(ge=4)]], Field(strict=False)], ...],
        CliOption(parse=_parse_sizes, metavar='EPOCH:SIDE,…'),
        Field(strict=False, description=(
            'Train on small images of changing size: 0:16,10:32 means 16 pixels at first and 32 from epoch 10 on.')),
    ] = ()
    bf16: Annotated[bool, Field(description='Train in mixed precision with bfloat16.')] = False
    channels_last: Annotated[bool, Field(description='Use channels-last memory.')] = True
    compile: Annotated[bool, Field(description='Compile the network with torch.compile.')] = False
    seed: Annotated[_Count, Field(description='Seed of everything random.')] = 0

    @field_validator('opt')
    @classmethod
    def _check_opt(cls, opt: str) -> str:
        name = opt.lower().split('_')[-1]  # timm also takes lookahead_NAME
        if name not in list_optimizers():
            raise PydanticCustomError('unknown_name', '{text}', {
                'text': f'unknown optimiser {shorten(opt)!r}; {suggest(name[:100], list_optimizers())}'})
        return opt

    def size_at(self, epoch: int) -> int:
        """Return the side in pixels of small images in an epoch, counted from 0, or 0 for their own."""
        return max((pair for pair in self.sizes if pair[0] <= epoch), default=(0, 0))[1]
