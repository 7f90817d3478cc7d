"""`python -m alexnet_core prepare`: decodes an image tree once into memory-mapped arrays."""

from __future__ import annotations

import argparse
import shlex

from alexnet_core.commands.progress import print_notes, progress_of


def prepare(options: argparse.Namespace) -> int:
    """Makes a prepared folder of a tree of class folders or of CIFAR-10, or checks one."""
    from alexnet_core.data import cifar
    from alexnet_core.data.image_tree import read_tree
    from alexnet_core.data.loading import summarise_data
    from alexnet_core.data.prepared_folder import is_prepared, verify_prepared
    from alexnet_core.data.preparing import preparation
    from alexnet_core.errors import CoreError

    if options.verify:
        verify_prepared(options.destination)
        print(f"{options.destination}: every array is what its manifest says")
        return 0
    if options.download:
        cifar.download_cifar10(options.source)
    if cifar.is_cifar10(options.source):
        source = cifar.cifar10_source(options.source)
    else:
        if is_prepared(options.source):
            raise CoreError(f"{options.source} is prepared already: train with it, or give the images it was made of")
        source = preparation.tree_source(read_tree(options.source))
    print_notes(source.remarks)
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
    remarks = summarise_data("imagefolder", options.destination).remarks
    print_notes(remark for remark in remarks if remark not in source.remarks)
    place = shlex.quote(str(options.destination))
    print(
        f"{options.destination}: ready; python -m orchestrator.ablate --dataset imagefolder --data-root {place}, or "
        f"python -m alexnet_core train --network NAME --dataset {place}"
    )
    return 0
