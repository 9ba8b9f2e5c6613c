"""`k2-ohlcv catalog restore`: restores the catalog from the warehouse. Options are in `catalog_options`."""

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.domain.errors import CatalogRestoreError, UsageError
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.pointer_move import ABSENT, KEEP, MOVE, REFUSED, REGISTER, TableRestore
from k2_ohlcv.operations.restore_catalog import restore_catalog

_ACTIONS = {
    REGISTER: "is registered",
    MOVE: "moves forward",
    KEEP: "stays, as newest",
    ABSENT: "not in the warehouse",
    REFUSED: "refused",
}


def run_restore(console: Console, *, locations: tuple[str, ...], apply: bool) -> None:
    """Restore the catalog, or show what a restore would do.

    Raises:
        UsageError: the catalog is not a SQL catalog, or a run or an ingestion is at work.
        CatalogRestoreError: a table needs a decision. All other tables were restored, with `apply`.
        CommitConflictError: another process changed the catalog meanwhile.
    """
    if apply:
        _reject_writers(console)
    lake = Lake.open(console.settings)
    with console.progress("catalog restore", total=None) as progress:
        steps = restore_catalog(lake, apply=apply, locations=locations, progress=progress.start_step)
    console.print_json({"applied": apply, "tables": [step.as_json() for step in steps]})
    console.print_text(*_result_table(steps))
    if lake.source is not None:
        console.print_text(f"{lake.source.name} is an external table, and is not touched.")
    console.print_text(_summary_text(steps, applied=apply))
    refused = [step for step in steps if step.action == REFUSED]
    if refused:
        raise CatalogRestoreError(
            f"{len(refused)} tables need a decision: {', '.join(step.table for step in refused)}. "
            "The notes say what to do"
        )


def _reject_writers(console: Console) -> None:
    """Refuse while a writer of this lake is known to be at work.

    Runs are known from Dagster's storage, and ingestions from their folder. Writers elsewhere are unknown.
    """
    from k2_ohlcv.cli.dagster_instance import open_instance
    from k2_ohlcv.defs.dead_runs import runs_at_work
    from k2_ohlcv.sources.staging.temp_folder import is_in_use

    settings = console.settings
    if is_in_use(settings.home / "work"):
        raise UsageError("an ingestion is at work. Wait for its end or stop it, and run this again")
    if not (settings.dagster_home / "dagster.yaml").exists():
        return
    with open_instance(settings) as instance:
        runs = runs_at_work(instance)
    if runs:
        listed = ", ".join(f"{run.job_name} {run.run_id}" for run in runs)
        raise UsageError(
            f"{len(runs)} runs are at work: {listed}. Wait for their end or stop them, and run this again"
        )


def _result_table(steps: list[TableRestore]) -> list[object]:
    result = table("table", "what happens", "metadata file", "rows#", "last changed")
    for step in steps:
        name = (step.after or step.before or "-").rpartition("/")[2]
        rows = "-" if step.rows is None else f"{step.rows:,}"
        time = f"{step.updated_at:%Y-%m-%d %H:%M:%S}" if step.updated_at else "-"
        result.add_row(step.table, _ACTIONS[step.action], name, rows, time)
    return [result, *(f"{step.table}: {note}" for step in steps for note in step.notes)]


def _summary_text(steps: list[TableRestore], *, applied: bool) -> str:
    changed = sum(step.action in {REGISTER, MOVE} for step in steps)
    if all(step.action == ABSENT for step in steps):
        return "The warehouse has no table: there is nothing to restore."
    if not changed:
        return "The catalog is unchanged."
    if not applied:
        return f"{changed} tables would be restored. This was a dry run: --apply restores them."
    return f"{changed} tables restored. Run k2-ohlcv refresh and k2-ohlcv validate next."
