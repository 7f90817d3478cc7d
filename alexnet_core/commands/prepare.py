"""`python -m alexnet_core prepare`: decodes an image tree once into memory-mapped arrays."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from alexnet_core.commands.progress import progress_of

if TYPE_CHECKING:
    pass


def prepare(options: argparse.Namespace) -> int:
    """Makes a prepared folder of a tree of class folders or of CIFAR-10, or checks one."""
    from alexnet_core.data import cifar, partial_folder, preparation
    from alexnet_core.data.image_tree import read_tree, some
    from alexnet_core.data.prepared_folder import verify_prepared

    if options.verify:
        verify_prepared(options.destination)
        print(f"{options.destination}: every array is what its manifest says")
        return 0
    if options.download:
        cifar.download_cifar10(options.source)
    if cifar.is_cifar10(options.source):
        source = cifar.cifar10_source(options.source)
    else:
        tree = read_tree(options.source)
        if tree.passed_over:
            print(f"passed over, no images by their names: {some(tree.passed_over, partial_folder.MOST_NAMED)}")
        source = preparation.tree_source(tree)
    size = options.size or (cifar.SIDE if cifar.is_cifar10(options.source) else 256)
    images = sum(len(names) for names in source.names.values())
    need = preparation.disk_need(source, size) / 1e9
    print(f"{images} images of {len(source.class_names)} classes at {size} pixels: {need:.2f} GB", flush=True)
    with progress_of("decoding images") as progress:
        manifest = preparation.prepare(
            source,
            options.destination,
            size,
            bad_images=options.bad_images,
            threads=options.threads,
            progress=progress,
        )
    for name, split in manifest.splits.items():
        print(f"{name}: {split.images} images")
    if manifest.bad_images:
        print(f"left out: {manifest.bad_images}, named in {options.destination / 'bad_images.tsv'}")
    print(f"{options.destination}: ready; train with --data-root or --dataset {options.destination}")
    return 0
