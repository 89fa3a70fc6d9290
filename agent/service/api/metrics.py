"""The metrics, in Prometheus' text format.

`Metrics` counts deployments by their events and requests as a middleware; the state of the present deployment is taken
from its status when somebody asks, so nothing here costs a deployment anything. prometheus_client writes the text; it
is imported when the first one is asked for, in a thread.

Labels are bounded: stages, sides and error codes are ours, a request counts under the template of its route, an unknown
method under `other`. No label holds a name, a path or a URL that came from outside.
"""

import functools
import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from agent import __version__
from agent.aio import run_blocking
from agent.logs import dropped_lines
from agent.model.events import DeployEvent, Finished
from agent.model.stage import ACTIVE, State
from agent.model.status import Status, read_timestamp
from agent.model.surroundings import ContactState, Trouble

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

_NO_ROUTE = "none"
_OTHER_METHOD = "other"
_FAMILY = "byoi"


@functools.cache
def _library() -> None:
    importlib.import_module("prometheus_client.core")


async def load_library() -> None:
    """Import prometheus_client in a thread, before the first text: the import would block the event loop."""
    if _library.cache_info().currsize == 0:
        await run_blocking(_library)


class Metrics:
    """Counts for one daemon, from its start. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._outcomes: Counter[tuple[str, str]] = Counter()
        """Deployments that are over, by outcome and error code."""
        self._requests: Counter[tuple[str, str, int]] = Counter()
        """Requests by method, template of the route and status of the answer."""
        self._outcomes_refused = 0
        self._downloaded = 0
        self._written = 0
        """Bytes of deployments that are over."""
        self._last_over: float | None = None
        """Start of the last deployment that is over, seconds since the epoch: its bytes are in the sums already."""
        self._status: Status | None = None
        self._document: Mapping[str, Any] = {}
        """What `text` was given, while it runs."""
        self._registry: CollectorRegistry | None = None

    def listen(self, event: DeployEvent) -> None:
        """Count a deployment's outcome and its bytes; an observer of deployments."""
        if not isinstance(event, Finished):
            return
        status = event.status
        code = str((status.error or {}).get("code") or "")
        self._outcomes[status.status, code] += 1
        self._downloaded += status.progress.bytes_downloaded
        self._written += status.progress.bytes_written
        self._last_over = status.started_at

    def refuse_outcome(self) -> None:
        """Count an outcome that the control plane did not take and that is set aside."""
        self._outcomes_refused += 1

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request when it is answered. Outside of `json_errors`: it sees the statuses of refusals, too."""
        status = 499  # the client went away, or the daemon stops: nobody was answered
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as answer:
            status = answer.status
            raise
        else:
            return response
        finally:
            resource = request.match_info.route.resource
            route = _NO_ROUTE if resource is None else resource.canonical
            method = request.method if request.method in hdrs.METH_ALL else _OTHER_METHOD
            self._requests[method, route, status] += 1

    def text(self, status: Status | None, document: Mapping[str, Any]) -> bytes:
        """Everything, in the text format 0.0.4.

        Args:
            status: of the deployment in the slot; None if there is none.
            document: the status document as it is shown. Its percentage is the one that is told: `status` may be
                further, but the journal has to know of a percentage before anybody is told.
        """
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest  # noqa: PLC0415

        if self._registry is None:
            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(_Collector(self._families))
            ProcessCollector(registry=self._registry)  # memory, processor time, file descriptors
        self._status, self._document = status, document
        try:
            return generate_latest(self._registry)
        finally:
            self._status, self._document = None, {}

    # -- families --------------------------------------------------------------------------------------------

    def _families(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, InfoMetricFamily  # noqa: PLC0415

        yield InfoMetricFamily(_FAMILY, "The agent", {"version": __version__})
        yield self._counted_bytes("downloaded", "Bytes of images that were downloaded")
        yield self._counted_bytes("written", "Bytes of images that were decoded and written")
        outcomes = CounterMetricFamily(
            f"{_FAMILY}_deployments", "Deployments that are over", labels=("outcome", "code")
        )
        for (outcome, code), count in self._outcomes.items():
            outcomes.add_metric((outcome, code), count)
        yield outcomes
        requests = CounterMetricFamily(
            f"{_FAMILY}_http_requests", "Requests to the API", labels=("method", "route", "status")
        )
        for (method, route, status), count in self._requests.items():
            requests.add_metric((method, route, str(status)), count)
        yield requests
        yield CounterMetricFamily(
            f"{_FAMILY}_outcomes_refused",
            "Outcomes that the control plane did not take and that were set aside",
            value=self._outcomes_refused,
        )
        yield CounterMetricFamily(
            f"{_FAMILY}_log_dropped_lines",
            "Lines of the log that nobody took from stderr",
            value=dropped_lines(),
        )
        yield from _configuration(self._document.get("configuration"))
        yield from _contact("control_plane", self._document.get("controlPlane"))
        yield from _contact("ironic", self._document.get("ironic"))
        yield from _deployment(self._status, self._document.get("percent"))

    def _counted_bytes(self, what: str, text: str) -> "Metric":
        """A sum over all deployments, the present one included. A transfer that begins again counts anew."""
        from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415

        total = self._downloaded if what == "downloaded" else self._written
        if self._status is not None and self._status.started_at != self._last_over:
            progress = self._status.progress
            total += progress.bytes_downloaded if what == "downloaded" else progress.bytes_written
        return CounterMetricFamily(f"{_FAMILY}_{what}_bytes", text, value=total)


class _Collector:
    """What prometheus_client asks; it wants an object."""

    def __init__(self, families: "Callable[[], Iterator[Metric]]") -> None:
        self._families = families

    def collect(self) -> "Iterator[Metric]":
        return self._families()


def _configuration(member: Mapping[str, Any] | None) -> "Iterator[Metric]":
    """Faults of the configuration, as numbers: their texts come from outside."""
    if member is None:
        return
    faults, warnings = member["faultCount"], len(member["warnings"])
    yield _plain("configuration_faults", "Faults for which a configuration was not taken up", faults)
    yield _plain("configuration_warnings", "What is allowed in it but probably wrong", warnings)


def _contact(whom: str, member: Mapping[str, Any] | None) -> "Iterator[Metric]":
    """How the contact is; nothing where none is configured."""
    if member is None:
        return
    states = {state.value: float(state.value == member["state"]) for state in ContactState}
    troubles = {trouble.value: float(trouble.value == member["trouble"]) for trouble in Trouble}
    yield _labelled(f"{whom}_state", "How the last call went", "state", states)
    yield _labelled(f"{whom}_trouble", "Why the last call failed", "trouble", troubles)
    since, at = member["since"], member["nextTry"]
    if since is not None:
        text = "When it came to its state, since the epoch"
        yield _plain(f"{whom}_state_start_time_seconds", text, read_timestamp(since))
    if at is not None:
        text = "When it is tried again, since the epoch"
        yield _plain(f"{whom}_next_try_time_seconds", text, read_timestamp(at))


def _deployment(status: Status | None, percent: float | None) -> "Iterator[Metric]":
    """The deployment in the slot; nothing but `active 0` if there is none."""
    active = status is not None and status.state in ACTIVE
    yield _gauge("active", "Whether a deployment is under way", float(active))
    if status is None:
        return
    progress = status.progress
    yield _labelled(
        "deployment_state",
        "Where the deployment is",
        "state",
        {state: float(state is status.state) for state in State},
    )
    if percent is not None:
        yield _gauge("percent", "How far it is, by the weight of its stages", percent)
    yield _gauge("attempt", "How often the transfer has begun", status.attempt)
    yield _gauge("start_time_seconds", "When it began, since the epoch", status.started_at)
    if status.finished_at is not None:
        yield _gauge("end_time_seconds", "When it was over, since the epoch", status.finished_at)
    yield _gauge("downloaded_bytes", "Bytes downloaded in this attempt", progress.bytes_downloaded)
    yield _gauge("written_bytes", "Bytes decoded and written in this attempt", progress.bytes_written)
    if progress.bytes_total is not None:
        yield _gauge("image_bytes", "Size of the image's file", progress.bytes_total)
    yield _gauge(
        "rate_bytes", "Bytes downloaded a second, over the last seconds", progress.rate if active else 0
    )
    yield _gauge(
        "connections", "Connections over which the image comes now", progress.connections if active else 0
    )
    yield _labelled(
        "deployment_wait_seconds",
        "How long the transfer has stood still because of this side",
        "side",
        progress.waits,
    )
    yield _labelled(
        "deployment_stage_seconds",
        "How long each stage took that is over",
        "stage",
        {stage.name: stage.seconds for stage in status.stages if stage.seconds is not None},
    )


def _gauge(name: str, text: str, value: float) -> "Metric":
    """A gauge of the deployment."""
    return _plain(f"deployment_{name}", text, value)


def _plain(name: str, text: str, value: float) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    return GaugeMetricFamily(f"{_FAMILY}_{name}", text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    family = GaugeMetricFamily(f"{_FAMILY}_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
