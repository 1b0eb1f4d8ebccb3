"""A model as a folder in timm's hub layout: written, pushed, pulled."""
import json
import os
from pathlib import Path
from typing import Optional, Sequence, Union

from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

from .files import written_whole
from .network import NASNet

__all__ = ['write_weights']


def write_weights(
        model: NASNet,
        folder: Union[str, os.PathLike],
        class_names: Optional[Sequence[str]] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
) -> None:
    """Write model.safetensors and config.json, from which ``timm.create_model('local-dir:…', pretrained=True)`` reads.

    The genotype is in config.json, so a searched cell needs no other file.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with written_whole(folder / 'model.safetensors') as part:
        save_file(tensors, part, metadata=dict(format='pt'))
    data_config = {name: list(values) for name, values in (('mean', mean), ('std', std)) if values is not None}
    data_config['input_size'] = (model.in_chans, *model.skeleton.size)
    with written_whole(folder / 'config.json') as part:
        save_config_for_hf(
            model, part, model_config=dict(label_names=list(class_names)) if class_names else None,
            data_config=data_config)
        config = json.loads(part.read_text())
        config['architecture'] = 'nasnet'  # with model_args it rebuilds any of ours
        config['model_args'] = model.config
        part.write_text(json.dumps(config, indent=2) + '\n')
