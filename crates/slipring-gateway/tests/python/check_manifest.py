"""Checks what the parts of the manifest for Kubernetes must have in common, and the program's options."""

import subprocess
import sys

import yaml

with open(sys.argv[1]) as file:
    objects = {each["kind"]: each for each in yaml.safe_load_all(file)}
deployment, service, policy = (objects[kind] for kind in ("Deployment", "Service", "NetworkPolicy"))

pod = deployment["spec"]["template"]
(container,) = pod["spec"]["containers"]
labels = pod["metadata"]["labels"]
assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
assert service["spec"]["selector"].items() <= labels.items()
assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()

# A headless service: its name leads to the addresses of all pods.
assert service["spec"]["clusterIP"] == "None"
(port,) = service["spec"]["ports"]
ports = [each["containerPort"] for each in container["ports"]]
assert ports == [port["port"]] == [container["readinessProbe"]["grpc"]["port"]]
(rule,) = policy["spec"]["ingress"]
assert [each["port"] for each in rule["ports"]] == ports

command, worker = container["command"], container["command"].index("--")
options = dict(zip(command[1:worker:2], command[2:worker:2], strict=False))
assert options["--listen"].endswith(f":{port['port']}"), options
# The gateway ends by itself before it is killed: 5 s are for the end of its workers.
grace = pod["spec"]["terminationGracePeriodSeconds"]
assert float(options["--drain-timeout"]) + 5 < grace, (options, grace)

# The program takes these options: with a worker that cannot start it comes as far as that.
options["--listen"] = "127.0.0.1:0"
tried = [word for pair in options.items() for word in pair] + ["--plain-text-anywhere"]
done = subprocess.run(
    [sys.argv[2], *tried, "--", "/no/such/worker"], capture_output=True, text=True, timeout=60
)
assert done.returncode == 3, done
