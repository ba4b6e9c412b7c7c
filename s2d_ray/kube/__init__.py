"""Kubernetes: the values of the Helm chart, and a client for what it installs."""
