"""First weights of trainings, loaded before anything is computed.

The failure this guards against: labels that are computed for hours for a training whose checkpoint does not fit.
"""

from collections.abc import Iterable
from typing import Any

from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.pretrain import PretrainStep
from workloads.errors import GroupedInputError, InputError


def unfit_weights(cells: Iterable[PlannedCell], done: Iterable[str] = ()) -> dict[int, InputError]:
    """What is wrong with the first weights of the trainings of cells, by the cell's place.

    Files and URLs are loaded, each once for a network; names are not, as that would fetch them. Trainings that are
    `done` need none any more.
    """
    tried: dict[Any, InputError | None] = {}
    done, unfit = set(done), dict[int, InputError]()
    for number, planned in enumerate(cells):
        for role, step in planned.roles.items():
            if not isinstance(step, PretrainStep | FinetuneStep) or step.weights is None or step.key in done:
                continue
            init = step.config.init if isinstance(step, PretrainStep) else step.init
            name = (step.config.segmentor, init, step.weights)
            if name not in tried:
                tried[name] = _problem(*name)
            if (problem := tried[name]) is not None:
                place = {"pretrain": "pretrain", "finetune": "finetune"}.get(role, "labels.extractor.finetune")
                unfit[number] = problem.below(place)
                break
    return unfit


def refuse_unfit_weights(plan: Plan) -> None:
    """Take the cells out of a plan whose first weights do not fit, each with its error; the others go on.

    Raises:
        InputError: none is left.
    """
    for number, problem in unfit_weights(plan.cells, plan.done).items():
        plan.cells[number].error, plan.cells[number].roles = problem, {}
    needed = {step.key for planned in plan.cells for step in planned.roles.values()}
    if not needed:
        raise GroupedInputError([planned.error for planned in plan.cells if planned.error])
    for key in plan.steps.keys() - needed:
        del plan.steps[key]


def _problem(segmentor: Any, init: Any, weights: str) -> InputError | None:
    # torch takes seconds to import: a plan without such files is spared it.
    from workloads.networks.segmentors import build_segmentor, initialise

    try:
        initialise(build_segmentor(segmentor, 2), init, weights)
    except InputError as error:
        return error
    return None
