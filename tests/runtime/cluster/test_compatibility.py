from typing import Any

import pytest
from msgspec.structs import replace

from mserve.compiler.plan import PoolSpec
from mserve.runtime.cluster.compatibility import mismatches
from mserve.runtime.cluster.view import WorkerView

POOLS = (PoolSpec("prefill"), PoolSpec("decode"))


def worker(name: str, **changes: Any) -> WorkerView:
    view = WorkerView(
        name=name,
        pool=name.rpartition("-")[0],
        state="ready",
        url="http://127.0.0.1:1",
        incarnation="a1",
        heard_s=0.1,
        model="tiny",
        layout="tiny:77aa:float32:4x2x64",
        dtype="float32",
        gpus=1,
        page_size=16,
        block_tokens=16,
        max_model_len=4096,
        running=0,
        waiting=0,
        tickets=0,
        load_s=0.0,
        kv_used_tokens=0,
        kv_cached_tokens=0,
        kv_total_tokens=1000,
    )
    return replace(view, **changes)


def test_a_cluster_with_every_pool_and_equal_kv_fits() -> None:
    assert mismatches(POOLS, [worker("prefill-0"), worker("decode-0"), worker("decode-1")]) == []


def test_page_sizes_may_differ() -> None:
    other = worker("decode-0", page_size=64)
    assert mismatches(POOLS, [worker("prefill-0"), other]) == []


def test_a_pool_without_a_worker_is_named_with_the_pools_that_are_there() -> None:
    missing, unused = mismatches(POOLS, [worker("prefill-0"), worker("decoder-0")])
    assert "pool 'decode'; the cluster has decoder, prefill" in missing
    assert "mserve worker --pool decode" in missing
    assert "the workers of decoder" in unused


def test_pools_of_other_strategies_on_the_same_cluster_do_not_matter() -> None:
    workers = [worker("prefill-0"), worker("decode-0"), worker("others-0", dtype="bfloat16")]
    assert mismatches(POOLS, workers) == []


def test_an_empty_cluster() -> None:
    sentences = mismatches(POOLS, [])
    assert len(sentences) == 2
    assert all("the cluster has no worker" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "large", "layout": "large:77aa:float32:4x2x64"}, "model: tiny on prefill-0"),
        ({"dtype": "bfloat16", "layout": "tiny:77aa:bfloat16:4x2x64"}, "dtype: float32 on"),
        ({"layout": "tiny:99ff:float32:4x2x64"}, "weights: 77aa on prefill-0; 99ff on decode-0"),
        ({"layout": "tiny:77aa:float32:4x8x64"}, "4x2x64 on prefill-0; 4x8x64 on decode-0"),
        ({"block_tokens": 32}, "block size of their prefix caches: 16 on prefill-0; 32 on"),
        ({"gpus": 2}, "decode-0 runs on 2 GPU(s); pool 'decode' says `gpus = 1`"),
    ],
)
def test_what_two_workers_must_agree_on(changes: dict[str, Any], said: str) -> None:
    (sentence,) = mismatches(POOLS, [worker("prefill-0"), worker("decode-0", **changes)])
    assert said in sentence


def test_degrees_may_differ_between_pools() -> None:
    pools = (PoolSpec("prefill", gpus=2), PoolSpec("decode"))
    assert mismatches(pools, [worker("prefill-0", gpus=2), worker("decode-0")]) == []


def test_a_degree_that_splits_a_head_is_refused() -> None:
    pools = (PoolSpec("prefill"), PoolSpec("decode", gpus=4))
    (sentence,) = mismatches(pools, [worker("prefill-0"), worker("decode-0", gpus=4)])
    assert sentence == (
        "Pool 'decode' says `gpus = 4`, but the model's 2 key-value heads cannot be shared evenly by 4."
    )


def test_a_model_name_may_contain_colons() -> None:
    layout = "org:tiny:77aa:float32:4x2x64"
    same = [worker(name, model="org:tiny", layout=layout) for name in ("prefill-0", "decode-0")]
    assert mismatches(POOLS, same) == []


def test_fewer_workers_than_the_strategy_says() -> None:
    pools = (PoolSpec("prefill", workers=2), PoolSpec("decode"))
    (sentence,) = mismatches(pools, [worker("prefill-0"), worker("decode-0")])
    assert sentence == "Pool 'prefill' says `workers = 2`; 1 are there."
