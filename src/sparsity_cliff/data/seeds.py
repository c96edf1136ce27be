"""Random streams. Every consumer of randomness has its own named stream, derived from the run's seed."""

import hashlib

import torch


def derive(seed: int, name: str) -> int:
    """A 63-bit seed for the stream `name` of the run seed `seed`. A new stream changes no other stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for the stream `name` of the run seed `seed`."""
    return torch.Generator().manual_seed(derive(seed, name))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of torch's global generators that a run on a device uses."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(device: torch.device, state: dict[str, torch.Tensor]) -> None:
    """Restore a `random_state`. A state from another type of device leaves this device's generator unchanged."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
