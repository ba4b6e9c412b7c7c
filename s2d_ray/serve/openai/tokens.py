"""POST /tokenize and /detokenize, in vLLM's shape."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from s2d_ray.engine.messages import ChatPrompt, Prompt, TextPrompt, Tokens
from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.body import Body, Name
from s2d_ray.serve.openai.chat import Messages, Tools, chat_prompt
from s2d_ray.serve.openai.completions import MAX_PROMPT_TOKENS, PromptText
from s2d_ray.serve.openai.formats import check_tools
from s2d_ray.serve.openai.sampling import TokenId


class TokenizeRequest(Body):
    """A prompt or a conversation to be turned into ids. Null means absent."""

    model: Name = Field(description="Name of a target.")
    prompt: PromptText | None = Field(None, description="A text; either this or `messages`.")
    messages: Messages | None = Field(None, description="A chat.")
    tools: Tools | None = Field(
        None, description="With `messages`: functions that the chat template shows."
    )
    return_token_strs: bool | None = Field(None, description="Also what each id decodes to.")
    add_special_tokens: Literal[True] | None = Field(
        None, description="Only as the checkpoint says."
    )
    add_generation_prompt: Literal[True] | None = Field(
        None, description="Only as the checkpoint says."
    )

    def to_prompt(self) -> Prompt:
        """The prompt as targets know it. Raises RequestError unless there is just one."""
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("send either prompt or messages", "prompt")
        if self.prompt is not None:
            if self.tools:
                raise RequestError("tools go with messages", "tools")
            return TextPrompt(self.prompt)
        check_tools(self.tools or ())
        prompt: ChatPrompt = chat_prompt(self.messages or [], self.tools or [])
        return prompt


class DetokenizeRequest(Body):
    """Ids to be turned into text."""

    model: Name = Field(description="Name of a target.")
    tokens: Annotated[list[TokenId], Field(max_length=MAX_PROMPT_TOKENS)] = Field(
        description="The ids."
    )


def tokens_body(tokens: Tokens, *, with_texts: bool) -> dict[str, Any]:
    """The answer of /tokenize."""
    return {
        "count": len(tokens.ids),
        "max_model_len": tokens.max_context,
        "tokens": list(tokens.ids),
        "token_strs": list(tokens.texts) if with_texts else None,
    }
