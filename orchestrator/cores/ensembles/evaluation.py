"""The evaluation of an ensemble: the softmaxes of its networks are averaged, and nothing is trained."""

from __future__ import annotations

from pathlib import Path

from alexnet_core.data.dataset import Dataset
from alexnet_core.data.loading import load_dataset
from alexnet_core.errors import CoreError
from alexnet_core.trained.ensemble import check_ensemble, evaluate_ensemble
from alexnet_core.trained.loaded_model import LoadedModel, load_model
from orchestrator.cores.contract import ContractError, Run
from orchestrator.cores.ensembles.configuration import EnsembleConfig
from orchestrator.cores.ensembles.exports import group

IMAGES = "images"


def evaluate(config: EnsembleConfig, run: Run) -> dict[str, float]:
    """Returns the errors in [0, 1] and the mean loss in nats of the networks that a seed averages.

    Args:
        config: How many.
        run: The seed, the device, and the folder of the exports; photographs lie beside them in `images` (a prepared
            folder, or a link to one).

    Raises:
        ContractError: There are too few networks, or the images on which they were trained are not there.
    """
    folders = group(config, run.seed, run.data_root)
    try:
        # 每座塔一个设备；只有一个设备时两座塔都在上面
        models = [load_model(folder, (run.devices[0], run.devices[-1])) for folder in folders]
        check_ensemble({str(folder): model for folder, model in zip(folders, models, strict=True)})
        data = _images(models[0], folders[0].parent)
    except CoreError as error:
        raise ContractError(str(error)) from error
    if data.test is None or not len(data.validation):
        raise ContractError("an ensemble is judged on test images and ranked by validation images: its data lack some")
    validation, test = (
        evaluate_ensemble(
            models, models[0].labelled(split, data.class_names), config.views, progress=lambda _done, _of: run.beat()
        )
        for split in (data.validation, data.test)
    )
    return {"validation_error": validation.top1_error, "test_error": test.top1_error, "test_loss": test.loss}


def _images(model: LoadedModel, exports: Path) -> Dataset:
    """The images that a model was trained on and judged by."""
    spec = model.config.data
    if spec.source == "digits":
        return load_dataset(spec)
    return load_dataset(spec.model_copy(update={"root": str(exports / IMAGES)}))
