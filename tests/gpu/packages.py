"""The packages that `make gpu` needs in the interpreter that it is given; the standard library alone is imported."""

import importlib.metadata

LEAST: dict[str, tuple[int, ...]] = {
    "torch": (2, 11),
    "torchvision": (0, 26),
    "transformers": (5, 23),
    "accelerate": (1, 15),
    "trl": (1, 16),  # with datasets, which it requires
    "peft": (),
    "pydantic": (2,),
    "cachetools": (),
}
"""The oldest versions that all of it was run with, on a CPU; (): any."""


def missing_packages() -> list[str]:
    """What is missing, a phrase for each package: that it is not there, or that it is too old."""
    phrases = []
    for name, least in LEAST.items():
        wanted = f"{name} >= {'.'.join(map(str, least))}" if least else name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            phrases.append(wanted)
            continue
        if least and tuple(int(part) for part in version.split(".")[:2]) < least:
            phrases.append(f"{wanted} (there is {version})")
    return phrases


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LEAST}
