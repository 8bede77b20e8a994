"""What runs beside the functions: the local stack, migrations, packaging and checks, as `python -m infra`."""
