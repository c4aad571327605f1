"use strict";
// Fills the status page with what /status.json says, every two seconds while somebody looks. Whatever it is told becomes
// text, never markup: most names are chosen by the programs that use the broker.

const PERIOD = 2000;
/** Milliseconds after which a broker that has not answered is called silent. */
const PATIENCE = 6000;
const MINUTES = 15;

const at = (id) => document.getElementById(id);

/** A phone shows rows as cards, for which a browser forgets that they are rows: so it is told. */
const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", th: "columnheader", td: "cell" };

/** An element with a class, a text and children. */
function make(tag, name = "", text = "", children = []) {
    const element = document.createElement(tag);
    if (ROLES[tag]) element.setAttribute("role", ROLES[tag]);
    if (name) element.className = name;
    if (text !== "") element.textContent = text;
    element.append(...children);
    return element;
}

/** Changes a text only where it differs, so that a selection in it stays. */
function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

// ---- numbers in words ----------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function count(number) {
    return number < 10 ? exact.format(number) : whole.format(number);
}

function bytes(number) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (number >= 1024 && unit < units.length - 1) [number, unit] = [number / 1024, unit + 1];
    return `${unit ? count(number) : whole.format(number)} ${units[unit]}`;
}

function age(ms) {
    const seconds = Math.floor(ms / 1000);
    if (seconds < 120) return `${seconds} s`;
    if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
    return `${Math.floor(seconds / 86400)} days`;
}

const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** Microseconds, in milliseconds or seconds. */
function micros(number) {
    return number < 1000000 ? `${digits.format(number / 1000)} ms` : `${digits.format(number / 1000000)} s`;
}

const FORMATS = { text: String, number: count, bytes, age };

// ---- what is wrong -------------------------------------------------------------------------------------------------

let spoken = "";

// What stands between backquotes is to be typed. The full stop behind it stays on its line.
function hintPieces(hint) {
    return hint.split("`").map((piece, index, all) => {
        if (index % 2 === 0) return index && piece.startsWith(".") ? piece.slice(1) : piece;
        const stop = (all[index + 1] || "").startsWith(".") ? "." : "";
        return make("span", "command", "", [make("code", "", piece), stop]);
    });
}

function showWrong(wrong) {
    const items = wrong.map((trouble) => {
        const words = [make("span", "severity", trouble.severity), ` ${trouble.what} `];
        if (trouble.since_ms !== null) words.push(make("span", "since", `for ${age(trouble.since_ms)}`));
        const parts = [make("p", "what", "", words)];
        if (trouble.who) parts.push(make("p", "who", trouble.who));
        parts.push(make("p", "hint", "", hintPieces(trouble.hint)));
        return make("li", trouble.severity, "", parts);
    });
    if (!items.length) items.push(make("li", "fine", "", [make("p", "what", "Nothing is wrong.")]));
    at("troubles").replaceChildren(...items);
    // A notice is nothing wrong yet.
    const count = wrong.filter((trouble) => trouble.severity !== "notice").length;
    document.title = count ? `(${count}) broker` : "broker";
    // Read out once for each change of what is wrong, not for each second that it lasts.
    const kinds = wrong.map((trouble) => trouble.kind).join();
    if (kinds === spoken && at("spoken").textContent) return;
    spoken = kinds;
    const all = wrong.map((trouble) => trouble.what).join(" ");
    say(at("spoken"), wrong.length ? `${count || "Nothing"} wrong now: ${all}` : "Nothing is wrong.");
}

// ---- the state now -------------------------------------------------------------------------------------------------

function showHead(status) {
    const { upstream, broker } = status;
    const serves = upstream.state === "up" && upstream.ready !== false;
    const words = serves ? "Redis is up" : upstream.state === "up" ? "Redis is not ready" : `Redis is ${upstream.state}`;
    at("state").className = `pill ${serves ? "good" : "bad"}`;
    say(at("state"), broker.draining ? "the broker is shutting down" : words);
    const server = [upstream.server, upstream.version, upstream.role].filter(Boolean).join(" ");
    const parts = [upstream.address, server, `broker ${broker.version}, pid ${broker.pid}, up for ${age(broker.uptime_ms)}`];
    say(at("where"), parts.filter(Boolean).join(" \u00b7 "));
}

