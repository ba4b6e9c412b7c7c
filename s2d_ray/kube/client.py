"""The thin edge to the API server. Whatever goes wrong is one line that says what to do."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from s2d_ray.errors import ClusterError
from s2d_ray.kube.manifest import RAY_SERVICE, Body, Item, marked

FIELD_MANAGER = "s2d-kube"
APPLY = "application/apply-patch+yaml"
TIMEOUT_S = 30.0
IN_CLUSTER_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
MISSING = {
    "ray.io/v1": "install the KubeRay operator, 1.7 or newer",
    "monitoring.coreos.com/v1": "install the Prometheus operator, or leave monitoring.enabled off",
    "policy/v1": "render with router.pdb.enabled=false, or upgrade the cluster to 1.21",
}


@dataclass(frozen=True)
class Kind:
    """How the server names a kind in its paths."""

    base: str
    plural: str
    namespaced: bool


class Cluster:
    """One API server and the namespace to work in."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api = api
        self._kinds: dict[tuple[str, str], Kind | None] = {}
        self.namespace = namespace

    def apply(self, item: Item, *, dry_run: bool = False, force: bool = False) -> Body:
        """Server-side apply as our own field manager; unknown fields are refused.

        Raises ClusterError: fields of another manager, a missing right or kind, a refused field.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": _word(force), "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        answer = self._call("PATCH", self._path(item), query, marked(item.body))
        applied: Body = self._told(item, "patch", answer)
        return applied

    def get(self, item: Item) -> Body | None:
        """The object in the cluster, None if it is not there."""
        status, body = self._call("GET", self._path(item))
        return None if status == 404 else self._told(item, "get", (status, body))

    def delete(self, item: Item) -> None:
        """Delete an object and, behind it, what belongs to it."""
        query = {"propagationPolicy": "Background"}
        status, body = self._call("DELETE", self._path(item), query)
        if status != 404:
            self._told(item, "delete", (status, body))

    def service(self, name: str) -> Body:
        """A RayService. Raises ClusterError if there is none."""
        item = service_named(name)
        found = self.get(item)
        if found is None:
            raise ClusterError(f"{item}: there is none in namespace {self.namespace}")
        return found

    def has(self, item: Item) -> bool:
        """Whether the server knows the kind of an object."""
        return self._kind(item) is not None

    def may(self, item: Item, verb: str) -> bool:
        """Whether we have the right to do this to an object."""
        kind = self._needed_kind(item)
        group = item.api_version.rpartition("/")[0]
        attributes = {"verb": verb, "group": group, "resource": kind.plural, "name": item.name}
        attributes["namespace"] = item.namespace or self.namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = self._told(item, "review", self._call("POST", path, body=review))
        return bool(answer["status"]["allowed"])

    def pods(self, cluster_name: str, group: str | None) -> list[Body]:
        """Pods of one Ray cluster, of one of its groups."""
        selector = f"ray.io/cluster={cluster_name}" + (f",ray.io/group={group}" if group else "")
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        answer = self._call("GET", path, {"labelSelector": selector})
        found: list[Body] = self._told(None, "list pods", answer)["items"]
        return found

    def log(self, pod: str, container: str, tail: int) -> str:
        """The last lines of a container; why there are none, if there are none."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        status, text = self._call("GET", path, {"container": container, "tailLines": str(tail)})
        return text if isinstance(text, str) else f"({text.get('message', status)})"

    def health(self, name: str) -> Any:
        """What the API's /health says, through the API server; None if nothing answers."""
        path = f"/api/v1/namespaces/{self.namespace}/services/{name}-serve-svc:serve/proxy/health"
        status, body = self._call("GET", path)
        return body if status == 200 and isinstance(body, dict) else None

    def _path(self, item: Item) -> str:
        kind = self._needed_kind(item)
        place = f"/namespaces/{item.namespace or self.namespace}" if kind.namespaced else ""
        return f"{kind.base}{place}/{kind.plural}/{item.name}"

    def _needed_kind(self, item: Item) -> Kind:
        kind = self._kind(item)
        if kind is None:
            fix = MISSING.get(item.api_version, "install what brings it")
            raise ClusterError(f"the cluster knows no {item.kind} of {item.api_version}: {fix}")
        return kind

    def _kind(self, item: Item) -> Kind | None:
        """Look a kind up, once."""
        key = (item.api_version, item.kind)
        if key not in self._kinds:
            base = f"/{'apis' if '/' in item.api_version else 'api'}/{item.api_version}"
            status, answer = self._call("GET", base)
            if status != 404:
                answer = self._told(item, "discover", (status, answer))
            found = [
                Kind(base, resource["name"], resource["namespaced"])
                for resource in (answer.get("resources", []) if status != 404 else [])
                if resource["kind"] == item.kind and "/" not in resource["name"]
            ]
            self._kinds[key] = found[0] if found else None
        return self._kinds[key]

    def _call(
        self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        """One request. -> (status, JSON, or text where it is none)"""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = APPLY if method == "PATCH" else "application/json"
        request = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=json.dumps(body) if method == "PATCH" else body,
            auth_settings=["BearerToken"],
        )
        try:
            response = self._api.call_api(*request, _request_timeout=TIMEOUT_S)
            text = response.read().decode(errors="replace")
        except (HTTPError, OSError, client.ApiException) as error:
            host = self._api.configuration.host
            raise ClusterError(f"the cluster at {host} does not answer: {_brief(error)}") from None
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def _told(self, item: Item | None, verb: str, answer: tuple[int, Any]) -> Any:
        """The answer's body. Raises ClusterError if it is a refusal."""
        status, body = answer
        if status < 300:
            return body
        message = body.get("message", "") if isinstance(body, dict) else str(body)
        subject = f"{item}: " if item is not None else ""
        raise ClusterError(subject + refusal(status, " ".join(message.split()), verb))


