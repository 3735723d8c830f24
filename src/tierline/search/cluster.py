"""Chunks of a sweep on other processes and machines, with Dask distributed."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from tierline.errors import FaultError, InputError
from tierline.search.files import FileFormat
from tierline.search.sweep import Part, Question, Runner, make_part

# Chunks in flight for each thread: enough that none waits for the next, few enough to hold in memory.
_AHEAD = 3
_CONNECT_S = "20s"


def on_cluster(address: str) -> Runner:
    """Return what makes chunks on the cluster whose scheduler is at `address` (tcp://host:8786)."""

    def runner(question: Question, chunks: Iterable[int], chosen: FileFormat) -> Iterator[Part]:
        try:
            client = _distributed().Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--cluster {address[:80]}: cannot be reached: {str(error)[:200]}") from None
        with client:
            yield from _spread(client, question, chunks, chosen)

    return runner


def on_workers(count: int) -> Runner:
    """Return what makes chunks in `count` worker processes of this computer."""
    if not 1 <= count <= 1024:
        raise InputError(f"--workers {count}: want 1 to 1,024")

    def runner(question: Question, chunks: Iterable[int], chosen: FileFormat) -> Iterator[Part]:
        distributed = _distributed()
        with (
            distributed.LocalCluster(
                n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            ) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield from _spread(client, question, chunks, chosen)

    return runner


def _spread(client: Any, question: Question, chunks: Iterable[int], chosen: FileFormat) -> Iterator[Part]:  # noqa: ANN401
    """Yield chunks as they come, a few ahead of what has come; a worker that dies costs only its chunks."""
    distributed = _distributed()
    left = iter(chunks)
    wanted = max(1, sum(client.nthreads().values())) * _AHEAD

    def send(chunk: int) -> Any:  # noqa: ANN401 - a Future; distributed publishes no types
        found = client.submit(make_part, question.given, chunk, chosen, pure=False, retries=3)
        numbers[found.key] = chunk
        return found

    numbers: dict[str, int] = {}
    futures = distributed.as_completed(list(map(send, islice(left, wanted))), loop=client.loop)
    for future in futures:
        chunk = numbers.pop(future.key)
        try:
            data = future.result()
        except distributed.KilledWorker as error:
            raise FaultError(f"chunk {chunk}: {str(error)[:200]}; run the same command to go on") from None
        yield chunk, data
        for following in islice(left, 1):
            futures.add(send(following))


def _distributed() -> Any:  # noqa: ANN401 - it publishes no types
    try:
        import distributed
    except ImportError:
        raise InputError("--cluster and --workers need pip install 'tierline[cluster]'") from None
    return distributed
