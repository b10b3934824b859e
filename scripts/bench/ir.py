"""Runs `bench.retrieval.ir`."""

from bench.retrieval.ir import main

if __name__ == "__main__":
    main()
