"""`python scripts/bench/seeds.py` runs `bench.seeds`."""

from bench.seeds import main

if __name__ == "__main__":
    main()
