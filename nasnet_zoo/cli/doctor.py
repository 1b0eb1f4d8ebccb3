"""The ``doctor`` command."""
from typing import Any, Dict

from .common import AsJson, exit_on_error, print_report

__all__ = ['doctor']


def doctor(as_json: AsJson = False) -> None:
    """Show what is installed, what works on this machine, and what is missing for which command.

    Each device and execution provider is tried with a model of one node. Include the output in a bug report.
    """
    from ..doctor import diagnose
    with exit_on_error():
        report = diagnose()
    print_report(report, as_json, _print_report)


def _print_report(report: Dict[str, Any]) -> None:
    print(f'nasnet-zoo {report["version"]}, Python {report["python"]}, {report["platform"]}, {report["cpus"]} CPUs, '
          f'{report["encoding"]}')
    print(f'{report["genotypes"]} genotypes and {report["weights"]} weight files are installed')
    installed = {package: version for package, version in report['packages'].items() if version}
    print(f'packages: {", ".join(f"{package} {version}" for package, version in installed.items())}')
    print(f'not installed: {", ".join(package for package in report["packages"] if package not in installed)}')
    for row in report['runtimes']:
        print(f'{row["runtime"]} on {row["device"]}: {"works" if row["works"] else "fails: " + row["reason"]}')
    for gpu in report['gpus']:
        print(f'GPU: {gpu["name"]}, {gpu["memory"] / 2 ** 30:.1f} GiB')
    if not report['gpus']:
        print('GPU: none that PyTorch can use')
    for name, cache in report['caches'].items():
        print(f'cache of {name}: {cache["path"]}, {cache["bytes"] / 1e6:,.1f} MB'
              f'{"" if cache["writable"] else ", cannot be written to"}')
    _print_missing(report)


def _print_missing(report: Dict[str, Any]) -> None:
    """Print which commands lack packages, and the extras that install them."""
    from ..doctor import COMMANDS
    from ..extras import how_to_install
    lacking = {command: packages for command, packages in report['commands'].items() if packages}
    for command, packages in lacking.items():
        extra = COMMANDS[command]
        assert extra is not None, 'packages are lacking in extras only'
        print(f'{command}: needs {" and ".join(packages)}: {how_to_install(extra)}')
    if not lacking:
        print('All commands have what they need.')
