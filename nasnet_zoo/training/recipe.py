"""How to train, as data; apart from the training itself so that the command can list its options quickly."""
from typing import Annotated, Any, Literal, Tuple

from pydantic import Field

from ..checked import Checked, CliOption, check

__all__ = ['Recipe', 'CHILDREN']

_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_Whole = Annotated[int, Field(ge=0)]


def parse_sizes(text: str) -> Tuple[Tuple[int, int], ...]:
    """Convert ``0:16,10:32`` to ((0, 16), (10, 32)).

    Raises:
        ValueError: If the text has another form.
    """
    pairs = [pair.split(':') for pair in text.split(',')] if text else []
    if any(len(pair) != 2 or not all(part.strip().isdigit() for part in pair) for pair in pairs):
        raise ValueError(f'{text!r} is not of the form EPOCH:SIDE,EPOCH:SIDE, such as 0:16,10:32')
    return tuple((int(epoch), int(side)) for epoch, side in pairs)


class Recipe(Checked):
    """How to train. The defaults are the paper's for CIFAR, in Google's code (nasnet.py and image_processing).

    The network's own share of it, ``drop_path_rate`` (Google's 0.4) and ``aux_head``, are arguments of the network.
    """
    epochs: Annotated[int, Field(ge=1, description='passes over the images')] = 600
    batch_size: Annotated[int, Field(ge=1, description='images a step, of all processes together')] = 32
    opt: Annotated[str, Field(description="timm's name of an optimiser; momentum is SGD with it")] = 'momentum'
    lr: Annotated[_Positive, Field(description='highest learning rate')] = 0.025
    momentum: _Share = 0.9
    weight_decay: Annotated[_Share, Field(description='L2 penalty, but for norms and biases')] = 5e-4
    sched: Annotated[Literal['cosine', 'poly', 'tanh'], Field(description="timm's name of a schedule")] = 'cosine'
    warmup_epochs: Annotated[float, Field(ge=0, description=(
        'of linear warm-up, from a tenth of lr; at most a fifth of all'))] = 1.
    clip_grad: Annotated[_Positive, Field(description='largest norm of the gradient')] = 5.
    aux_weight: Annotated[float, Field(ge=0, description="weight of the auxiliary head's loss")] = 0.4
    label_smoothing: Annotated[_Share, Field(description='share of the target spread over all classes')] = 0.
    pad: Annotated[_Whole, Field(description='pixels by which small images are shifted at most')] = 4
    pad_mode: Annotated[Literal['zero', 'edge'], Field(description='what is beyond the border')] = 'zero'
    flip: Annotated[bool, Field(description='mirror every second image')] = True
    cutout: Annotated[_Whole, Field(description='side of the blank square in small images; 16 is usual')] = 0
    mixup: Annotated[float, Field(ge=0, description="timm's alpha; 0 for none")] = 0.
    cutmix: Annotated[float, Field(ge=0, description="timm's alpha; 0 for none")] = 0.
    ema: Annotated[_Share, Field(description="decay of the weights' moving average; 0 for none")] = 0.
    sizes: Annotated[
        Tuple[Tuple[_Whole, Annotated[int, Field(ge=4)]], ...],
        CliOption(parse=parse_sizes, metavar='EPOCH:SIDE,…'),
        Field(strict=False, description='small images are resized: pairs of an epoch and the side from it on'),
    ] = ()
    bf16: Annotated[bool, Field(description='mixed precision with bfloat16')] = False
    channels_last: bool = True
    compile: Annotated[bool, Field(description='torch.compile')] = False
    seed: _Whole = 0

    @classmethod
    def create(cls, **fields: Any) -> 'Recipe':
        """A checked recipe.

        Raises:
            TypeError: For an unknown field.
            ValueError: For a value of the wrong type or out of bounds.
        """
        return check(cls, fields)

    def size_at(self, epoch: int) -> int:
        """Side of small images in this epoch, counted from 0; 0 for their own."""
        return max((pair for pair in self.sizes if pair[0] <= epoch), default=(0, 0))[1]


CHILDREN = Recipe(epochs=20)  # how the paper trains the children of a search (appendix A.1)
