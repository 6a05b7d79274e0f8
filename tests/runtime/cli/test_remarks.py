"""What commands say of simulations beside their figures."""

import json
from pathlib import Path

import pytest

from mserve.runtime.cli import calibration, main
from mserve.runtime.cost import CostProfile
from mserve.runtime.simulator.profile import (
    Limits,
    LinkCosts,
    Profile,
    RequestCosts,
    StepCosts,
    write_profile,
)

TRACE = "poisson:rate=8,input=800,output=10,num=20"
PAIR = ("data_parallel", "preble", "--cluster", "2")
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,4\n"


def profile(prompt_error: float, decode_error: float) -> Profile:
    return Profile(
        model="m",
        strategy="turns",
        gpus=1,
        steps=StepCosts(10e-3, 2e-4, 1e-8, 8e-3, 3e-4, 2e-7),
        request=RequestCosts(4e-3, 5e-6),
        link=LinkCosts(1e-3, 1e9, 1000, 4),
        limits=Limits(4096, 16, 4096, 2048, 512, 64),
        reported=CostProfile(10e-3, 2e-4, 1e-8, 8e-3, 3e-4, 1e-3, 1e9, 1000),
        prompt_error=prompt_error,
        decode_error=decode_error,
        prompts=(),
        mixed=(),
        decodes=(),
    )


def simulated(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main([*words, *(() if "--trace" in words else ("--trace", TRACE))])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- faults -------------------------------------------------------------------------------------


def test_interrupted_requests_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    dies = ("--cluster", "2", "--fault", "kill workers-0 at 1.2s")
    long = ("--trace", "poisson:rate=8,input=800,output=200,num=20")
    _, out, _ = simulated(capsys, "simulate", "data_parallel", *dies, *long, "--format", "json")
    found = json.loads(out)
    again = found["planned_again"].values()
    assert len(again) > 0
    assert all(each["num_plans"] == 2 for each in again)
    assert all(800 <= each["num_tokens"] < 1000 for each in again), "its prompt, and a part of it"
    _, out, _ = simulated(capsys, "compare", *PAIR, "--fault", dies[-1], *long)
    rows = {line.partition("  ")[0]: line.split()[-2:] for line in out.splitlines()}
    assert rows["requests, planned anew"][0] == str(len(again))
    tokens = sum(each["num_tokens"] for each in again)
    assert rows["requests, tokens computed again"][0] == f"{tokens:,}"


def test_who_is_not_interrupted_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = simulated(capsys, "compare", *PAIR)
    assert "planned anew" not in out


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (["kill workers-1 at 99999s"], "kill workers-1 at 99,999 s never came: the last answer"),
        (
            ["kill workers-1 at 1s", "kill workers-1 at 1.5s"],
            "kill workers-1 at 1.50 s changed nothing: it was dead already",
        ),
        (
            ["kill workers-1 at 1s", "restart workers-1 at 2.1s"],
            "restart workers-1 at 2.10 s never came: it was not back",
        ),
    ],
)
def test_a_fault_that_never_came_is_a_warning(
    faults: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word for fault in faults for word in ("--fault", fault)]
    code, out, err = simulated(capsys, "simulate", *PAIR[:1], *PAIR[2:], *given)
    assert code == 0
    assert f"mserve: warning: {words}" in err
    assert f"no fault    {words}" in out
    _, out, err = simulated(capsys, "compare", *PAIR, *given)
    assert f"data_parallel, preble: {words}" in out
    assert f"mserve: warning: data_parallel, preble: {words}" in err


def test_faults_that_came_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--fault", "kill workers-1 at 0.5s", "--fault", "restart workers-1 at 0.6s")
    long = ("--trace", "poisson:rate=4,input=800,output=10,num=30")
    _, out, err = simulated(capsys, "simulate", "data_parallel", "--cluster", "2", *given, *long)
    assert "1 kill, 1 restart" in out
    assert err == ""


def test_a_worker_that_a_strategy_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("data_parallel", "balanced", "--cluster", "2", "--fault", "kill workers-0 at 1s")
    code, _, err = simulated(capsys, "compare", *words)
    assert code == 2
    assert "balanced has no worker 'workers-0' for a fault; it has prefill-0, decode-0." in err


