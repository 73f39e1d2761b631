"""Rare positives in mini-batches: what the AP of a batch is worth in place of the whole, and how large it should be.

The detection protocol on images: five kinds of Fashion-MNIST are sought, one image in a hundred each, among images of
the other five kinds, the background. A batch of 512 holds five positives of a kind. Every method passes over the
training part equally often, in batches of 128 to 8,192, with correct labels and with 20 % of them moved at random; as
nearly all labels are background, most labelled positives are then none. Tuned for every batch size anew.

    python -m examples.detection_batches --data DIR      # Fashion-MNIST, from its four IDX files
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import ClassVar

import torch

from examples import data, harness, methods, report

N_SOUGHT = 5


@dataclass(frozen=True)
class Config(harness.Config):
    methods: tuple[str, ...] = ("pos-AP", "neg-AP", "hinge-AP", "x-ent", *methods.FLEXIBLE)
    no_options: ClassVar[tuple[str, ...]] = ("steps",)  # passes say it
    draws: int = 8
    finalists: int = 2
    seeds: int = 6
    passes: int = 15
    noises: tuple[float, ...] = (0.0, 0.2)
    batches: tuple[int, ...] = (128, 512, 2048, 8192)
    sizes: tuple[int, int, int] = (16_384, 8_192, 8_192)
    share: float = 0.01  # of each kind
    hidden: int = 128
    data: Path = Path("data/fashion-mnist")
    out: Path = Path("results/detection-batches.json")


QUICK = {
    **harness.QUICK,
    **{"passes": 2, "batches": (128, 512), "sizes": (1024, 1024, 1024), "noises": (0.0,), "hidden": 32},
}


def draw_parts(images: data.Part, sizes: tuple[int, ...], share: float, generator: torch.Generator) -> data.Parts:
    """Labels 1 to 5 for kinds 0 to 4, ``share`` of each part each, and 0 for the background; no image twice."""
    order = torch.randperm(len(images), generator=generator)
    kinds = images.labels[order]
    pools = [order[kinds >= N_SOUGHT], *(order[kinds == kind] for kind in range(N_SOUGHT))]
    parts = []
    for size in sizes:
        counts = [size - N_SOUGHT * round(share * size), *[round(share * size)] * N_SOUGHT]
        if any(n > len(pool) for n, pool in zip(counts, pools, strict=True)):
            raise SystemExit(f"too few images for parts of {sizes}, {share:.1%} of each kind")
        taken = torch.cat([pool[:n] for pool, n in zip(pools, counts, strict=True)])
        pools = [pool[n:] for pool, n in zip(pools, counts, strict=True)]
        labels = torch.arange(N_SOUGHT + 1).repeat_interleave(torch.tensor(counts))
        parts.append(data.Part(images.inputs[taken], labels))
    return data.Parts(*parts)


def fit(config: Config, trial: harness.Trial) -> harness.Outcome:
    """The seed draws parts, flips and first weights, the same for every method and batch size."""
    noise, batch = trial.setting
    generator = torch.Generator().manual_seed(trial.seed)
    parts = draw_parts(data.fashion_mnist(config.data), config.sizes, config.share, generator)
    parts = parts.standardised().with_flips(noise, N_SOUGHT + 1, generator)
    torch.manual_seed(trial.seed)
    net = data.two_layers(parts.train.inputs.shape[1], config.hidden, N_SOUGHT)
    problem = methods.Problem(len(parts.train), N_SOUGHT, background=True)
    a_pass = max(len(parts.train) // int(batch), 1)
    course = replace(config, steps=config.passes * a_pass, steps_per_check=a_pass, patience=8 * a_pass)
    return harness.fit(net.to(config.device), parts.to(config.device), problem, trial, course, int(batch))


def main() -> None:
    config = harness.parse(Config(), QUICK, __doc__)
    results = harness.run(config, list(product(config.noises, config.batches)), fit)
    report.show("detection-batches", results, config.out)


if __name__ == "__main__":
    main()
