"""What happens after an epoch, one callback at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.difficulty import paper_tau

from cbjax.objectives import weighted
from cbjax.parallel import sharding
from cbjax.training import callbacks, evaluate
from cbjax.training.reweight import Reweighting, from_difficulty, smoothing
from cbjax.training.step import make_eval_step
from cbjax.types import Model, NonFiniteLoss, Run, Trained
from cbjax.workdir import memory


def run_at(epoch, accuracy=(0.9, 0.3)):
    run = Run(None, None, jnp.int32(0), {}, ("a", "b"), memory=memory.start(2))
    return run.remember(epoch=epoch, accuracy=accuracy)


@pytest.mark.parametrize(("start_epoch", "equal"), [(1, [1]), (3, [1, 2, 3])])
def test_epochs_of_equal_weights_have_no_tau(start_epoch, equal):
    log_tau = callbacks.log_tau(Reweighting(2, start_epoch, from_difficulty("dynamic", "paper", 0.01, True)), "paper")
    logged = {epoch: log_tau(run_at(epoch)).metrics for epoch in range(1, 6)}
    assert [epoch for epoch, metrics in logged.items() if not metrics] == equal
    assert logged[5] == {"difficulty/tau": pytest.approx(paper_tau([0.9, 0.3]))}


def evaluation_of(outputs, labels):
    """Returns state -> Evaluation of a network that gives these logits [N, C]."""
    outputs = np.asarray(outputs, np.float32)

    def apply(params, batch_stats, images, train, key=None):
        return images.reshape(-1, outputs.shape[1]), batch_stats

    def loss(logits, labels, class_weights, settings):
        return jnp.zeros(len(logits))

    step = make_eval_step(weighted(Model(None, None, None, apply), loss), loss, jax.nn.softmax)
    mesh = sharding.make_mesh(1)
    program = evaluate.make_program(step, lambda _, x: x, mesh, "shard_map")
    labels = np.asarray(labels)
    visit = evaluate.make_visit(program, outputs[:, None, None, :], labels, batch_size=4, mesh=mesh)
    found = evaluate.make_evaluate(visit, labels, counts=np.array([9, 1]), groups={}, mesh=mesh)
    return lambda state: found(Trained({}, {}, {}))


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("bad", [[np.nan, 0], [np.nan, np.nan], [np.inf, np.inf]])
def test_outputs_that_are_not_finite_end_the_run_and_set_nothing(bad, multi_hot):
    labels = [[1, 0], [0, 1], [0, 1]] if multi_hot else [0, 1, 1]
    wrong, right = (evaluation_of([row, [0, 1], [0, 1]], labels) for row in (bad, [1, 0]))
    run, smooth = run_at(2), smoothing(0.0)
    assert callbacks.evaluate_validation(right, smooth)(run).memory.best.balanced_accuracy == 1.0
    for callback in (callbacks.evaluate_validation(wrong, smooth), callbacks.evaluate_test(wrong, 1)):
        with pytest.raises(NonFiniteLoss, match="epoch 2, step 0: the network's outputs for 1 of 3 images are NaN"):
            callback(run)
    found = wrong(None)
    assert found.class_count.tolist() == [1, 2]
    assert found.unanswered == 1 and found.metrics["unanswered"] == pytest.approx(1 / 3)
    nothing = evaluation_of([bad] * 3, labels)(None)
    assert nothing.metrics["unanswered"] == 1 and not nothing.metrics["balanced_accuracy"] > 0
    assert not multi_hot or found.metrics["mean_average_precision"] == 1.0  # of the two that are left
    assert multi_hot or found.outputs.tolist() == [-1, 1, 1]
