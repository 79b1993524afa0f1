"""The registry over HTTP: the application and its planes, the client, and who is asking."""
