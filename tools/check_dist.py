"""Builds the sdist and the wheel, and tests the wheel by tests of the sdist, where nothing of the checkout is seen.

    python tools/check_dist.py [--keep dist]

Run it as `make dist` does, by an interpreter that has blackvip's dependencies: the new environment borrows them, so
that torch is not downloaded again, and does not see the checkout.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).parents[1]
#: Tests that use each part of an installation: fits, services, prompters, the report's template, versions. `make test`
#: runs all tests on the same code; these find what a wheel can lack.
TESTS = ("training", "prompters", "scorers", "report", "versions")


def tracked(*folders):
    """Files that git tracks in the checkout's folders."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.split("\0") if name}


def build(folder):
    """The sdist, and the wheel that is built from it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def check_contents(sdist, wheel):
    """Every tracked file of the package is in both, with its data; the sdist has the tests and what goes with them."""
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    package = tracked("blackvip")
    if in_wheel != package:
        sys.exit(f"{wheel.name} and blackvip/ differ in {some(in_wheel ^ package)}; see package_data in setup.cfg.")
    missing = tracked("blackvip", "tests", "docs", "examples", "benchmarks", "tools") - in_sdist
    if missing:
        sys.exit(f"{sdist.name} lacks {some(missing)}; see MANIFEST.in.")


def some(names):
    return ", ".join(sorted(names)[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def make_environment(folder, wheel):
    """A new environment with the wheel, and this one's dependencies behind it: .pth files in there are not read."""
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    purelib = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([str(python), "-c", purelib], check=True, capture_output=True, text=True).stdout.strip()
    pathlib.Path(site, "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python, pathlib.Path(site)


def run_tests(python, site, sdist, folder):
    """The sdist's tests; -P keeps the sdist's own package out of the path."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    where = "import blackvip, pathlib; print(pathlib.Path(blackvip.__file__).parents[1])"
    found = subprocess.run([str(python), "-P", "-c", where], cwd=source, check=True, capture_output=True, text=True)
    if pathlib.Path(found.stdout.strip()) != site:
        sys.exit(f"blackvip was imported from {found.stdout.strip()}; expected the wheel's, in {site}.")
    tests = [f"tests/test_{name}.py" for name in TESTS]
    subprocess.run([str(python), "-P", "-m", "pytest", "-q", "-m", "not slow", *tests], cwd=source, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the sdist and the wheel")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        sdist, wheel = build(folder / "dist")
        check_contents(sdist, wheel)
        python, site = make_environment(folder / "environment", wheel)
        run_tests(python, site, sdist, folder / "source")
        if args.keep:
            shutil.copytree(folder / "dist", args.keep, dirs_exist_ok=True)
        print(f"{sdist.name} and {wheel.name} are complete, and the wheel passes tests of the sdist.")


if __name__ == "__main__":
    main()
