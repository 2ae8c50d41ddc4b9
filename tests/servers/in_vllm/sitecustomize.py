"""Python imports this first when this folder is in PYTHONPATH: it lets torchvision for CUDA run beside torch for CPUs.

The operators of such a torchvision do not load, and its import fails since two of them are missing. Their names are
declared here. Nothing calls them.
"""

import sys
from importlib.abc import MetaPathFinder


class DeclareOperators(MetaPathFinder):
    """Declares the operators when torchvision is about to be imported, so that other programs do not load torch."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            # Operators live as long as their library.
            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules["torch"].blackvip_operators = self.library
        return None


sys.meta_path.insert(0, DeclareOperators())