def refusal(status: int, message: str, verb: str) -> str:
    """A refusal of the API server in words that say what to do."""
    if status == 401:
        return "the cluster does not accept these credentials; log in again"
    if status == 403:
        return f"no right to {verb}: {message}"
    if status == 409:
        return f"{message}; --force takes these fields over"
    return f"refused ({status}): {message}"


def service_named(name: str) -> Item:
    """A RayService to look for."""
    api_version, kind = RAY_SERVICE
    return Item({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}})


def connect(context: str | None, namespace: str | None, impersonate: str | None) -> Cluster:
    """The cluster of the kubeconfig, or the one we run in. Raises ClusterError if there is none."""
    settings = client.Configuration()
    # Each refused connection would be told three times before our own line.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    try:
        config.load_kube_config(context=context, client_configuration=settings)
        found = _context_namespace(context)
    except ConfigException as error:
        found = _in_cluster(settings, context, error)
    except (yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClusterError(
            f"the kubeconfig (KUBECONFIG, or ~/.kube/config) is not valid: {_brief(error)}"
        ) from None
    api = client.ApiClient(settings)
    if impersonate is not None:
        api.set_default_header("Impersonate-User", impersonate)
    return Cluster(api, namespace or found)


def _in_cluster(settings: client.Configuration, context: str | None, error: Exception) -> str:
    if context is not None:
        raise ClusterError(f"the kubeconfig has no usable context {context}: {_brief(error)}")
    try:
        config.load_incluster_config(client_configuration=settings)
        return IN_CLUSTER_NAMESPACE.read_text(encoding="utf-8").strip()
    except (ConfigException, OSError):
        raise ClusterError(
            f"no cluster: set KUBECONFIG to a kubeconfig, or run in a pod ({_brief(error)})"
        ) from None


def _context_namespace(context: str | None) -> str:
    contexts, active = config.list_kube_config_contexts()
    chosen = next((c for c in contexts if c["name"] == context), active)
    return str(chosen["context"].get("namespace") or "default")


def _brief(error: BaseException) -> str:
    """The reason at the bottom of an error, in one line."""
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:300]


def _word(value: bool) -> str:
    return "true" if value else "false"
