"""The core's own commands: `python -m alexnet_core train|eval|prepare|sanity|kernels|neighbours|predictions|onnx`.

Exit codes: 0 done, 1 diverged or a check failed, 2 wrong use or a bad file, 3 a device that is not there,
130 interrupted (Ctrl-C or SIGTERM), 141 the reader of its output has gone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from alexnet_core.commands import evaluate, prepare, train
from alexnet_core.commands.devices import NoDevice
from alexnet_core.configuration.named_networks import recipe_names
from alexnet_core.errors import CoreError
from alexnet_core.process.command_line import CommandParser, pathname
from alexnet_core.process.files import check_current_folder
from alexnet_core.process.interruption import stoppable
from alexnet_core.process.memory import settle_process

MODEL = "folder written by best --export, or by train --out"
NAMES = "train|eval|prepare|sanity|kernels|neighbours|predictions|onnx"
EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "": {
        "sanity": "does the core compute here what it should?",
        "train --network alexnet-mini --dataset digits --out RUN": "a small network on the digits, into a folder",
        "eval --model RUN": "its error on the test images",
    },
    "train": {
        "--network alexnet-mini --dataset digits --out RUN": "as its source trained it, on scikit-learn's digits",
        "--network alexnet-paper --dataset PHOTOS --epochs 5 --out RUN": "five epochs on a folder of photos",
        "--config results/trials/KEY/config.json": "a trial on record, outside Ray: the same numbers",
    },
    "eval": {
        "--model RUN": "the error on the data it was trained with",
        "--model RUN --views 10 --predictions rows.csv": "averaged over ten views, a row per image",
        "--model EXPORT --dataset PHOTOS": "the error on other images of the same classes",
        "--model A --model B --model C": "of three networks whose softmaxes are averaged",
    },
    "neighbours": {
        "--model RUN": "five test images, each beside its six nearest training images",
        "--model RUN --images 8 --nearest 3": "more images, fewer neighbours",
        "--model EXPORT --data-root PHOTOS --out near.png": "where the photos have moved, into another file",
    },
    "predictions": {
        "--model RUN": "eight test images with their five likeliest labels",
        "--model EXPORT --data-root PHOTOS": "where the photos have moved",
        "--model RUN --dataset PHOTOS --out bars.png": "of other images of the same classes, into another file",
    },
    "sanity": {
        "": "on all devices of this machine",
        "--device cpu": "on the CPU alone",
        "--device cuda": "refused where there is no GPU",
    },
    "prepare": {
        "PHOTOS PREPARED": "a folder of photos, 256 pixels as in the paper",
        "cifar CIFAR --download": "gets CIFAR-10 into cifar, and prepares it",
        "PHOTOS PREPARED --verify": "is every byte as it was written?",
    },
    "kernels": {
        "--model RUN": "into kernels.png",
        "--model EXPORT": "of a model that best --export wrote",
        "--model RUN --out conv1.png": "into another file",
    },
    "onnx": {
        "--model RUN": "into model.onnx",
        "--model EXPORT": "of a model that best --export wrote",
        "--model RUN --out net.onnx": "into another file",
    },
}


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parser().parse_args(arguments)
    settle_process()
    try:
        check_current_folder()
        code: int = options.run(options)
    except CoreError as error:
        return _fail(error, 2)
    except NoDevice as error:
        return _fail(error, 3)
    except OSError as error:
        # 没有文件名的是标准输出写不出去，由外层判断
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}", 2)
    return code


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m alexnet_core",
        description="Train, evaluate and look at the original two-GPU AlexNet.",
        examples=EXAMPLES[""],
    )
    verbs = parser.add_subparsers(required=True, metavar=NAMES, help="each has a --help of its own")
    add = partial(_verb, verbs)
    on_device = [
        _train(add("train", "train one configuration, or a named network as its source did")),
        _evaluate(add("eval", "evaluate a trained model, or several averaged")),
        _neighbours(add("neighbours", "draw images beside those nearest in fc7 (paper figure 4)")),
        _predictions(add("predictions", "draw test images with their likeliest labels as bars (paper figure 4, left)")),
        _sanity(add("sanity", "recheck the core on this machine's devices, figure by figure")),
    ]
    for command in on_device:
        command.add_argument("--threads", type=_positive, default=1, help="CPU threads (default: 1, as trials have)")
        command.add_argument(
            "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto, GPUs where there are any"
        )
    _prepare(add("prepare", "decode a data set once into memory-mapped arrays"))
    _model_to_file(
        add("kernels", "draw the first layer's kernels (paper figure 3)"), evaluate.kernels, Path("kernels.png")
    )
    onnx = add("onnx", "export a trained network to ONNX (dependency group onnx)")
    _model_to_file(onnx, evaluate.onnx, Path("model.onnx"))
    return parser


def _verb(verbs: argparse._SubParsersAction[CommandParser], name: str, what: str) -> CommandParser:
    return verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", examples=EXAMPLES[name])


def _train(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=pathname, help="a trial's config.json")
    what.add_argument("--network", choices=recipe_names(), help="a named network, trained as its source did")
    parser.add_argument("--dataset", help="digits, an image folder or a prepared folder (with --network)")
    parser.add_argument("--size", type=_size, help="prepare images at this size (with --network)")
    parser.add_argument("--epochs", type=_positive, help="instead of the source's (with --network)")
    parser.add_argument("--seed", type=int, help="with --network (default: 0)")
    parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), help="with --network")
    parser.add_argument(
        "--cache", type=pathname, help="keep decoded images here (with --network; default: cache/ in --out)"
    )
    parser.add_argument("--data-root", type=pathname, help="where the image folder lies now")
    parser.add_argument("--out", type=pathname, help="folder for config.json, checkpoints and model/; none without it")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    parser.add_argument("--tensorboard", type=pathname, metavar="DIR", help="write TensorBoard logs there")
    parser.set_defaults(run=train.train)
    return parser


def _evaluate(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _data(parser)
    parser.add_argument(
        "--model",
        type=pathname,
        required=True,
        action="append",
        help=f"{MODEL}; several times: their softmaxes are averaged (paper table 2)",
    )
    parser.add_argument("--split", choices=("test", "validation"), help="default: test, where there is one")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="views per image (default: 1)")
    parser.add_argument("--predictions", type=pathname, metavar="FILE.csv", help="write one row per image")
    parser.set_defaults(run=evaluate.evaluate)
    return parser


def _neighbours(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _model_and_data(parser)
    parser.add_argument(
        "--images", type=_positive, default=5, help="test images, spread evenly over the set (default: 5)"
    )
    parser.add_argument("--nearest", type=_positive, default=6, help="training images beside each (default: 6)")
    parser.add_argument("--out", type=pathname, default=Path("neighbours.png"), help="default: neighbours.png")
    parser.set_defaults(run=evaluate.neighbours)
    return parser


def _predictions(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    _model_and_data(parser)
    parser.add_argument("--out", type=pathname, default=Path("predictions.png"), help="default: predictions.png")
    parser.set_defaults(run=evaluate.predictions)
    return parser


def _sanity(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.set_defaults(run=evaluate.sanity)
    return parser


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=pathname, help="folder with train/ and val/ or test/ (ImageNet), or with CIFAR-10"
    )
    parser.add_argument("destination", type=pathname, help="folder to make")
    parser.add_argument(
        "--size", type=_size, help="shorter side, then centre crop (default: 256 as in the paper, 32 for CIFAR-10)"
    )
    parser.add_argument(
        "--bad-images", choices=("fail", "skip"), default="fail", help="name them, or leave them out (default: fail)"
    )
    parser.add_argument(
        "--threads", type=_positive, help="threads that decode; default: one per core, of a container by its quota"
    )
    parser.add_argument("--download", action="store_true", help="get CIFAR-10 into SOURCE first")
    parser.add_argument("--verify", action="store_true", help="check DESTINATION against the hashes of its manifest")
    parser.set_defaults(run=prepare.prepare)


def _model_to_file(parser: argparse.ArgumentParser, run: object, default: Path) -> None:
    parser.add_argument("--model", type=pathname, required=True, help=MODEL)
    parser.add_argument("--out", type=pathname, default=default, help=f"default: {default}")
    parser.set_defaults(run=run)


def _model_and_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=pathname, required=True, help=MODEL)
    _data(parser)


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", help="digits, or an image folder; default: the data it was trained on")
    parser.add_argument("--data-root", type=pathname, help="where the image folder lies now")


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return number


def _size(text: str) -> int:
    number = _positive(text)
    if number > 4096:
        raise argparse.ArgumentTypeError(f"must be at most 4096 pixels, not {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
