"""Training from 8 to 1,024 GPUs in virtual time: the real scheduling over simulated costs."""
