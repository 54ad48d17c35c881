"""Schemathesis against the running binary and the OpenAPI document that it serves.

    pip install schemathesis==4.32.5
    python tests/oracle/service/fuzz.py --weights W --reid R --video clip.mp4 --folder /tmp/fuzz
    python tests/oracle/service/fuzz.py … --folder /tmp/fuzz-known --known

No server error; every answer's status, content type and body as the document says; what breaks its
schemas is refused, and so are methods that it does not name. With `--known`
what is asked for is there: tasks that ended, people, uploads, keys; without it identifiers are
generated, and most are of nothing. The exit code is Schemathesis'.
"""

import json
import pathlib
import subprocess
import sys

import service

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "negative_data_rejection",
]
# A request for a socket that is no handshake is refused as such, whatever else is wrong with it.
REFUSED = """[checks.negative_data_rejection]
expected-statuses = ["4xx"]
"""
KINDS = ["detection-processing-tasks", "processing-tasks", "raw-processing-tasks"]


def known(served, video):
    """Schemathesis' settings with identifiers of what is there; what is removed has its own."""
    tasks = {f"/api/v1/{kind}": served.start(f"/api/v1/{kind}") for kind in KINDS}
    print("tasks", [served.ended(task, prefix) for prefix, task in tasks.items()])
    people = [person["global_id"] for person in served.call("GET", "/api/v1/people")[1]["people"]]
    uploads = [served.upload(video)["inference_id"] for _ in range(2)]
    print(len(people), "people,", len(uploads), "uploads")
    key = served.call("POST", "/api/v1/keys", {"name": "known", "role": "viewer"})[1]["id"]
    common = {"task_id": tasks[service.TASKS], "global_id": people[0], "inference_id": uploads[0]}
    common |= {"environment_id": "lane", "key_id": key, "file": "tracks.txt"}
    special = {
        "DELETE /api/v1/people/{global_id}": {"global_id": people[-1]},
        "DELETE /api/inference/video/{inference_id}": {"inference_id": uploads[1]},
    }
    for prefix, task in tasks.items():
        for request in (f"GET {prefix}/{{task_id}}", f"GET {prefix}/{{task_id}}/status"):
            special[request] = {"task_id": task}
        special[f"DELETE {prefix}/{{task_id}}/stop"] = {"task_id": task}
    text = "[parameters]\n"
    text += "".join(f"{json.dumps(f'path.{name}')} = {json.dumps(common[name])}\n" for name in common)
    for name, values in special.items():
        text += f"[[operations]]\ninclude-name = {json.dumps(name)}\n[operations.parameters]\n"
        text += "".join(f"{json.dumps(f'path.{key}')} = {json.dumps(values[key])}\n" for key in values)
    return text


def main():
    parser = service.arguments(__doc__)
    parser.add_argument("--examples", type=int, default=20, help="most cases of an operation and phase")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--phases", default="examples,coverage,fuzzing")
    parser.add_argument("--known", action="store_true", help="ask for what is there")
    options, more = parser.parse_known_args()
    served = service.Service(options, "--log-format", "json")
    if options.known:
        # What removes all tasks of the environment would leave nothing for the others.
        more += ["--exclude-path-regex", "/cleanup$"]
        settings = known(served, options.video) + REFUSED
    else:
        served.start(max_frames=2)
        settings = REFUSED
    (served.folder / "schemathesis.toml").write_text(settings)
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    command = [program, "run", f"http://{served.address}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--max-examples", str(options.examples)]
    command += ["--seed", str(options.seed), "--phases", options.phases, "--continue-on-failure"]
    command += ["--request-timeout", "30"]
    command += ["--header", f"Authorization: Bearer {service.KEY}", *more]
    code = subprocess.run(command, check=False, cwd=served.folder).returncode
    print("service:", served.measures(), "exit code", served.stop())
    sys.exit(code)


if __name__ == "__main__":
    main()
