"""The engines and stores of the tests: Sail, Apache Spark if Java is installed, local files and S3.

CI sets K2_REQUIRE_SPARK=1 and K2_REQUIRE_POSTGRES=1. Tests then fail instead of being skipped.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake, empty_bench
from k2_ohlcv_tests.support.rest_catalog import rest_server_on
from k2_ohlcv_tests.support.servers import S3, s3_server
from k2_ohlcv_tests.support.spark_server import connect_server, require_java

# Every run has the same examples, so that a change fails only by its own fault.
hypothesis_settings.register_profile(
    "k2", derandomize=True, deadline=None, max_examples=20, suppress_health_check=list(HealthCheck)
)
hypothesis_settings.load_profile("k2")

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


_S3_GROUP = pytest.mark.xdist_group("s3")
#: The stores of the marker `each_store`.
STORES = {
    "files": pytest.param("files"),
    "s3": pytest.param("s3", marks=_S3_GROUP),
    "rest": pytest.param("rest", marks=[_S3_GROUP, pytest.mark.rest]),
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real trades. It is not part of the project."""
    if not SHARED.is_dir():
        pytest.skip("the folder shared/data with real trades is not beside this checkout")
    return SHARED


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked `each_store` runs on local files, on S3, and on S3 behind a REST catalog."""
    marker = metafunc.definition.get_closest_marker("each_store")
    if "store" in metafunc.fixturenames and marker:
        stores = [STORES[name] for name in marker.args or STORES]
        metafunc.parametrize("store", stores, indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """The store of the lake: `files`, `s3` or `rest`."""
    return getattr(request, "param", "files")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 server in a separate process."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def rest_uri(s3: S3) -> Iterator[str]:
    """The address of a REST catalog, whose tables are on the S3 server."""
    with rest_server_on(s3) as uri:
        yield uri


@pytest.fixture
def bucket(s3: S3) -> str:
    """An empty bucket of the S3 server."""
    name = f"lake-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(name)
    return name


@pytest.fixture
def lake(tmp_path: Path, store: str, request: pytest.FixtureRequest) -> Lake:
    """An empty lake, in the store of the test."""
    if store == "files":
        return lakes.open_lake(tmp_path)
    if store == "rest":
        return lakes.on_rest(request.getfixturevalue("s3"), request.getfixturevalue("rest_uri"))
    return lakes.on_s3(tmp_path, request.getfixturevalue("s3"), request.getfixturevalue("bucket"))


@pytest.fixture(scope="session")
def sail_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Engine]]:
    """The folder of a lake, and Sail in this process."""
    home = tmp_path_factory.mktemp("sail")
    with open_engine(lakes.lake_settings(home)) as engine:
        yield home, engine


@pytest.fixture(scope="session")
def spark_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Engine]]:
    """The folder of a lake, and Apache Spark: a Connect server in a separate process."""
    require_java()
    home = tmp_path_factory.mktemp("spark")
    lakes.drop_tables(lakes.open_lake(home))  # Spark's catalog expects its own tables to exist
    with (
        connect_server(home) as server,
        open_engine(lakes.lake_settings(home, SPARK_REMOTE=server.remote)) as engine,
    ):
        yield home, engine


@pytest.fixture
def sail(sail_session: tuple[Path, Engine]) -> EngineLake:
    """Sail over empty tables. A property test empties them before each example with `lakes.drop_tables`."""
    return empty_bench(*sail_session)


@pytest.fixture
def spark(spark_session: tuple[Path, Engine]) -> EngineLake:
    """Apache Spark over empty tables."""
    return empty_bench(*spark_session)


@pytest.fixture(
    params=[
        "sail",
        pytest.param("spark", marks=[pytest.mark.spark, pytest.mark.xdist_group("spark")]),
    ]
)
def each_engine(request: pytest.FixtureRequest) -> EngineLake:
    """Each engine in turn, over empty tables."""
    engine_lake: EngineLake = request.getfixturevalue(request.param)
    return engine_lake
