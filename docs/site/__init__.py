"""The documentation as a site: what is copied from the repository, and what is generated. `make docs` builds it."""
