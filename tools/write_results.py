"""Write docs/results/results-DATASET.csv, in the columns of timm's own tables of results: python tools/write_results.py

The figures are those in the metadata of the shipped weight files, which ``nasnet-zoo validate --record`` measured.
"""
import csv
import io
from pathlib import Path
from typing import Dict, List

from timm.models import get_pretrained_cfg

from nasnet_zoo.description import describe
from nasnet_zoo.files import write_utf8
from nasnet_zoo.hub.folder import read_accuracy
from nasnet_zoo.zoo import shipped_weights

RESULTS = Path(__file__).resolve().parent.parent / 'docs' / 'results'
COLUMNS = ('model', 'img_size', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'crop_pct', 'interpolation')


def result_rows() -> Dict[str, List[Dict[str, object]]]:
    """Return the rows of each data set, the best model first: accuracies in percent, parameters in millions."""
    rows: Dict[str, List[Dict[str, object]]] = {}
    for name in shipped_weights():
        cfg = get_pretrained_cfg(name)
        record = read_accuracy(cfg.file)
        top1, top5 = (round(100 * record[key], 3) for key in ('top1', 'top5'))
        rows.setdefault(record['dataset'], []).append(dict(
            model=name, img_size=cfg.input_size[1], top1=top1, top1_err=round(100 - top1, 3), top5=top5,
            top5_err=round(100 - top5, 3), param_count=round(describe(name.split('.')[0])['params'] / 1e6, 2),
            crop_pct=cfg.crop_pct, interpolation=cfg.interpolation))
    return {dataset: sorted(found, key=lambda row: -row['top1']) for dataset, found in rows.items()}


def as_csv(rows: List[Dict[str, object]]) -> str:
    """Return rows as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    for dataset, rows in result_rows().items():
        write_utf8(RESULTS / f'results-{dataset}.csv', as_csv(rows))


if __name__ == '__main__':
    main()
