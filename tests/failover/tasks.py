"""Celery through the broker: the task of the worker, and a program that submits jobs all the time.

    celery -A tasks worker        runs them; each leaves its number in the file `celery.done`
    python tasks.py               submits them; each that was accepted is a line in `celery.sent`: number, when, until when

FAILOVER_PORT is the broker's, FAILOVER_DIRECTORY where the files are. What was done is thus known without Redis.
"""

import os
import time

from celery import Celery

DIRECTORY = os.environ["FAILOVER_DIRECTORY"]
URL = "redis://127.0.0.1:%s/0" % os.environ["FAILOVER_PORT"]
# Between two jobs.
PACE = 0.2

app = Celery("failover", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
# How often the worker tries to connect again; it gives up after 100 times by default.
app.conf.broker_connection_max_retries = None
app.conf.worker_hijack_root_logger = False


def note(name, line):
    with open(os.path.join(DIRECTORY, name), "a") as file:
        file.write(line + "\n")


@app.task(name="job")
def job(number):
    note("celery.done", str(number))
    return number


def submit():
    number = 0
    while True:
        number += 1
        began = time.monotonic()
        try:
            job.delay(number)
            note("celery.sent", "%d %f %f" % (number, began, time.monotonic()))
        except Exception as error:
            note("celery.refused", "%d %r" % (number, error))
        time.sleep(PACE)


if __name__ == "__main__":
    submit()
