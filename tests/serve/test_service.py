"""The service as clients see it: answers, identity, sharing, and what /health counts."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import ray

from s2d_ray.core.hashing import choice_seed
from s2d_ray.serve import deploy
from tests.serve.service import PROMPTS, TARGETS, Ask, Service, ids_of, text_of


def test_the_openai_client_gets_paris_whole_and_streamed(service: Service) -> None:
    """A real client, unchanged, against both targets; the streamed text is the whole text."""
    for target in TARGETS:
        ask = {
            "model": target,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "temperature": 0,
            "max_tokens": 24,
        }
        whole = service.openai.chat.completions.create(**ask)
        stream = service.openai.chat.completions.create(
            **ask, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        joined = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert "Paris" in joined
        assert joined == whole.choices[0].message.content
        assert whole.choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_seed_gives_one_text_whatever_the_mode_and_the_load(service: Service) -> None:
    """Alone and plain, or among eight and forced: the ids are equal, and drafting did happen."""
    asks = [
        Ask(TARGETS[index % 2], prompt, temperature=(0.0, 0.8)[index // 4], seed=100 + index)
        for index, prompt in enumerate(PROMPTS)
    ]
    alone = [service.ask(ask) for ask in asks[3:5]]
    plain = service.ask_all(asks)
    forced = service.ask_all([dataclasses.replace(ask, mode="force") for ask in asks])
    assert [ids_of(reply) for reply in alone] == [ids_of(reply) for reply in plain[3:5]]
    assert [ids_of(reply) for reply in forced] == [ids_of(reply) for reply in plain]
    assert [text_of(reply) for reply in forced] == [text_of(reply) for reply in plain]
    for reply in forced:
        details = reply["usage"]["completion_tokens_details"]
        drafted = details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
        assert drafted > 0
        assert reply["s2d"]["draft_misses"] == 0
    for reply in plain:
        assert reply["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] == 0


def test_eight_requests_share_forwards(service: Service) -> None:
    """Eight texts of 60 tokens, one by one, would be 480 forwards; together they are far fewer."""
    target = TARGETS[0]
    before = service.counters(target)
    asks = [Ask(target, prompt, temperature=1.0, max_tokens=60) for prompt in PROMPTS]
    # No text may end before the last one has begun.
    replies = service.ask_all(asks, ignore_eos=True)
    after = service.counters(target)
    num_tokens = sum(reply["usage"]["completion_tokens"] for reply in replies)
    num_forwards = after["forwards"] - before["forwards"]
    assert num_forwards < num_tokens / 3
    assert after["largest_batch"] == 8


def test_the_draft_batches_rows_of_both_targets(service: Service) -> None:
    """One draft step serves rows of both replicas, and more than 1.5 rows on average."""
    before = service.health()["draft"]["counters"]
    service.ask_all(
        [Ask(TARGETS[i % 2], p, "force", 1.0, max_tokens=12) for i, p in enumerate(PROMPTS)]
    )

    def steps() -> dict[str, int]:
        after = service.health()["draft"]["counters"]
        return {key: after[key] - before.get(key, 0) for key in after}

    # Counters of the draft travel through the manager's health check, once a second.
    service.wait_until(lambda: steps().get("steps", 0) > 20, "draft steps in /health")
    counted = steps()
    assert counted["step_rows"] / counted["steps"] > 1.5
    assert counted["steps_of_several_replicas"] > 0


def test_a_client_that_leaves_frees_its_sequence_and_its_draft_session(service: Service) -> None:
    """A stream of 1,500 tokens is left after its first bytes; only a few forwards follow."""
    target = TARGETS[0]
    ask = Ask(target, "Write a very long story.", mode="force", temperature=1.0, max_tokens=1500)
    before = service.counters(target)
    with service.http.stream("POST", "/v1/chat/completions", json=ask.body(stream=True)) as reply:
        lines = reply.iter_lines()
        for _ in range(8):
            next(lines)
    # /health may be half a second old: from before the request, or from while it ran.
    service.wait_until(
        lambda: service.counters(target).get("requests", 0) > before.get("requests", 0),
        "the request in /health",
    )
    service.wait_until(lambda: service.counters(target)["queue_depth"] == 0, "an empty queue")
    after = service.counters(target)
    assert after.get("aborted", 0) == before.get("aborted", 0) + 1
    assert after["forwards"] - before.get("forwards", 0) < 100
    service.wait_until(
        lambda: service.health()["draft"]["counters"]["sessions"] == 0, "no draft session"
    )


def test_traces_name_the_writer_of_every_token(service: Service) -> None:
    """The traced tokens join to the text, and each is the target's or a sub-model's."""
    reply = service.ask(Ask(TARGETS[0], PROMPTS[1], mode="force", temperature=1.0, max_tokens=40))
    tokens = reply["s2d"]["tokens"]
    assert text_of(reply).startswith("".join(token["text"] for token in tokens))
    assert {token["drafted_by"] for token in tokens} <= {None, 2, 4}
    assert len(tokens) == reply["usage"]["completion_tokens"]
    accepted = sum(token["drafted_by"] is not None for token in tokens)
    details = reply["usage"]["completion_tokens_details"]
    assert accepted == details["accepted_prediction_tokens"]


def test_health_models_request_ids_and_metrics(service: Service) -> None:
    """What operators and clients look at first; each answer names one request id."""
    health = service.health()
    assert health["status"] == "ok"
    assert all(target["bitwise_exact"] for target in health["targets"].values())
    assert service.http.get("/readyz").status_code == 200
    assert {model.id for model in service.openai.models.list()} == set(TARGETS)
    answer = service.http.get("/v1/models/nope", headers={"x-request-id": "mine-1"})
    assert answer.status_code == 404
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    assert answer.json()["error"]["code"] == "model_not_found"

    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"x-request-id": "mine-2", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    body = Ask(TARGETS[0], "Count to ten.", mode="force").body()
    assert service.http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    missing = {"serve"}

    def told() -> bool:
        text = service.http.get("/metrics").text
        samples = re.findall(r"^ray_(?:s2d_(\w+)|(serve)_)[^}]*} (\S+)$", text, re.MULTILINE)
        missing.clear()
        missing.update(TOLD.difference(*((ours, serve) for ours, serve, _ in samples)))
        return "# 1 of 1 nodes answered" in text and not missing

    service.wait_until(told, "metrics of every process from the one node, without a dashboard")
    check_spans_and_lines(service, trace)


TOLD = frozenset(
    [
        "serve",
        "requests_total",
        "tokens_total",
        "open_requests",
        "replicas",
        "first_token_s_bucket",
        "first_token_seconds_total",
        "later_tokens_total",
        "request_s_count",
        "queue_depth",
        "kv_tokens",
        "rounds_total",
        "drafted_total",
        "hops_total",
        "circuit",
        "calibration_error",
        "draft_up",
        "draft_busy_seconds_total",
        "draft_step_rows_total",
        "draft_tokens_total",
        "draft_sessions",
    ]
)
"""Metrics of each process, as Ray's exporter has them behind its prefixes."""


