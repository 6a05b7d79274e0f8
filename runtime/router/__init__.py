"""The HTTP front: takes OpenAI requests, asks the strategy, carries out its plans on the workers."""
