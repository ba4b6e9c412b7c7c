"""`s2d serve`: its own Ray on this machine, the applications on it, and a clean end.

Ray is imported only after the environment is set, since it reads its variables at import.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from s2d_ray.config import AppConfig, HttpConfig, load_config
from s2d_ray.core.cores import usable_cores
from s2d_ray.errors import ConfigError, RunError
from s2d_ray.preflight import bind_alone
from s2d_ray.serve import run_file
from s2d_ray.serve.live_config import LiveConfig
from s2d_ray.serve.signals import Stop, at_once, in_order, take_signals

LOGICAL_CPUS = 16
"""What Ray hands out by count; the engines share the real ones by themselves (design D8)."""
OBJECT_STORE_BYTES = 100 * 2**20
LONGEST_SOCKET_PATH = 107
SOCKET_BELOW_TEMP = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What every process of a cluster has alike, on one machine or on Kubernetes."""
WATCH_S = 1.0
WARN_EVERY_S = 600.0


def serve(config_path: Path, port: int | None, ready_file: Path | None) -> None:
    """Serve `config_path` until a signal arrives. Raises S2DError if it cannot start or go on."""
    config = with_port(load_config(config_path), port)
    url = url_of(config.http)
    temp_dir = make_temp_dir()
    main = run_file.mark_of(psutil.Process())
    run = run_file.Run(main, url, str(temp_dir), drain_s=config.http.drain_s)
    recorder = run_file.Recorder(run_file.default_path(), run)
    try:
        recorder.start()
    except BaseException:
        run_file.remove_temp_dir(run)
        raise
    take_signals(in_order(temp_dir))
    try:
        bring_up(config, temp_dir)
        if ready_file is not None:
            run_file.write_atomically(ready_file, json.dumps({"url": url, "pid": os.getpid()}))
        say(greeting(url, next(iter(config.targets)), asks_for_key=config.tenancy is not None))
        take_over = taking_over(config_path, config)
        watch(None if config.tenancy else warning_of(config.http), take_over)
    except (Stop, SystemExit):  # while Ray starts, its own handler for SIGTERM raises the second
        say("stopping; open requests go on to their end, Ctrl-C again ends at once")
        let_requests_end(config.http.drain_s)
    finally:
        bring_down(recorder, ready_file, temp_dir)


def bring_up(config: AppConfig, temp_dir: Path) -> None:
    """Check the config, fetch the models, build the draft, start Ray, deploy, wait for targets."""
    from s2d_ray.serve.checks import check_config

    with stage("config"):
        refuse_taken_port(config.http)
        if troubles := check_config(config):
            raise ConfigError("\n".join(troubles))
    set_environment(temp_dir)
    fetch_models(config)
    if troubles := check_config(config):  # now the models are there to be looked at
        raise ConfigError("\n".join(troubles))
    os.environ["HF_HUB_OFFLINE"] = "1"  # no replica reaches out
    from s2d_ray.serve.places import labels_of_all

    with stage("Ray"):
        start_ray(temp_dir, labels_of_all(config))
    take_signals(in_order(temp_dir))  # ray.init has put its own handler for SIGTERM
    from s2d_ray.serve import deploy

    with stage("applications"):
        deploy.deploy(config)
    with stage("targets ready"):
        deploy.wait_until_ready(config, say)


def let_requests_end(timeout_s: float) -> None:
    """Take no more requests, and wait for those there are; not if nothing is served yet."""
    if "ray" not in sys.modules:
        return
    import ray

    if ray.is_initialized():
        from s2d_ray.serve import deploy

        with stage("requests ended"), contextlib.suppress(Exception):  # whatever state Ray is in
            deploy.end_router(timeout_s)


def bring_down(recorder: run_file.Recorder, ready_file: Path | None, temp_dir: Path) -> None:
    """Shut Serve and Ray down as far as they came, then end and remove what is left."""
    take_signals(at_once(temp_dir))
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    # Whatever state Ray is in, the processes must go: trouble here only means more to kill.
    with contextlib.suppress(Exception):
        stop_ray()
    recorder.finish(say)


def with_port(config: AppConfig, port: int | None) -> AppConfig:
    """The config with another port, if one is given."""
    if port is None:
        return config
    http = config.http.model_copy(update={"port": port})
    return config.model_copy(update={"http": http})


def url_of(http: HttpConfig) -> str:
    """Where a client on this machine reaches the API."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host, http.host)
    return f"http://[{host}]:{http.port}" if ":" in host else f"http://{host}:{http.port}"


def warning_of(http: HttpConfig) -> str | None:
    """What must not be forgotten while the API is open to others, None while it is not."""
    if http.is_loopback:
        return None
    return (
        f"WARNING: whoever reaches {http.host}:{http.port} may use this API, without a key "
        "(http.allow_unauthenticated)"
    )


def refuse_taken_port(http: HttpConfig) -> None:
    """Raise RunError if the port is in use: Serve's proxy would share it in silence."""
    try:
        bind_alone(http.host, http.port)
    except OSError as error:
        raise RunError(
            f"port {http.port} of {http.host} cannot be used ({error.strerror}); "
            "end an earlier run with `s2d stop`, or choose another port with --port"
        ) from None


