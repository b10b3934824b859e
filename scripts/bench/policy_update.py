"""`python scripts/bench/policy_update.py` runs `bench.policy.update`."""

from bench.policy.update import main

if __name__ == "__main__":
    main()
