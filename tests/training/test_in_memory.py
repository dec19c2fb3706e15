"""Arrays in memory: kept in the work directory, so that the run is whole there."""

import jax
import numpy as np
import pytest

import cbjax
from cbjax import config as configs
from cbjax.config import ConfigError
from cbjax.data import DataError
from cbjax.training import restore


def given(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(["cat", "dog"], [40, 16]).astype(object)  # as a column of a data frame
    images = (
        rng.integers(0, 128, (56, 8, 8), dtype=np.uint8) + (100 * (labels == "dog")).astype(np.uint8)[:, None, None]
    )
    return {"images": images, "labels": labels}


@pytest.fixture(scope="module")
def config():
    found = configs.load("own_images:arrays", ["num_epochs=1", "batch_size=16", "log.report=false"])
    return configs.change(found, ["model.name=linear", "data.crop_padding=0", "log.progress=off", "devices=1"])


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    return cbjax.train(config, tmp_path_factory.mktemp("arrays") / "run", arrays=given())


def test_a_run_on_arrays_can_be_loaded_evaluated_and_asked_for_again(run, config):
    assert run.class_names == ("cat", "dog")
    assert run.predict(given()["images"][:3]).shape == (3, 2)
    figures = restore.evaluate(run.workdir)
    assert figures["accuracy"] == run.metrics["test/last/accuracy"]
    again = cbjax.train(config, run.workdir, arrays=given())
    jax.tree.map(np.testing.assert_array_equal, again.state.params, run.state.params)


def test_other_arrays_in_the_same_work_directory_are_refused(run, config):
    with pytest.raises(DataError, match="holds a run on other arrays"):
        cbjax.train(config, run.workdir, arrays=given(1))


def test_arrays_beside_a_config_of_other_data_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="names other data, 'digits'"):
        cbjax.train(configs.load("digits_lt"), tmp_path / "run", arrays=given())


def test_arrays_that_do_not_fit_are_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(DataError, match="each image needs one"):
        cbjax.train(config, tmp_path / "run", arrays=given() | {"labels": ["cat"]})
    with pytest.raises(ConfigError, match="local work directory"):
        cbjax.train(config, "gs://bucket/run", arrays=given())
    assert not (tmp_path / "run").exists()
