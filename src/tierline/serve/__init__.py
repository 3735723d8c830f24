"""A loaded model behind the OpenAI chat-completions API: one model, a queue, and a batch of what waits."""
