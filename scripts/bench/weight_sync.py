"""`python scripts/bench/weight_sync.py` runs `bench.policy.weight_sync`."""

from bench.policy.weight_sync import main

if __name__ == "__main__":
    main()
