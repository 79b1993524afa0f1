"""The serving plane: routes of the OpenAI style API and their assembly."""
