"""Randomness as an argument: every consumer has its own stream, named, derived from the run's seed."""

import hashlib

import torch


def derive(seed: int, name: str) -> int:
    """A 63-bit seed for the stream `name` of run seed `seed`; adding a stream changes no other."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for that stream."""
    return torch.Generator().manual_seed(derive(seed, name))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's global generators that a run on this device draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(device: torch.device, state: dict[str, torch.Tensor]) -> None:
    """Back to a `random_state`; one of another kind of device leaves this device's generator as it is."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