let before = null;

/** Requests a second since the answer before this one; until there is one, as the broker has sampled them. */
function rateNow(status) {
    const { totals, broker, history } = status;
    const lasted = before ? broker.uptime_ms - before.uptime : 0;
    if (lasted >= 500) return ((totals.requests - before.requests) * 1000) / lasted;
    return history.requests_per_s.at(-1) ?? null;
}

function showTiles(status) {
    const rate = rateNow(status);
    before = { uptime: status.broker.uptime_ms, requests: status.totals.requests };
    const minute = status.last_minute;
    const failed = minute.BROKERLOST + minute.BROKERDOWN + minute.BROKERLIMIT + minute.BROKERTIMEOUT;
    const waiting = status.leases.kinds.reduce((sum, kind) => sum + kind.waiting, 0);
    const tiles = [
        ["Requests per second", rate === null ? "\u2013" : count(Math.max(rate, 0))],
        ["Requests at Redis", count(status.totals.requests_in_flight)],
        ["Waiting for a lease", count(waiting)],
        ["Failed, last minute", count(failed)],
        ["Children", count(status.fullness.children.used)],
        ["Processes", count(status.processes_len)],
    ];
    at("tiles").replaceChildren(...tiles.map(([title, text]) => make("div", "", "", [make("dt", "", title), make("dd", "", text)])));
}

/** One bar: how much of something is used, in words and as a length. */
function bar(title, used, max, format, note, waits) {
    const share = max > 0 ? Math.min(used / max, 1) : 0;
    const figures = `${format(used)} of ${format(max)}${share >= 1 ? ", full" : ""}`;
    const fill = make("div", "fill");
    fill.style.width = `${share * 100}%`;
    const track = make("div", "track", "", [fill]);
    const meaning = { role: "meter", "aria-label": title, "aria-valuemin": 0, "aria-valuemax": max, "aria-valuenow": used };
    Object.entries(meaning).forEach(([name, value]) => track.setAttribute(name, value));
    track.setAttribute("aria-valuetext", figures);
    const words = make("div", "words", "", [make("span", "", title), make("span", "figures", figures)]);
    const level = share >= 1 ? " full" : share >= 0.8 ? " near" : "";
    return make("div", `bar${level}`, "", [words, track, make("div", waits ? "note waits" : "note", note)]);
}

const PURPOSES = {
    transaction: "Leases for transactions",
    session: "Leases for sessions",
    blocking: "Leases for blocking commands",
};

function showBars(status) {
    const leases = status.leases.kinds.map((kind) => {
        const who = kind.waiting === 1 ? "1 waits, for" : `${count(kind.waiting)} wait, the longest for`;
        const waits = kind.waiting > 0 ? `${who} ${age(kind.longest_wait_ms)}` : "nobody waits";
        return bar(PURPOSES[kind.kind] ?? kind.kind, kind.used, kind.max, count, waits, kind.waiting > 0);
    });
    const { upstream_connections: connections, children, memory_bytes: memory } = status.fullness;
    const idle = `${count(status.leases.idle)} of them ready to be lent`;
    at("bars").replaceChildren(
        ...leases,
        bar("Connections to Redis", connections.used, connections.max, count, idle, false),
        bar("Children", children.used, children.max, count, `of ${count(status.processes_len)} process${status.processes_len === 1 ? "" : "es"}`, false),
        bar("Memory of all queues", memory.used, memory.max, bytes, "", false),
    );
}

// ---- charts --------------------------------------------------------------------------------------------------------

const CHARTS = [
    { title: "Requests per second", lines: ["requests_per_s"], format: count },
    { title: "Failed requests per second", lines: ["failures_per_s"], format: count },
    { title: "Latency, half and 99 of 100 within", lines: ["p50_us", "p99_us"], format: micros, optional: true },
    { title: "Children", lines: ["children"], format: count },
    { title: "Children that wait for a lease", lines: ["waiting"], format: count },
    { title: "Longest turn of the loop", lines: ["turn_us"], format: micros },
];
const PADDING = { left: 4, right: 4, top: 16, bottom: 18 };

