"""Which cell of an experiment a command is about."""

from orchestrator.planning.cells import PlannedCell
from orchestrator.planning.plan import Plan
from orchestrator.spec.naming import describe
from workloads.errors import InputError


def chosen_cell(plan: Plan, role: str, *, row: str | None = None, cell: int | None = None) -> PlannedCell:
    """The cell of a number, or of the row whose name begins so; without either, the only one that has the role.

    Raises
    ------
    InputError
        There is no such cell, several are meant, or the one that is has no step of the role.
    """
    having = [index for index, one in enumerate(plan.cells) if role in one.roles]
    if cell is not None:
        if not 0 <= cell < len(plan.cells):
            raise InputError(key="--cell", value=cell, allowed=f"allowed: 0 to {len(plan.cells) - 1}")
        found = [cell]
    elif row is not None:
        named = [index for index, one in enumerate(plan.cells) if one.cell.row is not None]
        exact = [index for index in named if plan.cells[index].cell.row == row]
        found = exact or [index for index in named if str(plan.cells[index].cell.row).startswith(row)]
        if not found:
            rows = dict.fromkeys(str(plan.cells[index].cell.row) for index in named)
            raise InputError(key="--row", value=row, allowed=f"rows: {', '.join(rows) or 'none'}")
        found = [index for index in found if index in having] or found[:1]
    else:
        found = having
    if not found or role not in plan.cells[found[0]].roles:
        one = plan.cells[found[0]] if found else None
        reason = f" ({one.error})" if one is not None and one.error else ""
        raise InputError(f"{'this cell' if one else 'no cell'} of {plan.name} has a step {role}{reason}")
    # Cells that share the step are one for whoever asks for it.
    if len({plan.cells[index].roles[role].key for index in found}) > 1:
        cells = [one.cell for one in plan.cells]
        listed = "; ".join(f"--cell {index}: {describe(cells[index], cells)}" for index in found[:8])
        raise InputError(f"{len(found)} cells of {plan.name} are meant", allowed=f"choose one: {listed}")
    return plan.cells[found[0]]
