"""`python scripts/bench/rewards.py` runs `bench.rewards`."""

from bench.rewards import main

if __name__ == "__main__":
    main()
