"""Randomness as an argument: every consumer has its own stream, named, derived from the run's seed."""

import hashlib

import torch


def derive(seed: int, name: str) -> int:
    """A 63-bit seed for the stream `name` of run seed `seed`; adding a stream changes no other."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for that stream."""
    return torch.Generator().manual_seed(derive(seed, name))
