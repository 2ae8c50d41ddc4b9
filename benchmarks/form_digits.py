"""The demo on several seeds: the figures of the README and of docs/benchmarks.md.

    python benchmarks/form_digits.py [--seeds 0 1 2] [--surfaces box strike plain ruled] [--prompters ...]

Prints a line per run and a table of means, with the least and the greatest, for every surface and prompter.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

DEMO = pathlib.Path(__file__).parents[1] / "examples" / "form_digits.py"
COLUMNS = ("zero_shot", "local_probe", "calibrated_zero_shot", "blackvip_prompt", "blackvip")


def run(**options):
    """One run of the demo, as its last line tells it."""
    arguments = [item for name, value in options.items() for item in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, DEMO, "--json", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--surfaces", nargs="+", default=["box", "strike", "plain", "ruled"])
    parser.add_argument("--prompters", nargs="+", default=["coordinator", "basis"])
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for prompter in args.prompters:
            for surface in args.surfaces:
                rows = []
                for seed in args.seeds:
                    picture = pathlib.Path(folder) / "picture.png"
                    rows.append(run(prompter=prompter, surface=surface, seed=seed, picture=picture))
                    print(json.dumps(rows[-1]), flush=True)
                table = np.array([[row[column] for column in COLUMNS] for row in rows])
                cells = [
                    f"{mean:.3f} ({least:.3f}-{most:.3f})"
                    for mean, least, most in zip(table.mean(0), table.min(0), table.max(0))
                ]
                billed = max(row["billed_images"] for row in rows)
                lines.append(f"| {prompter} | {surface} | {billed:,d} | " + " | ".join(cells) + " |")
    print(
        "\n| prompter | surface | billed images | " + " | ".join(column.replace("_", " ") for column in COLUMNS) + " |"
    )
    print("|---" * (3 + len(COLUMNS)) + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
