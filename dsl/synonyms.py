"""What other systems call the things that are built in: names in expressions, settings, their words.

Tables only; names.py and settings.py look here before they guess a misspelling.
"""

from collections.abc import Iterable, Mapping

from mserve.dsl.habits import Habit


def _all(words: Iterable[str], habit: Habit) -> dict[str, Habit]:
    return dict.fromkeys(words, habit)


def _is(what: str, written: str) -> Habit:
    return Habit(f"{what} is `{written}`", f"write `{written}`")


# --- names in expressions ----------------------------------------------------------------------

_PROMPT_LENGTHS = (
    *("length", "size", "num_tokens", "input_tokens", "isl"),
    *("prompt_len", "prompt_length", "prompt_tokens", "prompt_size"),
)
_NOTHING = Habit(
    "there is no value for nothing",
    'a text that is absent is `""`; a route that meets something missing is passed over by itself',
)
_LENGTH = Habit(
    "there is no `len`",
    "the prompt's length is `tokens(prompt)`, a pool's size `count(w for w in POOL)`",
)
_CLOCK = Habit("a strategy knows no time of day", "times are durations, such as `load(w)`")

NAMES: Mapping[str, Habit] = {
    **{
        word: Habit(f"`{word}` is written `{word.lower()}`", replacement=word.lower())
        for word in ("True", "False", "TRUE", "FALSE")
    },
    **_all(("None", "null", "nil", "undefined", "NULL"), _NOTHING),
    "len": _LENGTH,
    **_all(_PROMPT_LENGTHS, _is("the length of the prompt", "tokens(prompt)")),
    **_all(
        ("pick", "choose", "select", "least_loaded", "sorted", "sort", "minimum", "min_by"),
        Habit("a worker is chosen with `argmin`", "write `argmin(load(w) for w in POOL)`"),
    ),
    **_all(
        ("round_robin", "roundrobin", "rr"),
        Habit("workers take turns with `next(POOL)`", "write `generate on next(POOL)`"),
    ),
    **_all(
        ("int", "round", "ceil"), Habit("numbers are rounded down with `floor`", "write `floor(x)`")
    ),
    **_all(
        ("avg", "average"), Habit("the average is `mean`", "write `mean(load(w) for w in POOL)`")
    ),
    **_all(
        ("hash", "consistent_hash", "affinity"),
        Habit("the same worker for the same key is `sticky(KEY, POOL)`"),
    ),
    **_all(
        ("rand", "uniform", "random_choice"),
        Habit("there are no random numbers", "a random worker is `random(POOL)`"),
    ),
    **_all(("now", "time", "clock", "today"), _CLOCK),
    **_all(
        ("exists", "defined", "empty", "is_empty", "isset"),
        Habit('a text that is absent is `""`', 'write `session != ""`'),
    ),
    **_all(
        ("headers", "http_header"), Habit("an HTTP header is called", 'write `header("x-name")`')
    ),
    **_all(
        ("cache_hit", "cache_hits", "cached_tokens", "prefix_match", "overlap"),
        _is("what a worker has of this prompt", "cached(w)"),
    ),
    **_all(
        ("queue_length", "queue_depth", "queue_size", "waiting", "pending"),
        _is("how many requests wait on a worker", "queued(w)"),
    ),
    **_all(
        ("active", "inflight", "in_flight", "connections", "concurrency", "batch_size"),
        _is("how many requests a worker runs", "running(w)"),
    ),
    **_all(
        ("utilization", "memory", "gpu_memory", "kv_usage", "cache_usage"),
        _is("the share of KV memory in use", "kv_used(w)"),
    ),
    **_all(("latency", "ttft_ms"), _is("the predicted time to first token", "ttft(ROUTE)")),
    **_all(
        ("worker", "instance", "node", "replica"),
        Habit("a worker is chosen from a pool", "write `argmin(load(w) for w in POOL)`"),
    ),
    **_all(("user", "user_id", "customer"), _is("whose request it is", "tenant")),
    **_all(("session_id", "conversation"), _is("the conversation of a request", "session")),
}


# --- settings ----------------------------------------------------------------------------------

SETTINGS: Mapping[str, str] = {
    **dict.fromkeys(("replicas", "instances", "count", "size", "number", "n", "num"), "workers"),
    **dict.fromkeys(("tp", "tp_size", "tensor_parallel", "tensor_parallel_size", "gpu"), "gpus"),
    **dict.fromkeys(("policy", "scheduler", "scheduling", "order", "priority"), "queue"),
    **dict.fromkeys(("batching", "batch_size", "max_batch_size"), "batch"),
    **dict.fromkeys(("cpu_cache", "host_memory", "swap_space", "offload", "memory"), "host_cache"),
    **dict.fromkeys(("cache", "eviction", "prefix_caching"), "prefix_cache"),
    **dict.fromkeys(("retry", "attempts", "max_retries", "num_retries"), "retries"),
    **dict.fromkeys(("deadline", "request_timeout", "max_time"), "timeout"),
    **dict.fromkeys(("tbt", "itl", "time_per_output_token"), "tpot"),
    "time_to_first_token": "ttft",
    **dict.fromkeys(("max_tokens", "max_batched_tokens", "max_num_batched_tokens"), "tokens"),
    **dict.fromkeys(("chunk_size", "chunked_prefill"), "chunk"),
}

SETTING_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("fifo", "first_come", "default"), "fcfs"),
    **dict.fromkeys(("edf", "slo", "earliest_deadline"), "deadline"),
    **dict.fromkeys(("hit_rate", "cache_aware", "prefix"), "hit_ratio"),
    **dict.fromkeys(("dynamic", "inflight", "chunked"), "continuous"),
    **dict.fromkeys(("off", "false", "disabled", "no", "never"), "none"),
    **dict.fromkeys(("on", "true", "enabled"), "lru"),
}
