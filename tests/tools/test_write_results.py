"""The table of results is that of the shipped weights."""
from helpers.tools import import_tool

write_results = import_tool('write_results')


def test_the_table_is_up_to_date():
    tables = write_results.result_rows()
    assert [row['model'] for row in tables['cifar10-jpeg']] == [
        f'nasnet_{kind}_cifar_small.cifar10' for kind in 'azbc']
    for dataset, rows in tables.items():
        stored = (write_results.RESULTS / f'results-{dataset}.csv').read_text(encoding='utf-8')
        assert stored == write_results.as_csv(rows), 'python tools/write_results.py'


def test_columns():
    row = write_results.result_rows()['cifar10-jpeg'][0]
    assert tuple(row) == write_results.COLUMNS
    assert (row['top1'], row['top1_err'], row['top5'], row['img_size']) == (91.42, 8.58, 99.54, 32)
