"""Fine-tuning as a service: files and jobs over HTTP, each job in a process of its own."""