def check_spans_and_lines(service: Service, trace: str) -> None:
    """One traced request: its spans hang together, and the logs name it in fields."""
    assert service.config.telemetry.traces_dir is not None
    files = Path(service.config.telemetry.traces_dir).iterdir()
    spans = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    ids = {span["context"]["span_id"]: span["name"] for span in spans}
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{trace}"}
    parents = {(span["name"], ids.get(span["parent_id"])) for span in spans}
    assert parents == {("request", None), ("target", "request"), ("draft", "target")}
    assert {span["attributes"]["request_id"] for span in spans} == {"mine-2"}
    logs = Path(ray._private.worker._global_node.get_logs_dir_path(), "serve").glob("*.log")
    lines = [line for log in logs for line in log.read_text().splitlines() if "mine-2" in line]
    ends = [line for line in map(json.loads, lines) if "total_ms" in line]
    assert {(end["request_id"], end["target"], end["tenant"]) for end in ends} == {
        ("mine-2", TARGETS[0], "-")
    }
    assert sorted(end.get("status", end.get("ended")) == 200 for end in ends) == [False, True]


def test_bad_input_is_refused_by_name_and_harms_nothing(service: Service) -> None:
    """Each body is refused in OpenAI's form with its field; the service answers on."""
    good = Ask(TARGETS[0], "Hello", max_tokens=2).body()
    bad = {
        "model": ({**good, "model": "gpt-9"}, 404),
        "max_tokens": ({**good, "max_tokens": -1}, 400),
        "temperature": ({**good, "temperature": "hot"}, 400),
        "seed": ({**good, "seed": 2**70}, 400),
        "messages": ({**good, "messages": []}, 400),
        "s2d.max_proposal": ({**good, "s2d": {"max_proposal": 999}}, 400),
    }
    for param, (body, status) in bad.items():
        answer = service.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == status, param
        assert answer.json()["error"]["param"] == param
    long_prompt = {**good, "messages": [{"role": "user", "content": "word " * 5000}]}
    answer = service.http.post("/v1/chat/completions", json=long_prompt)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert answer.json()["error"]["param"] == "messages"
    answer = service.http.post("/v1/chat/completions", content=b'{"model": ')
    assert answer.status_code == 400
    answer = service.http.post("/v1/chat/completions", content=b"x" * 10 * 2**20)
    assert answer.status_code == 413
    assert service.ask(Ask(TARGETS[0], "Hello", max_tokens=2))["usage"]["completion_tokens"] == 2


