"""The text form of metrics, as Prometheus reads it."""

from mserve.runtime.metrics import Metrics


def test_counters_and_gauges() -> None:
    metrics = Metrics()
    requests = metrics.counter("requests_total", "All.", "route")
    requests.add(1, "a")
    requests.add(2, "a")
    requests.add(1, 'quo"te\nline\\')
    metrics.counter("empty_total", "None yet.")
    metrics.gauge("live", "Now.", "pool", read=lambda: {("p",): 2.5})
    assert metrics.render().splitlines() == [
        "# HELP requests_total All.",
        "# TYPE requests_total counter",
        'requests_total{route="a"} 3',
        'requests_total{route="quo\\"te\\nline\\\\"} 1',
        "# HELP empty_total None yet.",
        "# TYPE empty_total counter",
        "empty_total 0",
        "# HELP live Now.",
        "# TYPE live gauge",
        'live{pool="p"} 2.5',
    ]


def test_a_histogram_counts_up_to_and_including_each_bound() -> None:
    metrics = Metrics()
    seconds = metrics.histogram("seconds", "Took.", bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        seconds.observe(value)
    assert metrics.render().splitlines()[2:] == [
        'seconds_bucket{le="0.1"} 2',
        'seconds_bucket{le="1"} 3',
        'seconds_bucket{le="+Inf"} 4',
        "seconds_sum 7.6500000000000004",
        "seconds_count 4",
    ]
