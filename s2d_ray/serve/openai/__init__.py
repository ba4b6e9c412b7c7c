"""OpenAI's API as this service speaks it: checking of requests and shapes of replies. No I/O."""
