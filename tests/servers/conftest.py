collect_ignore = ["mlserver_runtime.py"]  # it runs in an environment of its own
