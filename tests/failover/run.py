"""Failovers under load: three sentinels, a master, two replicas and a broker, children that check themselves, redis-py's Sentinel
client and job queues beside. Prints what each round did, then the figures of all. Run by scripts/failover.

Exit code 1: a rule was broken (a reply of another request, an answer of the old master later than failover_grace, two masters, a
write executed twice, an element popped twice or not at all, a worker that has ended, a job lost between the failovers). Times are
only reported: they are the machine's, too.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time

import children
import judge
import peers
from faults import KINDS
from servers import Servers, wait_until
from workers import Queues

# How long a server stays away after the switch, or a sentinel: longer than failover_grace.
AWAY = 2.5
# After the last element was popped: what is not replicated yet would be popped again, with any client.
CALM = 1.0
# Until a switch is announced.
SWITCH_WITHIN = 40
# Totals of the broker that tell why children are closed.
TOTALS = (
    "children_lost_total", "requests_failed_total", "upstream_switches_total", "upstream_losses_total", "upstream_connects_total",
    "upstream_connect_failures_total", "upstream_desyncs_total",
)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--broker", required=True, help="the program")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--kinds", default=",".join(KINDS), help="in turn; default: %(default)s")
    parser.add_argument("--writers", type=int, default=200)
    parser.add_argument("--idle", type=int, default=20, help="children that begin to write at the switch")
    parser.add_argument("--poppers", type=int, default=20)
    parser.add_argument("--subscribers", type=int, default=2)
    parser.add_argument("--peers", type=int, default=5, help="clients of redis-py")
    parser.add_argument("--node-modules", default="", help="where bullmq is; without it, only Celery's worker runs")
    parser.add_argument("--no-workers", action="store_true", help="no job queues")
    parser.add_argument("--nice", type=int, default=0, help="of all processes of the run; below 0, on a busy machine, as root")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run in which nothing was broken")
    return parser.parse_args()


def set_priority(nice):
    """Of this process and all that it starts. Linux compares sessions first, where it groups by them: that of this one, too."""
    os.nice(nice)
    if nice and os.path.exists("/proc/self/autogroup"):
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(nice))


class Process:
    """A load in a process of its own, and the pipe to it."""

    def __init__(self, target, settings):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=target, args=(settings, other), daemon=True)
        self.process.start()
        other.close()

    def order(self, what):
        self.pipe.send(what)

    def hear(self, seconds):
        if not self.pipe.poll(seconds):
            raise RuntimeError("the load has said nothing for %d s" % seconds)
        return self.pipe.recv()

    def end(self):
        self.process.kill()
        self.process.join()


class Run:
    def __init__(self, args, directory):
        self.args = args
        self.servers = Servers(directory, args.broker)
        self.loads = []
        self.queues = None
        self.pairs, self.ended = [], []

    def start(self):
        self.servers.start()
        settings = {
            "socket": self.servers.socket, "sentinels": self.servers.sentinel_ports, "peers": self.args.peers,
            "writer": self.args.writers, "idle": self.args.idle, "popper": self.args.poppers, "subscriber": self.args.subscribers,
        }
        self.children, self.peers = Process(children.main, settings), Process(peers.main, settings)
        self.loads = [self.children, self.peers]
        if not self.args.no_workers:
            self.queues = Queues(self.servers, self.args.node_modules)
            for name in self.queues.names:
                wait_until("the first job of %s is done" % name, lambda: self.queues.done(name))

    def totals(self):
        """Of each name, with whatever labels."""
        totals = self.servers.broker_totals()
        return {name: int(value) for name, value in totals.items() if name.partition("{")[0] in TOTALS}

    def rounds(self, kinds):
        """All of them, or as many as the servers get over. Why not all."""
        for number in range(self.args.rounds):
            try:
                self.round(number, kinds[number % len(kinds)])
            except RuntimeError as error:
                return ["round %d has not ended: %s" % (number, error)]
        return []

    def round(self, number, kind):
        self.children.order("round")
        assert self.children.hear(60) == ("ready",)
        self.peers.order("collect")
        self.peers.hear(60)
        # What was popped and counted by now has to reach the replicas.
        time.sleep(CALM)
        before = self.totals()
        fault = KINDS[kind](self.servers)
        began = fault.inflict()
        _, *switch = self.children.hear(SWITCH_WITHIN)
        # The time that the server is away.
        time.sleep(AWAY)
        fault.heal()
        self.servers.settle()
        self.children.order("collect")
        _, record = self.children.hear(60)
        self.peers.order("collect")
        beside = self.peers.hear(60)
        seen, compared = judge.look(kind, began, switch, record), judge.look(kind, began, switch, beside)
        judge.judge(seen, record)
        seen.broken += compared.broken
        self.look_after_workers(number, seen)
        after = self.totals()
        seen.stats = {name: after[name] - before[name] for name in after}
        self.pairs.append((seen, compared))
        print(judge.line(number, seen, compared), flush=True)

    def look_after_workers(self, number, seen):
        """They have to live on, but where READONLY is sent to programs, as by Redis itself: Celery's worker ends with it."""
        for ended in self.queues.revive() if self.queues else ():
            self.ended.append("%s has ended in round %d, %s" % (ended, number, seen.kind))
            if not KINDS[seen.kind].refuses_writes:
                seen.broken.append(ended + " has ended")

    def finish(self):
        """Prints the figures. What was broken."""
        broken = []
        for number, (seen, _) in enumerate(self.pairs):
            broken += ["round %d, %s: %s" % (number, seen.kind, what) for what in seen.broken]
        print("\n".join(["", *judge.report(self.pairs)]))
        if self.servers.processes["broker"].poll() is not None:
            broken.append("the broker has ended")
        if self.queues:
            print("programs of the job queues that have ended: " + ("; ".join(self.ended) or "none"))
            accounts = self.queues.finish([(seen.fault, seen.switch) for seen, _ in self.pairs])
            for name, account in accounts.items():
                print("jobs of %s: %s" % (name, judge.counted(account)))
                if account["lost otherwise"]:
                    broken.append("%s: %d jobs lost between failovers" % (name, account["lost otherwise"]))
        print("load averages: %.1f %.1f %.1f" % os.getloadavg())
        return broken

    def end(self):
        if self.queues:
            self.queues.end()
        for load in self.loads:
            load.end()
        self.servers.end()


def main():
    args = options()
    random.seed(args.seed)
    set_priority(args.nice)
    kinds = args.kinds.split(",")
    directory = tempfile.mkdtemp(prefix="failover-")
    run = Run(args, directory)
    broken = ["the run has not ended"]
    try:
        run.start()
        print("load averages: %.1f %.1f %.1f; nice %d" % (*os.getloadavg(), args.nice), flush=True)
        broken = run.rounds(kinds)
        broken += run.finish()
    finally:
        run.end()
        if broken or args.keep:
            print("logs are in " + directory)
        else:
            shutil.rmtree(directory)
    print("\n".join("BROKEN " + what for what in broken) if broken else "no rule was broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