function draw(tag, attributes, text = "") {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    if (text) element.textContent = text;
    return element;
}

/** The next number that a person would write at an axis. */
function nice(number) {
    if (number <= 0) return 1;
    const power = 10 ** Math.floor(Math.log10(number));
    return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= number) ?? number;
}

/** The points of a line, parted where a value is not known: there the chart has a gap. */
function parts(line, ages, x, y, left) {
    const found = [[]];
    line.forEach((number, point) => {
        const across = x(ages[point]);
        if (number === null) found.push([]);
        else if (across >= left) found.at(-1).push([across, y(number)]);
    });
    return found.filter((part) => part.length);
}

function chart({ title, lines, format }, history, width, height) {
    const series = lines.map((name) => history[name]);
    const numbers = series.flat().filter((number) => number !== null);
    const top = nice(Math.max(0, ...numbers));
    const { left, right, top: above, bottom } = PADDING;
    const x = (ms) => width - right - (ms / (MINUTES * 60000)) * (width - left - right);
    const y = (number) => height - bottom - (number / top) * (height - above - bottom);
    const latest = series.map((line) => line.at(-1) ?? null).map((number) => (number === null ? "\u2013" : format(number)));
    const label = `${title}: now ${latest.join(" and ")}, at most ${format(Math.max(0, ...numbers))} in the last ${MINUTES} minutes`;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const share of [0, 0.5, 1]) {
        svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(top * share), y2: y(top * share) }));
    }
    svg.append(draw("text", { x: left, y: above - 5 }, format(top)));
    for (const [minutes, anchor] of [[15, "start"], [10, "middle"], [5, "middle"], [0, "end"]]) {
        svg.append(draw("text", { x: x(minutes * 60000), y: height - 4, "text-anchor": anchor }, minutes ? `\u2212${minutes} min` : "now"));
    }
    series.forEach((line, index) => {
        for (const part of parts(line, history.age_ms, x, y, left)) {
            const path = part.map(([across, down]) => `${across.toFixed(1)},${down.toFixed(1)}`).join(" L");
            if (!index) svg.append(draw("path", { class: "area", d: `M${part[0][0].toFixed(1)},${y(0)} L${path} L${part.at(-1)[0].toFixed(1)},${y(0)} Z` }));
            // One value between two gaps is a dot.
            svg.append(draw("path", { class: index ? "path second" : "path", d: `M${path}${part.length > 1 ? "" : " h0.1"}` }));
        }
    });
    return { svg, latest };
}

function showCharts(history) {
    const shown = CHARTS.filter((one) => !one.optional || one.lines.some((name) => history[name].some((number) => number !== null)));
    const place = at("charts");
    // All are there before one is measured: they share the width.
    if (place.children.length !== shown.length) place.replaceChildren(...shown.map(() => make("figure")));
    shown.forEach((one, index) => {
        const figure = place.children[index];
        const width = Math.max((figure.clientWidth || 400) - 30, 200);
        const { svg, latest } = chart(one, history, width, 128);
        const names = one.lines.length > 1 ? `${latest[0]} (line), ${latest[1]} (dashes)` : latest[0];
        figure.replaceChildren(make("figcaption", "", "", [make("span", "", one.title), make("span", "figures", `now ${names}`)]), svg);
    });
}

// ---- tables --------------------------------------------------------------------------------------------------------

