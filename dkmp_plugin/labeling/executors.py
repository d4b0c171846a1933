"""Where the tasks of a campaign run: in this process, or on the workers of a Dask cluster."""

from contextlib import contextmanager
from typing import Any, Callable, Iterator, Sequence, Tuple

from dkmp_plugin.optional import require

# map(function, arguments) -> (index, result) of each task as it finishes.
TaskMap = Callable[[Callable[..., Any], Sequence[Tuple[Any, ...]]], Iterator[Tuple[int, Any]]]


def in_this_process(
    function: Callable[..., Any], arguments: Sequence[Tuple[Any, ...]]
) -> Iterator[Tuple[int, Any]]:
    """One task after the other.

    Args:
        function: What to call.
        arguments: The arguments of each call.

    Yields:
        Index and result of each call.
    """
    for index, values in enumerate(arguments):
        yield index, function(*values)


@contextmanager
def dask_cluster(address: str, timeout: float = 10.0) -> Iterator[TaskMap]:
    """Runs tasks on the workers of a Dask cluster; they need this package, but no common file system.

    Args:
        address: Of the scheduler, e.g. ``tcp://node1:8786``.
        timeout: Seconds to wait for the scheduler.

    Yields:
        A map like :func:`in_this_process`; a task whose worker dies is given to another one.

    Raises:
        MissingPackageError: If Dask's ``distributed`` is not installed.
        ValueError: If no scheduler answers.
    """
    require("distributed", "--scheduler")
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`, and "
            "workers with `dask worker ADDRESS --nthreads 1`"
        ) from error

    def on_workers(
        function: Callable[..., Any], arguments: Sequence[Tuple[Any, ...]]
    ) -> Iterator[Tuple[int, Any]]:
        # A worker that dies takes its task's try with it; a task that raises does so everywhere.
        index_of = {
            client.submit(function, *values, pure=False): index for index, values in enumerate(arguments)
        }
        for future in as_completed(list(index_of), loop=client.loop):
            yield index_of.pop(future), future.result()

    with client:
        yield on_workers
