"""Have the webserver load the code location anew: partitions that begin where retention ends move with it.

The daemon does so by itself every minute (`RELOAD_WORKSPACE_INTERVAL` in Dagster's controller).
"""

from urllib.parse import urlsplit

import dagster as dg

from k2_ohlcv.retention_report import RetentionReport
from k2_ohlcv.settings import Settings

#: The name of our code location, as in workspace.yaml.
LOCATION = "k2_ohlcv"
#: Loading takes seconds; on a busy machine it may take as long as dagster.yaml lets a code server.
_SECONDS = 180


def reload_after(context: dg.OpExecutionContext, report: RetentionReport, settings: Settings) -> None:
    """Let what retention dropped leave the UI, where partitions begin with retention.

    The partitions are gone either way: where there is no webserver, or it will not, the log says so.
    """
    dropped = report.applied and any(one.partitions for one in report.tables)
    if not dropped or settings.start_date is not None:
        return
    origin = context.run.remote_job_origin
    location = origin.location_name if origin else LOCATION
    if settings.webserver is None:
        context.log.info(
            f"The UI lists the dropped partitions until the code location {location} is reloaded there: "
            "K2_WEBSERVER does not say where the webserver is."
        )
    elif failure := reload(settings.webserver, location):
        context.log.warning(
            f"The UI lists the dropped partitions until the code location {location} is reloaded there: "
            f"the webserver at {settings.webserver} (K2_WEBSERVER) did not reload it: {failure}"
        )
    else:
        context.log.info(f"The webserver at {settings.webserver} has reloaded the code location {location}.")


def reload(webserver: str, location: str) -> str | None:
    """Have a webserver reload a code location.

    Args:
        webserver: its address, as `Settings.webserver`.
        location: the name of the location.

    Returns:
        Why it did not; None if it did.
    """
    # Imported here: the graph loads without it in less time.
    from dagster_graphql import (
        DagsterGraphQLClient,
        DagsterGraphQLClientError,
        ReloadRepositoryLocationStatus,
    )

    address = urlsplit(webserver)
    try:
        client = DagsterGraphQLClient(
            address.netloc,
            use_https=address.scheme == "https",
            path_prefix=address.path,
            timeout=_SECONDS,
        )
        done = client.reload_repository_location(location)
    except DagsterGraphQLClientError as error:
        return f"{error.__cause__ or error}"
    except LookupError as error:
        return f"it answered as Dagster's client does not expect; one that is read-only does (no {error})"
    if done.status is ReloadRepositoryLocationStatus.SUCCESS:
        return None
    return f"{done.failure_type}: {done.message}"
