collect_ignore = ["mlserver_runtime.py", "in_vllm"]  # they run in environments of their own
