"""Restores the catalog from the warehouse: registers lost tables, and moves old pointers forward.

The newest good metadata file of a table decides. A pointer never moves backwards. External trades tables are
not restored: they belong to their owner.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pyiceberg.catalog.sql import SqlCatalog

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.catalog_pointer import move_pointer, read_pointers, register_table, sql_catalog
from k2_ohlcv.lake.maintenance.metadata_files import (
    MetadataFile,
    TableFolder,
    find_table_folders,
    read_folder,
    table_at,
)
from k2_ohlcv.lake.maintenance.newest_metadata import Evidence, choose_newest
from k2_ohlcv.lake.maintenance.table_files import TableFiles
from k2_ohlcv.lake.schemas import CANDLE_SPECS, REJECTED_SPEC, TRADES_SPEC, TableSpec
from k2_ohlcv.lake.watermark import SNAPSHOT_PROPERTY
from k2_ohlcv.operations.pointer_move import ABSENT, MOVE, REFUSED, REGISTER, TableRestore, plan_move


def restore_catalog(
    lake: Lake,
    *,
    apply: bool,
    locations: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> list[TableRestore]:
    """Plan, and with `apply` carry out, the restore of every table of the project.

    Args:
        lake: the tables.
        apply: change the catalog; else only plan.
        locations: folders to prefer where a table has several.
        progress: is told each table.

    Raises:
        UsageError: the catalog is not a SQL catalog with a warehouse.
        OSError: the store of the warehouse fails. Nothing more is changed.
        CommitConflictError: another process changed the catalog meanwhile.
    """
    catalog = sql_catalog(lake.catalog)
    pointers = read_pointers(catalog)
    search = _Search(catalog, pointers, tuple(location.rstrip("/") for location in locations))
    steps, read_snapshots = [], set[int]()
    trades = (TRADES_SPEC,) if lake.has_own_trades else ()
    # Candle tables first: their watermarks tell which trades snapshots were committed.
    for spec in (*CANDLE_SPECS.values(), REJECTED_SPEC, *trades):
        progress(spec.name)
        step, folder = search.plan(spec, read_snapshots if spec is TRADES_SPEC else ())
        steps.append(step)
        if folder is not None:
            read_snapshots |= _watermarks(folder)
    if apply:
        for step in steps:
            _carry_out(catalog, step)
    return [*steps[len(steps) - len(trades) :], *steps[: len(steps) - len(trades)]]


def _carry_out(catalog: SqlCatalog, step: TableRestore) -> None:
    if step.action == REGISTER and step.after is not None:
        register_table(catalog, step.table, step.after)
    if step.action == MOVE and step.before is not None and step.after is not None:
        move_pointer(catalog, step.table, step.before, step.after)


def _watermarks(folder: TableFolder) -> set[int]:
    """The trades snapshots that the files of a candle table name. They were committed, as they were read."""
    found = (file.metadata.properties.get(SNAPSHOT_PROPERTY, "") for file in folder.good)
    return {int(text) for text in found if text.isdecimal()}


@dataclass(frozen=True)
class _Search:
    """The catalog as found, and the folders that a person prefers."""

    catalog: SqlCatalog
    pointers: dict[str, str]
    preferred: tuple[str, ...]

    def plan(self, spec: TableSpec, known: Collection[int]) -> tuple[TableRestore, TableFolder | None]:
        before = self.pointers.get(spec.name)
        step = TableRestore(spec.name, ABSENT, before)
        folder, reason = self._folder(spec, before)
        if folder is None:
            if reason or before:
                missing = f"the catalog names {before}, and its folder has no metadata file."
                return replace(step, action=REFUSED, notes=(reason or missing,)), None
            return step, None
        table = table_at(self.catalog, spec, folder.location)
        named = TableFiles(table).path_key(before) if before else None
        choice = choose_newest(table, folder, Evidence(named, known))
        if choice.file is None:
            none_good = f"no metadata file in {folder.location} is good. Restore that folder from its backup."
            return replace(step, action=REFUSED, notes=(*choice.notes, none_good)), folder
        found = replace(
            _describe(step, choice.file), notes=(*choice.notes, *self._other_folders(spec, before))
        )
        found = replace(found, action=REGISTER) if before is None else plan_move(table, found, choice.file)
        return found, folder

    def _folder(self, spec: TableSpec, before: str | None) -> tuple[TableFolder | None, str]:
        """The folder of a table; None with a reason, or without one if there is none."""
        found = [read_folder(self.catalog, spec, location) for location in self._locations(spec, before)]
        folders = [folder for folder in found if folder.good or folder.skipped]
        if chosen := [folder for folder in folders if folder.location in self.preferred]:
            folders = chosen
        if len(folders) <= 1:
            return (folders[0] if folders else None), ""
        listed = "; ".join(_folder_text(folder) for folder in folders)
        return None, (
            f"the warehouse has several folders for {spec.name}: {listed}. Name the right one with "
            "--location FOLDER, and give --location for each such table."
        )

    def _locations(self, spec: TableSpec, before: str | None) -> list[str]:
        """The folders to read: the one of the catalog's pointer, else all that no other table uses."""
        if before is not None:
            return [before.rpartition("/metadata/")[0]]
        used = {path.rpartition("/metadata/")[0] for path in self.pointers.values()}
        return [location for location in find_table_folders(self.catalog, spec) if location not in used]

    def _other_folders(self, spec: TableSpec, before: str | None) -> list[str]:
        """A sentence for each further folder of the table, if the catalog has the table already."""
        if before is None:
            return []
        used = {path.rpartition("/metadata/")[0] for path in self.pointers.values()}
        return [
            f"the warehouse also has {location}, which no table of the catalog uses. If that is the lost "
            f"table, remove {spec.name} from the catalog, and run this again with --location {location}."
            for location in find_table_folders(self.catalog, spec)
            if location not in used
        ]


def _describe(step: TableRestore, file: MetadataFile) -> TableRestore:
    snapshot = file.metadata.current_snapshot()
    total = snapshot.summary["total-records"] if snapshot and snapshot.summary else None
    updated = datetime.fromtimestamp(file.metadata.last_updated_ms / 1000, UTC)
    rows = int(total) if total else (None if snapshot else 0)
    return replace(step, after=file.path, rows=rows, updated_at=updated)


def _folder_text(folder: TableFolder) -> str:
    times = [file.metadata.last_updated_ms for file in folder.good]
    last = f"{datetime.fromtimestamp(max(times) / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC" if times else "unknown"
    return f"{folder.location} (last changed {last})"
