"""`report --images`: the images that most arms' seeds disagree on, as a picture and as data."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.wording import counted
from alexnet_core.data.loading import EvaluationSet
from alexnet_core.errors import CoreError
from orchestrator.errors import ExitCode, LabError
from orchestrator.judging.images.disputed import Disputed, disputed_images
from orchestrator.output.document import Document
from orchestrator.output.fitting import fitting, print_text
from orchestrator.records.files import write_atomically
from orchestrator.reporting.material import Material, judged_images

MOST_IMAGES = 24
PICTURE = "images.png"


class DisputedImage(Frozen):
    """An image that seeds disagree on.

    Attributes:
        number: In its split.
        name: Its file, or its number in the data.
        label: Its class.
        right: By arm, the share of its seeds that got it right, in [0, 1].
    """

    number: int
    name: str
    label: str
    right: dict[str, float]


class ImagesDocument(Document):
    """What `report --images` answers with `--json`.

    Attributes:
        study: Name of its folder.
        split: Whose images: `test`, or `validation`.
        picture: Where they are drawn; None where the seeds of every arm agree on every image.
        seeds: By arm, how many seeds.
        unknown: Arms of which it is not on record which images were right.
        among: Images on which the seeds of some arm disagree.
        images: Those on which the seeds of most arms disagree, first those that all trainings halve best.
    """

    study: str
    split: str
    picture: Path | None
    seeds: dict[str, int]
    unknown: tuple[str, ...]
    among: int
    images: tuple[DisputedImage, ...]


def show_images(material: Material, folder: Path, console: Console) -> ImagesDocument:
    """Draws the images that most arms' seeds disagree on, and lists them with each arm's share right.

    Args:
        material: What the study's report is made of.
        folder: The study's folder, for the picture.
        console: Where to print.

    Raises:
        LabError: No images are judged, it is not on record which were right, or they are not here decoded.
    """
    answer, seen = material.answer, material.seen
    if seen is None:
        raise LabError(
            f"{folder.name} judges the {answer.metric}: --images is of test or validation errors in points, "
            "on images that all seeds share",
            exit_code=ExitCode.WRONG_USE,
        )
    found = disputed_images(seen, {arm.name: [int(seed) for seed in arm.errors] for arm in answer.arms}, MOST_IMAGES)
    if not found.right:
        raise LabError(
            f"the records of {folder.name} do not say which images were right, as those of earlier versions",
            exit_code=ExitCode.NOTHING,
        )
    data = _data(material)
    shown = _named(found, data)
    picture = folder / PICTURE
    if shown:
        # matplotlib 要 1.5 秒，只有要画才加载
        from orchestrator.reporting.images.disputed import disputed_picture

        title = f"{answer.study} on {answer.dataset}: how many seeds of each arm get these {seen.split} images right"
        pixels = data.split.pick(found.images)
        write_atomically(picture, disputed_picture(title, pixels, [_caption(image, found) for image in shown]))
    document = ImagesDocument(
        study=folder.name,
        split=seen.split,
        picture=picture.resolve() if shown else None,
        seeds=dict(found.seeds),
        unknown=found.unknown,
        among=found.among,
        images=tuple(shown),
    )
    _print(document, console)
    return document


def _data(material: Material) -> EvaluationSet:
    try:
        data = judged_images(material)
    except CoreError as error:
        raise LabError(str(error), exit_code=ExitCode.ENVIRONMENT) from error
    if data is None:
        spec = material.images
        place = "" if spec is None or spec.root is None else f" (they were in {spec.root})"
        raise LabError(
            f"the images of {material.answer.dataset} are not here decoded{place}; ask where they are",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return data


def _named(found: Disputed, data: EvaluationSet) -> list[DisputedImage]:
    return [
        DisputedImage(
            number=number,
            name=data.files[number],
            label=data.class_names[int(data.split.labels[number])],
            right={arm: float(share[place]) for arm, share in found.right.items()},
        )
        for place, number in enumerate(found.images.tolist())
    ]


def _caption(image: DisputedImage, found: Disputed) -> list[str]:
    """What stands below an image: its name, its class, and of how many seeds of each arm it was right."""
    return [
        image.name,
        f"class {image.label}",
        *(f"{arm} {_right(share, found.seeds[arm])}" for arm, share in image.right.items()),
    ]


def _right(share: float, seeds: int) -> str:
    return f"{round(share * seeds)}/{seeds}"


def _print(document: ImagesDocument, console: Console) -> None:
    if not document.images:
        print_text(console, f"{document.study}: the seeds of every arm agree on every {document.split} image")
    else:
        table = Table(box=box.SIMPLE_HEAD, title=Text(_title(document)), title_justify="left")
        for heading in ("image", "class", *(f"{arm}, right" for arm in document.seeds)):
            table.add_column(heading)
        for image in document.images:
            cells = (_right(share, document.seeds[arm]) for arm, share in image.right.items())
            table.add_row(*map(Text, (image.name, image.label, *cells)))
        console.print(fitting(table, console.width))
        print_text(console, f"picture: {document.picture}")
    if document.unknown:
        print_text(console, f"not on record which images were right: {', '.join(document.unknown)}")


def _title(document: ImagesDocument) -> str:
    shown = "all of them" if document.among == len(document.images) else f"the first {len(document.images)}"
    return (
        f"{document.study}: {counted(document.among, f'{document.split} image')} on which the seeds of an arm "
        f"disagree, {shown}; of how many seeds each is right"
    )
