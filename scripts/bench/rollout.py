"""`python scripts/bench/rollout.py` runs `bench.rollout.comparison`."""

from bench.rollout.comparison import main
from ur2.errors import run_entry

if __name__ == "__main__":
    run_entry(main)
