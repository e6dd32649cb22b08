"""How many scenes a second the embedded renderer draws on one core, at each difficulty.

    OMP_NUM_THREADS=1 python benchmarks/render_scenes.py [--size 64] [--scenes 100] [--rounds 5]

The difficulties take turns; printed are the median of the rounds and their range, in scenes a second of CPU time, which
holds on a machine that others use.
"""

import argparse
import statistics
import time

from data.scenes import DIFFICULTIES, render_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=100, help="drawn in a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    rates: dict[str, list[float]] = {difficulty: [] for difficulty in DIFFICULTIES}
    for difficulty in DIFFICULTIES:
        render_scene("train", 0, size=arguments.size, difficulty=difficulty)  # fills the tables
    for number in range(arguments.rounds):
        for difficulty, found in rates.items():
            start = time.process_time()
            for index in range(arguments.scenes):
                render_scene("train", number * arguments.scenes + index, size=arguments.size, difficulty=difficulty)
            found.append(arguments.scenes / (time.process_time() - start))
    for difficulty, found in rates.items():
        print(f"{difficulty:9} {statistics.median(found):5.0f} scenes a second ({min(found):.0f} to {max(found):.0f})")


if __name__ == "__main__":
    main()
