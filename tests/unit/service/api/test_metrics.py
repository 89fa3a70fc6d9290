import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.errors import Fault
from agent.model.events import Finished, StageBegan
from agent.model.stage import State
from agent.model.status import Progress, StageTime, Status
from agent.model.surroundings import ContactState, Trouble, configuration_member, contact_member
from agent.service.api.metrics import Metrics

SECRET = "hunter2"


def status(state: State = State.WRITE, *, started_at: float = 1000, **members) -> Status:
    progress = Progress(
        bytes_downloaded=300,
        bytes_total=1000,
        bytes_written=200,
        rate=50,
        connections=4,
        waits={"network": 2.5, "disk": 0.0},
    )
    fields = {
        "server_name": f"{SECRET}.example.net",
        "message": f"downloading https://u:{SECRET}@h/i?sig={SECRET}",
        "checksum": None,
        "percent": 33.3333,
        "attempt": 2,
        "progress": progress,
        "started_at": started_at,
        "updated_at": 1002,
        "stages": (StageTime("preflight", 1000, 1.25), StageTime("write", 1001, None)),
        "job": {"URL": SECRET},
        "notes": (SECRET,),
    }
    return Status(state=state, **fields | members)


def samples(
    metrics: Metrics, now: Status | None = None, percent: float | None = 30.0, **surroundings
) -> dict[tuple, float]:
    """Name and labels of each sample, to its value; read by Prometheus' own parser."""
    found = {}
    for family in text_string_to_metric_families(
        metrics.text(now, {"percent": percent, **surroundings}).decode()
    ):
        for sample in family.samples:
            found[(sample.name, *sample.labels.values())] = sample.value
    return found


def test_without_a_deployment_there_are_the_agent_and_its_process():
    found = samples(Metrics())
    assert found["byoi_deployment_active",] == 0
    assert found["byoi_downloaded_bytes_total",] == 0
    assert found["process_resident_memory_bytes",] > 2**20
    assert not any(
        name.startswith("byoi_deployment_") for name, *_ in found if name != "byoi_deployment_active"
    )


def test_the_present_deployment_is_shown():
    found = samples(Metrics(), status())
    assert found["byoi_deployment_active",] == 1
    assert (found["byoi_deployment_state", "write"], found["byoi_deployment_state", "done"]) == (1, 0)
    assert found["byoi_deployment_attempt",] == 2
    assert found["byoi_deployment_downloaded_bytes",] == found["byoi_downloaded_bytes_total",] == 300
    assert found["byoi_deployment_written_bytes",] == found["byoi_written_bytes_total",] == 200
    assert found["byoi_deployment_image_bytes",] == 1000
    assert found["byoi_deployment_rate_bytes",] == 50
    assert found["byoi_deployment_connections",] == 4
    assert found["byoi_deployment_wait_seconds", "network"] == 2.5
    assert found["byoi_deployment_stage_seconds", "preflight"] == 1.25
    assert ("byoi_deployment_stage_seconds", "write") not in found


@pytest.mark.parametrize("shown", [0.0, 33.3, 99.0])
def test_the_percentage_is_the_one_that_the_status_shows(shown):
    """The deployment may be further: the journal has to know of a percentage before it is told."""
    assert samples(Metrics(), status(percent=100.0), shown)["byoi_deployment_percent",] == shown


def test_where_the_status_shows_no_percentage_there_is_none():
    assert ("byoi_deployment_percent",) not in samples(Metrics(), status(), None)


def test_outcomes_are_counted_by_their_code_and_bytes_summed_up():
    metrics = Metrics()
    metrics.listen(StageBegan(State.WRITE))
    failed = status(State.ERROR, finished_at=1010, error={"code": "image.download", "message": SECRET})
    metrics.listen(Finished(failed))
    metrics.listen(Finished(status(State.DONE, started_at=2000, finished_at=2010)))
    metrics.listen(Finished(status(State.DONE, started_at=3000, finished_at=3010)))
    last = status(State.DONE, started_at=3000, finished_at=3010)
    found = samples(metrics, last)
    assert found["byoi_deployments_total", "image.download", "error"] == 1
    assert found["byoi_deployments_total", "", "done"] == 2
    assert (
        found["byoi_downloaded_bytes_total",] == 900
    )  # the last one is in it once, although it is still shown
    assert (found["byoi_deployment_active",], found["byoi_deployment_rate_bytes",]) == (0, 0)
    assert samples(metrics, status(started_at=4000))["byoi_downloaded_bytes_total",] == 1200


def test_a_control_plane_that_does_not_answer_is_told():
    assert not any("control_plane" in name for name, *_ in samples(Metrics(), controlPlane=None))
    failing = contact_member(
        "https://c", ContactState.FAILING, since=900, reason="x", trouble=Trouble.CERTIFICATE, next_try=1000
    )
    found = samples(Metrics(), controlPlane=failing)
    states = {state.value: found["byoi_control_plane_state", state.value] for state in ContactState}
    assert states == {"unasked": 0, "answering": 0, "waiting": 0, "failing": 1}
    troubles = {word.value for word in Trouble if found["byoi_control_plane_trouble", word.value]}
    assert troubles == {"certificate"}
    assert found["byoi_control_plane_state_start_time_seconds",] == 900
    assert found["byoi_control_plane_next_try_time_seconds",] == 1000
    answering = contact_member("https://c", ContactState.ANSWERING, since=2000)
    found = samples(Metrics(), controlPlane=answering)
    assert found["byoi_control_plane_state", "answering"] == 1
    assert sum(found["byoi_control_plane_trouble", word.value] for word in Trouble) == 0
    assert ("byoi_control_plane_next_try_time_seconds",) not in found


def test_an_ironic_that_knows_no_node_yet_is_told():
    waiting = contact_member("https://i", ContactState.WAITING, since=900, reason=SECRET, next_try=1000)
    found = samples(Metrics(), ironic=waiting)
    assert {state.value for state in ContactState if found["byoi_ironic_state", state.value]} == {"waiting"}
    assert sum(found["byoi_ironic_trouble", word.value] for word in Trouble) == 0
    assert found["byoi_ironic_state_start_time_seconds",] == 900


def test_faults_of_the_configuration_are_counted():
    doubts = configuration_member([Fault("a", "b")] * 1000, [Fault("a", "b")])
    found = samples(Metrics(), configuration=doubts)
    assert (found["byoi_configuration_faults",], found["byoi_configuration_warnings",]) == (1000, 1)


@pytest.mark.parametrize("now", [None, status(), status(State.ERROR, error={"code": "x", "message": SECRET})])
def test_nothing_that_came_from_outside_is_told(now):
    metrics = Metrics()
    metrics.listen(Finished(status(State.ERROR, error={"code": "disk.io", "message": SECRET})))
    contact = contact_member(
        f"https://{SECRET}", ContactState.FAILING, since=1, reason=SECRET, trouble=Trouble.TIMEOUT
    )
    doubts = configuration_member([Fault(SECRET, SECRET)], [Fault(SECRET, SECRET)])
    document = {"percent": 30.0, "controlPlane": contact, "configuration": doubts}
    assert SECRET not in metrics.text(now, document).decode()


def test_a_second_text_tells_the_new_state():
    metrics = Metrics()
    assert samples(metrics, status())["byoi_deployment_active",] == 1
    assert samples(metrics)["byoi_deployment_active",] == 0
