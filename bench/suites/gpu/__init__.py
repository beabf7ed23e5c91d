"""`deeper bench gpu`: what decides most about a machine in a few minutes of it, each part in a process of its own."""