const TABLES = [
    {
        // Rates are known from the second answer on.
        title: (status) => `Processes by requests ${status?.processes.some((row) => row.requests_per_s !== null) ? "per second" : "so far"}`,
        rows: (status) => status.processes,
        // Those whose last child has gone are still listed for a minute, and not counted as processes.
        counts: (status) => {
            const live = status.processes.filter((row) => row.children > 0).length;
            const gone = status.processes.length - live;
            const words = status.processes_len > live ? `${live} of ${whole.format(status.processes_len)}` : `${live}`;
            return gone ? `${words}, and ${gone} without children now` : words;
        },
        columns: [
            ["process", "Program", "text"],
            ["pid", "pid", "id"],
            ["unit", "Unit", "text"],
            ["children", "Children", "number"],
            ["leases", "Leases", "number"],
            ["requests_per_s", "Requests/s", "number"],
            ["bytes_in_per_s", "Sent/s", "bytes"],
            ["bytes_out_per_s", "Taken/s", "bytes"],
            ["requests", "Requests", "number"],
            ["leak", "Suspected", "suspect"],
        ],
    },
    {
        title: "Leases held the longest",
        rows: (status) => status.longest_leases,
        columns: [
            ["held_ms", "Held for", "age"],
            ["kind", "Kind", "text"],
            ["state", "State", "text"],
            ["process", "Program", "text"],
            ["pid", "pid", "id"],
            ["unit", "Unit", "text"],
            ["child", "Child", "id"],
            ["name", "Name", "text"],
            ["command", "Last command", "text"],
            ["waiters", "Sharing it", "number"],
            ["idle_ms", "Idle for", "age"],
        ],
    },
    {
        title: "Suspected leaks, now and lately",
        rows: (status) => status.leaks,
        total: (status) => Math.max(status.leaks_found, status.leaks.length),
        columns: [
            ["number", "No.", "id"],
            ["state", "State", "text"],
            ["kind", "Kind", "text"],
            ["since_ms", "For", "age"],
            ["process", "Program", "text"],
            ["pid", "pid", "id"],
            ["unit", "Unit", "text"],
            ["child", "Child", "id"],
            ["called", "Called", "text"],
            ["what", "Facts", "long"],
        ],
    },
    {
        title: "Commands by calls",
        rows: (status) => status.commands,
        columns: [
            ["command", "Command", "text"],
            ["calls", "Calls", "number"],
            ["way", "Way", "text"],
        ],
    },
];

const NUMERIC = ["number", "bytes", "age", "id"];

function buildTable(table, index) {
    const id = `table-${index}`;
    const heads = table.columns.map(([key, title, kind]) => {
        const button = make("button", "", title);
        button.type = "button";
        const head = make("th", NUMERIC.includes(kind) ? "number" : "", "", [button]);
        head.scope = "col";
        head.setAttribute("aria-sort", "none");
        button.addEventListener("click", () => sortBy(table, key, kind, head));
        return head;
    });
    table.heads = heads;
    table.body = make("tbody");
    table.count = make("span", "count");
    table.name = make("span", "", typeof table.title === "string" ? table.title : table.title(null));
    const title = make("h2", "", "", [table.name, " ", table.count]);
    title.id = id;
    const grid = make("table", "", "", [make("thead", "", "", [make("tr", "", "", heads)]), table.body]);
    grid.setAttribute("aria-labelledby", id);
    // It scrolls sideways where it is too wide, by keys too.
    const wide = make("div", "wide", "", [grid]);
    wide.tabIndex = 0;
    wide.setAttribute("role", "region");
    wide.setAttribute("aria-labelledby", id);
    const section = make("section", "", "", [title, wide]);
    section.setAttribute("aria-labelledby", id);
    at("tables").append(section);
}

/** The first press shows the greatest number or the first word on top, the second turns it round. */
function sortBy(table, key, kind, head) {
    const first = NUMERIC.includes(kind) ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    table.heads.forEach((one) => one.setAttribute("aria-sort", one === head ? order : "none"));
    table.order = { key, sign: order === "ascending" ? 1 : -1 };
    if (shown) showTable(table, shown);
}

/** What is not known stands last, whichever way it is sorted. */
function compare(one, other, { key, sign }) {
    const [a, b] = [one[key], other[key]];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
}

