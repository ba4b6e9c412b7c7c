"""Asking the policy where a request goes, with what this router knows when it comes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import (
    ChatPrompt,
    Event,
    GenerateRequest,
    Mode,
    Prompt,
    TextPrompt,
    TokenPrompt,
)
from s2d_ray.policy.keys import Caller
from s2d_ray.policy.routing import Choice, Question, TargetState, choose
from s2d_ray.policy.tasks import code_share, overlap, task_class
from s2d_ray.serve.backend import Backend
from s2d_ray.serve.gate import Ticket
from s2d_ray.serve.tenant_ticket import prompt_bound

BYTES_PER_TOKEN = 4
"""Of a prompt, roughly: routers have no tokenizer."""

OPENING = 1_024
"""Characters, or ids, by which a prompt that is no chat is known again once it has grown."""


@dataclass(frozen=True)
class Dispatched:
    """Where a request goes. tokens: what it may take there, by estimate. task: see `Choice`."""

    target: str
    plan: Plan
    reason: str
    tokens: int
    task: str = ""

    @property
    def header(self) -> dict[str, str]:
        """What the reply tells of it."""
        return {"x-s2d-route": f"{self.target}; {self.reason}"}


class Dispatcher:
    """Chooses the target and the plan of each request. Counts what this router has under way."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._outstanding: Counter[str] = Counter()

    async def dispatch(
        self,
        model: str,
        requests: Sequence[GenerateRequest],
        task: str | None,
        caller: Caller | None,
    ) -> Dispatched:
        """Choose for the texts of one request. Raises: RequestError if nothing can take it."""
        is_named = model in self._backend.targets()  # then nobody asks whether it lives
        alive = () if is_named else await self._backend.alive()
        routing = self._backend.routing()  # as it is after the wait
        prompts = {id(request.prompt): request.prompt for request in requests}
        sizes = [num_tokens(prompt) for prompt in prompts.values()]
        question = Question(
            model,
            prompt_tokens=max(sizes),
            output_tokens=requests[0].sampling.max_tokens or self._default_output(),
            conversation=conversation(requests[0].prompt, "" if caller is None else caller.name),
            allowed=None if caller is None else caller.targets,
            task=task,
            looks_like=_looks_like(requests[0], max(sizes), task),
        )
        states = {
            name: self._now(name, state, is_alive=is_named or name in alive)
            for name, state in routing.states.items()
        }
        choice: Choice[Plan] = choose(question, states, routing.rules)
        tokens = sum(sizes) + len(requests) * question.output_tokens
        plan = choice.plan or routing.plan
        return Dispatched(choice.target, plan, choice.reason, tokens, choice.task)

    def hold(self, dispatched: Dispatched, ticket: Ticket) -> Ticket:
        """The same ticket; until it is closed, the request is outstanding at its target."""
        return _Held(ticket, self._outstanding, dispatched)

    def _now(self, name: str, state: TargetState, *, is_alive: bool) -> TargetState:
        return replace(state, is_alive=is_alive, outstanding_tokens=self._outstanding[name])

    def _default_output(self) -> int:
        """Tokens of a text without a limit: the most that any target writes then."""
        infos = self._backend.targets().values()
        limits = [info.default_max_tokens or info.max_context for info in infos]
        return max(limits, default=0)


class _Held:
    """A ticket whose tokens are outstanding until it is closed."""

    def __init__(self, ticket: Ticket, outstanding: Counter[str], dispatched: Dispatched) -> None:
        self._ticket = ticket
        self._outstanding = outstanding
        self._dispatched = dispatched
        outstanding[dispatched.target] += dispatched.tokens

    def run(
        self, request: GenerateRequest, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """As the ticket has it."""
        return self._ticket.run(request, events)

    def headers(self) -> dict[str, str]:
        """As the ticket has them, and the way that the request went."""
        return self._dispatched.header | self._ticket.headers()

    async def close(self, error: Exception | None) -> None:
        """The request is over."""
        self._outstanding[self._dispatched.target] -= self._dispatched.tokens
        await self._ticket.close(error)


def num_tokens(prompt: Prompt) -> int:
    """Tokens of a prompt, roughly."""
    bound = prompt_bound(prompt)
    return bound if isinstance(prompt, TokenPrompt) else bound // BYTES_PER_TOKEN + 1


def _looks_like(request: GenerateRequest, prompt_tokens: int, task: str | None) -> str | None:
    """The class of task of a request, None if its mode wants no plan that was learned."""
    if request.mode is not Mode.AUTO:
        return None
    text = text_of(request.prompt)
    return task_class(prompt_tokens, code_share(text), overlap(text), task)


def text_of(prompt: Prompt) -> str:
    """What can be read of a prompt without a tokenizer."""
    if isinstance(prompt, ChatPrompt):
        return "\n".join(message.get("content") or "" for message in prompt.messages)
    return prompt.text if isinstance(prompt, TextPrompt) else ""


def conversation(prompt: Prompt, tenant: str) -> str:
    """Equal for all turns of one conversation of a tenant, and for no other one.

    A chat is known by its messages up to the first one of its user, another prompt by its opening.
    """
    opening: object
    if isinstance(prompt, ChatPrompt):
        roles = [message["role"] for message in prompt.messages]
        length = roles.index("user") + 1 if "user" in roles else 1
        opening = [prompt.messages[:length], prompt.tools]
    elif isinstance(prompt, TokenPrompt):
        opening = prompt.ids[:OPENING]
    else:
        opening = prompt.text[:OPENING]
    return hashlib.sha256(json.dumps([tenant, opening], sort_keys=True).encode()).hexdigest()