def make_temp_dir() -> Path:
    """A private folder, short enough for the Unix sockets that Ray puts in it."""
    folder = tempfile.mkdtemp(prefix=run_file.TEMP_PREFIX)
    if len(folder + SOCKET_BELOW_TEMP) > LONGEST_SOCKET_PATH:
        os.rmdir(folder)
        room = LONGEST_SOCKET_PATH - len(SOCKET_BELOW_TEMP) - len(Path(folder).name) - 1
        raise RunError(
            f"the folder for temporary files has too long a name for Ray's sockets; "
            f"set TMPDIR to one of at most {room} characters"
        )
    return Path(folder)


def set_environment(temp_dir: Path) -> None:
    """Set variables for Ray and all processes below, with a token that only this run knows."""
    token_path = temp_dir / "token"
    descriptor = os.open(token_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
    # The first would join another Ray, the second would be read in place of our file.
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # In Serve's own 5 s a busy machine does not bring the proxy up; it would be killed.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # Left unset, Ray makes it 1 for every actor that asks for less than two CPUs.
        "OMP_NUM_THREADS": str(usable_cores()),
    }
    os.environ |= ENVIRONMENT


def fetch_models(config: AppConfig) -> None:
    """Have every model in the cache and the draft built, so that no replica waits for a network."""
    from s2d_ray.models import draft_files, sources

    for name in config.models_at():
        with stage(f"model {name}"):
            sources.resolve(name, report=say)
    if config.draft is not None:
        with stage("draft"):
            draft_files.ensure_draft(config.draft, report=say)


def start_ray(temp_dir: Path, labels: dict[str, str]) -> None:
    """Start a Ray of our own, its one node with these labels; never join another."""
    import ray
    import ray.serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its import sets another
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=LOGICAL_CPUS,
            labels=labels,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address="127.0.0.1",  # else Ray's own ports listen on the network
            _temp_dir=str(temp_dir),
        )
    except Exception as error:
        raise RunError(f"Ray did not start: {str(error).splitlines()[0]}") from error


def stop_ray() -> None:
    """Shut down Serve, then Ray, if they were started."""
    if "ray" not in sys.modules:
        return
    import ray
    from ray import serve

    # Ray prints the ends that we ask for as failures of tasks.
    with stage("applications ended"), contextlib.redirect_stdout(io.StringIO()):
        if ray.is_initialized():
            serve.shutdown()
    with stage("Ray ended"), contextlib.redirect_stdout(io.StringIO()):
        ray.shutdown()


def taking_over(config_path: Path, config: AppConfig) -> Callable[[], None]:
    """What is done again and again to go by a config file that has changed."""
    from s2d_ray.serve import deploy
    from s2d_ray.serve.checks import check_config

    live = LiveConfig(config_path, config, check_config, say)

    def take_over() -> None:
        if (changed := live.look()) is not None:
            deploy.deploy(changed)

    return take_over


def watch(warning: str | None, take_over: Callable[[], None]) -> None:
    """Call `take_over` each second until a signal raises Stop, and repeat a warning now and then.

    Raises RunError if Ray's own processes end.
    """
    warn_at_s = time.monotonic()
    services = [
        process
        for process in psutil.Process().children()
        if process.name() in ("raylet", "gcs_server")
    ]
    while True:
        if warning is not None and time.monotonic() >= warn_at_s:
            say(warning)
            warn_at_s += WARN_EVERY_S
        time.sleep(WATCH_S)
        take_over()
        for process in services:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise RunError(f"Ray ended by itself (process {process.pid}); start it again")


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Report a stage with its seconds once it is done."""
    start_s = time.monotonic()
    yield
    say(f"{name}: {time.monotonic() - start_s:.1f} s")


def say(line: str) -> None:
    """One line of progress; a closed terminal is no reason to fail."""
    with contextlib.suppress(OSError):
        print(f"s2d: {line}", flush=True)


def greeting(url: str, target: str, *, asks_for_key: bool) -> str:
    """What to do now: the address, a first request, a chat, and how to stop."""
    body = json.dumps({"model": target, "messages": [{"role": "user", "content": "Hello"}]})
    headers = "-H 'content-type: application/json'"
    if asks_for_key:
        headers += ' -H "authorization: Bearer $S2D_API_KEY"'
    # As it was started: a virtual environment's commands are seldom on the path.
    command = "s2d" if shutil.which("s2d") else os.path.relpath(sys.argv[0])
    return "\n".join(
        (
            f"ready at {url}",
            f"  curl {url}/v1/chat/completions {headers} -d '{body}'",
            f"  {command} chat --url {url} --model {target} 'Hello'",
            f"  Ctrl-C here, or `{command} stop` anywhere, ends it",
        )
    )