function showTable(table, status) {
    let rows = table.rows(status);
    if (typeof table.title !== "string") say(table.name, table.title(status));
    const total = table.total?.(status) ?? rows.length;
    const counts = table.counts?.(status) ?? (total > rows.length ? `${rows.length} of ${whole.format(total)}` : `${rows.length}`);
    say(table.count, `(${counts})`);
    if (table.order) rows = [...rows].sort((one, other) => compare(one, other, table.order));
    if (!rows.length) {
        const none = make("td", "nothing", "None.");
        none.colSpan = table.columns.length;
        return table.body.replaceChildren(make("tr", "", "", [none]));
    }
    if (table.body.firstElementChild?.children.length !== table.columns.length) table.body.replaceChildren();
    while (table.body.children.length > rows.length) table.body.lastElementChild.remove();
    rows.forEach((row, index) => {
        const line = table.body.children[index] ?? table.body.appendChild(make("tr", "", "", table.columns.map(() => make("td"))));
        table.columns.forEach(([key, title, kind], column) => showCell(line.children[column], row[key] ?? null, title, kind));
    });
}

function showCell(cell, value, title, kind) {
    const classes = [NUMERIC.includes(kind) && "number", kind === "long" && "long", kind === "suspect" && value !== null && "suspect", value === null && "empty"];
    const text = value === null ? "" : (FORMATS[kind] ?? String)(value);
    // Cells are not wrapped, but for what would make the table endless.
    classes.push(text.length > 60 && "long");
    cell.className = [...new Set(classes.filter(Boolean))].join(" ");
    cell.dataset.title = title;
    say(cell, text);
}

// ---- asking --------------------------------------------------------------------------------------------------------

let shown = null;
let answeredAt = Date.now();
/** Why nobody answers, as the end of a sentence, empty for a lost connection; `null` while somebody does. */
let silentFor = null;
let timer = 0;
let asking = false;
let drawnAt = "";

function show(status) {
    shown = status;
    showHead(status);
    showWrong(status.wrong);
    showTiles(status);
    showBars(status);
    // Only a new sample, or another width, changes a chart.
    const state = `${status.history.age_ms.length} ${status.broker.uptime_ms - (status.history.age_ms.at(-1) ?? 0)} ${window.innerWidth}`;
    if (state !== drawnAt) showCharts(status.history);
    drawnAt = state;
    TABLES.forEach((table) => showTable(table, status));
}

function showFreshness() {
    const silence = at("silence");
    const seconds = Math.floor((Date.now() - answeredAt) / 1000);
    document.body.classList.toggle("stale", silentFor !== null);
    silence.hidden = silentFor === null;
    if (silentFor !== null) {
        const since = new Date(answeredAt).toLocaleTimeString("en-GB", { hourCycle: "h23" });
        // A live region: it is changed once, not every second.
        say(silence, `The broker does not answer since ${since}${silentFor}. ${shown ? "What is shown is from then." : ""}`);
        // The last that it has said is no longer news.
        say(at("state"), "the broker does not answer");
        say(at("fresh"), `no answer for ${age(seconds * 1000)}`);
    } else {
        say(at("fresh"), shown ? `${seconds < 3 ? "live" : `${seconds} s old`}` : "asking");
    }
}

function reasonOf(error) {
    if (error.name === "TimeoutError") return `: nothing came within ${age(PATIENCE)}`;
    if (error instanceof SyntaxError) return ": what came is no status";
    return error instanceof TypeError ? "" : `: ${error.message}`;
}

async function ask() {
    clearTimeout(timer);
    if (asking) return;
    asking = true;
    try {
        const reply = await fetch("/status.json", { cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(PATIENCE) });
        if (!reply.ok) throw new Error(`HTTP status ${reply.status}`);
        const status = await reply.json();
        [answeredAt, silentFor] = [Date.now(), null];
        show(status);
    } catch (error) {
        silentFor = reasonOf(error);
    }
    asking = false;
    showFreshness();
    if (!document.hidden) timer = setTimeout(ask, PERIOD);
}

TABLES.forEach(buildTable);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : ask()));
window.addEventListener("resize", () => {
    if (shown) show(shown);
    showFreshness();
});
setInterval(() => document.hidden || showFreshness(), 1000);
ask();