# --- prices -------------------------------------------------------------------------------------


def test_prices_are_rows_and_say_where_they_are_from(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = simulated(capsys, "compare", *PAIR, "--gpu", "h100", "--slo", "ttft=1s")
    rows = {line.partition("  ")[0]: line.split()[-2:] for line in out.splitlines()}
    assert rows["price, of the cluster, per hour"] == ["$5.40", "$5.40"]
    assert rows["price, per million good tokens"] == rows["price, per million output tokens"]
    _, out, _ = simulated(capsys, "simulate", *PAIR[:1], *PAIR[2:], "--gpu", "h100")
    assert "price       $5.40 an hour: 2 GPUs at $2.70 (hardware.toml); $" in out
    _, out, _ = simulated(capsys, "simulate", *PAIR[:1], *PAIR[2:], "--gpu-price", "2.5")
    assert "price       $5.00 an hour: 2 GPUs at $2.50 (--gpu-price); $" in out


@pytest.mark.parametrize("price", ["0", "-1", "much"])
def test_a_price_is_above_0(price: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        simulated(capsys, "simulate", "data_parallel", "--gpu-price", price)
    assert exit_info.value.code == 2
    assert f"takes dollars above 0, as 2.5, not '{price}'" in capsys.readouterr().err


# --- runs that came to nothing ------------------------------------------------------------------


def test_where_nothing_finished_the_exit_code_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    large = ("--trace", "poisson:rate=8,input=200000,output=10,num=2")
    limit = "The prompt has 200000 tokens; the model takes 131072."
    code, out, err = simulated(capsys, "simulate", "data_parallel", *large)
    assert code == 1
    assert f"failure    request_too_large, as of request 0: {limit}" in out
    assert err == f"mserve: error: data_parallel: no request finished; the first said: {limit}\n"
    assert simulated(capsys, "compare", *PAIR, *large)[0] == 1


def test_a_request_that_waited_too_long_names_the_strategys_limit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    impatient = tmp_path / "impatient.mserve"
    impatient.write_text(
        'strategy impatient "gives up soon"\npool workers\nlimits { timeout = 1s }\n'
        "route only { generate on next(workers) }\n"
    )
    many = ("--trace", "poisson:rate=500,input=8000,output=10,num=60")
    code, out, _ = simulated(capsys, "simulate", str(impatient), *many)
    assert code == 0
    assert "No token came within 1 s. So long requests wait: the strategy's `limits" in out


# --- seeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("simulate", "data_parallel"), ("compare", *PAIR)])
def test_seeds_of_what_has_no_chance_are_refused(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(AZURE)
    code, out, err = simulated(capsys, *command, "--trace", str(path), "--seeds", "3")
    assert (code, out) == (2, "")
    assert "This trace has no chance in it: every seed is the same run." in err
    assert simulated(capsys, *command, "--trace", str(path))[0] == 0


def test_random_faults_are_chance_enough(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(AZURE)
    random = ("--fault", "random:every=60s,repair=30s", "--seeds", "2")
    assert simulated(capsys, "compare", *PAIR, "--trace", str(path), *random)[0] == 0


# --- profiles -----------------------------------------------------------------------------------


def test_a_profile_that_is_off_is_doubted(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    off = profile(0.01, 0.074)
    path = tmp_path / "mine.json"
    write_profile(path, off)
    words = "the profile is off what was measured, of answers by 7.4%"
    _, out, err = simulated(capsys, "simulate", "data_parallel", "--profile", str(path))
    assert f"doubt       {words}" in out
    assert f"mserve: warning: {words}." in err

    async def measured(url: str) -> object:
        return off

    monkeypatch.setattr(calibration, "_measure", measured)
    assert main(["calibrate", "http://127.0.0.1:1", "-o", str(path)]) == 0
    assert f"mserve: warning: {words}. Something else took time" in capsys.readouterr().err


def test_a_profile_that_fits_is_not() -> None:
    assert profile(0.01, 0.049).doubt == ""
