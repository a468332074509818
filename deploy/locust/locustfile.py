"""Load for a running worker: direct jobs and Pub/Sub pushes, half and half.

Every request is a job of its own: a new job_id, three palettes, one of a few 512 x 512 pictures. A direct job counts as done
when its manifest says `complete`; a push when it is acknowledged. Everything else is a failure, 429 and 503 among them.

    locust --config deploy/locust/locust.conf --host http://127.0.0.1:8080 --folder data
    python3 deploy/locust/locustfile.py FOLDER      writes the pictures into FOLDER and ends

README.md, beside this file, says more.
"""

import base64
import datetime
import itertools
import json
import math
import operator
import os
import random
import struct
import sys
import zlib

SIDE = 512
USER_ID = "load"
PALETTES = [
    {"name": "Terracotta", "colors": ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"]},
    {"name": "Harbour", "colors": ["#0B2545", "#13678A", "#EE6352", "#8DC6D2", "#EEF4ED"]},
    {"name": "Fernwood", "colors": ["#1B3A2B", "#4F772D", "#E08E45", "#B5C99A", "#F4F1DE"]},
]


# ---- the pictures ----


def picture_name(number):
    return f"load/{SIDE}-{number}.png"


def picture(number):
    """A PNG of SIDE x SIDE pixels: three discs on a gradient, with grain. The same bytes on every machine."""
    chance = random.Random(number)
    # Room for the grain above every colour.
    colors = [bytes(chance.randrange(240) for _ in range(3)) for _ in range(4)]
    discs = [(chance.randrange(SIDE), chance.randrange(SIDE), chance.randrange(60, 160), color) for color in colors[1:]]
    grain = bytes(chance.randrange(16) for _ in range(8 * 3 * SIDE))
    rows = bytearray()
    for y in range(SIDE):
        row = bytearray(bytes(part * (2 * SIDE - y) // (2 * SIDE) for part in colors[0]) * SIDE)
        for center_x, center_y, radius, color in discs:
            if abs(y - center_y) < radius:
                half = math.isqrt(radius**2 - (y - center_y) ** 2)
                left, right = max(0, center_x - half), min(SIDE, center_x + half)
                row[3 * left : 3 * right] = color * (right - left)
        start = chance.randrange(len(grain) - len(row))
        rows += b"\0" + bytes(map(operator.add, row, grain[start:]))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")


def write_pictures(folder, count):
    for number in range(count):
        path = os.path.join(folder, picture_name(number))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(picture(number))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 locustfile.py FOLDER")
    write_pictures(sys.argv[1], 8)
    sys.exit()


# ---- the load ----

import gevent  # noqa: E402
from locust import FastHttpUser, constant_pacing, events, task  # noqa: E402

# Distinct over processes and runs, or the worker would find the job done.
RUN = f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%S}-{os.getpid()}"
JOBS = itertools.count()


@events.init_command_line_parser.add_listener
def arguments(parser):
    parser.add_argument("--rate", type=float, default=100, help="requests per second of all users together (100)")
    parser.add_argument("--bucket", default="concept-bases", help="bucket with the pictures (concept-bases)")
    parser.add_argument("--destination", default="", help="where results go, gs://bucket/prefix (the worker's default)")
    parser.add_argument("--pictures", type=int, default=8, help="how many pictures the jobs take in turn (8)")
    parser.add_argument("--folder", default="", help="local storage's folder: the pictures are written there first")
    parser.add_argument("--most-failures", type=float, default=1, help="percent of failures that are tolerated (1)")
    parser.add_argument(
        "--token",
        default="",
        env_var="CONCEPT_LOAD_TOKEN",
        is_secret=True,
        help="identity token sent with every request; better set as CONCEPT_LOAD_TOKEN",
    )


@events.init.add_listener
def prepare(environment, **_):
    options = environment.parsed_options
    if options and options.folder:
        write_pictures(os.path.join(options.folder, options.bucket), options.pictures)


@events.quitting.add_listener
def judge(environment, **_):
    total = environment.stats.total
    percent = 100 * total.fail_ratio
    print(
        f"{total.num_requests} requests, {total.total_rps:.1f}/s, {percent:.2f} % failed, "
        f"p50 {total.get_response_time_percentile(0.5)} ms, p99 {total.get_response_time_percentile(0.99)} ms",
        file=sys.stderr,
    )
    sound = total.num_requests > 0 and percent <= environment.parsed_options.most_failures
    environment.process_exit_code = 0 if sound else 1


class Client(FastHttpUser):
    """One connection. All of them together make `--rate` requests per second, as far as the worker keeps up."""

    # A worker that is full lets requests wait in its queue.
    connection_timeout = 30
    network_timeout = 120

    def on_start(self):
        options = self.environment.parsed_options
        self.headers = {"Authorization": f"Bearer {options.token}"} if options.token else {}
        self.pace = options.num_users / options.rate
        # Users that start together must not stay together.
        gevent.sleep(random.uniform(0, self.pace))

    def wait_time(self):
        return constant_pacing(self.pace)(self)

    def job(self):
        options = self.environment.parsed_options
        number = next(JOBS)
        job = {
            "job_id": f"load-{RUN}-{number}",
            "user_id": USER_ID,
            "source": f"gs://{options.bucket}/{picture_name(number % options.pictures)}",
            "palettes": PALETTES,
            "outputs": [{"format": "jpeg"}],
        }
        if options.destination:
            job["destination"] = options.destination
        return job

    def post(self, path, body, name):
        return self.client.post(path, json=body, headers=self.headers, name=name, catch_response=True)

    @task
    def render(self):
        with self.post("/v1/render", self.job(), "render") as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
                return
            try:
                state = response.json().get("state")
            except (ValueError, AttributeError):
                state = "no manifest"
            if state != "complete":
                response.failure(f"state {state}")

    @task
    def push(self):
        data = base64.b64encode(json.dumps(self.job()).encode()).decode()
        now = datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
        message_id = f"{RUN}-{next(JOBS)}"
        body = {
            "message": {"data": data, "attributes": {}, "messageId": message_id, "publishTime": now},
            "subscription": "projects/load/subscriptions/locust",
        }
        with self.post("/pubsub/push", body, "push") as response:
            # What Pub/Sub takes for an acknowledgement.
            if response.status_code not in (102, 200, 201, 202, 204):
                response.failure(f"status {response.status_code}")
