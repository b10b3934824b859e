"""Runs `bench.simulator.scale`."""

from bench.simulator.scale import main

if __name__ == "__main__":
    main()