def test_choices_prompts_and_tokens_are_as_each_alone(service: Service) -> None:
    """Choice i of prompt j has its own seed, which a request of its own can be given; a prompt is
    tokenised by its target, and back.
    """
    body = {"model": TARGETS[0], "max_tokens": 8, "s2d": {"mode": "off"}}
    prompts = ["Once upon a time", "The sky is"]
    many = service.http.post("/v1/completions", json=body | {"prompt": prompts, "n": 2, "seed": 5})
    texts = [choice["text"] for choice in many.json()["choices"]]
    for number, text in enumerate(texts):
        j, i = divmod(number, 2)
        alone = body | {"prompt": prompts[j], "seed": choice_seed(5, j, i)}
        reply = service.http.post("/v1/completions", json=alone).json()
        assert reply["choices"][0]["text"] == text
    body = {"model": TARGETS[0], "prompt": "Grüße", "return_token_strs": True}
    tokens = service.http.post("/tokenize", json=body).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["max_model_len"] == service.config.targets[TARGETS[0]].max_context
    back = {"model": TARGETS[0], "tokens": tokens["tokens"]}
    assert service.http.post("/detokenize", json=back).json() == {"prompt": "Grüße"}
    wrong = service.http.post("/detokenize", json=back | {"tokens": [10**6]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "tokens")


def test_routing_and_the_list_of_targets_change_under_load_and_restart_nothing(
    service: Service,
) -> None:
    """No request fails, no replica is replaced, and `auto` goes by what was said last."""
    document = deploy.render(service.config, cluster_has_gpus=False)
    router = document["applications"][-1]["deployments"][0]
    routing = {
        "targets": {TARGETS[0]: {"cost": 5}},
        "splits": {"prod": {TARGETS[1]: 1}},
        "plans": [{"target": TARGETS[1], "plan": {"max_proposal": 1}}],
    }
    router["user_config"]["routing"] = routing
    alone = copy.deepcopy(document)
    del alone["applications"][-1]["deployments"][0]["user_config"]["targets"][TARGETS[0]]

    def post(model: str) -> httpx.Response:
        body = Ask(model, "Name a colour.", max_tokens=2).body(s2d=None)
        return service.http.post("/v1/chat/completions", json=body)

    def route(model: str) -> str:
        answer = post(model)
        return answer.headers["x-s2d-route"] if answer.status_code == 200 else ""

    def ask_on() -> list[httpx.Response]:
        answers = []
        while not done.is_set():
            answers.append(post(TARGETS[1]))
        return answers

    before, done = replicas(), threading.Event()
    assert post("auto").status_code == 404
    with ThreadPoolExecutor(2) as pool:
        load = [pool.submit(ask_on) for _ in range(2)]
        try:
            deploy.deploy_document(document)
            service.wait_until(lambda: route("auto").startswith(f"{TARGETS[0]}; auto"), "routing")
            assert route("prod") == f"{TARGETS[1]}; split prod; plan 1"
            deploy.deploy_document(alone)
            service.wait_until(lambda: post(TARGETS[0]).status_code == 404, "a target less")
            assert route("auto").startswith(f"{TARGETS[1]}; auto")
        finally:
            deploy.deploy(service.config)
            service.wait_until(lambda: post(TARGETS[0]).status_code == 200, "both targets again")
            done.set()
    answers = [answer for asked in load for answer in asked.result()]
    longest_s = max(answer.elapsed.total_seconds() for answer in answers)
    print(f"{len(answers)} requests across three changes, the longest took {longest_s:.2f} s")
    assert {answer.status_code for answer in answers} == {200}
    assert post("auto").status_code == 404
    assert replicas() == before


def replicas() -> set[str]:
    """Names of the actors of all replicas there are; a new replica has another name."""
    names = (actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))
    return {name for name in names if name.startswith("SERVE_REPLICA::")}
