"""A fake `gcloud`, whose TPUs are folders and whose workers are processes.

FAKE_GCLOUD is the folder. Its `world.json` scripts what happens:
    hosts           number of workers per node
    create          results of successive creates: "ok", "lost" (exit code 0, but nothing created),
                    or the text of an error; then "ok"
    delete          results of successive deletes: "ok", or the text of an error; then "ok"
    describe        results of successive describes: "ok", or the text of an error, with gcloud's
                    "ERROR: " or without; then "ok"
    project         the default project
    bucket_error    text of an error of `gcloud storage`
    stay            nodes that remain after the deletion of their queued resource
    states          for each created TPU, the node's states in successive describes; the last one
                    is repeated; default: READY
    health          the same for the node's health; default: HEALTHY
    queue           the same for queued resources; default: ACTIVE
    failure         code and message of a queued resource that has FAILED
    ssh             results of successive ssh and scp: "ok", "flake" (exit code 255), "half" (runs,
                    but 255 and no output), "lost" (0, but nothing copied); then "ok"
    env             environment of the workers; {worker} is replaced by the worker's number
The folder also contains `calls.jsonl` (all calls) and `nodes/NAME.N/wI`, the home of worker I of
the Nth TPU named NAME. `gcloud storage` has one bucket, gs://bucket, with the content of `bucket`.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys

ROOT = os.environ["FAKE_GCLOUD"]


@contextlib.contextmanager
def world():
    """Yield the content of world.json under a lock, and write it back."""
    with open(f"{ROOT}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(f"{ROOT}/world.json") as file:
            data = json.load(file)
        try:
            yield data
        finally:  # also after an error
            with open(f"{ROOT}/world.json.new", "w") as file:
                json.dump(data, file)
            os.replace(f"{ROOT}/world.json.new", f"{ROOT}/world.json")


def fail(message: str, code: int = 1) -> None:
    if not message.startswith("ERROR"):
        words = [word for word in sys.argv[1:5] if not word.startswith("-")]
        message = f"ERROR: (gcloud.{'.'.join(words)}) {message}"
    print(message, file=sys.stderr)
    sys.exit(code)


def absent(kind: str, name: str, flags: dict) -> None:
    """Fail as gcloud does if a resource does not exist."""
    kind = {"tpu-vm": "nodes", "queued-resources": "queuedResources"}[kind]
    path = f"projects/{flags.get('project', 'p')}/locations/{flags['zone']}/{kind}/{name}"
    fail(
        f"NOT_FOUND: Resource '{path}' was not found. This command is authenticated as me@host"
        " which is the active account specified by the [core/account] property\n"
        f"- '@type': type.googleapis.com/google.rpc.ResourceInfo\n  resourceName: {path}"
    )


def take(queue: list, default):
    return queue.pop(0) if queue else default


def next_state(states: list) -> str:
    return states.pop(0) if len(states) > 1 else states[0]


def homes(name: str, node: dict) -> list[str]:
    return [f"{ROOT}/nodes/{name}.{node['incarnation']}/w{i}" for i in range(node["hosts"])]


def add_node(data: dict, name: str, flags: dict) -> None:
    count = data["made"][name] = data.setdefault("made", {}).get(name, 0) + 1
    node = {"hosts": data.get("hosts", 1), "type": flags["accelerator-type"], "incarnation": count}
    node["states"] = take(data.get("states", []), ["READY"])
    node["health"] = take(data.get("health", []), ["HEALTHY"])
    data.setdefault("nodes", {})[name] = node
    for home in homes(name, node):
        os.makedirs(home)


def end_workers(name: str, node: dict) -> None:
    """Kill all processes of a node, as if its VMs were deleted."""
    for home in homes(name, node):
        folder = f"{home}/.fake_tmux"
        for session in os.listdir(folder) if os.path.isdir(folder) else []:
            with open(f"{folder}/{session}") as file, contextlib.suppress(ProcessLookupError):
                os.killpg(int(file.read()), signal.SIGKILL)
            os.remove(f"{folder}/{session}")


def preempt(name: str, state: str = "PREEMPTED") -> None:
    with world() as data:
        node = data["nodes"][name]
        node["states"] = [state]
        if name in data.get("requests", {}):
            data["requests"][name]["states"] = ["SUSPENDING", "SUSPENDED"]
    end_workers(name, node)


def create(kind: str, name: str, flags: dict) -> None:
    with world() as data:
        existing = data.setdefault("requests" if kind == "queued-resources" else "nodes", {})
        if name in existing:
            fail(f"ALREADY_EXISTS: {name} already exists")
        answer = take(data.get("create", []), "ok")
        if answer == "lost":
            return
        if answer != "ok":
            fail(answer)
        nodes = [name]
        if kind == "queued-resources":
            assert "version" not in flags and flags["runtime-version"]
            count = int(flags.get("node-count", 1))
            if count > 1:
                nodes = [f"{flags['node-prefix']}-{i}" for i in range(count)]
            else:
                nodes = [flags["node-id"]]
            states = take(data.get("queue", []), ["ACTIVE"])
            existing[name] = {"states": states, "nodes": nodes}
        else:
            assert flags["version"]
        for node in nodes:
            add_node(data, node, flags)


def describe(kind: str, name: str, flags: dict) -> None:
    with world() as data:
        answer = take(data.get("describe", []), "ok")
        if answer != "ok":
            fail(answer)
        if kind == "queued-resources":
            if name not in data.get("requests", {}):
                absent(kind, name, flags)
            if "failedData" in flags["format"]:
                print(data.get("failure", ""))
                return
            print(next_state(data["requests"][name]["states"]))
            return
        if name not in data.get("nodes", {}):
            absent(kind, name, flags)
        node = data["nodes"][name]
        assert flags["format"].startswith("csv[no-heading](state,health,")
        state, health = next_state(node["states"]), next_state(node["health"])
        print(f"{state},{health},{node['hosts']},{node['type']}")


def delete(kind: str, name: str, flags: dict) -> None:
    with world() as data:
        nodes = [name]
        answer = take(data.get("delete", []), "ok")
        if answer != "ok":
            fail(answer)
        if kind == "queued-resources":
            assert "force" in flags
            if name not in data.get("requests", {}):
                absent(kind, name, flags)
            nodes = data["requests"].pop(name)["nodes"]
            nodes = [node for node in nodes if node not in data.get("stay", [])]
        elif name not in data.get("nodes", {}):
            absent(kind, name, flags)
        gone = [(node, data["nodes"].pop(node)) for node in nodes if node in data["nodes"]]
    for node in gone:
        end_workers(*node)


def reach(name: str, flags: dict) -> tuple[str, dict, list[int], dict]:
    """Return the result of the next ssh, the node, the workers and their environment."""
    with world() as data:
        answer = take(data.get("ssh", []), "ok")
        node = data.get("nodes", {}).get(name)
        env = data.get("env", {})
    if node is None or node["states"][0] != "READY" or answer == "flake":
        fail("ssh: connect to host port 22: Connection timed out", 255)
    workers = flags.get("worker", "0")
    return answer, node, list(range(node["hosts"])) if workers == "all" else [int(workers)], env


def ssh(name: str, flags: dict) -> None:
    answer, node, workers, env = reach(name, flags)
    code = 0
    for i in workers:
        home = homes(name, node)[i]
        own = {key: value.replace("{worker}", str(i)) for key, value in env.items()}
        own |= {"HOME": home, "FLAXAE_WORKER": str(i), "FAKE_NODE": name}
        own |= {"FLAXAE_BOOT_ID_FILE": f"{home}/../boot_id"}
        result = subprocess.run(
            ["bash", "-c", flags["command"]],
            cwd=home,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if answer == "half" else None,
        )
        code = code or result.returncode
    sys.exit(255 if answer == "half" else code)


def scp(paths: list[str], flags: dict) -> None:
    *sources, target = paths
    name, _, folder = target.partition(":")
    answer, node, workers, _ = reach(name, flags)
    for i in workers:
        for source in sources if answer != "lost" else ():
            copy = shutil.copy if "-p" in flags.get("scp-flag", []) else shutil.copyfile
            copy(source, f"{homes(name, node)[i]}/{folder}{os.path.basename(source)}")
    if answer == "half":
        sys.exit(255)


def storage(paths: list[str]) -> None:
    """Run `ls BUCKET` or `rsync PATH FOLDER`."""
    bucket, _, path = paths[0].removeprefix("gs://").partition("/")
    if bucket != "bucket":
        fail(f"gs://{bucket} not found: 404.")
    with world() as data:
        if answer := data.get("bucket_error", ""):
            fail(answer)
    if len(paths) == 2:
        shutil.copytree(f"{ROOT}/bucket/{path}", paths[1], dirs_exist_ok=True)


def parse(arguments: list[str]) -> tuple[list[str], dict]:
    words, flags = [], {}
    for argument in arguments:
        if argument == "--":
            break
        if not argument.startswith("--"):
            words.append(argument)
            continue
        key, _, value = argument[2:].partition("=")
        if key == "scp-flag":
            flags.setdefault(key, []).append(value)
        else:
            flags[key] = value
    return words, flags


def main(arguments: list[str]) -> None:
    if arguments[0] == "preempt":
        return preempt(*arguments[1:])
    with open(f"{ROOT}/calls.jsonl", "a") as file:
        print(json.dumps(arguments), file=file)
    words, flags = parse(arguments)
    if words == ["config", "get-value", "project"]:
        with world() as data:
            return print(data.get("project", ""))
    if "storage" in words:
        return storage([word for word in words if word.startswith("gs://") or word == "data"])
    assert words[:2] == ["compute", "tpus"] and flags["zone"], arguments
    kind, action, name = words[2:5]
    if action == "scp":
        scp(words[4:], flags)
    else:
        actions = {"create": create, "describe": describe, "delete": delete}
        ssh(name, flags) if action == "ssh" else actions[action](kind, name, flags)


if __name__ == "__main__":
    main(sys.argv[1:])
