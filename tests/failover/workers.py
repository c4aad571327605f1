"""Job queues behind the broker in a failover run: the workers of Celery and BullMQ, and programs that submit jobs to them. The
processes have to live through all of it; which jobs were done is read from the files that they leave."""

import os
import subprocess
import sys
import time

# Jobs submitted from this long before a fault until this long after the switch, in seconds: what is in the queue then may be
# only on the old master, and is lost with it.
BEFORE, AFTER = 1.0, 5.0
# How long the last jobs may take; and within which one more has to be done.
PATIENCE, QUIET = 90, 20


class Queues:
    def __init__(self, servers, node_modules):
        here = os.path.dirname(os.path.abspath(__file__))
        self.directory = servers.directory
        environment = dict(os.environ, FAILOVER_PORT=str(servers.tcp_port), FAILOVER_DIRECTORY=servers.directory, PYTHONPATH=here)
        environment["NODE_PATH"] = node_modules or ""
        celery = [sys.executable, "-m", "celery", "--workdir", here, "-A", "tasks", "worker", "-c", "2", "-l", "WARNING"]
        programs = {"celery": (celery, [sys.executable, os.path.join(here, "tasks.py")])}
        if node_modules:
            script = os.path.join(here, "jobs.js")
            programs["bullmq"] = (["node", script, "work"], ["node", script, "submit"])
        self.environment, self.processes, self.programs = environment, {}, {}
        for name, pair in programs.items():
            for part, argv in zip(("worker", "submitter"), pair):
                self.programs[name, part] = argv
                self.start((name, part))
        self.names = list(programs)

    def start(self, key):
        with open(os.path.join(self.directory, "%s-%s.log" % key), "a") as log:
            self.processes[key] = subprocess.Popen(
                self.programs[key], stdout=log, stderr=log, env=self.environment, cwd=self.directory)

    def revive(self):
        """Starts those again that have ended. Which ones."""
        ended = [key for key, process in self.processes.items() if process.poll() is not None]
        for key in ended:
            self.start(key)
        return ["%s's %s" % key for key in ended]

    def lines(self, name):
        try:
            with open(os.path.join(self.directory, name)) as file:
                return [line.split() for line in file]
        except FileNotFoundError:
            return []

    def accepted(self, name):
        """Number, and when it was submitted: from, until."""
        return [(int(number), float(began), float(ended)) for number, began, ended in self.lines(name + ".sent")]

    def done(self, name):
        return [int(line[0]) for line in self.lines(name + ".done")]

    def finish(self, windows):
        """Ends the submitters, waits for what is still to be done, and says how it went. `windows`: of each round, when the fault
        began and when the switch was announced."""
        for (_, part), process in self.processes.items():
            if part == "submitter" and process.poll() is None:
                process.kill()
                process.wait()
        self.await_rest()
        return {name: self.account(name, windows) for name in self.names}

    def await_rest(self):
        began = changed = time.monotonic()
        left = None
        while left != 0 and time.monotonic() < min(began + PATIENCE, changed + QUIET):
            now_left = sum(len({job[0] for job in self.accepted(name)} - set(self.done(name))) for name in self.names)
            if now_left != left:
                left, changed = now_left, time.monotonic()
            time.sleep(0.2)

    def account(self, name, windows):
        def near(began, ended):
            return any(ended >= fault - BEFORE and began <= switch + AFTER for fault, switch in windows)

        accepted, done = self.accepted(name), self.done(name)
        kept = set(done)
        missing = [(began, ended) for number, began, ended in accepted if number not in kept]
        return {
            "accepted": len(accepted),
            "refused": len(self.lines(name + ".refused")),
            "near a failover": sum(near(began, ended) for _, began, ended in accepted),
            "done": len({number for number, _, _ in accepted} & kept),
            "done twice": len(done) - len(kept),
            "lost near a failover": sum(near(*times) for times in missing),
            "lost otherwise": sum(not near(*times) for times in missing),
        }

    def end(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
