"""Prints the core dependencies, each at its lower bound in setup.cfg, as pip takes them: "numpy==1.26.0 ..."."""

import configparser
import pathlib
import re
import sys

config = configparser.ConfigParser(interpolation=None)
config.read(pathlib.Path(__file__).parents[1] / "setup.cfg")
for requirement in config["options"]["install_requires"].split("\n")[1:]:
    bound = re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement)
    if bound is None:
        sys.exit(f"setup.cfg: {requirement!r} in install_requires has no tested lower bound; expected name>=version.")
    print(f"{bound[1]}=={bound[2]}")
