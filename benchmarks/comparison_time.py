"""How long a comparison takes on a real service, of all methods that need neither downloads nor gradients.

    python benchmarks/comparison_time.py [--task ocr6-box] [--queries 16000] [--seeds 0] [--jobs 2]

It prints the table, the seconds that passed and the seconds of CPU time, which tell what other work on the machine
does not change: two idle cores need half of them.
"""

import argparse
import os
import time

import services
import torch

from blackvip import compare
from blackvip.comparison.methods import METHODS

LEFT_OUT = ("blackvip-mae", "blackvip-in21k", "vp-white-box")  # they need downloads, and gradients


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="ocr6-box", choices=services.tasks(), metavar="TASK")
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if name not in LEFT_OUT])
    parser.add_argument("--queries", type=int, default=16_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = services.tasks()[args.task]()
    data = task.load(args.seeds[0], "test")
    begin, before = time.perf_counter(), os.times()
    found = compare(
        args.methods,
        task.score_fn,
        *data,
        class_prompts=task.class_prompts,
        max_queries=args.queries,
        seeds=args.seeds,
        n_jobs=args.jobs,
        verbose=2,
    )
    seconds, after = time.perf_counter() - begin, os.times()
    cpu = after.user + after.system - before.user - before.system
    print(found)
    print(f"{args.task}, {args.queries:,d} images, {args.jobs} at once: {seconds:.0f} s, {cpu:.0f} s of CPU time")
    for row in found.rows:
        if row["refused"]:
            print(f"{row['method']}: {row['refused']}")


if __name__ == "__main__":
    main()
