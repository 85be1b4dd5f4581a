var __toBinaryNode = Uint8Array.fromBase64 || ((base64) => new Uint8Array(Buffer.from(base64, "base64")));

// test/crash/victim.child.ts
import { readFileSync as readFileSync4, writeSync as writeSync3 } from "node:fs";

// host/runtime.ts
import { setMaxListeners } from "node:events";

// host/errors.ts
var IsthmusError = class extends Error {
  name = "IsthmusError";
  code;
  constructor(code, message2, details = {}) {
    const { cause, ...rest } = details;
    super(message2, cause === void 0 ? void 0 : { cause });
    this.code = code;
    for (const [key, value] of Object.entries(rest)) {
      if (value !== void 0) Object.defineProperty(this, key, { value, enumerable: true });
    }
  }
};

// host/control/broker-url.ts
var BROKER_URL = "mqtt://[user:password@]host[:port], or mqtts:// for TLS";
function readBroker(text2) {
  try {
    const url = new URL(text2);
    const { protocol: protocol2, hostname: hostname4, pathname, search, hash } = url;
    if (protocol2 !== "mqtt:" && protocol2 !== "mqtts:" || hostname4 === "") return void 0;
    if (pathname !== "" && pathname !== "/" || search || hash) return void 0;
    const secure = protocol2 === "mqtts:";
    if (url.port === "0") return void 0;
    return {
      secure,
      host: hostname4.replace(/^\[(.*)\]$/, "$1"),
      port: url.port === "" ? secure ? 8883 : 1883 : Number(url.port),
      username: url.username === "" ? void 0 : decodeURIComponent(url.username),
      password: url.password === "" ? void 0 : decodeURIComponent(url.password)
    };
  } catch {
    return void 0;
  }
}
function brokerAddress(text2) {
  const address = readBroker(text2);
  if (address) return address;
  throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `'${maskBroker(text2)}' is no broker: ${BROKER_URL} is wanted`);
}
function maskBroker(text2) {
  const scheme = /^[a-z]+:\/\//i.exec(text2)?.[0] ?? "";
  return scheme + text2.slice(scheme.length).replace(/^([^:@]*):.*@/s, "$1:***@");
}

// host/control/payload.ts
var ANY_PROC = "any_proc";
var MAX_PAYLOAD = 16384;
var MAX_PLUGINS = 256;
var MAX_REASON = 400;
var topics = {
  /** What a process subscribes to, as the C fork does. */
  requests: (host) => `fast/pscom/${host}/+/request`,
  request: (host, id) => `fast/pscom/${host}/${id}/request`,
  response: (host, id) => `fast/pscom/${host}/${id}/response`,
  status: (host, id) => `fast/pscom/${host}/${id}/status`
};
function idOfTopic(topic) {
  const levels = topic.split("/");
  return levels.length === 5 ? levels[3] : void 0;
}
function isControlId(text2) {
  return /^[\w.:-]{1,64}$/.test(text2) && ![ANY_PROC, "suspend", "resume"].includes(text2);
}
function trimmed(payload) {
  const text2 = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString("latin1");
  const start = text2.search(/[^\0\s]/);
  if (start < 0) return "";
  const end2 = text2.indexOf("\0", start);
  return text2.slice(start, end2 < 0 ? void 0 : end2).trimEnd();
}
var TASK = /^(["']?)task\1\s*:\s+(["']?)([a-z]+)\2\s*(?:#.*)?$/;
var BESIDES = /^(?:\s*|\s*#.*|---.*|\.\.\.|\s+.*|["']?[\w-]+["']?\s*:(?:\s.*)?)$/;
function taskOf(text2) {
  let task;
  for (const line of text2.replace(/^---[ \t]+(?=\S)/, "").split(/\r?\n/)) {
    const found = TASK.exec(line);
    if (found && task === void 0) task = found[3];
    else if (found || /^["']?task\b/.test(line) || !BESIDES.test(line)) return void 0;
  }
  return task;
}
function parseRequest(payload, id) {
  if (payload.byteLength > MAX_PAYLOAD) return { kind: "unknown", why: `${payload.byteLength} bytes` };
  const text2 = trimmed(payload);
  if (text2 === "" || text2 === "*") return { kind: "toggle" };
  const word = /^(["']?)(suspend|resume)\1$/.exec(text2)?.[2] ?? taskOf(text2);
  if (word === "suspend" || word === "resume") return { kind: word };
  const ids = text2.split(/\s+/);
  if (ids.every(isControlId)) {
    if (ids.includes(id)) return { kind: "toggle" };
    if (ids.every((each) => /^\d+$/.test(each))) return { kind: "others" };
  }
  return { kind: "unknown", why: `'${excerpt(text2, 60)}'` };
}
function excerpt(text2, length) {
  const line = text2.replace(/[^\x20-\x7e]+/g, " ");
  return line.length > length ? `${line.slice(0, length)}…` : line;
}
function feedback(id, { outcome, reason = "" }) {
  const line = reason.replace(new RegExp("\\p{Cc}+", "gu"), " ").trim().slice(0, MAX_REASON);
  return outcome === "FAILED" ? `${id} : FAILED ${line || "no reason given"}` : `${id} : ${outcome}`;
}

// host/network.ts
import { isIPv4 } from "node:net";
import { networkInterfaces } from "node:os";
var NONE = "127.0.0.1";
function numberOf(address) {
  return address.split(".").reduce((number, byte) => (number << 8 | Number(byte)) >>> 0, 0);
}
function parseNetworks(text2) {
  const networks = [];
  for (const item of text2.split(/[\s,]+/)) {
    if (item === "") continue;
    const [address = "", length, ...more] = item.split("/");
    if (!isIPv4(address) || more.length > 0) return void 0;
    if (length !== void 0 && (!/^\d{1,2}$/.test(length) || Number(length) > 32)) return void 0;
    const mask = length === void 0 ? void 0 : length === "0" ? 0 : -1 << 32 - Number(length) >>> 0;
    networks.push({ address: numberOf(address), mask });
  }
  return networks;
}
function addressIn(networks, interfaces = networkInterfaces()) {
  const own2 = Object.values(interfaces).flatMap((addresses) => addresses ?? []).filter(({ family }) => family === "IPv4");
  for (const { address, mask } of networks) {
    const found = own2.find((each) => {
      const bits = mask ?? numberOf(each.netmask);
      return (numberOf(each.address) & bits) === (address & bits);
    });
    if (found) return found.address;
  }
  return void 0;
}
function ownAddress(networks, interfaces = networkInterfaces()) {
  const chosen = addressIn(parseNetworks(networks) ?? [], interfaces);
  if (chosen !== void 0) return chosen;
  for (const addresses of Object.values(interfaces)) {
    for (const { family, internal, address } of addresses ?? []) if (family === "IPv4" && !internal) return address;
  }
  return NONE;
}
function isOwn(address) {
  const ip = address.replace(/^::ffff:(?=\d+\.)/i, "").replace(/%.*$/, "");
  if (ip.startsWith("127.") || ip === "::1") return true;
  return Object.values(networkInterfaces()).some((addresses) => addresses?.some((own2) => own2.address === ip));
}

// host/config.ts
function integer(group, variable, fallback, meaning, limits = {}) {
  const { min = 0, max = Number.MAX_SAFE_INTEGER, unit } = limits;
  const check2 = (value) => Number.isSafeInteger(value) && value >= min && value <= max;
  const range = max === Number.MAX_SAFE_INTEGER ? `an integer from ${min} on` : `an integer from ${min} to ${max}`;
  return {
    variable,
    group,
    default: fallback,
    takes: unit ? `${range} (${unit})` : range,
    meaning,
    read: (text2) => /^-?\d+$/.test(text2.trim()) && check2(Number(text2)) ? Number(text2) : void 0,
    check: check2
  };
}
function flag(group, variable, fallback, meaning) {
  return {
    variable,
    group,
    default: fallback,
    takes: "0 or 1",
    meaning,
    read: (text2) => text2.trim() === "1" ? true : text2.trim() === "0" ? false : void 0,
    check: (value) => typeof value === "boolean"
  };
}
function text(group, variable, takes, meaning, { fallback = "", readable = () => true } = {}) {
  return {
    variable,
    group,
    default: fallback,
    takes,
    meaning,
    read: (value) => readable(value) ? value : void 0,
    check: (value) => typeof value === "string" && readable(value)
  };
}
var WAITS = ["spin", "adaptive", "block"];
function choice(group, variable, all, fallback, meaning) {
  const found = (value) => all.find((one) => one === value);
  return {
    variable,
    group,
    default: fallback,
    takes: all.join(", "),
    meaning,
    read: (value) => found(value.trim()),
    check: (value) => typeof value === "string" && found(value) !== void 0
  };
}
function size(group, variable, fallback, meaning, { min, max, zero }) {
  const check2 = (value) => {
    const bytes = value;
    if (!Number.isSafeInteger(bytes)) return false;
    return bytes === 0 && zero !== void 0 || bytes >= min && bytes <= max && Number.isInteger(Math.log2(bytes));
  };
  const range = `a power of two from ${min} to ${max} (bytes)`;
  return {
    group,
    variable,
    default: fallback,
    takes: zero === void 0 ? range : `${range}, or 0: ${zero}`,
    meaning,
    read: (value) => /^\d+$/.test(value.trim()) && check2(Number(value)) ? Number(value) : void 0,
    check: check2
  };
}
var ringSize = (group, variable, fallback, zero, meaning) => size(group, variable, fallback, meaning, { min: 4096, max: 67108864, zero });
function namePart(group, variable, takes, meaning) {
  const check2 = (value) => typeof value === "string" && /^[\w.-]{0,200}$/.test(value);
  return { group, variable, default: "", takes, meaning, read: (value) => check2(value) ? value : void 0, check: check2 };
}
var NEVER = 4294967295;
function rendezvous(variable, fallback, meaning, follows) {
  const setting = integer("messages", variable, fallback, meaning, { max: NEVER });
  return {
    ...setting,
    takes: `an integer from 0 to ${NEVER} (bytes), or inf: never, as ${NEVER}`,
    read: (value) => value.trim() === "inf" ? NEVER : setting.read(value),
    ...follows === void 0 ? {} : { follows }
  };
}
var priority = (name, variable, fallback) => integer("plugins", variable, fallback, `priority of plugin ${name}: higher first, 0 disables it`, { max: 1e3 });
var SETTINGS = {
  loop: priority("loop", "PSP_LOOP", 100),
  shm: priority("shm", "PSP_SHM", 90),
  ivshmem: priority("ivshmem", "PSP_IVSHMEM", 80),
  tcp: priority("tcp", "PSP_TCP", 2),
  regions: text(
    "regions",
    "PSP_IVSHMEM_REGIONS",
    "names in /dev/shm or paths, blank-separated; * and ? match formatted regions; empty: none",
    "region files that stand for ivshmem devices",
    { fallback: "*" }
  ),
  pci: flag(
    "regions",
    "PSP_IVSHMEM_PCI",
    true,
    "whether ivshmem devices without a driver are used, through resource2 in sysfs: slow, uncached, for root only"
  ),
  shmSize: size(
    "regions",
    "PSP_SHM_SIZE",
    33554432,
    "size of the user's region of shm, for the process that creates it",
    { min: 1048576, max: 1073741824 }
  ),
  shmName: namePart(
    "regions",
    "PSP_SHM_NAME",
    "up to 200 letters, digits, dots, - and _; empty: the user id",
    "what follows isthmus-shm- in the name of that region; processes with different ones do not meet over shm"
  ),
  wait: choice(
    "regions",
    "PSP_WAIT",
    WAITS,
    "adaptive",
    "what to do while nothing comes: look again and again (spin), sleep at once (block), or spin for 2 ms and sleep then"
  ),
  guard: flag("regions", "PSP_GUARD", true, "whether the end of a peer's guard socket is the end of the peer"),
  stallTimeout: integer(
    "regions",
    "PSP_STALL_TIMEOUT",
    3e3,
    "how long a peer may show no sign of life before its connections are called stalled, and go on; 0: for ever. A sign comes twice a second",
    { max: 2147483647, unit: "ms" }
  ),
  peerTimeout: integer(
    "regions",
    "PSP_PEER_TIMEOUT",
    0,
    "how long a peer may show no sign of life before its connections end with ERR_ISTHMUS_PEER_TIMEOUT; 0: for ever. A paused virtual machine, or an event loop that is blocked, shows none either",
    { max: 2147483647, unit: "ms" }
  ),
  ringSize: ringSize(
    "regions",
    "PSP_RING_SIZE",
    0,
    "by the size of the region",
    "capacity of the ring that a connection reads from"
  ),
  tcpRingSize: ringSize(
    "tcp",
    "PSP_TCP_RING_SIZE",
    65536,
    "the default",
    "capacity of the ring in private memory that a connection over tcp or loop reads from"
  ),
  noDelay: flag("tcp", "PSP_TCP_NODELAY", true, "TCP_NODELAY on the sockets of tcp"),
  sendBuffer: integer("tcp", "PSP_SO_SNDBUF", 0, "SO_SNDBUF of the sockets of tcp; 0: the kernel sizes it", {
    max: 1073741823,
    unit: "bytes"
  }),
  receiveBuffer: integer("tcp", "PSP_SO_RCVBUF", 0, "SO_RCVBUF of the sockets of tcp; 0: the kernel sizes it", {
    max: 1073741823,
    unit: "bytes"
  }),
  network: text(
    "connecting",
    "PSP_NETWORK",
    "IPv4 addresses, or networks as 10.0.0.0/8, separated by blanks or commas",
    "which of our addresses others are told: the first that lies in one of these networks; without a length, as wide as the netmask of the interface says",
    { readable: (value) => parseNetworks(value) !== void 0 }
  ),
  retry: integer("connecting", "PSP_RETRY", 10, "how often a refused connect is tried again", { max: 1e6 }),
  backlog: integer(
    "connecting",
    "PSP_TCP_BACKLOG",
    262144,
    "backlog of a listening socket; the kernel has a limit of its own",
    { min: 1, max: 2147483647 }
  ),
  handshakeTimeout: integer("connecting", "PSP_HANDSHAKE_TIMEOUT", 1e4, "limit of one handshake", {
    min: 1,
    max: 36e5,
    unit: "ms"
  }),
  closeTimeout: integer(
    "connecting",
    "PSP_CLOSE_TIMEOUT",
    5e3,
    "how long the peer may take for its part in an orderly close; then the connection is cut. `close({ timeout })` goes first",
    { min: 1, max: 2147483647, unit: "ms" }
  ),
  suspendTimeout: integer(
    "migration",
    "PSP_SUSPEND_TIMEOUT",
    1e4,
    "how long all connections together may take to be suspended; then the runtime goes on as if never asked",
    { min: 1, max: 36e5, unit: "ms" }
  ),
  resumeTimeout: integer(
    "migration",
    "PSP_RESUME_TIMEOUT",
    6e5,
    "how long a suspended connection waits for its peer; then it fails",
    { min: 1, max: 2147483647, unit: "ms" }
  ),
  unread: integer(
    "messages",
    "PSP_UNREAD_LIMIT",
    1 << 20,
    "unread messages of a connection that are taken out of its ring; then the sender waits",
    { unit: "bytes" }
  ),
  unexpectedReceives: flag(
    "messages",
    "PSP_UNEXPECTED_RECEIVES",
    false,
    "read on however much is unread, so that no sender waits for the application; takes as much memory as comes"
  ),
  maxMessageSize: integer("messages", "PSP_MAX_MESSAGE", 2 ** 30, "largest message taken and sent, xheader included", {
    max: 2 ** 32 - 1,
    unit: "bytes"
  }),
  rendezvous: rendezvous("PSP_RENDEZVOUS", NEVER, "size from which a message over tcp goes by rendezvous"),
  rendezvousShm: rendezvous("PSP_RENDEZVOUS_SHM", 1 << 20, "the same for shm", "rendezvous"),
  rendezvousIvshmem: rendezvous("PSP_RENDEZVOUS_IVSHMEM", 1 << 20, "the same for ivshmem", "rendezvous"),
  suspendResume: flag(
    "migration",
    "PSP_SUSPEND_RESUME",
    false,
    "whether requests to suspend and to resume are taken over MQTT, and answered"
  ),
  broker: {
    ...text("migration", "PSP_MQTT_BROKER", BROKER_URL, "the MQTT broker that requests come over", {
      fallback: "mqtt://localhost:1883",
      readable: (value) => readBroker(value) !== void 0
    }),
    shown: maskBroker
  },
  mqttKeepalive: integer(
    "migration",
    "PSP_MQTT_KEEPALIVE",
    15,
    "after how long without a word from us, and half as much again, the broker takes us for dead; longer where machines are slow or paused",
    { min: 1, max: 65535, unit: "s" }
  ),
  controlId: text(
    "migration",
    "PSP_CONTROL_ID",
    "up to 64 letters, digits, dots, colons, - and _; empty: the pid",
    "what stands for the process in topics and answers, where pids of one host name collide",
    { readable: (value) => value === "" || isControlId(value) }
  ),
  postponeFeedback: flag(
    "migration",
    "PSP_POSTPONE_FEEDBACK",
    false,
    "whether COMPLETED is held back until the application calls completeMigration()"
  ),
  debug: integer(
    "insight",
    "PSP_DEBUG",
    2,
    "how much is logged: 0 nothing, 1 errors, 2 warnings, 3 what happens, 4 everything",
    { max: 10 }
  ),
  debugOut: text(
    "insight",
    "PSP_DEBUG_OUT",
    "a path, in which $$ is the pid and $NAME a variable of the environment; empty or -: standard error",
    "file that the log is appended to",
    { readable: (value) => !value.includes("\0") }
  ),
  control: flag(
    "insight",
    "PSP_CONTROL",
    true,
    "whether the runtime serves a control socket, for 'isthmus ps', 'inspect' and 'debug'"
  )
};
function explain(options = {}, environment = process.env) {
  return Object.keys(SETTINGS).map((name) => {
    const { variable, group, takes, meaning } = SETTINGS[name];
    return { name, variable, group, ...settle(name, options, environment), takes, meaning };
  });
}
function settle(name, options, environment) {
  const setting = SETTINGS[name];
  const { variable, takes, follows } = setting;
  const shown = (value) => setting.shown ? setting.shown(String(value)) : String(value);
  const option = options[name];
  if (option !== void 0) {
    if (!setting.check(option)) {
      throw new IsthmusError("ERR_ISTHMUS_CONFIG", `option ${name}: '${shown(option)}' is not ${takes}`);
    }
    return { value: option, origin: "option" };
  }
  const entry = environment[variable];
  if (entry !== void 0) {
    const value = setting.read(entry);
    if (value === void 0) {
      throw new IsthmusError("ERR_ISTHMUS_CONFIG", `${variable}: '${shown(entry)}' is not ${takes}`);
    }
    return { value, origin: "environment" };
  }
  if (follows !== void 0) {
    const followed = settle(follows, options, environment);
    if (followed.origin !== "default") return followed;
  }
  return { value: setting.default, origin: "default" };
}
function pluginPriority(name, own2, environment = process.env) {
  const variable = `PSP_${name.toUpperCase()}`;
  if (Object.values(SETTINGS).some((setting) => setting.variable === variable)) {
    throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `plugin ${name}: ${variable} is another setting's variable`);
  }
  const { read: read2, takes } = priority(name, variable, own2);
  const entry = environment[variable];
  if (entry === void 0) return own2;
  const value = read2(entry);
  if (value === void 0) throw new IsthmusError("ERR_ISTHMUS_CONFIG", `${variable}: '${entry}' is not ${takes}`);
  return value;
}
function configure(options = {}, environment = process.env) {
  return Object.fromEntries(explain(options, environment).map(({ name, value }) => [name, value]));
}

// build/wasm/core.release.wasm
var core_release_default = __toBinaryNode("AGFzbQEAAAABUgxgAX8Bf2ACf38Bf2ABfwBgAAF/YAJ/fwBgAABgA39/fwBgBH9/f38Bf2AGf39/f39/AX9gCH9/f39/f39/AX9gA39/fwF/YAd/f39/f39/AX8CDwEDZW52Bm1lbW9yeQIAAQNiYQYFAAABBwAHAQkABwACBAYEBQICAAQECAgDAAMCBQAAAAAAAAMAAwMCAAECAQUBAQEEAAACAAAABAABAwMCAgMAAgEAAAICAAEBAAMEBQEBAQEBAwAAAAADAAEGAwQCCgsGpwrqAX8BQQALfwFBAAt/AUEAC38BQQALfwFBAAt/AUEAC38BQQALfwFBAAt/AUEAC38BQQALfwFBAAt/AUEAC38BQQALfwFBAAt/AUEAC38AQYCABAt/AEGAoAQLfwBBgIAIC38AQYCAyAALfwBBgIDMAAt/AEGAgNAAC38AQYCA1AALfwBBgIAEC38AQYCA2AALfwBBgICo/wcLfwBBgIDAAAt/AEGAAQt/AEGAgAQLfwBBhIAEC38AQYiABAt/AEGMgAQLfwBBkIAEC38AQZSABAt/AEEBC38AQQILfwBBgCALfwBBDAt+AELJptHC1KnVKQt/AEEBC38AQYCA2AALfwBBiIDYAAt/AEGMgNgAC38AQZCA2AALfwBBmIDYAAt/AEGcgNgAC38AQaCA2AALfwBBpIDYAAt/AEGogNgAC38AQayA2AALfwBBsIDYAAt/AEG0gNgAC38AQbiA2AALfwBBvIDYAAt/AEHAgNgAC38AQdCA2AALfwBBwAALfwBBAAt/AEEBC38AQQILfwBBgAgLfwBBgAILfwBBAAt/AEEIC38AQRALfwBBGAt/AEEgC38AQSgLfwBBOAt/AEHAAAt/AEHEAAt/AEGAAQt/AEHAAQt/AEHAAAt/AEGAAgt/AEGAAwt/AEGABAt/AEEAC38AQQELfwBBAgt/AEEDC38AQYAIC38AQYEIC38AQYIIC38AQQELfwBBAgt+AEJ/C38AQQALfwBBCAt/AEEQC38AQQALfwBBCAt/AEEMC38AQRALfwBBgAELfwBBgAILfwBBgAMLfwBBgCALfwBBgCALfwBBgICAIAt/AEEIC38AQQELfwBBAgt/AEEDC38AQQgLfwBBAAt/AEEBC38AQQILfwBBAwt/AEEEC38AQQULfwBBBgt/AEEHC38AQQgLfwBBCQt/AEEKC38AQQsLfwBBIAt/AEGAAQt/AEEAC38AQQgLfwBBDAt/AEEQC38AQQELfwBBAgt/AEGAIAt/AEGAAgt/AEEAC38AQQQLfwBBCAt/AEEMC38AQRALfwBBFAt/AEEYC38AQRwLfwBBIAt/AEEkC38AQSgLfwBBMAt/AEE0C38AQTgLfwBBPAt/AEHAAAt/AEHEAAt/AEHIAAt/AEHMAAt/AEHQAAt/AEHUAAt/AEHYAAt/AEHgAAt/AEHoAAt/AEHsAAt/AEHwAAt/AEH4AAt/AEH8AAt/AEGAAQt/AEGIAQt/AEGQAQt/AEGYAQt/AEGgAQt/AEGoAQt/AEGsAQt/AEGwAQt/AEG0AQt/AEG4AQt/AEEDC38AQQILfwBBAAt/AEEBC38AQQILfwBBAwt/AEEEC38AQQULfwBBBgt/AEEHC38AQQALfwBBAQt/AEECC38AQQMLfwBBBAt/AEEAC38AQQELfwBBAgt/AEEDC38AQQQLfwBBBQt/AEEGC38AQQALfwBBAQt/AEECC38AQQMLfwBBBAt/AEEFC38AQQYLfwBBAAt/AEEBC38AQQILfwBBAwt/AEEEC38AQQULfwBBBgt/AEEAC38AQQELfwBBAgt/AEEDC38AQQQLfwBBBQt/AEEGC38AQQcLfwBBAAt/AEEBC38AQQILfwBBAwt/AEEEC38AQQALfwBBAAt/AEEBC38AQQILfwBBAAt/AEEBC38AQQILfwBBfwt/AEEBC38AQQILfwBBAAt/AEEBC38AQQILfwBBAwt/AEEEC38AQQULfwBBBgt/AEEAC38AQQELfwBBAgt/AEEDCwfVIrkCBGZpdHMAPwZteVNsb3QAOwxteUdlbmVyYXRpb24APAVzdGFydAA0BGxvc2UAPQVzdGF0ZQAzC3JpbmdBZGRyZXNzADYMcmluZ0NhcGFjaXR5ADUFZW50cnkAQAh3YW50Um9vbQAxCHJlYWRhYmxlADcGdW5yZWFkADINY2xhaW1Nb3JlU3BpbgBCA2FybQBDBmRpc2FybQBBCHBvc2l0aW9uADkEaG9sZAA+B3B1Ymxpc2gAOAhwZWVrU3BpbgA6C2JlZ2luRm9ybWF0AB4MZmluaXNoRm9ybWF0AB0GZm9ybWF0ABwJZm9ybWF0dGVyABsMcmVnaW9uRnJhbWVzAwUIZ2VvbWV0cnkAGgdpbnNwZWN0ABkLcmVnaW9uU2xvdHMDBwVhbGl2ZQAuBGJlYXQALQljbGFpbVNsb3QALARjb29sACsLZGVjbGFyZURlYWQAKgloZWFydGJlYXQAKQRoZWF0ACgJaG9sZHNTbG90ACcDaG90ACYEcG9sbAAlC3B1Ymxpc2hTbG90ACQEcmVzdAAjC3Nsb3RBZGRyZXNzACIOc2xvdEdlbmVyYXRpb24AIQpzbG90S2VybmVsACAJc2xvdFN0YXRlAB8JYWRkcmVzc09mAFkFYWRvcHQABwdjb2xsZWN0ABEMZXh0ZW50RnJhbWVzAFgQZXh0ZW50R2VuZXJhdGlvbgBXC2V4dGVudFBsYWluAFYKZXh0ZW50U2xvdABVCWV4dGVudFVzZQBUCmZyZWVGcmFtZXMAUwhnaXZlQmFjawAPCmhhbGZGcmFtZXMAUghoYWxmRnJlZQBRDmhhbGZHZW5lcmF0aW9uAFAIaGFsZktpbmQATwhoYWxmU2xvdABOBWxlYXZlAE0FbGV0R28AAAdyZWNsYWltAEwFc3dlZXAAAQp0YWJsZUJ5dGVzAEsEdGFrZQAECmF0dGFjaFJpbmcAYApjcmVhdGVSaW5nAF8LZHJvcFJlY2VpdmUAEwxkcm9wVHJhbnNtaXQAEgRmcmVlAF4Eam9pbgBdBG9wZW4AXAhzZXROb25jZQBbCnRyYW5zaXRpb24AWgltaWdyYXRpb24AMApzdXNwZW5zaW9uAC8MYWRvcHRHcmFudGVkABgFZ3JhbnQAFwdncmFudGVkAAkIbGV0R29SdW4AFgZyZXZva2UAFQlydW5MZW5ndGgACAd0YWtlUnVuABQIYXRCb3JkZXIASgVjbGFpbQALCWNsYWltTW9yZQADBmNvbW1pdAACBmRlY29kZQBJB2RlY29kZWQASAVkcmFpbgBHB2RyYWluZWQARgRwZWVrAAoHcmVsZWFzZQBFB3NlbmRFb2YARAdQUklWQVRFAw8DSE9UAxAFVEFCTEUDEQVPV05FRAMSBFVTRUQDEwVIRUFEUwMUB1BFTkRJTkcDFQZCSVRNQVADFgZXSU5ET1cDFwpSRUdJT05fTUFYAxgKUkVHSU9OX01JTgMZBExJTkUDGgtSRVNVTFRfVFlQRQMbDlJFU1VMVF9YTEVOR1RIAxwOUkVTVUxUX0RMRU5HVEgDHQ1SRVNVTFRfT0ZGU0VUAx4NUkVTVUxUX0xFTkdUSAMfDFJFU1VMVF9GTEFHUwMgCkZMQUdfRklSU1QDIQlGTEFHX0xBU1QDIgVGUkFNRQMjC0ZSQU1FX1NISUZUAyQFTUFHSUMDJQ5MQVlPVVRfVkVSU0lPTgMmDEhFQURFUl9NQUdJQwMnDkhFQURFUl9WRVJTSU9OAygMSEVBREVSX1NUQVRFAykLSEVBREVSX1NJWkUDKgxIRUFERVJfRlJBTUUDKw1IRUFERVJfRlJBTUVTAywMSEVBREVSX1NMT1RTAy0LSEVBREVSX1NMT1QDLg9IRUFERVJfU0xPVFNfQVQDLxFIRUFERVJfRVhURU5UU19BVAMwDkhFQURFUl9FWFRFTlRTAzENSEVBREVSX0VYVEVOVAMyDUhFQURFUl9NQVBfQVQDMwxIRUFERVJfRklSU1QDNAtIRUFERVJfVVVJRAM1C0hFQURFUl9IT1NUAzYSSEVBREVSX0hPU1RfTEVOR1RIAzcMUkVHSU9OX0JMQU5LAzgRUkVHSU9OX0ZPUk1BVFRJTkcDOQxSRUdJT05fUkVBRFkDOglTTE9UX1NJWkUDOwlTTE9UU19NQVgDPAlTTE9UX1dPUkQDPQ5TTE9UX0hFQVJUQkVBVAM+DVNMT1RfSU5TVEFOQ0UDPwhTTE9UX0RFVgNACFNMT1RfSU5PA0EJU0xPVF9CT09UA0IKU0xPVF9QSUROUwNDCFNMT1RfUElEA0QQU0xPVF9DT05ORUNUSU9OUwNFCVNMT1RfSE9TVANGCVNMT1RfTkFNRQNHEFNMT1RfVEVYVF9MRU5HVEgDSA1TTE9UX1NMRUVQSU5HA0kMU0xPVF9TVU1NQVJZA0oKU0xPVF9SRUFEWQNLCVNMT1RfRlJFRQNMDFNMT1RfQ0xBSU1FRANNDVNMT1RfQVRUQUNIRUQDTglTTE9UX0RFQUQDTwtMT0NLX0ZPUk1BVANQC0xPQ0tfU0VSVkVSA1EOTE9DS19MSUZFQ1lDTEUDUglLSU5EX0hFTEQDUwxLSU5EX09GRkVSRUQDVAxUQUdfUkVTRVJWRUQDVQ1IQUxGX0NPTlNVTUVSA1YNSEFMRl9QUk9EVUNFUgNXBkhBTFZFUwNYClJJTkdfTk9OQ0UDWQ1SSU5HX0NBUEFDSVRZA1oKUklOR19SRUFEWQNbClJJTkdfU1RBUlQDXAlSSU5HX1RBSUwDXQlSSU5HX0hFQUQDXgpSSU5HX0FSTUVEA18JUklOR19EQVRBA2AIUklOR19NSU4DYQhSSU5HX01BWANiDVJFQ09SRF9IRUFERVIDYwpSRUNPUkRfUEFEA2QMUkVDT1JEX0ZJUlNUA2ULUkVDT1JEX01PUkUDZgpORVRfSEVBREVSA2cMTUVTU0FHRV9VU0VSA2gRTUVTU0FHRV9STUFfV1JJVEUDaRBNRVNTQUdFX1JNQV9SRUFEA2oXTUVTU0FHRV9STUFfUkVBRF9BTlNXRVIDaxZNRVNTQUdFX1JFTkRFWlZPVVNfUkVRA2wWTUVTU0FHRV9SRU5ERVpWT1VTX0ZJTgNtDU1FU1NBR0VfQkNBU1QDbg9NRVNTQUdFX0JBUlJJRVIDbwtNRVNTQUdFX0VPRgNwFE1FU1NBR0VfU0hVVERPV05fUkVRA3EUTUVTU0FHRV9TSFVURE9XTl9BQ0sDcg9NRVNTQUdFX1NVU1BFTkQDcwpHUkFOVF9TSVpFA3QGR1JBTlRTA3ULR1JBTlRfVE9LRU4DdgxHUkFOVF9PRkZTRVQDdwxHUkFOVF9MRU5HVEgDeAxHUkFOVF9SSUdIVFMDeQpHUkFOVF9SRUFEA3oLR1JBTlRfV1JJVEUDewtDT05ORUNUSU9OUwN8D0NPTk5FQ1RJT05fU0laRQN9B0NfU1RBVEUDfglDX0ZBSUxVUkUDfwlDX0lHTk9SRUQDgAEFQ19IT1QDgQEHVFhfUklORwOCAQdUWF9NQVNLA4MBB1RYX1RBSUwDhAEHVFhfSEVBRAOFAQpUWF9DTEFJTUVEA4YBBlRYX1BBRAOHAQdUWF9SRVNUA4gBB1RYX1NMT1QDiQEIVFhfUkVBRFkDigEHVFhfS0lORAOLAQhUWF9XQU5UUwOMAQdSWF9SSU5HA40BB1JYX01BU0sDjgEHUlhfUkVBRAOPAQdSWF9IRUFEA5ABB1JYX1NQQU4DkQEIUlhfQVJNRUQDkgEHUlhfUkVTVAOTAQZSWF9ORVQDlAEHUlhfQk9EWQOVAQhSWF9IT0xEUwOWAQ1ERUNPREVfSEVBREVSA5cBC0RFQ09ERV9IQVZFA5gBC0RFQ09ERV9CT0RZA5kBCkNPVU5UX1NFTlQDmgEQQ09VTlRfU0VOVF9CWVRFUwObAQ5DT1VOVF9SRUNFSVZFRAOcARRDT1VOVF9SRUNFSVZFRF9CWVRFUwOdAQpDT1VOVF9GVUxMA54BCFJYX0ZSQU1FA58BCFRYX0ZSQU1FA6ABCFRYX09XTkVSA6EBE1RYX09XTkVSX0dFTkVSQVRJT04DogEHVFhfTkVFRAOjAQ1QVUJMSVNIX1NISUZUA6QBDFJFQ09SRF9TSElGVAOlAQpTVEFURV9GUkVFA6YBDVNUQVRFX09QRU5JTkcDpwEKU1RBVEVfT1BFTgOoAQ1TVEFURV9DTE9TSU5HA6kBEVNUQVRFX1BFRVJfQ0xPU0VEA6oBDFNUQVRFX0NMT1NFRAOrAQxTVEFURV9CUk9LRU4DrAEGU1RBVEVTA60BCkVWRU5UX09QRU4DrgEORVZFTlRfRU9GX1NFTlQDrwESRVZFTlRfRU9GX1JFQ0VJVkVEA7ABCkVWRU5UX0ZBSUwDsQEGRVZFTlRTA7IBD1NVU1BFTlNJT05fTk9ORQOzARVTVVNQRU5TSU9OX1NVU1BFTkRJTkcDtAEPU1VTUEVOU0lPTl9TRU5UA7UBE1NVU1BFTlNJT05fUkVDRUlWRUQDtgEUU1VTUEVOU0lPTl9TVVNQRU5ERUQDtwETU1VTUEVOU0lPTl9SRVNVTUlORwO4ARFTVVNQRU5TSU9OX1NUQVRFUwO5ARhTVVNQRU5TSU9OX0VWRU5UX1NVU1BFTkQDugEVU1VTUEVOU0lPTl9FVkVOVF9TRU5UA7sBFFNVU1BFTlNJT05fRVZFTlRfUkVRA7wBFFNVU1BFTlNJT05fRVZFTlRfQUNLA70BF1NVU1BFTlNJT05fRVZFTlRfUkVTVU1FA74BE1NVU1BFTlNJT05fRVZFTlRfVVADvwERU1VTUEVOU0lPTl9FVkVOVFMDwAESTUlHUkFUSU9OX0lOQUNUSVZFA8EBE01JR1JBVElPTl9SRVFVRVNURUQDwgETTUlHUkFUSU9OX1BSRVBBUklORwPDARFNSUdSQVRJT05fQUxMT1dFRAPEARJNSUdSQVRJT05fRklOSVNIRUQDxQESTUlHUkFUSU9OX1JFU1VNSU5HA8YBEE1JR1JBVElPTl9TVEFURVMDxwEXTUlHUkFUSU9OX0VWRU5UX1JFUVVFU1QDyAEXTUlHUkFUSU9OX0VWRU5UX1BSRVBBUkUDyQEVTUlHUkFUSU9OX0VWRU5UX0FMTE9XA8oBFE1JR1JBVElPTl9FVkVOVF9GQUlMA8sBFk1JR1JBVElPTl9FVkVOVF9SRVNVTUUDzAEYTUlHUkFUSU9OX0VWRU5UX0FUVEFDSEVEA80BFE1JR1JBVElPTl9FVkVOVF9CQUNLA84BEE1JR1JBVElPTl9FVkVOVFMDzwEMRkFJTFVSRV9OT05FA9ABDEZBSUxVUkVfSEVBRAPRAQ5GQUlMVVJFX1JFQ09SRAPSAQ9GQUlMVVJFX01FU1NBR0UD0wEMRkFJTFVSRV9MT1NUA9QBB05PVEhJTkcD1QENQ09NTUlUX1BPTExFRAPWAQtDT01NSVRfVE9MRAPXAQ1DT01NSVRfQVNMRUVQA9gBCVJFU1RfQlVTWQPZAQpSRVNUX1FVSUVUA9oBC1JFU1RfQVNMRUVQA9sBBkJST0tFTgPcAQ5ERUNPREVEX1JFQ09SRAPdAQ1ERUNPREVEX0VNUFRZA94BDUlOU1BFQ1RfUkVBRFkD3wENSU5TUEVDVF9CTEFOSwPgARJJTlNQRUNUX0ZPUk1BVFRJTkcD4QEPSU5TUEVDVF9WRVJTSU9OA+IBD0lOU1BFQ1RfRk9SRUlHTgPjAQ9JTlNQRUNUX0NPUlJVUFQD5AEMSU5TUEVDVF9TSVpFA+UBCUFUVEFDSF9PSwPmAQxBVFRBQ0hfT0ZGRVID5wEMQVRUQUNIX05PTkNFA+gBDEFUVEFDSF9TSEFQRQPpAQZtZW1vcnkCAAwBAwr9ZmFnAQF+IwJBgIDYAGogAEEEdGogAWojA0EUdEGAgICABHIgAnKtIwatQiCGhCIDQgD+SQMAIANSBEAPCyAAIAJqQQFrIwF2IQEgACMBdiEAA0AgACABTQRAIAAQDSAAQQFqIQAMAQsLCyABAX8jCiEAA0AgACMJSQRAIAAQDSAAQQFqIQAMAQsLC+MCAQh/IABBCHRBgIAIaiIDKAI4QQJGBEAgAyADKQOAAUIBfDcDgAEgAyADKQOIASADNQIgfEIIfTcDiAEFIAMgAykDiAEgAzUCIHw3A4gBCyADKAIQIgRBgCBqIgUgAygCFCIGIAMoAhgiByADKAIkIghqIgAgAygCICICQQ9qQXhxaiIBcWpCADcDACAFIAAgBnFqIAKtIABBA3ZB////B3EgAygCOEEYdHKtQiCGhP4YAwAgCARAIAUgBiAHcWogCEEIa60gB0EDdkH///8HcUGAgIAIcq1CIIaE/hgDAAsgAyABNgIYIAQgATYCgAEgBP4QAoADRQRAQQAPCyMAQYCA2ABqIAMoAjBBCnRqIgBBgARqIAMoAjQiAUEGdiICQQN0akIBIAFBP3Gthv40AwAaIABBgANqQgEgAq2G/jQDABpBAkEBIABBgAJqIgD+EAIABH8gAEEA/kECAAVBAAsbC58DAgF+CH8gAEEIdEGAgAhqIgQoAgBBBU8EQEF/DwsgBCkDKCIBUARAQX8PCyABpyAEKAIUIgBBAWoiA0ECdkEIayICIAEgAq1YGyEFAn9BfyAEKAIQIgZFDQAaIAMgACAEKAIYIgJxayIHQQAgBUEPakF4cSIIIAdLGyIHIAhqQQhqIQggAyACIAhqIAQoAhwiCWtJBEAgBv4QAoACIgNBB3EgAyAJayACIAlrS3IEf0EABSAEIAM2AhxBAQtFBEAgBCgCBEUEQCAEQQE2AgQLQX8MAgsgAEEBaiACIAhqIAQoAhxrSQRAIAQgBCkDoAFCAXw3A6ABIAQgCDYCuAFBAAwCCwsgBCAFNgIgIAQgBzYCJCAEQQM2AjggAiAHaiAAcSAGakGIIGoLIgBFBEBBAA8LIABBf0YEQCAEKAIERQRAIARBAjYCBAsgBCgCACIAQQJ0QaMIai0AACECIAAgAiACQf8BRhsiAiAARgRAIAQgBCgCCEEBajYCCAUgBCACNgIAC0F/DwsgBCABIAWtfTcDKEGQgAQgBTYCACAAC4kDAgZ/AX4gAEUgACMFT3IEf0EABSMGBH8jAyICIwdPBH9BAAUjAEGAgNgAaiACQQp0av4RAwAiCKdB/wFxIQIjBiAIQiCIp0YEfyACQQFGIAJBAkZyBUEACwsFQQALC0UEQEEADwsgABAGIgJFBEAQESAAEAYhAgsgAkUEQCAAQQEjAXRqQQFrIwF2IgQQDCIFRQRAEAEgBBAMIgVFBEBBAA8LCyAAEAYiAkUEQEEADwsLIAIiAyAAaiEGA0AgAyAGSQRAIANBA3ZBgIDMAGoiByAHLQAAQQEgA0EHcXRyOgAAIANBAWohAwwBCwsgAiIDQQFqIQYDQCADIAZJBEAgA0EDdkGAgNAAaiIHIActAABBASADQQdxdHI6AAAgA0EBaiEDDAELCyAFBEAgBSMBdCAEIwF0EA4LIwJBgIDYAGogAkEEdGoiAyABQQhzaiMGrUIghiIIIwNBFHQiBEGAgICAeHIgAHKthP4YAwAgASADaiAEQYCAgIAEciAAcq0gCIT+GAMAIAILpAECAX8BfiAAIwojAXRJIAAjBU9yIAIjB09yBEBBAA8LIwJBgIDYAGogAEEEdGogAUEIc2r+EQMAIgWnQf//P3EiBEUgBCMFIABrS3IEQEEADwsgBSACQRR0QYCAgIAEciAEcq0gA61CIIaEUgRAQQAPCyAEQQAjAkGAgNgAaiAAQQR0aiABav4RAwAgAkEUdEGAgICAeHIgBHKtIAOtQiCGhFEbC4wBAgN/AX4DQCACIwVJBEACQCACQQN2IgFBgIDIAGopAwAgAUGAgMwAaikDAEJ/hYMiBFAEQEEAIQMMAQtBACEBA0AgAUHAAEkEQCADQQFqQQAgBEIBg6cbIgMgAEYEQCABIAJqQQFqIABrDwsgAUEBaiEBIARCAYghBAwBCwsLIAJBQGshAgwBCwtBAAtpAgF/AX4gACABIAIgAxAFIgRFBEBBAA8LIwJBgIDYAGogAEEEdGogAWogAkEUdEGAgICAeHIgBHKtIAOtQiCGhCIFIwNBFHRBgICAgARyIARyrSMGrUIghoT+SQMAIAVSBEBBAA8LIAQLLgAgAUEAIABBCHRBgIAIaiIAKAKwASAAKAK0ARAFIgBBAWtBDHRBACAAQQJPGwucAQAgAkGAAU8EQEEADwsgBiAAIAEQCCIAIAVrSyAAIAVJcgRAQQAPCyABQQx0QYCA2ABqIAJBBXRqIgD+EQMAIAOtIAStQiCGhFIEfkIABSADrSAErUIghoQLUARAQQAPCyAA/hACCCAFRwR/QQEFIAD+EAIMIAZHCwRAQQAPCyAA/hACECAHRwRAQQAPCyABQQx0QYCg2ABqIAVqC54GAgV/A34gAEEIdEGAgAhqIgQoAkQhAQJAIAQoAkBBgCBqIgMgASAEKAJIIgBxav4RAwAiBlAEQCAAIAQoAkxHBEAgBCgCbEUEQCAEIAA2AkwgBCgCQCAA/hcCgAILC0IAIQYMAQsgBkI4iKdBAUYEQCAGIAFBAWogACABcWsiBUEIa60gAEEDdkH///8HcUGAgIAIcq1CIIaEUgRAIAQoAgRFBEAgBEECNgIEC0J/IQYMAgsgBCAAIAVqIgA2AkggAyAAIAFxav4RAwAiBlAEQCAEKAIERQRAIARBAjYCBAtCfyEGDAILCyAGpyIDIAFBAWpBAnZBCGtLBH9BAQUgAUEBaiAAIAFxayADQQ9qQXhxSQsEf0EBBSAGQiCIp0H///8HcSAAQQN2Qf///wdxRwsEf0EBBSAGQjiIp0EBRgsEQCAEKAIERQRAIARBAjYCBAtCfyEGDAELIAQgA0EPakF4cTYCUAsgBlAEQEEADwsgBkJ/hVAEQCAEKAIERQRAIARBAjYCBAsgBCgCACIAQQJ0QaMIai0AACEBIAAgASABQf8BRhsiASAARgRAIAQgBCgCCEEBajYCCAUgBCABNgIAC0F/DwsgBCgCVARAIARBADYCVCAEKAJAQQD+FwKAAwsgBqchACAEKAJAIAQoAkggBCgCRHFqQYggaiEBIAQpA1ghBwJAIAZCOIinQQJGBEAgAEEISSAHQgBScg0BIAQgAf4RAwAiBjcDYCAGQhCIQv//A4MgBkIgiHwhByABQQhqIQEgAEEIayEAQQEhAgUgAEUgB1AgBkI4iKdBA0dycg0BIAQpA2AhBgsgAK0iCCAHVg0AIAQgADYCaEGAgAQgBqciA0H//wNxNgIAQYSABCADQRB2NgIAQYiABCAGQiCIPgIAQYyABCABNgIAQZCABCAANgIAQZSABCACQQJyIAIgByAIURs2AgAgAQ8LIAQoAgRFBEAgBEEDNgIECyAEKAIAIgBBAnRBowhqLQAAIQEgACABIAFB/wFGGyIBIABGBEAgBCAEKAIIQQFqNgIIBSAEIAE2AgALQX8L3AMCAX4JfyAAQQh0QYCACGoiCCgCACIAQQNGIABBAU1yIABBBU9yBEBBfw8LIAgpAyhCAFIEQEF/DwsgAq0gA618IgSnIAgoAhQiCUEBaiIHQQJ2QRBrIgAgBCAArVgbIgpBCGohAAJ/QX8gCCgCECIFRQ0AGiAHIAkgCCgCGCIGcWsiC0EAIABBD2pBeHEiDCALSxsiCyAMakEIaiEMIAcgBiAMaiAIKAIcIg1rSQRAIAX+EAKAAiIHQQdxIAcgDWsgBiANa0tyBH9BAAUgCCAHNgIcQQELRQRAIAgoAgRFBEAgCEEBNgIEC0F/DAILIAlBAWogBiAMaiAIKAIca0kEQCAIIAgpA6ABQgF8NwOgASAIIAw2ArgBQQAMAgsLIAggADYCICAIIAs2AiQgCEECNgI4IAYgC2ogCXEgBWpBiCBqCyIARQRAQQAPCyAAQX9GBEAgCCgCBEUEQCAIQQI2AgQLIAgoAgAiAEECdEGjCGotAAAhASAAIAEgAUH/AUYbIgEgAEYEQCAIIAgoAghBAWo2AggFIAggATYCAAtBfw8LIAAgAUH//wNxrSACQf//A3GtQhCGhCADrUIghoQ3AwAgCCAEIAqtfTcDKEGQgAQgCjYCACAAQQhqC/IBAgN/AX4jA0EUdEGAgICABHKtIwatQiCGhCEEIwohAgNAIwkgACACak8EQEEAIQEDQCAAIAFLBH4jCEGAgNgAaiABIAJqQQN0akIAIAT+SQMABUIBC1AEQCABQQFqIQEMAQsLIAAgAUYEQCACIwF0IgEgACMBdGohAANAIAAgAUsEQCABQQN2QYCAyABqIgMgAy0AAEEBIAFBB3F0cjoAACABQQFqIQEMAQsLIAIPC0EAIQMDQCABIANLBEAjCEGAgNgAaiACIANqQQN0aiAEQgD+SQMAGiADQQFqIQMMAQsLIAIgAUEBamohAgwBCwtBAAv7AgIDfwJ+IwhBgIDYAGogAEEDdGr+EQMAIgVQIAVCf1FyBH9BAQUgBadBFHZB/wdxIgEjB08Ef0EABSMAQYCA2ABqIAFBCnRq/hEDACIEp0H/AXEhASAEQiCIpyAFQiCIp0YEfyABQQFGIAFBAkZyBUEACwsLBEAPCyAAIwF0IgJBASMBdGoiASMFIgMgASADSRshAyACIQEDQCABIANJBEAjAkGAgNgAaiABQQR0av4RAwBCAFIEf0EBBSMCIAFBBHRqQYiA2ABq/hEDAEIAUgsEQA8LIAFBAWohAQwBCwsgAiEBA0AgAQRAAkAgAUEBayIBQQR0IgMjAkGAgNgAamr+EQMAIgRQBEAjAiADakGIgNgAav4RAwAhBAsgBFAEQCABQQEjAXRBAWtxBH9BAAUjCEGAgNgAaiABIwF2QQN0av4RAwAgBVILDQEMAwsgAiABayAEp0H//z9xSQRADwsLCwsjCEGAgNgAaiAAQQN0aiAFQgD+SQMAGguAAgIDfwF+IwNBFHRBgICAgARyrSMGrUIghoQhBSAAIAFqQQFrIwF2IQMgACMBdiECA0AgAiADTQRAIAIjAXQiAEEDdkGAgMgAai0AAEEBIABBB3F0cQR/IAAhASAAQQEjAXRqIQQCfwNAIAEgBEkEQEEBIAFBA3ZBgIDMAGotAABBASABQQdxdHENAhogAUEBaiEBDAELC0EACwVBAQtFBEBBASMBdCAAaiEBA0AgACABSQRAIABBA3ZBgIDIAGoiBCAELQAAQX4gAEEHcXdxOgAAIABBAWohAAwBCwsjCEGAgNgAaiACQQN0aiAFQgD+SQMAGgsgAkEBaiECDAELCwunAQICfgJ/IwJBgIDYAGogAEEEdGoiBSACaiMGrUIghiIDIwNBFHQiBkGAgICABHIgAXKthEIA/kkDABogBSACQQhzaiAGQYCAgIB4ciABcq0gA4QiA0IA/kkDACIEUCADIARRcgRAIAAgARAQBSAAQQFqIQEDQCAAIAFJBEAgAEEDdkGAgNQAaiICIAItAABBASAAQQdxdHI6AAAgAEEBaiEADAELCwsLgAEBA38gACICQQFqIQMDQCACIANJBEAgAkEDdkGAgNAAaiIEIAQtAABBfiACQQdxd3E6AAAgAkEBaiECDAELCyAAIgIgAWohAwNAIAIgA0kEQCACQQN2QYCAzABqIgQgBC0AAEF+IAJBB3F3cToAACACQQFqIQIMAQsLIAAgARAOC50CAgZ/AX4DQCADIwVJBEAgA0EDdkGAgNQAaikDACEGA0AgBkIAUgRAIAMgBnqnaiEBIAYgBkIBfYMhBiMCQYCA2ABqIAFBBHRq/hEDAEIAUgR/QQEFIwIgAUEEdGpBiIDYAGr+EQMAQgBSCw0BQQEhAgNAIAEgAmoiACMFSQR/IABBA3ZBgIDMAGotAABBASAAQQdxdHEFQQALBH8gASACaiIAQQN2QYCA0ABqLQAAQQEgAEEHcXRxQQBHBUEBC0UEQCACQQFqIQIMAQsLIAEiAEEBaiEEA0AgACAESQRAIABBA3ZBgIDUAGoiBSAFLQAAQX4gAEEHcXdxOgAAIABBAWohAAwBCwsgASACEBAMAQsLIANBQGshAwwBCwsLPAEBfyAAQQh0QYCACGoiACgCrAEiAQRAIAFBCCAAKAIUQQFqQQx2QQFqEAALIABBADYCrAEgAEEANgIQCz4BAX8gAEEIdEGAgAhqIgAoAqgBIQEgAEEANgKoASAAQQA2AkAgAQRAIAEgACgCREEBakEMdkEBakEAEA8LCzIAIABBDHZBAWogAEH/H3FBAEdqQQgQBCIABEAgAEEMdEGAgNgAakEAQYAg/AsACyAACxkAIABBDHRBgIDYAGogAUEFdGpCAP4YAwALGgAgAEEAIAFBDHZBAWogAUH/H3FBAEdqEAALYQECfwNAIAZBgAFJBEAgAEEMdEGAgNgAaiAGQQV0aiIH/hEDAFAEQCAHIAM2AgggByAENgIMIAcgBTYCECAHIAGtIAKtQiCGhP4YAwAgBkEBag8LIAZBAWohBgwBCwtBAAuNAQEBfyAAIAEgAiADIARBACAFQQEQCSIGRQRAQQAPCyABQQAgAEEIdEGAgAhqIgAoArABIAAoArQBEAciAEUEQEEADwsgAEECTwR/IAUgAEEBa0EMdE0FQQALBEAgAUEMdEGAgNgAaiACQQV0av4RAwAgA60gBK1CIIaEUQRAIAYPCwsgAUEAIAAQAEEAC/ECAgJ/AX5BjIDYAP4QAgAhAUECAn9BgIDYAP4RAwAiAkLJptHC1KnVKVIEQEEEIAJCAFINARpBAiABQf8BcUEBRg0BGgNAIABBgCBJBEBBBCAAQYCA2ABq/hEDAEIAUg0DGiAAQQhqIQAMAQsLQQEMAQtBA0GIgNgAKAIAQQFHDQAaQQIgAUH/AXFBAUYNABpBBSABQQJHDQAaQQZBkIDYACkDACMNrVINABpBmIDYACgCAEGAIEYiAARAIwVBnIDYACgCAEYhAAsgAARAIwdBoIDYACgCAEYhAAsgAARAQaSA2AAoAgBBgAhGIQALIAAEQCMAQaiA2AAoAgBGIQALIAAEQCMIQayA2AAoAgBGIQALIAAEQCMJQbCA2AAoAgBGIQALIAAEQEG0gNgAKAIAQQEjAXRGIQALIAAEQCMCQbiA2AAoAgBGIQALQQBBBSAABH8jCkG8gNgAKAIARgUgAAsbC0GMgNgA/hACACABRxsLuAEAQQEgAEH//z9xIABBgIDAAEkgAEGAgKj/B0tyGwRAQQAPCyAAJA0gAEEMdiQFQYACQRAgAEEQdiIAIABBEE0bIgAgAEGAAk8bJAdBCEECQRcjBWdrIgAgAEECTBsiACAAQQhOGyQBIwUjAXYkCUGAICQAIwdBCnRB/z9qQYBgcSQIIwgjCUEDdGpB/x9qQYBgcSQCQQEjAXQjAiMFQQR0akH/H2pBgGBxQQx2akEBayMBdiQKQQELHgEBf0GMgNgA/hACACIAQQh2QQAgAEH/AXFBAUYbC98BAEGMgNgAIABBCHRBAXL+FwIAQYCA2ABCAP4YAwAjAEGAgNgAakEAIwojAUEManQjAGv8CwBBACEAA0AgACMKSQRAIwhBgIDYAGogAEEDdGpCfzcDACAAQQFqIQAMAQsLQYiA2ABBATYCAEGQgNgAIw2tNwMAQZiA2ABBgCA2AgBBnIDYACMFNgIAQaCA2AAjBzYCAEGkgNgAQYAINgIAQaiA2AAjADYCAEGsgNgAIwg2AgBBsIDYACMJNgIAQbSA2ABBASMBdDYCAEG4gNgAIwI2AgBBvIDYACMKNgIACx8AQYCA2ABCyabRwtSp1Sn+GAMAQYyA2ABBAv4XAgALFgBBjIDYAEEAIABBCHRBAXL+SAIARQskACAAIwdJBH8jAEGAgNgAaiAAQQp0av4RAwCnQf8BcQVBAAsLIwAgACMHSQR/IwBBgIDYAGogAEEKdGr+EQMAp0EIdgVBAAsLIwAgACMHSQR/IwBBgIDYAGogAEEKdGr+EQMAQiCIpwVBAAsLEAAjAEGAgNgAaiAAQQp0agvcAgEGf0EBIQIjBCEBA0AgAQRAIAFBAXRB/p8Eai8BACIEQQh0QYCACGoiBSgCQCEDIAUoAkghBiAFKAJsRQRAIAUgBjYCTCAFKAJAIAb+FwKAAgsgA0EB/hcCgAMCfyAFKAJAQYAgaiAFKAJIIAUoAkRxav4RAwBCAFIEQCADQQD+FwKAA0EADAELIAVBATYCVEEBCwRAIAUoAjxFBEAgBEEIdEGAgAhqIgMoAgwiBARAIwRBAWskBCAEQQF0Qf6fBGojBEEBdEGAoARqLwEAIgU7AQAgBUEIdEGAgAhqIAQ2AgwgA0EANgIMCwsFQQAhAgsgAUEBayEBDAELCyACRQRAQQAPC0EAIwYjBCAARXIbRQRAQQEPCyMAQYCA2ABqIwNBCnRqIgBBAf4XAoACQQEkDCAA/hEDgANQBEBBAg8LQQAkDCMAQYCA2ABqIwNBCnRqQQD+FwKAAkEAC1UBAX4jBiMAQYCA2ABqIwNBCnRq/hEDACIAQiCIp0cEf0EBBSAAp0H/AXFBAUcLBEBBAA8LIwBBgIDYAGojA0EKdGogACAAQoB+g0IChP5JAwAgAFEL+gMCCH8CfiMAQYCA2ABqIwNBCnRqIQcjDARAQQAkDCAHQQD+FwKAAgsDQCMGBH8gB/4RA4ADQgBSBUEACwRAIwBBgIDYAGojA0EKdGoiBUGAA2pCAP5CAwAhCgNAIApCAFIEQCAKeqchBCAKIApCAX2DIQogBUGABGogBEEDdGpCAP5CAwAhCQNAIAlCAFIEQCAJeqcgBEEGdGohAyAJIAlCAX2DIQkgA0EIdEGAgAhqIgEoAkAEfyABKAIAQQJPBUEACwRAIAEoAlQEQCABQQA2AlQgASgCQEEA/hcCgAMLIANBCHRBgIAIaiIBKAIMRQRAIwRBAXRBgKAEaiADOwEAIwRBAWokBCABIwQ2AgwLCwwBCwsMAQsLC0EAIQgDQCAIIwRJBEAjC0EBaiQLIwsjBE8EQEEAJAsLIwtBAXRBgKAEai8BACIEQQh0QYCACGoiBigCQEGAIGogBigCSCAGKAJEcWr+EQMAQgBSBEAgBEEBag8LIAYoAjwEfyAGKAIQ/hACgAIiBUEHcSAFIAYoAhwiA2sgBigCGCIBIANrS3IEf0EABSAGIAU2AhxBAQsEfyAGKAIUQQFqIAEgBigCuAFqIAYoAhxrTwVBAQsFQQALBEAgBEEBag8LIAhBAWohCAwBCwsgAiIBQQFqIQIgACABSw0AC0EACwQAIwQLUAIBfwF+IwYEfyMDIgAjB08Ef0EABSMAQYCA2ABqIABBCnRq/hEDACIBp0H/AXEhACMGIAFCIIinRgR/IABBAUYgAEECRnIFQQALCwVBAAsLNAEBfyAAQQh0QYCACGoiASgCDARADwsjBEEBdEGAoARqIAA7AQAjBEEBaiQEIAEjBDYCDAsgACAAIwdJBH8jAEGAgNgAaiAAQQp0av4RAwinBUEACwt7AQF+IAAjB08Ef0EBBSAAIwNGQQAjBhsLBEBBAA8LIwBBgIDYAGogAEEKdGr+EQMAIgJCIIinIAFHBEBBAA8LIAKnQf8BcSIBQQNGBEBBAQ8LIAFFBEBBAA8LIwBBgIDYAGogAEEKdGogAiACQoB+g0IDhP5JAwAgAlELUwECfyAAQQh0QYCACGoiAigCDCIBRQRADwsjBEEBayQEIAFBAXRB/p8EaiMEQQF0QYCgBGovAQAiADsBACAAQQh0QYCACGogATYCDCACQQA2AgwLlAEBAX4gACMHTwRAQQAPCyMAQYCA2ABqIABBCnRq/hEDACICp0H/AXEEQEEADwsjAEGAgNgAaiAAQQp0aiACIAFB////B3FBCHRBAXKtIAJCIIinQQFqIgFFBEBBASEBCyABrUIghoT+SQMAIAJSBEBBAA8LIwAgAEEKdGpBiIDYAGpBAEH4B/wLACAAJAMgASQGQQELIAEBfyMAIwNBCnRqQYiA2ABqIgAgACkDAEIBfP4YAwALRAEBfiAAIwdPBEBBAA8LIwBBgIDYAGogAEEKdGr+EQMAIgKnQf8BcSEAIAJCIIinIAFGBH8gAEEBRiAAQQJGcgVBAAsLHAAgACAAQQZsIAFqQdAIai0AACIAIABB/wFGGwscACAAIABBB2wgAWpBkAlqLQAAIgAgAEH/AUYbCxQAIABBCHRBgIAIaiABQQBHNgI8C8YBAQN/IABBCHRBgIAIaiIAKAIQRQRAQQAPCwJ/IAAoAhD+EAKAAiIBQQdxIAEgACgCHCICayAAKAIYIgMgAmtLcgR/QQAFIAAgATYCHEEBC0UEQCAAKAIERQRAIABBATYCBAtBfwwBCyADIAAoAhxrCyIBQX9GBEAgACgCBEUEQCAAQQE2AgQLIAAoAgAiAkECdEGjCGotAAAhAyACIAMgA0H/AUYbIgMgAkYEQCAAIAAoAghBAWo2AggFIAAgAzYCAAsLIAELDwAgAEEIdEGAgAhqKAIAC0kBAn8gAEEIdEGAgAhqIgAoAgAiAUECdEGgCGotAAAhAiABIAIgAkH/AUYbIgIgAUYEQCAAIAAoAghBAWo2AggFIAAgAjYCAAsLEgAgAEEIdEGAgAhqKAJEQQFqCw8AIABBCHRBgIAIaigCQAsoACAAQQh0QYCACGoiACgCQEGAIGogACgCSCAAKAJEcWr+EQMAQgBSC00BAX8gAEEIdEGAgAhqIgAoAmxBAWshAiAAQQA2AmwgASAAKAJMRwRAIAAoAmxFBEAgACABNgJMIAAoAkAgAf4XAoACCwsgACACNgJsCw8AIABBCHRBgIAIaigCSAtQAQF/IABBCHRBgIAIaiECA0AgAQR/IAIoAkBBgCBqIAIoAkggAigCRHFq/hEDAEIAUgVBAQtFBEAgAUEBayEBDAELCyABBH8gABAKBUEACwsEACMDCwQAIwYLWQECfyAAQQh0QYCACGoiACgCBEUEQCAAQQQ2AgQLIAAoAgAiAUECdEGjCGotAAAhAiABIAIgAkH/AUYbIgIgAUYEQCAAIAAoAghBAWo2AggFIAAgAjYCAAsLRAECfyAAQQh0QYCACGoiASgCbCICRQRAAkAgASgCSCEAIAINACABIAA2AkwgASgCQCAA/hcCgAILCyABIAJBAWo2AmwLBABBAQsMACAAQQh0QYCACGoLJwAgAEEIdEGAgAhqIgAoAlQEQCAAQQA2AlQgACgCQEEA/hcCgAMLC5ABAQV/IABBCHRBgIAIaiEEIAAQAyECA0AgAgRAQQAhAwUgASIDQQFrIQELIAMEQCAEKAIQ/hACgAIiBUEHcSAFIAQoAhwiBmsgBCgCGCIDIAZrS3IEf0EABSAEIAU2AhxBAQsEfyAEKAIUQQFqIAMgBCgCuAFqIAQoAhxrTwVBAQsEQCAAEAMhAgsMAQsLIAILeQECfyAAQQh0QYCACGoiASgCQCECIAEoAkghACABKAJsRQRAIAEgADYCTCABKAJAIAD+FwKAAgsgAkEB/hcCgAMCfyABKAJAQYAgaiABKAJIIAEoAkRxav4RAwBCAFIEQCACQQD+FwKAA0EADAELIAFBATYCVEEBCwtpAQN/IABBCEEAQQAQCyIBRSABQX9GcgRAIAEPCyAAEAIgAEEIdEGAgAhqIgIoAgAiAEECdEGhCGotAAAhAyAAIAMgA0H/AUYbIgMgAEYEQCACIAIoAghBAWo2AggFIAIgAzYCAAtBAWoL/AECAX4DfyAAQQh0QYCACGoiACgCaCEDIAApA1giAVAEQCAAKQNgIgFCEIhC//8DgyABQiCIfCEBIAAgACkDkAFCAXw3A5ABIAApA2CnQf//A3FBCEYEQCAAKAIAIgJBAnRBoghqLQAAIQQgAiAEIARB/wFGGyIEIAJGBEAgACAAKAIIQQFqNgIIBSAAIAQ2AgALCwsgACABIAOtIgF9NwNYIAAgACkDmAEgAXw3A5gBIAAgACgCSCAAKAJQaiICNgJIIABBADYCUCACIAAoAkxrIAAoAkRBAWpBA3ZLBEAgACgCbEUEQCAAIAI2AkwgACgCQCAC/hcCgAILCwt/AQF/IABBCHRBgIAIaiIAKAJIIAAoAlBqIQEgACABNgJIIABBADYCUCABIAAoAkxrIAAoAkRBAWpBA3ZLBEAgACgCbEUEQCAAIAE2AkwgACgCQCAB/hcCgAILCyAAKAJIIQEgACgCbEUEQCAAIAE2AkwgACgCQCAB/hcCgAILC+YDAgR/AX4gAEEIdEGAgAhqIgEoAkQhAgJAIAEoAkBBgCBqIgMgAiABKAJIIgBxav4RAwAiBVAEQCAAIAEoAkxHBEAgASgCbEUEQCABIAA2AkwgASgCQCAA/hcCgAILC0IAIQUMAQsgBUI4iKdBAUYEQCAFIAJBAWogACACcWsiBEEIa60gAEEDdkH///8HcUGAgIAIcq1CIIaEUgRAIAEoAgRFBEAgAUECNgIEC0J/IQUMAgsgASAAIARqIgA2AkggAyAAIAJxav4RAwAiBVAEQCABKAIERQRAIAFBAjYCBAtCfyEFDAILCyAFpyIDIAJBAWpBAnZBCGtLBH9BAQUgAkEBaiAAIAJxayADQQ9qQXhxSQsEf0EBBSAFQiCIp0H///8HcSAAQQN2Qf///wdxRwsEf0EBBSAFQjiIp0EBRgsEQCABKAIERQRAIAFBAjYCBAtCfyEFDAELIAEgA0EPakF4cTYCUAsgBVAEQEEADwsgBUJ/hVAEQCABKAIERQRAIAFBAjYCBAsgASgCACIAQQJ0QaMIai0AACECIAAgAiACQf8BRhsiAiAARgRAIAEgASgCCEEBajYCCAUgASACNgIAC0F/DwtBkIAEIAU+AgAgASgCQCABKAJIIAEoAkRxakGIIGoL0QECAn8BfiAAQQh0QYCACGoiAigCeCIDQQhJBEAgAiABIANqIgA2AnggAEEISQRAQQAPCyACIAIpA3AiBEIQiEL//wODIARCIIh8IgQ3AyhBAkEAIARQGw8LIAAQAhogAiACKQMoIAGtfSIENwMoIAJBATYCfCAEUARAIAIvAXBBCEYEQCACKAIAIgBBAnRBoQhqLQAAIQEgACABIAFB/wFGGyIBIABGBEAgAiACKAIIQQFqNgIIBSACIAE2AgALCyACQQA2AnggAkEANgJ8C0EBC4gEAgt/AX4gAEEIdEGAgAhqIgIoAgAiAEEDRiAAQQFNciAAQQVPcgRAQX8PCyACKAJ4IgBBCEkEQEGQgAQgAUEIIABrIgMgASADSRs2AgAgAkHwAGogAGoPCyACKQMoIg2nIAEgDSABrVQbIgMgAigCFEEBakECdkEIa0EIQQAgAigCfEUiCBsiAWsiAE0EQCADIQALIAAgAWohCUECQQMgCBshBAJ/QX8gAigCECIDRQ0AGiACKAIUIgVBAWoiByAFIAIoAhgiBnFrIgpBACAJQQ9qQXhxIgsgCksbIgogC2pBCGohCyAHIAYgC2ogAigCHCIMa0kEQCAD/hACgAIiB0EHcSAHIAxrIAYgDGtLcgR/QQAFIAIgBzYCHEEBC0UEQCACKAIERQRAIAJBATYCBAtBfwwCCyAFQQFqIAYgC2ogAigCHGtJBEAgAiACKQOgAUIBfDcDoAEgAiALNgK4AUEADAILCyACIAk2AiAgAiAKNgIkIAIgBDYCOCAGIApqIAVxIANqQYggagsiA0UEQEEADwsgA0F/RgRAIAIoAgRFBEAgAkECNgIECyACKAIAIgBBAnRBowhqLQAAIQEgACABIAFB/wFGGyIBIABGBEAgAiACKAIIQQFqNgIIBSACIAE2AgALQX8PCyAIBEAgAyACKQNwNwMAC0GQgAQgADYCACABIANqCxAAIABBCHRBgIAIaigCeEULCgAjCiMBQQxqdAvBBgICfgR/A0AgBSMFSQRAIwIgBUEEdGpBiIDYAGr+EQMAIgJCIIinIAFGIQdBACEEAkAgAkJ/UiACQgBScQR/IAAgAqdBFHZB/wdxRgVBAAsgB3EEfyACp0EedkEBRwVBAQsNACMIQYCA2ABqIAUjAXZBA3Rq/hEDACICQiCIpyABRiEHIAJCf1IgAkIAUnEEfyAAIAKnQRR2Qf8HcUYFQQALIAdxDQAjAkGAgNgAaiAFQQR0av4RAwAiAkIAUgR/IAKnQR52QQFGBUEACwR/IAKnQRR2Qf8HcSIEIwdPBH9BAAUjAEGAgNgAaiAEQQp0av4RAwAiA6dB/wFxIQQgA0IgiKcgAkIgiKdGBH8gBEEBRiAEQQJGcgVBAAsLBUEACyEECyAEBEBBASEGBSMCIAVBBHRqQYiA2ABq/hEDACICQiCIpyABRiEEIAJCf1IgAkIAUnEEfyAAIAKnQRR2Qf8HcUYFQQALIARxBH8gAqdBHnZBAUcFQQELBH9BAAUjAkGAgNgAaiAFQQR0av4RAwAiAkIgiKcgAUYhBCACQn9SIAJCAFJxBH8gACACp0EUdkH/B3FGBUEACyAEcQR/IAKnQR52QQJGBUEACwtFBEBBACEEA0AgBEEQSQRAIwJBgIDYAGogBUEEdGogBGr+EQMAIgJCIIinIAFGIQcgAkJ/UiACQgBScQR/IAAgAqdBFHZB/wdxRgVBAAsgB3EEQCMCQYCA2ABqIAVBBHRqIARqIAJCAP5JAwAaCyAEQQhqIQQMAQsLCwsgBUEBaiEFDAELCyAGRQRAQQAhBQNAIAUjBUkEQEEAIQQDQCAEQRBJBEAjAkGAgNgAaiAFQQR0aiAEav4RAwAiAkIgiKcgAUYhByACQn9SIAJCAFJxBH8gACACp0EUdkH/B3FGBUEACyAHcQRAIwJBgIDYAGogBUEEdGogBGogAkIA/kkDABoLIARBCGohBAwBCwsgBUEBaiEFDAELCwsQASAGRQRAAkAgACMHTw0AIwBBgIDYAGogAEEKdGr+EQMAIgJCIIinIAFHBH9BAQUgAqdB/wFxQQNHCw0AIwBBgIDYAGogAEEKdGogAiABrUIghv5JAwAaCwsL/gECAX4FfwNAIAIjBUkEQCMDIQMjBiEEQQAhAQNAIAFBEEkEQCMCQYCA2ABqIAJBBHRqIAFq/hEDACIAQiCIpyAERiEFIABCf1IgAEIAUnEEfyADIACnQRR2Qf8HcUYFQQALIAVxBEAjAkGAgNgAaiACQQR0aiABaiAAQgD+SQMAGgsgAUEIaiEBDAELCyACQQFqIQIMAQsLQYCAyABBAEGAgBD8CwBBACQMIwYEQCMGIwBBgIDYAGojA0EKdGr+EQMAIgBCIIinRgR/IACnQf8BcUEDRwVBAAsEQCMAQYCA2ABqIwNBCnRqIAAjBq1CIIb+SQMAGgtBACQGCxABCyoAIAAjBUkEfyMCQYCA2ABqIABBBHRqIAFq/hEDAKdBFHZB/wdxBUEACwsmACAAIwVJBH8jAkGAgNgAaiAAQQR0aiABav4RAwCnQR52BUEACwsmACAAIwVJBH8jAkGAgNgAaiAAQQR0aiABav4RAwBCIIinBUEACwsjACAAIwVPBH5CAAUjAkGAgNgAaiAAQQR0aiABav4RAwALUAsoACAAIwVJBH8jAkGAgNgAaiAAQQR0aiABav4RAwCnQf//P3EFQQALC6MBAQV/IwohAQNAIAEjCUkEQCABIwF0IgNBA3ZBgIDIAGotAABBASADQQdxdHEEQEEAIQJBASMBdCEEA0AgAiAESQRAIAAgAEEBaiACIANqIgBBA3ZBgIDMAGotAABBASAAQQdxdHEbIQAgAkEBaiECDAELCwUgAEEBIwF0aiAAIwhBgIDYAGogAUEDdGr+EQMAUBshAAsgAUEBaiEBDAELCyAACzQBAX4gACMJSQR+IwhBgIDYAGogAEEDdGr+EQMABUIACyIBUAR/QQAFQQFBAiABQn9RGwsLJwAgACMJSQR/IwhBgIDYAGogAEEDdGr+EQMAp0EUdkH/B3EFQQALCzMAIAAjCU8EQEEADwtBASMIQYCA2ABqIABBA3Rq/hEDAKciAEH//z9xIABBHnZBAUcbRQsjACAAIwlJBH8jCEGAgNgAaiAAQQN0av4RAwBCIIinBUEACwsHAEEBIwF0Cw0AIABBDHRBgIDYAGoLHAAgACAAQQJ0IAFqQaAIai0AACIAIABB/wFGGwsdACAAQQh0QYCACGooAkAgAa0gAq1CIIaE/hgDAAtUAQN/A0AgAEGAIEkEQCMOIABqQf8fcSICQQh0QYCACGoiASgCAEUEQCABQQBBgAL8CwAgAUEBNgIAIAJBAWoiACQOIAAPCyAAQQFqIQAMAQsLQQALwgEBA38gAUEIdEGAgAhqIgEoAkAhAyABKAJEQQFqIQQgAygCECECIABBCHRBgIAIaiIAIAM2AhAgACAEQQFrNgIUIAAgAjYCGCAAIAI2AhwgAEEANgIgIABBADYCJCAAIAMoAgw2AjQgACMDNgIwIAAoAkRBAWohAiAAKAJAIgAoAhAhAyABIAA2AhAgASACQQFrNgIUIAEgAzYCGCABIAM2AhwgAUEANgIgIAFBADYCJCABIAAoAgw2AjQgASMDNgIwC2ABA38gAEEIdEGAgAhqIgEoAgwiAgRAIwRBAWskBCACQQF0Qf6fBGojBEEBdEGAoARqLwEAIgM7AQAgA0EIdEGAgAhqIAI2AgwgAUEANgIMCyAAEBIgABATIAFBADYCAAvaAQECfyACQQdxIAEgAUEBa3FBASABQYCAgCBNIAFBgCBPcRtyBEBBAA8LIAFBDHZBAWpBABAEIgRFBEBBAA8LIARBDHRBgIDYAGoiA0IANwMAIAMgATYCCCADIAA2AgwgAyACNgIQIAMgAjYCgAEgAyACNgKAAiADQQA2AoADIANBgCBqIAFBAWsiASACcWpCAP4YAwAgAEEIdEGAgAhqIgAgAzYCQCAAIAE2AkQgACACNgJIIAAgAjYCTCAAQQA2AlAgAEEANgJUIABBADYCbCAAIAQ2AqgBIAMLrQIBBH8gAUEIIAMgBBAFRQRAQQEPCyABQQx0QYCA2ABqIgf+EQMAIAWtIAatQiCGhFIEQEECDwsgAUEIIAMgBBAHIglFBEBBAQ8LIAcoAgwhCiAHKAIQIQggB/4RAwAgBa0gBq1CIIaEUgR/QQIFIApBgCBPIQVBA0EAIAhBB3EgAiACQQFrcUEBIAJBgICAIE0gAkGAIE9xG3IEf0EBBSAHKAIIIAJHCwR/QQEFIAJBDHZBAWogCUcLIAVyGwsiBQRAIAFBCCAJEAAgBQ8LIABBCHRBgIAIaiIAIAc2AhAgACACQQFrNgIUIAAgCDYCGCAAIAg2AhwgAEEANgIgIABBADYCJCAAIAE2AqwBIAAgAzYCsAEgACAENgK0ASAAIAM2AjAgACAKNgI0QQALC8MBAwBBjAgLMCwAAAAAAAAAAAAAAAQAAAAcAAAA/////wL//wb/AwQG//8FBv8F/wb//////////wBBvAgLQDwAAAAAAAAAAAAAAAQAAAAkAAAAAf8D/////wID//////8EBP///wT//////////wUABP////8AAAAAAAAAAAAAQfwIC0A8AAAAAAAAAAAAAAAEAAAAKgAAAAH/////////Av8EBP////8DBAT///////8E/////////wX/////////AAAA");

// host/core/webassembly.ts
var wasm = globalThis.WebAssembly;

// host/core/core.ts
var NAMES = [
  "WINDOW",
  "REGION_MAX",
  "REGION_MIN",
  "FRAME",
  "LAYOUT_VERSION",
  "HEADER_VERSION",
  "HEADER_STATE",
  "HEADER_SIZE",
  "REGION_FORMATTING",
  "HEADER_UUID",
  "HEADER_HOST",
  "HEADER_HOST_LENGTH",
  "RESULT_TYPE",
  "RESULT_XLENGTH",
  "RESULT_DLENGTH",
  "RESULT_OFFSET",
  "RESULT_LENGTH",
  "RESULT_FLAGS",
  "FLAG_FIRST",
  "FLAG_LAST",
  "SLOT_SIZE",
  "SLOT_HEARTBEAT",
  "SLOT_INSTANCE",
  "SLOT_DEV",
  "SLOT_INO",
  "SLOT_BOOT",
  "SLOT_PIDNS",
  "SLOT_PID",
  "SLOT_CONNECTIONS",
  "SLOT_HOST",
  "SLOT_NAME",
  "SLOT_TEXT_LENGTH",
  "SLOT_FREE",
  "SLOT_CLAIMED",
  "SLOT_ATTACHED",
  "SLOT_DEAD",
  "LOCK_FORMAT",
  "LOCK_SERVER",
  "LOCK_LIFECYCLE",
  "SLOTS_MAX",
  "KIND_HELD",
  "KIND_OFFERED",
  "HALF_CONSUMER",
  "HALF_PRODUCER",
  "SLOT_SLEEPING",
  "SLOT_SUMMARY",
  "SLOT_READY",
  "RING_READY",
  "RING_START",
  "RING_DATA",
  "RECORD_HEADER",
  "RECORD_PAD",
  "RECORD_FIRST",
  "RECORD_MORE",
  "RECORD_SHIFT",
  "NET_HEADER",
  "GRANTS",
  "GRANT_SIZE",
  "GRANT_TOKEN",
  "GRANT_OFFSET",
  "GRANT_LENGTH",
  "GRANT_RIGHTS",
  "RING_MIN",
  "RING_MAX",
  "RING_CAPACITY",
  "RING_TAIL",
  "RING_HEAD",
  "RING_ARMED",
  "CONNECTIONS",
  "MESSAGE_USER",
  "MESSAGE_RMA_WRITE",
  "MESSAGE_RMA_READ",
  "MESSAGE_RMA_READ_ANSWER",
  "MESSAGE_RENDEZVOUS_REQ",
  "MESSAGE_RENDEZVOUS_FIN",
  "MESSAGE_BCAST",
  "MESSAGE_BARRIER",
  "MESSAGE_EOF",
  "MESSAGE_SHUTDOWN_REQ",
  "MESSAGE_SHUTDOWN_ACK",
  "MESSAGE_SUSPEND",
  "COUNT_SENT",
  "COUNT_SENT_BYTES",
  "COUNT_RECEIVED",
  "COUNT_RECEIVED_BYTES",
  "COUNT_FULL",
  "TX_MASK",
  "C_FAILURE",
  "C_IGNORED",
  "STATE_FREE",
  "STATE_OPENING",
  "STATE_OPEN",
  "STATE_CLOSING",
  "STATE_PEER_CLOSED",
  "STATE_CLOSED",
  "STATE_BROKEN",
  "FAILURE_HEAD",
  "FAILURE_RECORD",
  "FAILURE_MESSAGE",
  "FAILURE_LOST",
  "INSPECT_READY",
  "INSPECT_BLANK",
  "INSPECT_FORMATTING",
  "INSPECT_VERSION",
  "INSPECT_FOREIGN",
  "INSPECT_CORRUPT",
  "INSPECT_SIZE",
  "DECODED_RECORD",
  "DECODED_EMPTY",
  "COMMIT_ASLEEP",
  "REST_BUSY",
  "REST_ASLEEP",
  "GRANT_READ",
  "GRANT_WRITE",
  "SUSPENSION_NONE",
  "SUSPENSION_SUSPENDING",
  "SUSPENSION_SENT",
  "SUSPENSION_RECEIVED",
  "SUSPENSION_SUSPENDED",
  "SUSPENSION_RESUMING",
  "SUSPENSION_EVENT_SUSPEND",
  "SUSPENSION_EVENT_SENT",
  "SUSPENSION_EVENT_REQ",
  "SUSPENSION_EVENT_ACK",
  "SUSPENSION_EVENT_RESUME",
  "SUSPENSION_EVENT_UP",
  "MIGRATION_INACTIVE",
  "MIGRATION_REQUESTED",
  "MIGRATION_PREPARING",
  "MIGRATION_ALLOWED",
  "MIGRATION_FINISHED",
  "MIGRATION_RESUMING",
  "MIGRATION_EVENT_REQUEST",
  "MIGRATION_EVENT_PREPARE",
  "MIGRATION_EVENT_ALLOW",
  "MIGRATION_EVENT_FAIL",
  "MIGRATION_EVENT_RESUME",
  "MIGRATION_EVENT_ATTACHED",
  "MIGRATION_EVENT_BACK",
  "ATTACH_OK",
  "ATTACH_OFFER",
  "ATTACH_NONCE",
  "ATTACH_SHAPE"
];
var NOTHING = 0;
var BROKEN = -1;
var compiled;
var layout;
function readLayout(exports) {
  const values = {};
  for (const name of NAMES) {
    const constant = exports[name];
    if (!(constant instanceof wasm.Global)) throw new Error(`the core exports no constant ${name}`);
    values[name] = constant.value >>> 0;
  }
  return Object.freeze(values);
}
var Core = class {
  memory;
  /** All of the memory. Region bytes are only ever copied out of it: they change under one's hands. */
  bytes;
  words;
  view;
  call;
  layout;
  /** Bytes of the window. */
  size;
  /** Where the memory is shared. */
  sleeper;
  /**
   * @param size bytes of the window, a multiple of 1 MiB, at most `regionMax()`
   * @throws ERR_ISTHMUS_SYSCALL if there is no address space for it
   */
  constructor(size2) {
    const layout2 = coreLayout();
    const pages = (layout2.WINDOW + size2) / 65536;
    try {
      this.memory = new wasm.Memory({ initial: pages, maximum: pages });
    } catch (cause) {
      throw new IsthmusError(
        "ERR_ISTHMUS_SYSCALL",
        `no address space for a window of ${size2} bytes (look at 'ulimit -v' and vm.overcommit_memory)`,
        { cause, syscall: "mmap", needed: size2 }
      );
    }
    this.layout = layout2;
    this.size = size2;
    this.bytes = new Uint8Array(this.memory.buffer);
    this.words = new Uint32Array(this.memory.buffer);
    this.view = new DataView(this.memory.buffer);
    this.call = instantiate(compile(), this.memory);
    if (!this.call.fits()) throw new Error("the statics of the core reach into its private part");
  }
  /** Frames of 4 KiB that could be taken now. */
  freeFrames() {
    this.call.collect();
    return this.call.freeFrames();
  }
  /** A counter of a connection. Exact up to 2^53. */
  count(index, counter) {
    const at = this.call.entry(index) + counter;
    return this.view.getUint32(at, true) + this.view.getUint32(at + 4, true) * 2 ** 32;
  }
  /** Text of a fixed field, up to its first NUL. Copied before it is decoded. */
  text(offset, length) {
    const copy = this.bytes.slice(offset, offset + length);
    const end2 = copy.indexOf(0);
    return new TextDecoder().decode(end2 < 0 ? copy : copy.subarray(0, end2));
  }
  setText(offset, length, text2) {
    const field = new Uint8Array(length);
    new TextEncoder().encodeInto(text2, field.subarray(0, length - 1));
    this.bytes.set(field, offset);
  }
};
function instantiate(module, memory) {
  const abort = (_message, _file, line, column) => {
    throw new Error(`the core aborted at ${line}:${column}`);
  };
  return new wasm.Instance(module, { env: { memory, abort } }).exports;
}
function compile() {
  compiled ??= new wasm.Module(core_release_default);
  return compiled;
}
var pure;
function pureCore() {
  pure ??= instantiate(compile(), new wasm.Memory({ initial: 1 }));
  return pure;
}
function coreLayout() {
  layout ??= readLayout(pureCore());
  return layout;
}
function machines() {
  return pureCore();
}

// host/carrier.ts
var Carrier = class {
  link;
  core;
  index;
  polled;
  call;
  bytes;
  words;
  // Places in `words` of what peek and claim tell.
  type;
  xlength;
  dlength;
  length;
  flags;
  /** Flags of a message in one record. */
  whole;
  #asleep;
  constructor(link) {
    const { core } = link;
    const { layout: layout2 } = core;
    this.link = link;
    this.core = core;
    this.index = link.index;
    this.polled = link.polled;
    this.call = core.call;
    this.bytes = core.bytes;
    this.words = core.words;
    this.type = layout2.RESULT_TYPE >> 2;
    this.xlength = layout2.RESULT_XLENGTH >> 2;
    this.dlength = layout2.RESULT_DLENGTH >> 2;
    this.length = layout2.RESULT_LENGTH >> 2;
    this.flags = layout2.RESULT_FLAGS >> 2;
    this.#asleep = layout2.COMMIT_ASLEEP;
    this.whole = layout2.FLAG_FIRST | layout2.FLAG_LAST;
  }
  /** Whether the link took the transmit ring away because the other side is gone: `ended` is on its way. */
  get cutOff() {
    return this.failure === this.core.layout.FAILURE_LOST;
  }
  /** Why the core says that the connection is broken: one of FAILURE_…. */
  get failure() {
    const { C_FAILURE } = this.core.layout;
    return this.words[this.call.entry(this.index) + C_FAILURE >> 2];
  }
  /** Publish what was claimed. */
  commit() {
    if (this.call.commit(this.index) === this.#asleep) this.link.ring?.();
  }
  /** The end of our direction. @returns false: there is no room for it */
  sendEof() {
    const told = this.call.sendEof(this.index);
    if (told === NOTHING) return false;
    if (told === this.#asleep + 1) this.link.ring?.();
    return true;
  }
  /** A record was committed. */
  committed() {
    if (!this.polled) this.link.committed();
  }
  /** Step over the record that was peeked. */
  release() {
    this.call.release(this.index);
    if (!this.polled) this.link.released();
  }
};
var BY_HAND = 24;
function copyIn(memory, bytes, offset) {
  const length = bytes.length;
  if (length > BY_HAND) memory.set(bytes, offset);
  else for (let i = 0; i < length; i++) memory[offset + i] = bytes[i];
}
function copyOut(memory, offset, length, target) {
  if (length > BY_HAND) target.set(memory.subarray(offset, offset + length));
  else for (let i = 0; i < length; i++) target[i] = memory[offset + i];
}

// host/message.ts
var NO_BYTES = new Uint8Array(0);
var Message = class {
  data;
  /** The user's header beside the data, at most 65,535 bytes; empty if there was none. */
  xheader;
  constructor(data, xheader = NO_BYTES) {
    this.data = data;
    this.xheader = xheader;
  }
  /** The data as UTF-8. */
  text() {
    return new TextDecoder().decode(this.data);
  }
};
var BorrowedMessage = class {
  #data;
  #xheader;
  #release;
  /** Whether the bytes lie in the region; a message that came in fragments has been put together in a copy. */
  inPlace;
  /** Made by `connection.borrow()`. */
  constructor(data, xheader, release) {
    this.#data = data;
    this.#xheader = xheader;
    this.#release = release;
    this.inPlace = release !== void 0;
  }
  /** @throws ERR_ISTHMUS_RELEASED */
  get data() {
    if (!this.#data) throw new IsthmusError("ERR_ISTHMUS_RELEASED", "this message was released");
    return this.#data;
  }
  /** @throws ERR_ISTHMUS_RELEASED */
  get xheader() {
    if (!this.#data) throw new IsthmusError("ERR_ISTHMUS_RELEASED", "this message was released");
    return this.#xheader;
  }
  /** Give the room back. Idempotent. */
  release() {
    if (!this.#data) return;
    this.#data = void 0;
    this.#xheader = NO_BYTES;
    this.#release?.();
    this.#release = void 0;
  }
  [Symbol.dispose]() {
    this.release();
  }
};

// host/borrowing.ts
var Borrowing = class {
  #carrier;
  /** In the order of the ring: where each record begins, and whether it is still out. */
  #records = [];
  #gone = false;
  /** Called when the last one comes back behind `leave`. */
  #left;
  constructor(carrier) {
    this.#carrier = carrier;
  }
  /** Step over the record that was peeked, and keep its bytes. */
  lend(offset, xlength, dlength) {
    const { call, index, bytes } = this.#carrier;
    const record = { from: call.position(index), out: true };
    call.hold(index);
    call.release(index);
    this.#records.push(record);
    const data = offset + xlength;
    return new BorrowedMessage(
      bytes.subarray(data, data + dlength),
      bytes.subarray(offset, data),
      () => this.#giveBack(record)
    );
  }
  #giveBack(record) {
    record.out = false;
    const records = this.#records;
    const { call, index, polled, link } = this.#carrier;
    while (records.length > 0 && !records[0]?.out) {
      records.shift();
      if (!this.#gone) call.publish(index, records[0]?.from ?? call.position(index));
    }
    if (this.#gone) return;
    if (!this.#left) {
      if (!polled) link.released();
    } else if (records.length === 0) {
      this.#left();
    }
  }
  /** The connection has no use for the ring any more: call `left` as soon as nothing of it is borrowed. */
  leave(left3) {
    if (this.#records.length === 0) left3();
    else this.#left = left3;
  }
  /**
   * The memory under the ring is going away while messages are borrowed.
   * @returns the place in it that must keep its bytes, if there is one
   */
  abandon(memory) {
    const { call, index, core } = this.#carrier;
    if (core !== memory || this.#gone || this.#records.length === 0) return void 0;
    this.#gone = true;
    return { offset: call.ringAddress(index), length: core.layout.FRAME + call.ringCapacity(index) };
  }
};

// host/matching.ts
var last = 0;
var Receiver = class {
  /** Its place among all receivers of this process. */
  order = ++last;
  /** What it takes; undefined: everything. */
  match;
  /** Wants the message where it lies. */
  borrows = false;
  /** Where the data is to go; undefined: memory of its own. */
  target;
  /** Bytes of data that are kept at most. */
  maxLength = Number.POSITIVE_INFINITY;
  constructor(match, target) {
    this.match = match;
    this.target = target;
  }
  /** Whether the data of a message in fragments is put where it belongs as it comes. */
  get inPlace() {
    return this.target !== void 0 || this.maxLength !== Number.POSITIVE_INFINITY;
  }
  /** A message is being put into its target: from here on it cannot be taken back. */
  begin() {
  }
  /** As {@link complete}, for one that borrows. */
  lend(_connection, _message) {
  }
};
var Matching = class {
  #any = [];
  #probers = [];
  /** Whether somebody waits for a message of any connection. */
  get waiting() {
    return this.#any.length > 0;
  }
  /** Whether somebody wants to see further messages of this connection. */
  probes(connection) {
    return this.#probers.some((prober) => prober.connection === void 0 || prober.connection === connection);
  }
  add(receiver) {
    this.#any.push(receiver);
  }
  /** @returns whether it still waited */
  remove(receiver) {
    return removeFrom(this.#any, receiver);
  }
  /**
   * The first receiver that takes a message.
   * @param own those that wait at the connection
   * @param xheader makes a copy; called only when somebody wants to look
   */
  find(own2, connection, xheader, length) {
    const any = this.#any;
    let envelope;
    for (let i = 0, j = 0; i < own2.length || j < any.length; ) {
      const mine = own2[i];
      const anybody = any[j];
      const isMine = mine !== void 0 && (anybody === void 0 || mine.order < anybody.order);
      const receiver = isMine ? mine : anybody;
      if (!receiver.match) return receiver;
      envelope ??= { connection, xheader: xheader(), length };
      try {
        if (receiver.match(envelope) === true) return receiver;
      } catch (error) {
        if (this.leave(own2, receiver)) receiver.reject(error);
      }
      if (isMine) i += Number(own2[i] === receiver);
      else j += Number(any[j] === receiver);
    }
    return void 0;
  }
  /** It waits no longer. @returns whether it did */
  leave(own2, receiver) {
    return removeFrom(own2, receiver) || removeFrom(this.#any, receiver);
  }
  /** {@link find}; it waits no longer. */
  take(own2, connection, xheader, length) {
    const receiver = this.find(own2, connection, xheader, length);
    if (receiver) this.leave(own2, receiver);
    return receiver;
  }
  addProber(prober) {
    this.#probers.push(prober);
  }
  /** @returns whether it still waited */
  removeProber(prober) {
    return removeFrom(this.#probers, prober);
  }
  /** A message is there that nobody takes: tell those who asked. */
  announce(envelope) {
    for (const prober of [...this.#probers]) {
      if (prober.connection !== void 0 && prober.connection !== envelope.connection) continue;
      try {
        if (prober.match && prober.match(envelope) !== true) continue;
      } catch (error) {
        if (removeFrom(this.#probers, prober)) prober.reject(error);
        continue;
      }
      if (removeFrom(this.#probers, prober)) prober.found(envelope);
    }
  }
  /** A connection has ended: nothing more comes from it. */
  endProbes(connection, error) {
    for (const prober of this.#probers.filter((one) => one.connection === connection)) {
      if (removeFrom(this.#probers, prober)) prober.reject(error);
    }
  }
  /** The endpoint is closed. */
  rejectAll(error) {
    for (const receiver of this.#any.splice(0)) receiver.reject(error);
    for (const prober of this.#probers.splice(0)) prober.reject(error);
  }
};
function removeFrom(list, item) {
  const place = list.indexOf(item);
  if (place >= 0) list.splice(place, 1);
  return place >= 0;
}

// host/queue.ts
var Queue = class {
  #items = [];
  #first = 0;
  get length() {
    return this.#items.length - this.#first;
  }
  push(item) {
    this.#items.push(item);
  }
  /** The oldest, or so many behind it; it stays. */
  peek(behind = 0) {
    return this.#items[this.#first + behind];
  }
  /** Put another in the place of the oldest. */
  replace(item) {
    this.#items[this.#first] = item;
  }
  shift() {
    if (this.#first === this.#items.length) return void 0;
    const item = this.#items[this.#first];
    this.#items[this.#first++] = void 0;
    if (this.#first === this.#items.length) this.clear();
    else if (this.#first >= 1024 && this.#first * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
    return item;
  }
  /** Take one out of the middle. @returns whether it was there */
  remove(item) {
    if (this.peek() === item) {
      this.shift();
      return true;
    }
    const place = this.#items.indexOf(item, this.#first);
    if (place < 0) return false;
    this.#items.splice(place, 1);
    return true;
  }
  clear() {
    this.#items = [];
    this.#first = 0;
  }
  *[Symbol.iterator]() {
    for (let i = this.#first; i < this.#items.length; i++) yield this.#items[i];
  }
};
var COARSE = 10;
var AgedQueue = class extends Queue {
  /** Since when which item is there: the number of items that came before it. */
  #marks = new Queue();
  #last = Number.NEGATIVE_INFINITY;
  #came = 0;
  #left = 0;
  #ticked = true;
  /** Time may have passed since the last `push`. */
  tick() {
    this.#ticked = true;
  }
  push(item) {
    if (this.#ticked || this.length === 0) {
      this.#ticked = false;
      const now = performance.now();
      if (this.length === 0) {
        this.#left = this.#came;
        this.#marks.clear();
      }
      if (this.length === 0 || now - this.#last >= COARSE) {
        this.#last = now;
        this.#marks.push({ before: this.#came, at: now });
      }
    }
    this.#came++;
    super.push(item);
  }
  shift() {
    if (this.length === 0) return void 0;
    this.#left++;
    this.#forget();
    return super.shift();
  }
  clear() {
    super.clear();
    this.#left = this.#came;
    this.#marks.clear();
  }
  /** The oldest mark is that of the oldest item, or of one that came with it. */
  #forget() {
    for (; ; ) {
      const next = this.#marks.peek(1);
      if (!next || next.before > this.#left) break;
      this.#marks.shift();
    }
    if (this.#left === this.#came) this.#marks.clear();
  }
  /** Milliseconds since the oldest item came; 0: there is none. */
  age(now = performance.now()) {
    const mark = this.#marks.peek();
    return mark ? Math.max(0, now - mark.at) : 0;
  }
};

// host/inbound.ts
var FIRST_CHUNK = 1 << 20;
var FRAGMENT_ROUNDS = 2e4;
var OVERHEAD = 64;
function costOf(unread) {
  return (unread instanceof Message ? unread.data.length : 0) + unread.xheader.length + OVERHEAD;
}
var Waiting = class extends Receiver {
  borrows;
  #resolve;
  #reject;
  constructor(borrows, resolve, reject) {
    super();
    this.borrows = borrows;
    this.#resolve = resolve;
    this.#reject = reject;
  }
  complete(_connection, message2) {
    this.#resolve(this.borrows ? new BorrowedMessage(message2.data, message2.xheader, void 0) : message2);
  }
  lend(_connection, message2) {
    this.#resolve(message2);
  }
  end() {
    this.#resolve(void 0);
  }
  reject(error) {
    this.#reject(error);
  }
};
var Inbound = class {
  #owner;
  #matching;
  #unread = new AgedQueue();
  #unreadBytes = 0;
  /** Those who wait for a message of this connection. */
  #receivers = [];
  #fetches = /* @__PURE__ */ new Map();
  #on;
  #borrowing;
  #partial;
  /** Nobody reads any more: messages are dropped, the rest of the protocol goes on. */
  #discarding = false;
  /** The other side is gone: what is in the ring is all there will be. */
  #draining = false;
  /** No message will come: EOF was received, or the link has ended and its ring is empty. */
  #ended = false;
  #polling = false;
  /** A handler has a record that still lies in the ring. */
  #lent = false;
  /** Where the fragments of a message that begins now may be put together, instead of in memory of its own. */
  #intoTarget;
  constructor(owner) {
    this.#owner = owner;
    this.#matching = owner.matching;
  }
  attach(carrier) {
    this.#on = carrier;
    this.#borrowing = new Borrowing(carrier);
    this.#ended = false;
    this.#draining = false;
  }
  /** Take everything out of the ring; a message that has begun will come again from its beginning. */
  drainAndForget() {
    this.drain();
    const receiver = this.#partial?.receiver;
    this.#partial = void 0;
    if (receiver) this.#receivers.unshift(receiver);
  }
  /** Whether the last record was that of a message which goes on. */
  get inMessage() {
    return this.#partial !== void 0;
  }
  /** @returns what is still borrowed from the ring */
  detach() {
    this.#on = void 0;
    const borrowing = this.#borrowing;
    this.#borrowing = void 0;
    return borrowing;
  }
  get ended() {
    return this.#ended;
  }
  get unreadMessages() {
    return this.#unread.length;
  }
  get unreadBytes() {
    return this.#unreadBytes;
  }
  /** Age of the oldest unread message. */
  get oldestUnreadMs() {
    return Math.round(this.#unread.age());
  }
  /** Whether somebody waits who may take the next message. */
  get #awaited() {
    return this.#receivers.length > 0 || this.#matching.waiting;
  }
  /** Whether what comes is read. */
  get #reads() {
    const owner = this.#owner;
    return this.#unreadBytes + owner.heldBytes < owner.unreadLimit || this.#discarding || this.#draining || this.#awaited || owner.greedy || this.#matching.probes(owner.connection);
  }
  // ─── for the application ───────────────────────────────────────────────────────────────────────────────────────────
  async receive(signal) {
    const unread = this.#shift() ?? (this.#awaited ? void 0 : this.#take(0, true));
    if (unread) return unread instanceof Message ? unread : this.#fetch(unread);
    if (this.#ended) return this.#owner.endOfInput();
    return this.#wait(false, signal);
  }
  async borrow(signal) {
    if (this.#unread.length === 0 && !this.#awaited) {
      const message2 = this.#borrowNext();
      if (message2) return message2;
    }
    const unread = this.#shift() ?? (this.#awaited ? void 0 : this.#take(0, true));
    if (unread) {
      const { data, xheader } = unread instanceof Message ? unread : await this.#fetch(unread);
      return new BorrowedMessage(data, xheader, void 0);
    }
    if (this.#ended) return this.#owner.endOfInput();
    return this.#wait(true, signal);
  }
  #wait(borrows, signal) {
    return new Promise((resolve, reject) => {
      const settle2 = () => signal?.removeEventListener("abort", abort);
      const waiting = new Waiting(
        borrows,
        (message2) => {
          settle2();
          resolve(message2);
        },
        (error) => {
          settle2();
          reject(error);
        }
      );
      const abort = () => {
        if (removeFrom(this.#receivers, waiting)) reject(signal?.reason);
      };
      signal?.addEventListener("abort", abort, { once: true });
      this.#receivers.push(waiting);
      this.#owner.wake();
    });
  }
  tryReceiveInto(target, info) {
    const on = this.#on;
    if (on && this.#unread.length === 0 && this.#partial === void 0 && !this.#awaited && !this.#lent) {
      this.#owner.polls();
      const offset = on.call.peek(on.index);
      if (offset > 0) {
        const { words } = on;
        if (words[on.flags] === on.whole && words[on.type] === 0) {
          const dlength = words[on.dlength];
          const xlength = words[on.xlength];
          if (dlength > target.length) throw tooSmall(dlength, target.length);
          if (info) {
            info.xheaderLength = xlength;
            if (xlength > 0 && info.xheader && info.xheader.length >= xlength) {
              copyOut(on.bytes, offset, xlength, info.xheader);
            }
          }
          copyOut(on.bytes, offset + xlength, dlength, target);
          on.release();
          return dlength;
        }
      } else if (offset === NOTHING && !this.#ended) {
        this.#owner.pump();
        return -1;
      }
    }
    return this.#receiveIntoSlowly(target, info);
  }
  /** From the queue, in fragments, or nothing because of an end. */
  #receiveIntoSlowly(target, info) {
    if (this.#awaited) this.progress();
    const first = this.#unread.peek();
    const queued = first !== void 0;
    let message2;
    if (first && !(first instanceof Message) && first.here && first.length <= target.length) {
      this.#shift();
      return give(first.fetch(target), first.xheader, target, info);
    }
    if (queued) {
      message2 = this.#head();
      if (!message2) return -1;
    } else {
      if (this.#on && !this.#awaited) {
        this.#intoTarget = target;
        const unread = this.#take(FRAGMENT_ROUNDS, true);
        this.#intoTarget = void 0;
        if (unread instanceof Message) message2 = unread;
        else if (unread) {
          this.#push(unread);
          return this.#receiveIntoSlowly(target, info);
        }
      }
      if (!message2) {
        if (!this.#ended) return -1;
        this.#owner.endOfInput();
        throw new IsthmusError("ERR_ISTHMUS_CLOSED", "the peer has closed the connection");
      }
    }
    const { data, xheader } = message2;
    if (data.length > target.length) {
      if (!queued) this.#push(message2);
      throw tooSmall(data.length, target.length);
    }
    if (queued) this.#shift();
    return give(data, xheader, target, info);
  }
  poll(handler, limit) {
    if (this.#polling) throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "poll() within its own handler");
    let count2 = 0;
    this.#polling = true;
    try {
      while (count2 < limit) {
        if (this.#awaited) this.progress();
        const on = this.#on;
        if (on && this.#unread.length === 0 && this.#partial === void 0 && !this.#awaited) {
          this.#owner.polls();
          const offset = on.call.peek(on.index);
          const { words } = on;
          if (offset > 0 && words[on.flags] === on.whole && words[on.type] === 0) {
            const xlength = words[on.xlength];
            count2++;
            this.#lent = true;
            try {
              handler(on.bytes, offset + xlength, words[on.dlength]);
            } finally {
              this.#lent = false;
              if (this.#on === on) on.release();
              if (this.#receivers.length > 0) this.#owner.wake();
            }
            continue;
          }
          if (offset === NOTHING && !this.#ended) {
            this.#owner.pump();
            break;
          }
        }
        const message2 = this.#unread.length > 0 ? this.#head() : this.#takeMessage();
        if (!message2) {
          if (this.#unread.length === 0 && this.#ended && count2 === 0) {
            this.#owner.endOfInput();
            throw new IsthmusError("ERR_ISTHMUS_CLOSED", "the peer has closed the connection");
          }
          break;
        }
        if (this.#unread.peek() === message2) this.#shift();
        count2++;
        handler(message2.data, 0, message2.data.length);
      }
    } finally {
      this.#polling = false;
    }
    return count2;
  }
  /** The next message that nobody waits for, out of the ring; what was only announced stays in the queue. */
  #takeMessage() {
    if (this.#awaited) return void 0;
    const unread = this.#take(0, true);
    if (unread === void 0 || unread instanceof Message) return unread;
    this.#push(unread);
    return this.#head();
  }
  #borrowNext() {
    const on = this.#on;
    if (!on?.polled || this.#partial !== void 0 || this.#lent) return void 0;
    const offset = on.call.peek(on.index);
    const { words } = on;
    if (offset <= 0 || words[on.flags] !== on.whole || words[on.type] !== 0) return void 0;
    return this.#borrowing?.lend(offset, words[on.xlength], words[on.dlength]);
  }
  // ─── posted receives ───────────────────────────────────────────────────────────────────────────────────────────────
  /** Whether something waits unread that a receive takes; if so, the receive has it, and waits no longer. */
  offer(receiver) {
    const found = this.find(receiver.match);
    if (!found) return false;
    this.#unread.remove(found);
    this.#took(found);
    this.#deliver(receiver, found);
    return true;
  }
  /** The first unread message that a match function takes. @throws what the function throws */
  find(match) {
    if (!match) return this.#unread.peek();
    for (const unread of this.#unread) if (match(this.envelope(unread))) return unread;
    return void 0;
  }
  envelope(unread) {
    const length = unread instanceof Message ? unread.data.length : unread.length;
    return { connection: this.#owner.connection, xheader: unread.xheader, length };
  }
  /** Wait for a message of this connection. */
  post(receiver) {
    this.#receivers.push(receiver);
  }
  /** @returns whether it still waited */
  withdraw(receiver) {
    return removeFrom(this.#receivers, receiver);
  }
  #deliver(receiver, unread) {
    const { connection } = this.#owner;
    const { xheader } = unread;
    if (unread instanceof Message) {
      const { data } = unread;
      receiver.complete(connection, new Message(keep(receiver, data), xheader), data.length);
      return;
    }
    const { length } = unread;
    receiver.begin();
    const room = Math.min(receiver.maxLength, receiver.target?.length ?? length, length);
    const target = receiver.target?.subarray(0, room) ?? (room < length ? new Uint8Array(room) : void 0);
    const done = (data) => receiver.complete(connection, new Message(data, xheader), length);
    try {
      const data = unread.fetch(target);
      if (data instanceof Uint8Array) done(data);
      else data.then(done, (error) => receiver.reject(error));
    } catch (error) {
      receiver.reject(error);
    }
  }
  // ─── unread messages ───────────────────────────────────────────────────────────────────────────────────────────────
  #push(unread) {
    this.#unread.push(unread);
    this.#unreadBytes += costOf(unread);
  }
  #shift() {
    const unread = this.#unread.shift();
    if (unread) this.#took(unread);
    return unread;
  }
  #took(unread) {
    this.#unreadBytes -= costOf(unread);
    if (this.#unread.length === 0) this.#owner.wake();
  }
  /** The oldest unread message with its data; undefined while that is fetched. */
  #head() {
    const head = this.#unread.peek();
    if (head === void 0 || head instanceof Message) return head;
    if (this.#fetches.has(head)) return void 0;
    const replace = (message2) => {
      if (this.#unread.peek() !== head) return;
      this.#unread.replace(message2);
      this.#unreadBytes += costOf(message2) - costOf(head);
    };
    const data = head.fetch(void 0);
    if (data instanceof Uint8Array) {
      const message2 = new Message(data, head.xheader);
      replace(message2);
      return message2;
    }
    const fetch = data.then((bytes) => new Message(bytes, head.xheader));
    this.#fetches.set(head, fetch);
    const failed = (error) => {
      if (this.#unread.remove(head)) this.#took(head);
      this.#owner.fail(asError(error));
    };
    fetch.then(replace, failed).finally(() => this.#fetches.delete(head));
    return void 0;
  }
  async #fetch(announced) {
    return this.#fetches.get(announced) ?? new Message(await announced.fetch(void 0), announced.xheader);
  }
  /** Nobody reads any more. */
  discard() {
    this.#discarding = true;
    for (const unread of this.#unread) if (!(unread instanceof Message)) unread.drop();
    this.#unread.clear();
    this.#unreadBytes = 0;
    for (const receiver of this.#receivers.splice(0)) end(receiver, void 0);
    if (this.#partial && !this.#partial.receiver) this.#partial.room = 0;
  }
  /** The last message has come: tell those who wait for another. */
  dismiss() {
    for (const receiver of this.#receivers.splice(0)) {
      let error;
      try {
        if (this.#unread.length === 0) this.#owner.endOfInput();
      } catch (thrown) {
        error = thrown;
      }
      end(receiver, error);
    }
    const { connection } = this.#owner;
    this.#matching.endProbes(connection, new IsthmusError("ERR_ISTHMUS_CLOSED", "no further message will come"));
  }
  /**
   * Take everything out of the ring. That is bounded: who has closed writes no more.
   * @param lost who is lost to us may be paused only, and write on at this moment: he gets no more room
   */
  drain(lost = false) {
    const on = this.#on;
    if (lost && on?.polled) on.call.hold(on.index);
    this.#draining = true;
    this.progress();
  }
  /** The link has ended, and its ring with it. */
  cut(error) {
    this.#ended = true;
    const receiver = this.#partial?.receiver;
    this.#partial = void 0;
    receiver?.reject(error);
    this.evacuate();
  }
  /** The link goes: take what was announced to us out of its region. */
  evacuate() {
    const unread = [...this.#unread];
    if (!unread.some((one) => !(one instanceof Message) && one.here)) return;
    this.#unread.clear();
    this.#unreadBytes = 0;
    for (const one of unread) {
      const data = one instanceof Message || !one.here ? void 0 : one.fetch(void 0);
      this.#push(data instanceof Uint8Array ? new Message(data, one.xheader) : one);
    }
  }
  // ─── out of the ring ───────────────────────────────────────────────────────────────────────────────────────────────
  /** Take what has come, as far as it may be taken. */
  progress() {
    this.#unread.tick();
    while (this.#on && !this.#ended && this.#reads) {
      const unread = this.#take(0, false);
      if (!unread) break;
      this.#push(unread);
      this.#matching.announce(this.envelope(unread));
    }
  }
  /**
   * The next message that nobody waits for; what somebody waits for is given to him on the way.
   * @param rounds to look for the rest of a message
   * @param pull go on until there is one, whatever is unread
   */
  #take(rounds, pull) {
    if (this.#lent) return void 0;
    for (let on = this.#on; on; on = this.#on) {
      const offset = this.#partial ? on.call.peekSpin(on.index, rounds + 1) : on.call.peek(on.index);
      if (offset === NOTHING) {
        if (this.#partial) this.#keepPartial(this.#partial);
        return void 0;
      }
      if (offset === BROKEN) {
        this.#owner.broken();
        return void 0;
      }
      const { layout: layout2 } = on.core;
      const type = on.words[on.type];
      if (type === layout2.MESSAGE_EOF) {
        on.release();
        this.#ended = true;
        return void 0;
      }
      let unread;
      try {
        unread = this.#record(on, type, offset);
      } catch (error) {
        this.#owner.fail(asError(error));
        return void 0;
      }
      if (unread) return unread;
      if (!pull && !this.#partial && !this.#reads) return void 0;
    }
    return void 0;
  }
  /** One record. @returns a message that nobody waits for, if this was its last */
  #record(on, type, offset) {
    const { layout: layout2 } = on.core;
    const { words } = on;
    const flags = words[on.flags];
    const length = words[on.length];
    if ((flags & layout2.FLAG_FIRST) !== 0) {
      const xlength = words[on.xlength];
      const dlength = words[on.dlength];
      if (xlength + dlength > this.#owner.maxMessageSize) {
        throw new IsthmusError(
          "ERR_ISTHMUS_MESSAGE_TOO_LARGE",
          `the peer sends a message of ${dlength} bytes with an xheader of ${xlength}; the limit is ${this.#owner.maxMessageSize} for both`,
          { needed: dlength + xlength, available: this.#owner.maxMessageSize }
        );
      }
      if (flags === on.whole && type === layout2.MESSAGE_USER) return this.#whole(on, offset, xlength, dlength);
      this.#partial = {
        type,
        xheader: xlength === 0 ? NO_BYTES : new Uint8Array(xlength),
        data: NO_BYTES,
        length: dlength,
        room: dlength,
        have: 0,
        routed: false,
        receiver: void 0
      };
    }
    const partial = this.#partial;
    this.#append(on, partial, offset, length);
    if (this.#on !== on) return void 0;
    on.release();
    if ((flags & layout2.FLAG_LAST) === 0) return void 0;
    this.#partial = void 0;
    return this.#complete(on, partial);
  }
  /** A message of the application in one record: the common case. */
  #whole(on, offset, xlength, dlength) {
    const { bytes } = on;
    const at = offset + xlength;
    if (this.#discarding) {
      on.release();
      return void 0;
    }
    const xheader = () => xlength === 0 ? NO_BYTES : bytes.slice(offset, at);
    if (!this.#awaited) {
      const message3 = new Message(bytes.slice(at, at + dlength), xheader());
      on.release();
      return message3;
    }
    const { connection } = this.#owner;
    const receiver = this.#matching.take(this.#receivers, connection, xheader, dlength);
    if (this.#on !== on) {
      receiver?.reject(new IsthmusError("ERR_ISTHMUS_CLOSED", "the connection was closed by a match function"));
      return void 0;
    }
    if (receiver?.borrows && on.polled) {
      receiver.lend(connection, this.#borrowing.lend(offset, xlength, dlength));
      return void 0;
    }
    if (!receiver) {
      const message3 = new Message(bytes.slice(at, at + dlength), xheader());
      on.release();
      return message3;
    }
    const kept = Math.min(dlength, receiver.maxLength, receiver.target?.length ?? dlength);
    let data;
    if (receiver.target) {
      data = receiver.target.subarray(0, kept);
      copyOut(bytes, at, kept, data);
    } else {
      data = bytes.slice(at, at + kept);
    }
    const message2 = new Message(data, xheader());
    on.release();
    receiver.complete(connection, message2, dlength);
    return void 0;
  }
  #append(on, partial, offset, length) {
    const { xheader } = partial;
    let at = offset;
    const end2 = offset + length;
    if (partial.have < xheader.length) {
      const part = Math.min(length, xheader.length - partial.have);
      xheader.set(on.bytes.subarray(at, at + part), partial.have);
      partial.have += part;
      at += part;
    }
    if (partial.have >= xheader.length && !partial.routed) {
      partial.routed = true;
      this.#route(on, partial);
    }
    if (at === end2) return;
    const place = partial.have - xheader.length;
    partial.have += end2 - at;
    const kept = Math.min(end2 - at, partial.room - place);
    if (kept <= 0) return;
    const needed = place + kept;
    if (needed > partial.data.length) {
      const grown = Buffer.allocUnsafeSlow(Math.min(partial.room, Math.max(needed, partial.data.length * 2)));
      grown.set(partial.data.subarray(0, place));
      partial.data = grown;
    }
    partial.data.set(on.bytes.subarray(at, at + kept), place);
  }
  /** The xheader is here: decide where the data goes. */
  #route(on, partial) {
    const { length, xheader, type } = partial;
    let target;
    if (type !== on.core.layout.MESSAGE_USER) {
      target = this.#owner.sink(type, xheader, length);
    } else if (this.#discarding) {
      partial.room = 0;
      return;
    } else if (this.#awaited) {
      const receiver = this.#matching.find(this.#receivers, this.#owner.connection, () => xheader, length);
      if (receiver?.inPlace) {
        this.#matching.leave(this.#receivers, receiver);
        receiver.begin();
        partial.receiver = receiver;
        target = receiver.target;
        partial.room = Math.min(length, receiver.maxLength, target?.length ?? length);
      }
    } else if (this.#intoTarget && this.#intoTarget.length >= length) {
      target = this.#intoTarget.subarray(0, length);
    }
    if (target) {
      partial.room = Math.min(partial.room, target.length);
      partial.data = target.subarray(0, partial.room);
    } else {
      partial.data = Buffer.allocUnsafeSlow(Math.min(partial.room, FIRST_CHUNK));
    }
  }
  /** The last fragment is here. */
  #complete(on, partial) {
    const { layout: layout2 } = on.core;
    const { type, xheader, length, receiver } = partial;
    const data = partial.data.length > partial.room ? partial.data.subarray(0, partial.room) : partial.data;
    const { connection } = this.#owner;
    if (receiver) {
      receiver.complete(connection, new Message(data, xheader), length);
      return void 0;
    }
    let unread;
    if (type === layout2.MESSAGE_USER) {
      unread = new Message(data, xheader);
    } else if (type === layout2.MESSAGE_RENDEZVOUS_REQ) {
      unread = this.#owner.announced(xheader, data);
    } else {
      this.#owner.control(type, xheader, data);
      return void 0;
    }
    if (this.#discarding) {
      if (!(unread instanceof Message)) unread.drop();
      return void 0;
    }
    if (!this.#awaited) return unread;
    const taker = this.#matching.take(this.#receivers, connection, () => xheader, this.envelope(unread).length);
    if (!taker) return unread;
    this.#deliver(taker, unread);
    return void 0;
  }
  /** A message that began in the caller's buffer goes on in one of our own: the next call may bring another. */
  #keepPartial(partial) {
    if (!this.#intoTarget || partial.data.buffer !== this.#intoTarget.buffer) return;
    const have = Math.max(0, partial.have - partial.xheader.length);
    const kept = Buffer.allocUnsafeSlow(Math.max(have, Math.min(partial.length, FIRST_CHUNK)));
    kept.set(partial.data.subarray(0, have));
    partial.data = kept;
  }
};
function keep({ target, maxLength }, data) {
  const kept = data.length > maxLength ? data.subarray(0, maxLength) : data;
  if (!target) return kept;
  const part = kept.length > target.length ? kept.subarray(0, target.length) : kept;
  target.set(part);
  return target.subarray(0, part.length);
}
function give(data, xheader, target, info) {
  if (data.buffer !== target.buffer || data.byteOffset !== target.byteOffset) target.set(data);
  if (info) {
    info.xheaderLength = xheader.length;
    if (info.xheader && info.xheader.length >= xheader.length) info.xheader.set(xheader);
  }
  return data.length;
}
function end(receiver, error) {
  if (error === void 0 && receiver instanceof Waiting) receiver.end();
  else receiver.reject(error ?? new IsthmusError("ERR_ISTHMUS_CLOSED", "the connection was closed"));
}
function tooSmall(needed, available) {
  return new IsthmusError(
    "ERR_ISTHMUS_BUFFER_TOO_SMALL",
    `the next message has ${needed} bytes, the target ${available}`,
    { needed, available }
  );
}
function asError(error) {
  if (error instanceof IsthmusError) return error;
  return new IsthmusError("ERR_ISTHMUS_PEER_PROTOCOL", String(error), { cause: error });
}

// host/outbound.ts
var FRAGMENT_ROUNDS2 = 2e4;
var Outbound = class {
  #owner;
  #queue = [];
  #on;
  /** Behind it nothing goes over this link. */
  #last;
  constructor(owner) {
    this.#owner = owner;
  }
  attach(carrier) {
    this.#on = carrier;
    if (this.#queue.length > 0) this.#wantRoom(true);
  }
  detach() {
    this.#on = void 0;
    this.#last = void 0;
  }
  /** Send an empty message in front of all that waits: the first of a link, for which there is room. */
  first(type) {
    const on = this.#on;
    if (this.#begin(type, NO_BYTES, NO_BYTES, 0) < 0) throw this.#owner.broken();
    on.committed();
  }
  /** Send this behind the message under way, and nothing after it: what waits and what comes waits for the next link. */
  last(type, data, sent) {
    const begun = (this.#queue[0]?.sent ?? -1) >= 0 ? 1 : 0;
    const entry = { type, xheader: NO_BYTES, data, sent: -1, resolve: sent, reject: void 0 };
    this.#last = entry;
    this.#queue.splice(begun, 0, entry);
    this.#wantRoom(true);
    this.pump();
  }
  /**
   * The last word has found no room. Give it up, and what has begun: that goes anew over the next link.
   * @returns false: it is in the ring
   */
  giveUpLast() {
    const last2 = this.#last;
    if (!last2 || !removeFrom(this.#queue, last2)) return false;
    this.#last = void 0;
    this.#wantRoom(false);
    this.#on = void 0;
    const begun = this.#queue[0];
    if (begun) begun.sent = -1;
    return true;
  }
  /** The memory of the link is going: what waits to be sent must not lie in it. */
  evacuate(memory) {
    for (const entry of this.#queue) if (entry.data.buffer === memory) entry.data = new Uint8Array(entry.data);
  }
  /** Messages that wait, the one under way included. */
  get waiting() {
    return this.#queue.length;
  }
  /**
   * Put a message into the ring, as far as there is room.
   * @returns bytes of its body that are in; -1: none, because others wait, or the ring is full, or there is no link
   */
  begin(type, xheader, data) {
    if (this.#queue.length !== 0 || !this.#on) return -1;
    const sent = this.#begin(type, xheader, data, 0);
    if (sent >= 0) this.#on.committed();
    return sent;
  }
  /** What {@link begin} left over waits; it is taken when all of it is in the ring. */
  queue(type, xheader, data, sent, resolve, reject) {
    const entry = { type, xheader, data, sent, resolve, reject };
    this.#queue.push(entry);
    this.#wantRoom(true);
    return entry;
  }
  /** {@link queue} as a promise. What has started is not given up by `signal`: the ring holds a part of it. */
  wait(type, xheader, data, sent, signal) {
    return new Promise((resolve, reject) => {
      const settle2 = () => signal?.removeEventListener("abort", abort);
      const entry = this.queue(
        type,
        xheader,
        data,
        sent,
        () => {
          settle2();
          resolve();
        },
        (error) => {
          settle2();
          reject(error);
        }
      );
      const abort = () => {
        if (this.cancel(entry)) reject(signal?.reason);
      };
      signal?.addEventListener("abort", abort, { once: true });
    });
  }
  /** Send what finds room now. @returns false: not taken, and nothing changed */
  trySend(type, xheader, data) {
    if (this.#queue.length !== 0) {
      this.pump();
      if (this.#queue.length !== 0) return false;
    }
    const on = this.#on;
    if (!on) {
      this.#owner.stuck();
      return false;
    }
    const done = this.#begin(type, xheader, data, FRAGMENT_ROUNDS2);
    if (done < 0) return false;
    if (done < data.length + xheader.length) {
      const [header, rest] = [new Uint8Array(xheader), new Uint8Array(data)];
      this.#queue.push({ type, xheader: header, data: rest, sent: done, resolve: void 0, reject: void 0 });
      this.#wantRoom(true);
    }
    on.committed();
    return true;
  }
  /** Withdraw a message. @returns false if it has started, or is not here any more */
  cancel(entry) {
    if (entry.sent >= 0 || !removeFrom(this.#queue, entry)) return false;
    if (this.#queue.length === 0) {
      this.#wantRoom(false);
      this.#owner.drained();
    }
    return true;
  }
  /** Go on with the messages that wait. @returns whether anything moved */
  pump() {
    const on = this.#on;
    if (!on) return false;
    let moved = false;
    while (this.#queue.length > 0) {
      const entry = this.#queue[0];
      const before = entry.sent;
      try {
        entry.sent = before < 0 ? this.#begin(entry.type, entry.xheader, entry.data, 0) : this.#more(entry.xheader, entry.data, before, 0);
      } catch {
        return true;
      }
      if (entry.sent !== before) moved = true;
      if (entry.sent < entry.data.length + entry.xheader.length) break;
      this.#queue.shift();
      if (entry === this.#last) {
        this.#wantRoom(false);
        on.committed();
        this.#last = void 0;
        this.#on = void 0;
        entry.resolve?.();
        return true;
      }
      entry.resolve?.();
    }
    if (moved) on.committed();
    if (this.#queue.length === 0) {
      if (moved) this.#wantRoom(false);
      moved = this.#owner.drained() || moved;
    }
    return moved;
  }
  /** Bytes in the ring that the peer has not consumed. @throws what the core found */
  unread() {
    const on = this.#on;
    if (!on) return 0;
    const unread = on.call.unread(on.index);
    if (unread === BROKEN) throw this.#owner.broken();
    return unread;
  }
  /** The end of this direction. @returns whether there was room for it */
  sendEof() {
    const on = this.#on;
    if (!on) return false;
    const sent = on.sendEof();
    this.#wantRoom(!sent);
    if (!sent) return false;
    on.committed();
    return true;
  }
  rejectAll(error) {
    for (const entry of this.#queue.splice(0)) entry.reject?.(error);
  }
  #wantRoom(wanted) {
    const on = this.#on;
    if (on?.polled) on.call.wantRoom(on.index, wanted ? 1 : 0);
    if (wanted) this.#owner.stuck();
  }
  /**
   * Put as much of a message into the ring as finds room.
   * @returns bytes of the body that are in, or -1 if not even the first record found room
   */
  #begin(type, xheader, data, rounds) {
    const on = this.#on;
    const offset = on.call.claim(on.index, type, xheader.length, data.length);
    if (offset === NOTHING || offset === BROKEN && on.cutOff) return -1;
    if (offset === BROKEN) throw this.#owner.broken();
    const here = on.words[on.length];
    if (here === data.length + xheader.length) {
      if (xheader.length !== 0) copyIn(on.bytes, xheader, offset);
      copyIn(on.bytes, data, offset + xheader.length);
      on.commit();
      return here;
    }
    copyBody(on.bytes, xheader, data, 0, here, offset);
    on.commit();
    return here < data.length + xheader.length ? this.#more(xheader, data, here, rounds) : here;
  }
  /** Further fragments, as far as there is room. */
  #more(xheader, data, from, rounds) {
    const on = this.#on;
    const total = data.length + xheader.length;
    let sent = from;
    while (sent < total) {
      on.committed();
      const offset = on.call.claimMoreSpin(on.index, on.polled ? rounds : 0);
      if (offset === NOTHING || offset === BROKEN && on.cutOff) break;
      if (offset === BROKEN) throw this.#owner.broken();
      const here = on.words[on.length];
      copyBody(on.bytes, xheader, data, sent, here, offset);
      on.commit();
      sent += here;
    }
    return sent;
  }
};
function copyBody(memory, xheader, data, from, length, offset) {
  let at = offset;
  let begin = from;
  const end2 = from + length;
  if (begin < xheader.length) {
    const part = xheader.subarray(begin, Math.min(end2, xheader.length));
    copyIn(memory, part, at);
    at += part.length;
    begin += part.length;
  }
  if (begin < end2) memory.set(data.subarray(begin - xheader.length, end2 - xheader.length), at);
}

// host/rma.ts
import { randomBytes } from "node:crypto";

// host/memory.ts
var SharedMemory = class {
  /** In bytes. */
  length;
  #place;
  /** @internal Called once, when it is given back. */
  onRelease;
  /** Those who were given a token. */
  #holders = /* @__PURE__ */ new Set();
  /** Made by `runtime.allocate()`. */
  constructor(length, place) {
    this.length = length;
    this.#place = place;
  }
  /** Whether it lies in a region. False: there was none with so much room, and peers have to ask for each byte. */
  get inRegion() {
    return this.#place !== void 0 && "region" in this.#place;
  }
  /** @internal @throws ERR_ISTHMUS_RELEASED */
  get place() {
    if (!this.#place) throw new IsthmusError("ERR_ISTHMUS_RELEASED", "this memory was released");
    return this.#place;
  }
  /** @internal The bytes themselves: for plain copies, never to be handed to anybody. */
  view(offset, length) {
    const { place } = this;
    if ("bytes" in place) return place.bytes.subarray(offset, offset + length);
    return place.region.core.bytes.subarray(place.address + offset, place.address + offset + length);
  }
  /**
   * Copy out.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT: beyond the end; ERR_ISTHMUS_RELEASED
   */
  read(offset, target) {
    this.#check(offset, target.length);
    target.set(this.view(offset, target.length));
  }
  /** Copy in. @throws as {@link read} */
  write(offset, source) {
    this.#check(offset, source.length);
    this.view(offset, source.length).set(source);
  }
  #check(offset, length) {
    if (Number.isSafeInteger(offset) && offset >= 0 && offset + length <= this.length) return;
    throw new IsthmusError(
      "ERR_ISTHMUS_INVALID_ARGUMENT",
      `${length} bytes at ${offset} are not within the ${this.length} bytes of this memory`
    );
  }
  /** @internal Be told of the end, and of a move out of the region. @returns how not to be */
  hold(holder) {
    this.#holders.add(holder);
    return () => this.#holders.delete(holder);
  }
  /** @internal The region is going away: the bytes stay, in memory of our own. */
  evacuate(region) {
    const place = this.#place;
    if (!place || !("region" in place) || place.region !== region) return;
    for (const holder of [...this.#holders]) holder.moved();
    const bytes = this.view(0, this.length).slice();
    giveBack(place.region, place.frame, this.length);
    this.#place = { bytes };
  }
  /** Withdraw all tokens and give the memory back. Idempotent. */
  release() {
    const place = this.#place;
    if (!place) return;
    for (const holder of [...this.#holders]) holder.ended();
    this.#holders.clear();
    this.#place = void 0;
    if ("region" in place) giveBack(place.region, place.frame, this.length);
    this.onRelease?.();
  }
  [Symbol.dispose]() {
    this.release();
  }
};
function takeRun(region, length) {
  const { call, layout: layout2 } = region.core;
  if (!region.usable || length === 0) return void 0;
  const frame = call.takeRun(length);
  return frame === 0 ? void 0 : { frame, address: (call.addressOf(frame) >>> 0) + layout2.FRAME };
}
function giveBack(region, frame, length) {
  const { call, layout: layout2 } = region.core;
  call.giveBack(frame, 1 + Math.ceil(length / layout2.FRAME), layout2.HALF_PRODUCER);
}

// host/rma.ts
var READ = 1;
var WRITE = 2;
var TOKEN_MAGIC = "RMA1";
var TOKEN_SIZE = 56;
var PIECE = 4 << 20;
var PIECES = 8;
var MAX_ANSWERS = PIECE * PIECES * 2;
var MAX_REQUEST = 4096;
var LINGER = 5e3;
var DENIED = 1;
var randomId = () => randomBytes(8).readBigUInt64LE();
var Rma = class {
  #owner;
  #exposed = /* @__PURE__ */ new Map();
  #withdrawals = /* @__PURE__ */ new Set();
  #reads = /* @__PURE__ */ new Map();
  #offers = /* @__PURE__ */ new Map();
  #answers = 0;
  /** A write of the peer was refused since the last answer. */
  #refused = false;
  #ended;
  constructor(owner) {
    this.#owner = owner;
  }
  /** Whether an answer of the peer is expected. */
  get expects() {
    return this.#reads.size > 0;
  }
  /** Whether the peer has to fetch something before we may go. What lies in a region it takes over by itself. */
  get offering() {
    for (const { run } of this.#offers.values()) if (!run) return true;
    return false;
  }
  // ─── exposing ──────────────────────────────────────────────────────────────────────────────────────────────────────
  expose(memory, { read: read2 = true, write = false }) {
    if (this.#ended) throw this.#ended;
    if (!(memory instanceof SharedMemory || memory instanceof Uint8Array)) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "expose wants a Uint8Array or what allocate() gave");
    }
    const rights = (read2 ? READ : 0) | (write ? WRITE : 0);
    const base = randomId();
    const { length } = memory;
    const view = memory instanceof SharedMemory ? (offset, count2) => memory.view(offset, count2) : (offset, count2) => memory.subarray(offset, offset + count2);
    this.#exposed.set(base, { base, length, rights, view, copy: true });
    let grant = memory instanceof SharedMemory ? this.#grant(memory, base, rights) : void 0;
    const token2 = encodeToken({ base, length, rights, grant, uuid: this.#owner.region?.uuid });
    const revoke = () => {
      grant?.core.call.revoke(grant.frame, grant.place);
      grant = void 0;
    };
    let forget;
    const withdraw = () => {
      if (!this.#exposed.delete(base)) return;
      this.#withdrawals.delete(withdraw);
      forget?.();
      revoke();
    };
    this.#withdrawals.add(withdraw);
    if (memory instanceof SharedMemory) forget = memory.hold({ moved: revoke, ended: withdraw });
    return {
      token: token2,
      withdraw,
      [Symbol.dispose]: withdraw
    };
  }
  /** Write the grant beside memory that lies in the region of this connection. */
  #grant(memory, base, rights) {
    const { place } = memory;
    if (!("region" in place) || place.region !== this.#owner.region) return void 0;
    const { core } = place.region;
    const number = core.call.grant(place.frame, low(base), high(base), 0, memory.length, rights);
    return number === 0 ? void 0 : { core, frame: place.frame, place: number - 1 };
  }
  /** What a number from the peer stands for. */
  #find(address, length, rights) {
    for (const exposed of this.#exposed.values()) {
      const offset = BigInt.asUintN(64, address - exposed.base);
      if (offset > BigInt(exposed.length) || BigInt(length) > BigInt(exposed.length) - offset) continue;
      if ((exposed.rights & rights) !== rights) continue;
      return { exposed, offset: Number(offset) };
    }
    return void 0;
  }
  // ─── using the peer's ──────────────────────────────────────────────────────────────────────────────────────────────
  token(bytes) {
    const { base, length, rights, uuid, frame, place, offset } = decodeToken(bytes);
    const { region } = this.#owner;
    const shared = region !== void 0 && uuid.some((byte) => byte !== 0) && region.uuid.equals(uuid);
    const locate = () => {
      const { carrier, region: now } = this.#owner;
      if (!carrier || now !== region) return void 0;
      return carrier.call.granted(carrier.index, frame, place, low(base), high(base), offset, length, rights) >>> 0;
    };
    const oneSided = () => shared && this.#owner.region === region && this.#owner.carrier !== void 0;
    const check2 = (count2, { offset: from = 0, signal }, right) => {
      signal?.throwIfAborted();
      if (!Number.isSafeInteger(from) || from < 0 || from + count2 > length) {
        throw denied(`${count2} bytes at ${from} of ${length}`);
      }
      if ((rights & right) === 0) throw denied(right === READ ? "it may not be read" : "it may not be written");
      if (this.#ended) throw this.#ended;
      return from;
    };
    const directly = (copy, from) => {
      const { carrier } = this.#owner;
      if (!oneSided() || !carrier) return false;
      const address = locate();
      if (address === void 0 || address === 0) return false;
      copy(carrier.bytes, address + from);
      return true;
    };
    return {
      length,
      readable: (rights & READ) !== 0,
      writable: (rights & WRITE) !== 0,
      get oneSided() {
        return oneSided();
      },
      read: async (target, options = {}) => {
        const from = check2(target.length, options, READ);
        const copied = directly((memory, at) => target.set(memory.subarray(at, at + target.length)), from);
        if (copied && locate() !== 0) return;
        if (copied) target.fill(0);
        return this.#read(base + BigInt(from), target, options.signal);
      },
      write: async (source, options = {}) => {
        const from = check2(source.length, options, WRITE);
        if (directly((memory, at) => memory.set(source, at), from)) return;
        return this.#write(base + BigInt(from), source, options.signal);
      }
    };
  }
  /** Ask for bytes, piece by piece. */
  async #read(address, target, signal) {
    let at = 0;
    do {
      signal?.throwIfAborted();
      const piece = target.subarray(at, Math.min(at + PIECE, target.length));
      await this.#ask(address + BigInt(at), piece, signal);
      at += piece.length;
    } while (at < target.length);
  }
  async #write(address, source, signal) {
    const { MESSAGE_RMA_WRITE } = coreLayout();
    for (let at = 0; at < source.length; at += PIECE) {
      signal?.throwIfAborted();
      const piece = source.subarray(at, Math.min(at + PIECE, source.length));
      const xheader = Buffer.alloc(8);
      xheader.writeBigUInt64LE(BigInt.asUintN(64, address + BigInt(at)));
      await this.#ask(
        address + BigInt(at),
        NO_BYTES,
        signal,
        () => this.#owner.sendControl(MESSAGE_RMA_WRITE, xheader, piece)
      );
    }
  }
  async #ask(address, target, signal, before) {
    if (this.#ended) throw this.#ended;
    while (this.#reads.size >= PIECES) {
      const [oldest] = this.#reads.values();
      await oldest?.over;
      if (this.#ended) throw this.#ended;
    }
    before?.();
    return this.#askNow(address, target, signal);
  }
  #askNow(address, target, signal) {
    const { MESSAGE_RMA_READ } = coreLayout();
    const id = randomId();
    const xheader = Buffer.alloc(20);
    xheader.writeBigUInt64LE(id, 0);
    xheader.writeBigUInt64LE(BigInt.asUintN(64, address), 8);
    xheader.writeUInt32LE(target.length, 16);
    return new Promise((resolve, reject) => {
      let over;
      const settle2 = () => {
        signal?.removeEventListener("abort", abort);
        over();
      };
      const read2 = {
        target,
        over: new Promise((done) => {
          over = done;
        }),
        resolve: () => {
          settle2();
          resolve();
        },
        reject: (error) => {
          settle2();
          reject(error);
        }
      };
      const abort = () => {
        read2.target = NO_BYTES;
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", abort, { once: true });
      this.#reads.set(id, read2);
      this.#owner.sendControl(MESSAGE_RMA_READ, xheader, NO_BYTES);
      this.#owner.wake();
    });
  }
  // ─── rendezvous ────────────────────────────────────────────────────────────────────────────────────────────────────
  /**
   * Announce a message instead of sending it.
   * @param keep the bytes stay as they are until `resolve`; otherwise they have to be copied into a region
   * @returns false: it cannot be, send it as it is
   */
  offer(xheader, data, keep2, resolve, reject) {
    const { carrier, region } = this.#owner;
    if (!carrier || this.#ended) return false;
    const id = randomId();
    const base = randomId();
    const request = Buffer.alloc(region ? 28 : 20);
    request.writeBigUInt64LE(id, 0);
    request.writeBigUInt64LE(base, 8);
    request.writeUInt32LE(data.length, 16);
    const { MESSAGE_RENDEZVOUS_REQ } = carrier.core.layout;
    const run = region && takeRun(region, data.length);
    if (region && run) {
      const { core } = region;
      const place = core.call.grant(run.frame, low(base), high(base), 0, data.length, READ) - 1;
      core.bytes.set(data, run.address);
      request.writeUInt32LE(run.frame, 20);
      request.writeUInt32LE(place, 24);
      const view2 = (offset, length) => core.bytes.subarray(run.address + offset, run.address + offset + length);
      const exposed2 = { base, length: data.length, rights: READ, view: view2, copy: false };
      this.#exposed.set(base, exposed2);
      const { frame } = run;
      this.#offers.set(id, { exposed: exposed2, run: { region, frame, length: data.length }, resolve: void 0, reject });
      this.#owner.sendControl(MESSAGE_RENDEZVOUS_REQ, xheader, request, resolve);
      return true;
    }
    if (region || !keep2) return false;
    const view = (offset, length) => data.subarray(offset, offset + length);
    const exposed = { base, length: data.length, rights: READ, view, copy: false };
    this.#exposed.set(base, exposed);
    this.#offers.set(id, { exposed, run: void 0, resolve, reject });
    this.#owner.sendControl(MESSAGE_RENDEZVOUS_REQ, xheader, request.subarray(0, 20));
    return true;
  }
  /** A RENDEZVOUS_REQ has come. */
  announced(xheader, data) {
    if (data.length < 20) throw protocol(`a RENDEZVOUS_REQ of ${data.length} bytes`);
    const request = Buffer.from(data);
    const id = request.readBigUInt64LE(0);
    const base = request.readBigUInt64LE(8);
    const length = request.readUInt32LE(16);
    if (length + xheader.length > this.#owner.maxMessageSize) {
      throw new IsthmusError(
        "ERR_ISTHMUS_MESSAGE_TOO_LARGE",
        `the peer announces a message of ${length} bytes; the limit is ${this.#owner.maxMessageSize}`,
        { needed: length + xheader.length, available: this.#owner.maxMessageSize }
      );
    }
    const reference = request.length >= 28 ? { frame: request.readUInt32LE(20), place: request.readUInt32LE(24) } : void 0;
    const adopted = reference && this.#adopt(base, length, reference);
    const done = () => {
      adopted?.letGo();
      if (this.#ended) return;
      const fin = Buffer.alloc(8);
      fin.writeBigUInt64LE(id);
      this.#owner.sendControl(coreLayout().MESSAGE_RENDEZVOUS_FIN, fin, NO_BYTES);
    };
    return {
      xheader,
      length,
      here: adopted !== void 0,
      fetch: (target) => {
        const want = target ? Math.min(target.length, length) : length;
        const direct = adopted?.copy(target, want);
        if (direct) {
          done();
          return direct;
        }
        return this.#fetch(base, target?.subarray(0, want), want).then((bytes) => {
          done();
          return bytes;
        });
      },
      drop: done
    };
  }
  /**
   * Take the run over that an announcement points to: from here on it stays, also when the peer dies.
   * @returns undefined: it is not there, or not what was announced
   */
  #adopt(base, length, { frame, place }) {
    const { carrier, region } = this.#owner;
    if (!carrier || !region) return void 0;
    const { call, bytes: memory } = region.core;
    const address = call.adoptGranted(carrier.index, frame, place, low(base), high(base), length) >>> 0;
    if (address === 0) return void 0;
    return {
      copy: (target, want) => {
        if (!region.usable) return void 0;
        const bytes = target?.subarray(0, want) ?? Buffer.allocUnsafeSlow(want);
        bytes.set(memory.subarray(address, address + want));
        return bytes;
      },
      letGo: () => {
        if (region.usable) call.letGoRun(frame, length);
      }
    };
  }
  /** Fetch by messages. Memory grows with what comes, not with what is announced. */
  async #fetch(base, target, length) {
    let bytes = target ?? Buffer.allocUnsafeSlow(Math.min(length, PIECE));
    for (let at = 0; at < length; ) {
      const piece = Math.min(PIECE, length - at);
      if (bytes.length < at + piece) {
        const grown = Buffer.allocUnsafeSlow(Math.min(length, Math.max(at + piece, bytes.length * 2)));
        grown.set(bytes.subarray(0, at));
        bytes = grown;
      }
      await this.#ask(base + BigInt(at), bytes.subarray(at, at + piece), void 0);
      at += piece;
    }
    return bytes;
  }
  /** The link goes: what was announced to the peer in a region is kept here, where the peer can ask for it. */
  evacuate() {
    for (const offer of this.#offers.values()) {
      const { exposed, run } = offer;
      if (!exposed || !run) continue;
      const bytes = exposed.view(0, exposed.length).slice();
      this.#retire(offer);
      offer.exposed = { ...exposed, view: (offset, length) => bytes.subarray(offset, offset + length) };
      offer.run = void 0;
      this.#exposed.set(exposed.base, offer.exposed);
    }
  }
  #finished(id) {
    const offer = this.#offers.get(id);
    if (!offer) return;
    this.#offers.delete(id);
    this.#retire(offer);
    offer.resolve?.();
    if (!this.offering) this.#owner.quiet();
  }
  #retire({ exposed, run }) {
    if (exposed) this.#exposed.delete(exposed.base);
    if (!run?.region.usable) return;
    run.region.core.call.revoke(run.frame, 0);
    giveBack(run.region, run.frame, run.length);
  }
  // ─── messages of the peer ──────────────────────────────────────────────────────────────────────────────────────────
  /** Where the data of a message goes. @throws IsthmusError if it cannot be */
  sink(type, xheader, length) {
    const layout2 = coreLayout();
    const header = Buffer.from(xheader);
    switch (type) {
      case layout2.MESSAGE_RMA_WRITE: {
        const found = header.length >= 8 && this.#find(header.readBigUInt64LE(0), length, WRITE);
        if (found) return found.exposed.view(found.offset, length);
        this.#refused = true;
        return NO_BYTES;
      }
      case layout2.MESSAGE_RMA_READ_ANSWER: {
        const read2 = header.length >= 8 && this.#reads.get(header.readBigUInt64LE(0));
        return read2 ? read2.target : NO_BYTES;
      }
      case layout2.MESSAGE_RENDEZVOUS_REQ:
        if (length > MAX_REQUEST) throw protocol(`a RENDEZVOUS_REQ of ${length} bytes`);
        return void 0;
      default:
        return NO_BYTES;
    }
  }
  control(type, xheader, data) {
    const layout2 = coreLayout();
    const header = Buffer.from(xheader);
    switch (type) {
      case layout2.MESSAGE_RMA_READ:
        this.#answer(header, layout2.MESSAGE_RMA_READ_ANSWER);
        return;
      case layout2.MESSAGE_RMA_READ_ANSWER:
        this.#answered(header, data);
        return;
      case layout2.MESSAGE_RENDEZVOUS_FIN:
        if (header.length >= 8) this.#finished(header.readBigUInt64LE(0));
        return;
      default:
        return;
    }
  }
  #answer(header, type) {
    if (header.length < 20) throw protocol(`an RMA_READ with an xheader of ${header.length} bytes`);
    const id = header.subarray(0, 8);
    const address = header.readBigUInt64LE(8);
    const length = header.readUInt32LE(16);
    const refused = length === 0 && this.#refused;
    if (length === 0) this.#refused = false;
    const found = refused ? void 0 : this.#find(address, length, length === 0 ? 0 : READ);
    if (!found) {
      const answer = Buffer.alloc(12);
      id.copy(answer);
      answer.writeUInt32LE(DENIED, 8);
      this.#owner.sendControl(type, answer, NO_BYTES);
      return;
    }
    const view = found.exposed.view(found.offset, length);
    if (!found.exposed.copy) {
      this.#owner.sendControl(type, id, view);
      return;
    }
    if (this.#answers + length > MAX_ANSWERS) throw protocol("the peer asks for more than it takes");
    this.#answers += length;
    this.#owner.sendControl(type, id, new Uint8Array(view), () => {
      this.#answers -= length;
    });
  }
  #answered(header, data) {
    if (header.length < 8) throw protocol("an RMA_READ_ANSWER without an id");
    const id = header.readBigUInt64LE(0);
    const read2 = this.#reads.get(id);
    if (!read2) throw protocol("an RMA_READ_ANSWER that nobody asked for");
    this.#reads.delete(id);
    if (header.length >= 12 && header.readUInt32LE(8) !== 0) read2.reject(denied("the peer knows no such token"));
    else if (data.length !== read2.target.length) read2.reject(denied("the peer has sent less than was asked for"));
    else read2.resolve();
  }
  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────
  /**
   * The connection has ended.
   * @param cut by us: the peer may be about to take over what was announced to it
   */
  end(error, cut) {
    this.#ended ??= error;
    for (const withdraw of [...this.#withdrawals]) withdraw();
    const offers = [...this.#offers.values()];
    this.#offers.clear();
    for (const offer of offers) offer.reject?.(error);
    const retire = () => {
      for (const offer of offers) this.#retire(offer);
    };
    if (cut && offers.some(({ run }) => run)) setTimeout(retire, LINGER).unref();
    else retire();
    this.#exposed.clear();
    for (const read2 of this.#reads.values()) read2.reject(error);
    this.#reads.clear();
  }
};
var low = (word) => Number(BigInt.asUintN(32, word));
var high = (word) => Number(BigInt.asUintN(32, word >> 32n));
function denied(why) {
  return new IsthmusError("ERR_ISTHMUS_RMA_DENIED", `the memory of the peer was not to be had: ${why}`);
}
function protocol(what) {
  return new IsthmusError("ERR_ISTHMUS_PEER_PROTOCOL", what);
}
function encodeToken(fields) {
  const bytes = Buffer.alloc(TOKEN_SIZE);
  bytes.write(TOKEN_MAGIC, 0, "latin1");
  bytes.writeUInt32LE(fields.rights, 4);
  bytes.writeBigUInt64LE(fields.base, 8);
  bytes.writeBigUInt64LE(BigInt(fields.length), 16);
  const { grant, uuid } = fields;
  if (grant && uuid) {
    uuid.copy(bytes, 24);
    bytes.writeUInt32LE(grant.frame, 40);
    bytes.writeUInt32LE(grant.place, 44);
  }
  return new Uint8Array(bytes);
}
function decodeToken(token2) {
  const bytes = Buffer.from(token2);
  const length = bytes.length === TOKEN_SIZE ? bytes.readBigUInt64LE(16) : -1n;
  if (length < 0n || length > BigInt(Number.MAX_SAFE_INTEGER) || bytes.toString("latin1", 0, 4) !== TOKEN_MAGIC) {
    throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "these bytes are no token");
  }
  return {
    base: bytes.readBigUInt64LE(8),
    length: Number(length),
    rights: bytes.readUInt32LE(4),
    uuid: bytes.subarray(24, 40),
    frame: bytes.readUInt32LE(40),
    place: bytes.readUInt32LE(44),
    offset: bytes.readUInt32LE(48)
  };
}

// host/stalls.ts
var EVENTS = ["stalled", "recovered"];
var Stalls = class {
  #owner;
  #limits;
  #listening = [];
  #silence = 0;
  #stalled = false;
  constructor(owner, limits) {
    this.#owner = owner;
    this.#limits = limits;
  }
  /** In milliseconds; 0: not stalled. */
  get silence() {
    return this.#stalled ? this.#silence : 0;
  }
  /** @param ms how long by now; 0: it is over */
  silent(ms) {
    const { stallTimeout, peerTimeout } = this.#limits;
    const before = this.silence;
    this.#silence = ms;
    if (ms === 0) {
      this.#stalled = false;
      if (before > 0) this.#tell("recovered", before);
      return;
    }
    if (before === 0 && stallTimeout > 0 && ms >= stallTimeout) {
      this.#stalled = true;
      this.#tell("stalled", ms);
    }
    if (peerTimeout > 0 && ms >= peerTimeout) {
      this.#owner.timedOut(
        new IsthmusError("ERR_ISTHMUS_PEER_TIMEOUT", `the peer has shown no sign of life for ${ms} ms`)
      );
    }
  }
  /** There is no link any more: nobody is silent, and nobody has recovered. */
  reset() {
    this.#silence = 0;
    this.#stalled = false;
  }
  #tell(event, silence) {
    this.#owner.silenceChanged(event, silence);
    for (const one of [...this.#listening]) {
      if (one.event !== event) continue;
      if (one.once) this.#remove(one);
      try {
        one.listener(silence);
      } catch (error) {
        const text2 = error instanceof Error ? error.message : String(error);
        this.#owner.log("error", `a listener for '${event}' failed: ${text2}`);
      }
    }
  }
  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
  listen(event, listener, once) {
    if (!EVENTS.includes(event)) {
      throw new IsthmusError(
        "ERR_ISTHMUS_INVALID_ARGUMENT",
        `a connection has no event '${String(event)}', only ${EVENTS.join(" and ")}`
      );
    }
    if (typeof listener !== "function") {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `the listener for '${event}' is not a function`);
    }
    this.#listening.push({ event, listener, once });
  }
  /** The one that was added last, as everywhere in Node.js. */
  unlisten(event, listener) {
    const found = this.#listening.filter((one) => one.event === event && one.listener === listener).at(-1);
    if (found) this.#remove(found);
  }
  #remove(one) {
    const place = this.#listening.indexOf(one);
    if (place >= 0) this.#listening.splice(place, 1);
  }
};

// host/stream.ts
import { isIP } from "node:net";
import { Duplex } from "node:stream";
var END = new Uint8Array(0);
var CHUNK_SIZE = 262144;
var HIGH_WATER_MARK = 65536;
var JOINED = 65536;
var SMALL = 4096;
var WRITE_BURST = 4 << 20;
var READ_BURST = 16;
var PATIENCE = 1e3;
var LINGER2 = 12e4;
var LONG = 2 ** 31 - 1;
var joined = Buffer.allocUnsafeSlow(JOINED);
var ConnectionStream = class extends Duplex {
  /** Milliseconds given to `setTimeout`. */
  timeout;
  /** A connection is connected; `net.Socket` has times when it is not. */
  connecting = false;
  #connection;
  #chunkSize;
  #timer;
  #written = 0;
  #received = 0;
  /** The reader asks for more. */
  #wanted = false;
  /** Somebody is at it already: a loop, a timer, a promise. */
  #pulling = false;
  /** The last message was short. */
  #small = false;
  #burst = 0;
  /** Bytes in `joined`. */
  #joined = 0;
  /** A message that did not fit behind them. */
  #large;
  /** Nothing comes any more, be it by the end or by an error. */
  #inputDone = false;
  #inputBroken = false;
  #sent = 0;
  /** Of a write that failed with the connection. */
  #unwritten;
  /** What ended the connection, until the reader is ready for it. */
  #failure;
  #peerClosed = false;
  /** Made by `connection.stream()`. */
  constructor(connection, options = {}) {
    const { allowHalfOpen = true, chunkSize = CHUNK_SIZE, highWaterMark = HIGH_WATER_MARK } = options;
    for (const [name, value, least] of [
      ["chunkSize", chunkSize, 1],
      ["highWaterMark", highWaterMark, 0]
    ]) {
      if (!Number.isSafeInteger(value) || value < least) {
        throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `${name} is a number of bytes from ${least} on`);
      }
    }
    super({ allowHalfOpen, highWaterMark });
    this.#connection = connection;
    this.#chunkSize = chunkSize;
    this.once("end", () => this.#settle());
    connection.closed.then(({ reason, error }) => {
      if (this.destroyed || this.#inputDone && this.writableFinished) return;
      if (reason === "peer") {
        this.#peerClosed = true;
        this.#settle();
      } else if (error) this.#fail(error);
      else this.destroy();
    });
  }
  // ─── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────
  _write(chunk, _encoding, callback) {
    if (chunk.length <= this.#chunkSize) this.#send(chunk, callback);
    else this.#sendAll([chunk], callback);
  }
  _writev(chunks, callback) {
    let total = 0;
    for (const { chunk } of chunks) total += chunk.length;
    if (total > Math.min(JOINED, this.#chunkSize)) {
      this.#sendAll(
        chunks.map(({ chunk }) => chunk),
        callback
      );
      return;
    }
    let length = 0;
    for (const { chunk } of chunks) {
      joined.set(chunk, length);
      length += chunk.length;
    }
    this.#send(joined.subarray(0, length), callback);
  }
  _final(callback) {
    const failed = (error) => {
      this.#connection.closed.then(({ reason }) => {
        if (reason === "peer") callback();
        else this.#unsent(error, callback);
      });
    };
    try {
      if (this.#connection.trySend(END)) callback();
      else this.#connection.send(END).then(() => callback(), failed);
    } catch (error) {
      failed(error);
    }
  }
  /** One message. */
  #send(piece, callback) {
    if (piece.length === 0) {
      callback();
      return;
    }
    try {
      if (!this.#connection.trySend(piece)) {
        this.#sendAll([piece === joined || piece.buffer === joined.buffer ? Buffer.from(piece) : piece], callback);
        return;
      }
    } catch (error) {
      this.#unsent(error, callback);
      return;
    }
    this.#sentOne(piece.length);
    if (this.#sent < WRITE_BURST) callback();
    else {
      this.#sent = 0;
      setImmediate(callback);
    }
  }
  /** As many messages as it takes, with room or without. */
  async #sendAll(chunks, callback) {
    try {
      for (const piece of pieces(chunks, this.#chunkSize)) {
        if (!this.#connection.trySend(piece)) await this.#connection.send(piece);
        this.#sentOne(piece.length);
        if (this.#sent < WRITE_BURST) continue;
        this.#sent = 0;
        await new Promise((resolve) => setImmediate(resolve));
      }
    } catch (error) {
      this.#unsent(error, callback);
      return;
    }
    process.nextTick(callback);
  }
  #sentOne(length) {
    this.#written += length;
    this.#sent += length;
    this.#timer?.refresh();
  }
  #unsent(error, callback) {
    if (this.destroyed || this.#connection.state === "open") {
      callback(error);
      return;
    }
    this.#unwritten = callback;
    this.#fail(error);
  }
  // ─── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────
  _read() {
    this.#wanted = true;
    if (this.#pulling) return;
    this.#pulling = true;
    this.#pull();
  }
  read(size2) {
    const chunk = super.read(size2);
    if (this.#failure) process.nextTick(() => this.#settle());
    return chunk;
  }
  #pull = () => {
    while (this.#wanted && !this.#inputDone && !this.destroyed) {
      if (this.#burst >= READ_BURST) {
        this.#burst = 0;
        setImmediate(this.#pull);
        return;
      }
      if (this.#small) {
        if (this.#gather()) continue;
        this.#burst = 0;
      }
      this.#connection.receive().then(this.#take, this.#broken);
      return;
    }
    this.#pulling = false;
  };
  /** All short messages that are there, as one chunk. @returns whether there was anything */
  #gather() {
    this.#joined = 0;
    this.#large = void 0;
    try {
      while (!this.#large && !this.#inputDone && this.#joined < JOINED && this.#connection.poll(this.#join, 1) > 0) ;
    } catch {
    }
    const length = this.#joined;
    const large = this.#large;
    this.#large = void 0;
    if (length > 0) this.#give(Buffer.from(joined.subarray(0, length)));
    if (large) {
      this.#small = large.length < SMALL;
      this.#give(large);
    }
    if (this.#inputDone) this.push(null);
    return length > 0 || large !== void 0 || this.#inputDone;
  }
  #join = (memory, offset, length) => {
    if (length === 0) {
      this.#inputDone = true;
      return;
    }
    const bytes = memory.subarray(offset, offset + length);
    if (length <= JOINED - this.#joined) {
      joined.set(bytes, this.#joined);
      this.#joined += length;
    } else {
      this.#large = Buffer.allocUnsafeSlow(length);
      this.#large.set(bytes);
    }
  };
  #take = (message2) => {
    if (message2 === void 0) this.#endOfConnection();
    else if (message2.data.length === 0) {
      this.#inputDone = true;
      this.push(null);
    } else {
      const { buffer, byteOffset, length } = message2.data;
      this.#small = length < SMALL;
      this.#give(Buffer.from(buffer, byteOffset, length));
    }
    this.#pull();
  };
  #broken = (error) => {
    this.#inputDone = true;
    this.#inputBroken = true;
    this.#pulling = false;
    this.#fail(error);
    this.#settle();
  };
  #give(chunk) {
    this.#burst++;
    this.#received += chunk.length;
    this.#timer?.refresh();
    this.#wanted = false;
    try {
      if (this.push(chunk)) this.#wanted = true;
    } catch (error) {
      this.#wanted = true;
      process.nextTick(() => {
        throw error;
      });
    }
  }
  /** Nothing more will be received, by the orderly close of either side. */
  #endOfConnection() {
    this.#inputDone = true;
    this.#connection.closed.then(({ reason }) => {
      if (reason === "peer") this.push(null);
    });
  }
  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** The connection ended with an error, which comes when the reader has had what came before it. */
  #fail(error) {
    if (this.destroyed || this.#failure) return;
    this.#failure = error;
    if (this.readableFlowing === null) {
      this.destroy(error);
      return;
    }
    this.#settle();
    const read2 = () => this.#received - this.readableLength;
    let before = read2();
    const patience = setInterval(() => {
      if (read2() === before) this.destroy(error);
      before = read2();
    }, PATIENCE);
    this.once("close", () => clearInterval(patience));
    if (this.destroyed) clearInterval(patience);
  }
  /** See whether it is time for what has to wait for the reader. */
  #settle() {
    if (this.#failure) {
      if (this.readableEnded || this.#inputBroken && this.readableLength === 0) this.destroy(this.#failure);
    } else if (this.#peerClosed && this.readableEnded) {
      setImmediate(() => this.end());
    }
  }
  _destroy(error, callback) {
    clearTimeout(this.#timer);
    const connection = this.#connection;
    const unwritten = this.#unwritten;
    this.#unwritten = void 0;
    unwritten?.(error ?? new IsthmusError("ERR_ISTHMUS_CLOSED", "the stream was destroyed"));
    const over = this.writableFinished || this.readableEnded && this.writableLength === 0;
    const left3 = error === null || error.code === "ABORT_ERR";
    if (!left3 || !over) {
      connection.destroy(error ?? void 0);
      callback(error);
      return;
    }
    const done = () => callback(error);
    connection.close({ timeout: this.readableEnded ? LONG : LINGER2 }).then(done, done);
  }
  // ─── what net.Socket has ───────────────────────────────────────────────────────────────────────────────────────────
  /** End this direction, and close the connection when everything is written, without waiting for the other direction. */
  destroySoon() {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once("finish", () => this.destroy());
  }
  /**
   * Emit `'timeout'` when so many milliseconds pass without a byte in either direction; 0: never (the default).
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  setTimeout(milliseconds, listener) {
    if (typeof milliseconds !== "number" || !(milliseconds >= 0)) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "a timeout is a number of milliseconds from 0 on");
    }
    if (this.destroyed) return this;
    this.timeout = milliseconds;
    clearTimeout(this.#timer);
    this.#timer = void 0;
    if (milliseconds === 0) {
      if (listener) this.removeListener("timeout", listener);
    } else {
      this.#timer = setTimeout(() => this.emit("timeout"), Math.min(milliseconds, LONG)).unref();
      if (listener) this.once("timeout", listener);
    }
    return this;
  }
  /** Does nothing: memory has no such delay, and `tcp` has the runtime's option. */
  setNoDelay() {
    return this;
  }
  /** Does nothing: a peer that dies is noticed without. */
  setKeepAlive() {
    return this;
  }
  ref() {
    this.#connection.ref();
    return this;
  }
  unref() {
    this.#connection.unref();
    return this;
  }
  /** Address that the socket of the handshake came from; undefined over `loop`. */
  get remoteAddress() {
    return this.#connection.peer.address?.host;
  }
  get remotePort() {
    return this.#connection.peer.address?.port;
  }
  get remoteFamily() {
    const address = this.remoteAddress;
    return address === void 0 ? void 0 : isIP(address) === 6 ? "IPv6" : "IPv4";
  }
  get bytesRead() {
    return this.#received;
  }
  /** What still waits to be sent included. */
  get bytesWritten() {
    return this.#written + this.writableLength;
  }
};
function* pieces(chunks, most) {
  const limit = Math.min(JOINED, most);
  let first = 0;
  while (first < chunks.length) {
    let end2 = first;
    let length = 0;
    while (end2 < chunks.length && length + chunks[end2].length <= limit) {
      length += chunks[end2++].length;
    }
    if (end2 - first > 1) {
      if (length > 0) yield Buffer.concat(chunks.slice(first, end2), length);
      first = end2;
      continue;
    }
    const chunk = chunks[first++];
    for (let from = 0; from < chunk.length; from += most) yield chunk.subarray(from, from + most);
  }
}

// host/suspension.ts
var ROOM = 100;
var Suspension = class {
  #owner;
  #state;
  #asked = false;
  #peerPort = 0;
  /** Events that meant nothing in their state. */
  ignored = 0;
  constructor(owner) {
    this.#owner = owner;
    this.#state = coreLayout().SUSPENSION_NONE;
  }
  /** Whether it was this side that asked; then it is also this side that comes back. */
  get asked() {
    return this.#asked;
  }
  /** Where the peer listens; 0: nowhere. */
  get peerPort() {
    return this.#peerPort;
  }
  /** Whether one of the two wants to suspend, and the link is still there. */
  get underWay() {
    const { SUSPENSION_SUSPENDING, SUSPENSION_SENT, SUSPENSION_RECEIVED } = coreLayout();
    const state = this.#state;
    return state === SUSPENSION_SUSPENDING || state === SUSPENSION_SENT || state === SUSPENSION_RECEIVED;
  }
  get suspended() {
    const { SUSPENSION_SUSPENDED, SUSPENSION_RESUMING } = coreLayout();
    return this.#state === SUSPENSION_SUSPENDED || this.#state === SUSPENSION_RESUMING;
  }
  /** This side wants to. */
  start() {
    if (this.#handle("SUSPEND") !== coreLayout().SUSPENSION_SUSPENDING) return;
    this.#asked = true;
    this.#owner.hurry();
    this.#say(coreLayout().MESSAGE_SHUTDOWN_REQ);
  }
  /** A message of the peer about it. */
  received(type, data) {
    const { MESSAGE_SHUTDOWN_REQ, MESSAGE_SHUTDOWN_ACK, SUSPENSION_RECEIVED, SUSPENSION_NONE } = coreLayout();
    if (type !== MESSAGE_SHUTDOWN_REQ && type !== MESSAGE_SHUTDOWN_ACK) {
      this.#ignore("SUSPEND of the peer");
      return;
    }
    const port = data.length >= 4 ? Buffer.from(data).readInt32LE() : 0;
    const before = this.#state;
    const state = this.#handle(type === MESSAGE_SHUTDOWN_REQ ? "REQ" : "ACK");
    if (state === before) return;
    this.#peerPort = port > 0 && port < 65536 ? port : 0;
    if (before === SUSPENSION_NONE && state === SUSPENSION_RECEIVED) {
      this.#owner.hurry();
      this.#say(MESSAGE_SHUTDOWN_ACK);
    }
    if (this.suspended) this.#owner.letGo();
  }
  /** A link is being made again. */
  resume() {
    this.#handle("RESUME");
  }
  /** What was to make a link has been given up. */
  pause() {
    if (this.#state === coreLayout().SUSPENSION_RESUMING) this.#handle("SUSPEND");
  }
  /** There is a link again. */
  up() {
    this.#asked = false;
    if (this.suspended) this.#handle("UP");
  }
  #say(type) {
    const say2 = (port) => {
      const data = Buffer.alloc(4);
      data.writeInt32LE(port);
      const said = () => {
        clearTimeout(timer);
        this.#handle("SENT");
        if (this.suspended) this.#owner.letGo();
      };
      const timer = setTimeout(() => {
        if (this.underWay && this.#owner.lastWordAside(type, port)) said();
      }, ROOM).unref();
      this.#owner.lastWord(type, data, said);
    };
    this.#owner.listenPort().then(say2, () => say2(0));
  }
  #handle(event) {
    const layout2 = coreLayout();
    const next = machines().suspension(this.#state, layout2[`SUSPENSION_EVENT_${event}`]);
    if (next === this.#state) this.#ignore(event);
    this.#state = next;
    return next;
  }
  #ignore(event) {
    this.ignored++;
    this.#owner.log("info", `suspension: ${event} means nothing in state ${this.#state}; ignored`);
  }
};

// host/connection.ts
var MAX_XHEADER = 65535;
var encoder = new TextEncoder();
function bytesOf(data) {
  if (data instanceof Uint8Array) return data;
  if (typeof data === "string") return encoder.encode(data);
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "data is not a Uint8Array, an ArrayBuffer or a string");
}
var NO_COUNTS = { messagesSent: 0, messagesReceived: 0, bytesSent: 0, bytesReceived: 0, stalls: 0 };
var MAX_SHUTDOWN = 64;
var RuntimeConnection = class {
  closed;
  matching;
  maxMessageSize;
  unreadLimit;
  #context;
  #in;
  #out;
  #resolveClosed;
  /** @internal Settles when there is a link for the first time, or never. */
  opened;
  #resolveOpened;
  #route;
  #on;
  /** That of the link, or of the last one. */
  #core;
  #polled = false;
  #state = "connecting";
  #suspension;
  #stalls;
  #error;
  #end;
  #closing;
  /** Whether this side closed it. */
  #local = false;
  /** It did so because the application had seen that the peer is done. */
  #answering = false;
  #finished = false;
  /** The link is cut: nothing goes in or out any more. */
  #freed = false;
  /** Sums over the links before this one. */
  #past = NO_COUNTS;
  /** Called when the other side is known to have the link as well. */
  #tentative;
  #onLetGo = [];
  /** Rings of links that are no more, of which messages are borrowed. */
  #borrowings = /* @__PURE__ */ new Set();
  #mark;
  #referenced = true;
  #looking = false;
  /** @internal Groups that it is a part of, and whether something has come for one that is not open yet. */
  groups = 0;
  /** @internal */
  early = false;
  #rma;
  /** Read on whatever is unread: the peer's wish to suspend lies behind it. */
  #hurried = false;
  #stream;
  /** Data of so many bytes is announced, and fetched by the peer. */
  #rendezvous = Number.POSITIVE_INFINITY;
  /** @param route what is known of the other end before there is a link */
  constructor(route, context) {
    this.#route = route;
    this.#context = context;
    this.matching = context.matching;
    this.maxMessageSize = context.maxMessageSize;
    this.unreadLimit = context.unread;
    this.#in = new Inbound(this);
    this.#out = new Outbound(this);
    let resolveClosed;
    this.closed = new Promise((resolve) => {
      resolveClosed = resolve;
    });
    this.#resolveClosed = resolveClosed;
    this.opened = new Promise((resolve) => {
      this.#resolveOpened = resolve;
    });
  }
  get connection() {
    return this;
  }
  get plugin() {
    return this.#route.plugin;
  }
  get why() {
    return this.#route.why;
  }
  get peer() {
    return this.#route.peer;
  }
  get state() {
    return this.#state;
  }
  /** @internal */
  get core() {
    return this.#core;
  }
  /** @internal */
  get index() {
    return this.#on.index;
  }
  /** @internal Whether it lies in this core. */
  uses(core) {
    return this.#on?.core === core;
  }
  /**
   * @internal The way is there. `up` is called when messages go over it.
   * @param confirm who dials for a connection that may have been up tells that he has not given up meanwhile (`say`); who
   * was dialled waits for that (`await`), and without it goes back to where he was, with nothing lost
   */
  attach(link, route, up, confirm) {
    const carrier = new Carrier(link);
    this.#on = carrier;
    this.#core = carrier.core;
    this.#polled = carrier.polled;
    this.#in.attach(carrier);
    const begin = () => {
      this.#tentative = void 0;
      this.#route = route;
      this.#rendezvous = this.#context.rendezvous(route.plugin);
      this.#out.attach(carrier);
      if (this.#state === "connecting" || this.#state === "suspended") this.#state = "open";
      this.#suspension?.up();
      this.#resolveOpened();
      up();
    };
    if (this.#referenced) link.ref();
    else link.unref();
    if (carrier.polled) this.#context.progress.join(this);
    if (confirm === "await") {
      this.#tentative = () => {
        begin();
        for (const done of this.#onLetGo.splice(0)) done();
        if (this.#on === carrier) this.#pumpOut();
      };
    } else {
      begin();
      if (confirm === "say") this.#out.first(carrier.core.layout.MESSAGE_SUSPEND);
    }
    link.start(this);
    if (!this.#freed && this.#on === carrier && !this.#tentative) this.#pumpOut();
  }
  /** @internal Whether it has a link of which it is not known yet that the other side has it too. */
  get tentative() {
    return this.#tentative !== void 0;
  }
  /** @internal The other side has given up the link before it began. */
  revert() {
    if (!this.#tentative) return;
    this.#tentative = void 0;
    this.#unlink();
    this.#end = void 0;
    this.#context.suspended(this);
    for (const done of this.#onLetGo.splice(0)) done();
  }
  // ─── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────
  async send(data, options) {
    const signal = options?.signal;
    signal?.throwIfAborted();
    const bytes = bytesOf(data);
    const xheader = options?.xheader ?? NO_BYTES;
    this.#checkSend(bytes, xheader);
    if (bytes.length >= this.#rendezvous) return this.#announce(xheader, bytes, signal);
    const sent = this.#out.begin(0, xheader, bytes);
    if (sent < bytes.length + xheader.length) return this.#out.wait(0, xheader, bytes, sent, signal);
  }
  #announce(xheader, bytes, signal) {
    return new Promise((resolve, reject) => {
      if (this.#memory().offer(xheader, bytes, true, resolve, reject)) return;
      resolve(this.#out.wait(0, xheader, bytes, this.#out.begin(0, xheader, bytes), signal));
    });
  }
  trySend(data, options) {
    const bytes = data instanceof Uint8Array ? data : bytesOf(data);
    const xheader = options?.xheader ?? NO_BYTES;
    this.#checkSend(bytes, xheader);
    if (bytes.length >= this.#rendezvous && this.#out.waiting === 0) {
      if (this.#memory().offer(xheader, bytes, false)) return true;
    }
    return this.#out.trySend(0, xheader, bytes);
  }
  /**
   * @internal Send a message that one can take back as long as it has not started.
   * @returns undefined if it is in the ring already
   */
  post(data, xheader, resolve, reject) {
    const bytes = bytesOf(data);
    this.#checkSend(bytes, xheader);
    if (bytes.length >= this.#rendezvous && this.#memory().offer(xheader, bytes, true, resolve, reject))
      return void 0;
    const sent = this.#out.begin(0, xheader, bytes);
    if (sent < bytes.length + xheader.length) return this.#out.queue(0, xheader, bytes, sent, resolve, reject);
    resolve();
    return void 0;
  }
  /** @internal */
  cancel(entry) {
    return this.#out.cancel(entry);
  }
  #checkOpen() {
    if (this.#state === "closing" || this.#state === "closed") throw this.#error ?? this.#closedError();
  }
  #checkSend(data, xheader) {
    this.#checkOpen();
    if (xheader.length > MAX_XHEADER || data.length + xheader.length > this.maxMessageSize) {
      const limit = this.maxMessageSize;
      throw new IsthmusError(
        "ERR_ISTHMUS_MESSAGE_TOO_LARGE",
        `a message of ${data.length} bytes with an xheader of ${xheader.length}; the limits are ${limit} for both and ${MAX_XHEADER} for the xheader`,
        { needed: data.length + xheader.length, available: limit }
      );
    }
  }
  #closedError() {
    return new IsthmusError("ERR_ISTHMUS_CLOSED", `the connection is ${this.#state}`);
  }
  /** @internal Something waits to be sent. */
  stuck() {
    if (this.#on) {
      if (this.#polled) this.#context.progress.wake(this);
    } else if (this.#state === "connecting") {
      this.#context.bringUp(this);
    }
  }
  /** @internal Nothing waits any more. */
  drained() {
    return this.#state === "closing" ? this.#finish() : false;
  }
  async flush({ signal } = {}) {
    let pause2 = 0;
    for (; ; ) {
      signal?.throwIfAborted();
      this.#checkOpen();
      if (this.#out.waiting > 0) this.#out.pump();
      if (this.#out.waiting === 0 && !this.#on?.cutOff && this.#out.unread() === 0) return;
      if (pause2 < 1) await new Promise((resolve) => setImmediate(resolve));
      else await new Promise((resolve) => setTimeout(resolve, Math.min(pause2, 10)));
      pause2 += 0.02;
    }
  }
  // ─── receiving ─────────────────────────────────────────────────────────────────────────────────────────────────────
  async receive(options) {
    options?.signal?.throwIfAborted();
    return this.#local ? void 0 : this.#in.receive(options?.signal);
  }
  async borrow(options) {
    options?.signal?.throwIfAborted();
    return this.#local ? void 0 : this.#in.borrow(options?.signal);
  }
  tryReceiveInto(target, info) {
    return this.#in.tryReceiveInto(target, info);
  }
  poll(handler, limit = Number.MAX_SAFE_INTEGER) {
    return this.#in.poll(handler, limit);
  }
  /** @internal For receives that are posted at the endpoint. */
  get inbound() {
    return this.#in;
  }
  /** @internal Somebody waits for messages that may lie in the ring. */
  look() {
    if (this.#polled) this.wake();
    else this.progress();
  }
  /** @internal @throws what ended it, if nothing more will come */
  throwIfEnded() {
    if (this.#in.ended || this.#state === "closing" || this.#state === "closed") {
      throw this.#error ?? new IsthmusError("ERR_ISTHMUS_CLOSED", "no further message will come");
    }
  }
  /** @internal The application has seen the end: nobody waits for an answer any more. */
  endOfInput() {
    if (this.#error) throw this.#error;
    if (this.#state === "open") {
      this.#answering = true;
      this.close().catch(() => {
      });
    }
    return void 0;
  }
  /** @internal */
  polls() {
    if (!this.#polled) return;
    if (this.#mark === void 0 || !this.#context.progress.isDirect(this)) {
      this.#mark = this.#context.progress.direct(this);
    }
    this.#mark.calls = true;
  }
  /** @internal */
  pump() {
    if (this.#out.waiting > 0) this.#out.pump();
  }
  /** @internal Somebody waits for a message, or there is room for further ones. */
  wake() {
    const on = this.#on;
    if (!on || this.#freed) return;
    if (on.polled) this.#context.progress.wake(this);
    else if (!this.#looking && on.call.readable(on.index)) {
      this.#looking = true;
      setImmediate(() => {
        this.#looking = false;
        this.progress();
      });
    }
  }
  /** @internal */
  get greedy() {
    return this.#hurried || this.tentative || this.#suspending || this.#rma?.expects === true || this.groups > 0 && this.#context.groups.expects(this);
  }
  /** @internal */
  get heldBytes() {
    return this.groups > 0 || this.early ? this.#context.groups.held(this) : 0;
  }
  /** @internal */
  sink(type, xheader, length) {
    const { layout: layout2 } = this.core;
    if (type >= layout2.MESSAGE_RMA_WRITE && type <= layout2.MESSAGE_RENDEZVOUS_FIN) {
      return this.#memory().sink(type, xheader, length);
    }
    if (type === layout2.MESSAGE_BCAST || type === layout2.MESSAGE_BARRIER) return void 0;
    if (type >= layout2.MESSAGE_SHUTDOWN_REQ && type <= layout2.MESSAGE_SUSPEND && length <= MAX_SHUTDOWN)
      return void 0;
    throw new IsthmusError(
      "ERR_ISTHMUS_PEER_PROTOCOL",
      `the peer sent a message of type ${type}, which is not supported`
    );
  }
  /** @internal */
  control(type, xheader, data) {
    const { layout: layout2 } = this.core;
    if (type === layout2.MESSAGE_BCAST || type === layout2.MESSAGE_BARRIER) {
      this.#context.groups.received(this, type, xheader, data);
      return;
    }
    if (type >= layout2.MESSAGE_SHUTDOWN_REQ) {
      this.#shutdown(type, data);
      return;
    }
    this.#memory().control(type, xheader, data);
  }
  /** @internal */
  announced(xheader, data) {
    return this.#memory().announced(xheader, data);
  }
  // ─── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────
  expose(memory, options = {}) {
    this.#checkOpen();
    return this.#memory().expose(memory, options);
  }
  token(bytes) {
    return this.#memory().token(bytes);
  }
  #memory() {
    this.#rma ??= new Rma(this);
    return this.#rma;
  }
  /** @internal */
  get carrier() {
    return this.#on;
  }
  /** @internal */
  get region() {
    return this.#on?.link.region;
  }
  /** @internal {@link sendControl}, waiting for room. */
  sendFor(type, xheader, data) {
    this.#checkSend(data, xheader);
    return new Promise((resolve, reject) => {
      const sent = this.#out.begin(type, xheader, data);
      if (sent < data.length + xheader.length) this.#out.queue(type, xheader, data, sent, resolve, reject);
      else resolve();
    });
  }
  /** @internal A message of the protocol's own, behind what is queued. */
  sendControl(type, xheader, data, resolve) {
    if (this.#freed) return;
    const sent = this.#out.begin(type, xheader, data);
    if (sent < data.length + xheader.length) this.#out.queue(type, xheader, data, sent, resolve);
    else resolve?.();
  }
  /** @internal What we offered has been fetched. */
  quiet() {
    if (this.#state === "closing" && this.#out.waiting === 0) this.#finish();
  }
  // ─── progress ──────────────────────────────────────────────────────────────────────────────────────────────────────
  /** @internal */
  get waitsForRoom() {
    return (this.#out.waiting > 0 || this.#suspending) && !this.#freed;
  }
  /** @internal */
  progress() {
    const on = this.#on;
    if (!on || this.#freed) return false;
    const before = on.call.position(on.index);
    const moved = this.#out.waiting > 0 || this.#state === "closing" ? this.#pumpOut() : false;
    this.#in.progress();
    if (this.#in.ended) this.#in.dismiss();
    return moved || this.#on !== on || on.call.position(on.index) !== before;
  }
  #pumpOut() {
    return this.#out.waiting > 0 ? this.#out.pump() : this.drained();
  }
  /** @internal */
  readable() {
    this.progress();
  }
  /** @internal */
  writable() {
    if (this.#freed) return;
    if (this.#suspension?.suspended) this.letGo();
    else this.#pumpOut();
  }
  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────
  /** @internal The link says that the other side is gone: all that it committed is in the ring by now. */
  ended(end2) {
    if (this.#end) return;
    this.#end = end2;
    if (end2.kind === "lost" && this.#state === "open") this.#error = end2.error;
    this.#settle();
  }
  /** Take everything out of the ring, then let go of it: the rings are bounded, and the peer writes no more. */
  #settle() {
    if (this.#freed || !this.#end) return;
    this.#in.drain(this.#end.kind === "lost");
    if (this.#freed) return;
    if (this.#tentative) {
      this.revert();
      return;
    }
    if (!this.#on && this.#suspension?.suspended) return;
    if (this.#end.kind === "lost" && this.#state === "open") this.#error ??= this.#end.error;
    const error = this.#error;
    this.#state = "closed";
    const reason = error ?? this.#closedError();
    this.#in.cut(reason);
    this.#out.rejectAll(reason);
    this.#rma?.end(reason, false);
    if (!this.#finished && this.#end.kind === "peer-closed") {
      this.#finished = true;
      this.#out.sendEof();
      this.#on?.link.finish();
    }
    this.#free();
    if (this.#local) this.#resolveClosed({ reason: this.#answering ? "peer" : "local" });
    else if (error) this.#resolveClosed({ reason: "error", error });
    else this.#resolveClosed({ reason: "peer" });
    this.#in.dismiss();
  }
  /** @internal The core found something that cannot be. */
  broken() {
    const on = this.#on;
    const { FAILURE_HEAD, FAILURE_MESSAGE } = on.core.layout;
    const what = on.failure === FAILURE_HEAD ? "a head position that cannot be" : on.failure === FAILURE_MESSAGE ? "fragments that do not fit together" : "a record that cannot be";
    const error = this.#error ?? new IsthmusError("ERR_ISTHMUS_PEER_PROTOCOL", `the peer wrote ${what} into the ring`);
    this.fail(error);
    return error;
  }
  /** @internal The peer broke the rules: this connection ends, and only this one. */
  fail(error) {
    this.#cut({ reason: "error", error });
  }
  #cut(closed) {
    if (this.#freed) return;
    if (closed.error) this.#error ??= closed.error;
    this.#state = "closed";
    const reason = this.#error ?? this.#closedError();
    this.#in.cut(reason);
    this.#out.rejectAll(reason);
    this.#rma?.end(reason, true);
    this.#free();
    this.#resolveClosed(closed);
    this.#in.dismiss();
  }
  #free() {
    if (this.#freed) return;
    this.#freed = true;
    this.#unlink();
  }
  /** Let go of the link, and of its ring when nothing of it is borrowed any more. */
  #unlink() {
    const on = this.#on;
    if (on) {
      this.#past = this.#counts();
      this.#context.progress.leave(this);
      on.link.destroy();
    }
    this.#on = void 0;
    this.#mark = void 0;
    this.#stalls?.reset();
    this.#out.detach();
    const borrowing = this.#in.detach();
    const gone = () => {
      on?.link.free();
      if (borrowing) this.#borrowings.delete(borrowing);
      if (this.#freed && this.#borrowings.size === 0) this.#context.gone(this);
    };
    if (!borrowing) gone();
    else {
      this.#borrowings.add(borrowing);
      borrowing.leave(gone);
    }
  }
  /**
   * @internal A region that the connection lies in, or has lain in, is going away.
   * @returns the places in the memory that must keep their bytes, because messages are borrowed
   */
  abandon(core) {
    if (this.#on?.core === core) this.#cut({ reason: "local" });
    return [...this.#borrowings].flatMap((borrowing) => borrowing.abandon(core) ?? []);
  }
  // ─── silence of the peer ───────────────────────────────────────────────────────────────────────────────────────────
  get stalled() {
    return this.#state === "open" ? this.#stalls?.silence ?? 0 : 0;
  }
  on(event, listener) {
    this.#stall().listen(event, listener, false);
    return this;
  }
  once(event, listener) {
    this.#stall().listen(event, listener, true);
    return this;
  }
  off(event, listener) {
    this.#stalls?.unlisten(event, listener);
    return this;
  }
  #stall() {
    this.#stalls ??= new Stalls(this, this.#context);
    return this.#stalls;
  }
  /** @internal What waits for a peer to suspend or to close has limits of its own. */
  silent(ms) {
    if (this.#state === "open") this.#stall().silent(ms);
  }
  /** @internal */
  silenceChanged(event, silence) {
    this.#context.silence(this, event, silence);
  }
  /** @internal The peer may still write, but we wait no longer: its half of our ring is free when it, too, lets go. */
  timedOut(error) {
    if (this.#state === "open") this.ended({ kind: "lost", error });
  }
  // ─── suspending ────────────────────────────────────────────────────────────────────────────────────────────────────
  get #suspending() {
    return this.#suspension?.underWay === true;
  }
  /** @internal Whether it has a way to the peer. */
  get linked() {
    return this.#on !== void 0;
  }
  /** @internal Whether it has had one. */
  get everLinked() {
    return this.#core !== void 0;
  }
  /** @internal */
  get suspension() {
    this.#suspension ??= new Suspension(this);
    return this.#suspension;
  }
  /** @internal */
  get wantsToSend() {
    return this.#out.waiting > 0;
  }
  /** @internal Of the link, or of the last one. */
  get route() {
    return this.#route;
  }
  /** @internal */
  get log() {
    return this.#context.log;
  }
  #shutdown(type, data) {
    if (type === this.core.layout.MESSAGE_SUSPEND && data.length === 0) {
      this.#tentative?.();
      return;
    }
    if (this.#finished) this.ended({ kind: "peer-closed" });
    else this.suspension.received(type, data);
  }
  /** @internal */
  lastWord(type, data, sent) {
    if (!this.#freed) this.#out.last(type, data, sent);
  }
  /** @internal Say it past the ring. @returns false: it is in there, or there is no such way */
  lastWordAside(type, value) {
    const link = this.#on?.link;
    if (!link?.lastWord || !this.#out.giveUpLast()) return false;
    link.lastWord(type, value);
    return true;
  }
  /** @internal */
  lastWordHeard(type, value) {
    if (this.#freed || !this.#on) return;
    this.#in.drainAndForget();
    if (this.#freed || !this.#on) return;
    const data = Buffer.alloc(4);
    data.writeInt32LE(value);
    this.#shutdown(type, data);
  }
  /** @internal */
  hurry() {
    const link = this.#on?.link;
    if (link?.hurry) link.hurry();
    else if (this.#suspension?.asked) this.#context.hurry(this);
    this.wake();
  }
  /** @internal The other side suspends, and cannot say so where we read. */
  hurried() {
    this.#hurried = true;
    this.wake();
  }
  /** @internal Let go of the link. Settles when that is done, or the connection is closed. */
  suspend() {
    if (!this.#on) return Promise.resolve();
    const letGo = Promise.race([this.closed, new Promise((resolve) => this.#onLetGo.push(resolve))]);
    if (this.#tentative) return letGo.then(() => this.suspend());
    if (this.#state === "open") this.suspension.start();
    return letGo;
  }
  /** @internal */
  listenPort() {
    return this.#context.listenPort(this);
  }
  /** @internal */
  letGo() {
    const on = this.#on;
    if (!on) return;
    if (!on.polled && on.call.unread(on.index) > 0) return;
    if (this.#in.inMessage) {
      this.fail(new IsthmusError("ERR_ISTHMUS_PEER_PROTOCOL", "the peer suspended in the middle of a message"));
      return;
    }
    this.#hurried = false;
    this.#in.evacuate();
    this.#out.evacuate(on.bytes.buffer);
    this.#rma?.evacuate();
    on.link.finish();
    this.#unlink();
    this.#end = void 0;
    if (this.#state === "open") this.#state = "suspended";
    this.#context.suspended(this);
    for (const done of this.#onLetGo.splice(0)) done();
  }
  /** @internal What has gone over it in all, for the other side to compare. */
  get counts() {
    const { messagesSent, messagesReceived } = this.#counts();
    return { sent: messagesSent, received: messagesReceived };
  }
  #counts() {
    const on = this.#on;
    if (!on) return this.#past;
    const { layout: layout2 } = on.core;
    const count2 = (counter) => on.core.count(on.index, counter);
    return {
      messagesSent: this.#past.messagesSent + count2(layout2.COUNT_SENT),
      messagesReceived: this.#past.messagesReceived + count2(layout2.COUNT_RECEIVED),
      bytesSent: this.#past.bytesSent + count2(layout2.COUNT_SENT_BYTES),
      bytesReceived: this.#past.bytesReceived + count2(layout2.COUNT_RECEIVED_BYTES),
      stalls: this.#past.stalls + count2(layout2.COUNT_FULL)
    };
  }
  /** All queued messages are out: send EOF and announce the close. @returns whether that happened now */
  #finish() {
    if (this.#finished || this.#freed || this.#rma?.offering || !this.#out.sendEof()) return false;
    this.#finished = true;
    this.#on?.link.finish();
    return true;
  }
  close(options = {}) {
    if (this.#state === "closed") return this.#closing ?? Promise.resolve();
    const closing = this.#close(options.timeout ?? this.#context.closeTimeout, options.signal);
    this.#closing ??= closing;
    return closing;
  }
  async #close(timeout, signal) {
    if (this.#state === "connecting" && this.#out.waiting === 0) {
      this.#local = true;
      this.#in.discard();
      this.#cut({ reason: "local" });
      return;
    }
    const first = this.#state !== "closing";
    if (first) {
      this.#state = "closing";
      this.#local = true;
      this.#in.discard();
    }
    let timer;
    let abort;
    const cut = new Promise((_, reject) => {
      timer = setTimeout(() => {
        reject(new IsthmusError("ERR_ISTHMUS_CLOSE_TIMEOUT", `the peer did not finish the close within ${timeout} ms`));
      }, timeout);
      abort = () => reject(signal?.reason);
      if (signal?.aborted) abort();
      else signal?.addEventListener("abort", abort, { once: true });
    });
    try {
      if (first) {
        if (this.#end) this.#settle();
        else this.#pumpOut();
        this.#in.progress();
        this.wake();
      }
      await Promise.race([this.closed, cut]);
    } catch (error) {
      this.#cut({ reason: "local" });
      throw error;
    } finally {
      clearTimeout(timer);
      if (abort) signal?.removeEventListener("abort", abort);
    }
  }
  destroy(error) {
    if (this.#freed) return;
    const cause = error === void 0 || error instanceof IsthmusError ? error : new IsthmusError("ERR_ISTHMUS_CLOSED", error.message, { cause: error });
    this.#cut(cause ? { reason: "local", error: cause } : { reason: "local" });
  }
  stats() {
    const unread = {
      unreadMessages: this.#in.unreadMessages,
      unreadBytes: this.#in.unreadBytes,
      oldestUnreadMs: this.#in.oldestUnreadMs
    };
    const pendingSends = this.#out.waiting;
    const on = this.#on;
    return {
      ...this.#counts(),
      ringUsed: on ? Math.max(0, on.call.unread(on.index)) : 0,
      ringSize: on ? on.words[on.call.entry(on.index) + on.core.layout.TX_MASK >> 2] + 1 : 0,
      pendingSends,
      ...unread
    };
  }
  stream(options) {
    this.#stream ??= new ConnectionStream(this, options);
    return this.#stream;
  }
  ref() {
    this.#referenced = true;
    this.#on?.link.ref();
    return this;
  }
  unref() {
    this.#referenced = false;
    this.#on?.link.unref();
    return this;
  }
  async *[Symbol.asyncIterator]() {
    for (; ; ) {
      const message2 = await this.receive();
      if (message2 === void 0) return;
      yield message2;
    }
  }
  async [Symbol.asyncDispose]() {
    await this.close();
  }
};

// host/control/mqtt.ts
import { createHash, randomBytes as randomBytes2 } from "node:crypto";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { hostname } from "node:os";

// host/control/broker.ts
import { connect as connectTcp } from "node:net";
import { connect as connectTls } from "node:tls";
var CONNECT_TIME = 1e4;
var BACK_OFF = { first: 200, most: 5e3 };
var HELD = 5e3;
var KEEPALIVE = 15;
var BrokerLink = class {
  #options;
  #client;
  #up = false;
  #closed = false;
  /** What the broker has not confirmed: the client does not tell when the connection breaks. */
  #underWay = /* @__PURE__ */ new Set();
  #wait = BACK_OFF.first;
  #timer;
  /** Why the last attempt failed; the same is not logged again and again. */
  #why;
  constructor(options) {
    this.#options = options;
    void this.#attempt();
  }
  /** @returns whether the broker has it; false as well if that is not known */
  publish(topic, payload, { retain = false } = {}) {
    const client = this.#client;
    if (!client || !this.#up) return Promise.resolve(false);
    return new Promise((resolve) => {
      const done = (taken) => {
        this.#underWay.delete(done);
        resolve(taken);
      };
      this.#underWay.add(done);
      client.publish(topic, payload, { qos: 1, retain }, (error) => done(!error));
    });
  }
  /** Resolves when all is here that the broker has sent so far: it answers in order. */
  async caughtUp() {
    await this.#client?.unsubscribeAsync("isthmus/caught-up").catch(() => {
    });
  }
  /** In order, and within that time at most. Idempotent. */
  async close(limit = 1e3) {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    const client = this.#client;
    this.#client = void 0;
    if (!client) return;
    if (this.#up) {
      await bounded(new Promise((resolve) => client.end(false, () => resolve())), limit);
    }
    client.end(true);
    for (const done of this.#underWay) done(false);
  }
  async #attempt() {
    try {
      const { MqttClient } = await import("mqtt");
      if (this.#closed) return;
      this.#watch(new MqttClient(() => this.#open(), this.#clientOptions()));
    } catch (error) {
      this.#again(error.message);
    }
  }
  #clientOptions() {
    const { address, options, clientId, will, keepalive = KEEPALIVE } = this.#options;
    const username = options.username ?? address.username;
    const password = options.password ?? address.password;
    return {
      clientId,
      // What a broker has kept for us while we were away would come too late.
      clean: true,
      keepalive,
      connectTimeout: Math.max(CONNECT_TIME, keepalive * 1e3),
      reconnectPeriod: 0,
      resubscribe: false,
      timerVariant: {
        // Typed for browsers.
        set: (task, milliseconds) => setInterval(() => task(), milliseconds).unref(),
        clear: (timer) => clearInterval(timer)
      },
      ...username === void 0 ? {} : { username },
      ...password === void 0 ? {} : { password },
      ...will ? { will: { topic: will.topic, payload: Buffer.from(will.payload), qos: 1, retain: true } } : {}
    };
  }
  #open() {
    const { address, options, ref } = this.#options;
    const { host, port, secure } = address;
    const { ca, cert, key, passphrase, servername, rejectUnauthorized } = options;
    const bytes = (value) => value === void 0 || typeof value === "string" ? value : Buffer.from(value);
    const socket = secure ? connectTls({
      host,
      port,
      ca: bytes(ca),
      cert: bytes(cert),
      key: bytes(key),
      passphrase,
      .../^[\d.]+$|:/.test(host) ? {} : { servername: host },
      ...servername === void 0 ? {} : { servername },
      rejectUnauthorized: rejectUnauthorized ?? true
    }) : connectTcp({ host, port });
    socket.setNoDelay(true);
    if (!ref) socket.unref();
    return socket;
  }
  #watch(client) {
    this.#client = client;
    if (!this.#options.ref) client.connackTimer?.unref?.();
    let why = "the broker closed the connection";
    let since = Number.POSITIVE_INFINITY;
    client.on("error", (error) => {
      why = describe(error);
      if (!this.#up) client.end(true);
    }).on("connect", () => {
      since = performance.now();
      void this.#subscribe(client);
    }).on("message", (topic, payload, packet) => {
      if (this.#client === client) this.#options.message(topic, payload, packet);
    }).on("close", () => {
      if (this.#client !== client) return;
      this.#client = void 0;
      this.#up = false;
      client.end(true);
      for (const done of this.#underWay) done(false);
      if (performance.now() - since > HELD) this.#wait = BACK_OFF.first;
      this.#again(why);
    });
  }
  async #subscribe(client) {
    const { subscribe: subscribe2, log, up } = this.#options;
    try {
      const wanted = Object.entries(subscribe2).map(([topic, qos]) => [topic, { qos }]);
      const granted = await client.subscribeAsync(Object.fromEntries(wanted));
      for (const { topic, qos } of granted) if (qos > 2) log("warning", `the broker refuses to tell us of ${topic}`);
    } catch (error) {
      log("warning", `not subscribed: ${error.message}`);
    }
    if (this.#client !== client || !client.connected) return;
    this.#up = true;
    this.#why = void 0;
    log("info", `connected to the broker at ${this.#place()}`);
    up.call(this.#options);
  }
  #again(why) {
    if (this.#closed) return;
    const { log, down, ref } = this.#options;
    const wait = this.#wait * (0.75 + Math.random() / 2);
    log(why === this.#why ? "debug" : "warning", `no broker at ${this.#place()}: ${why}; it is tried again`);
    this.#why = why;
    this.#wait = Math.min(this.#wait * 2, BACK_OFF.most);
    this.#timer = setTimeout(() => void this.#attempt(), wait);
    if (!ref) this.#timer.unref();
    down?.call(this.#options, why);
  }
  #place() {
    const { host, port, secure } = this.#options.address;
    return maskBroker(`${secure ? "mqtts" : "mqtt"}://${host.includes(":") ? `[${host}]` : host}:${port}`);
  }
};
function describe(error) {
  const first = error instanceof AggregateError ? error.errors[0] : void 0;
  return (first ?? error).message || error.code || error.name;
}
async function bounded(task, limit) {
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, limit);
  });
  await Promise.race([task, late]);
  clearTimeout(timer);
}

// host/control/steering.ts
var MOVING = ["resuming", "finished", "preparing", "requested"];
var message = (error) => error instanceof Error ? error.message : String(error);
var Steering = class {
  #events;
  /** With what takes its listener away. */
  #members = /* @__PURE__ */ new Map();
  /** Those whose application has not said yet that it is complete. */
  #postponed = /* @__PURE__ */ new Set();
  #operation;
  /** A suspension that begins when the connections are back. */
  #again = false;
  /** Whether runtimes that join are to be suspended, too. */
  #suspended = false;
  constructor(events) {
    this.#events = events;
  }
  /** That of the whole process. */
  get state() {
    const states = [...this.#members.keys()].map(({ runtime }) => runtime.migration);
    if (this.#operation === "suspend") {
      return states.every((state) => state === "inactive" || state === "requested") ? "requested" : "preparing";
    }
    if (this.#operation === "resume") return "resuming";
    if (states.length > 0 && states.every((state) => state === "allowed")) return "allowed";
    return MOVING.find((state) => states.includes(state)) ?? "inactive";
  }
  join(member) {
    this.#members.set(
      member,
      member.runtime.onMigration((state) => {
        if (state === "resuming" || state === "finished") this.#suspended = false;
        this.#events.changed();
      })
    );
    if (this.#suspended && this.#operation !== "suspend") {
      member.runtime.suspend().catch((error) => {
        this.#events.log("warning", `a runtime of a process that is suspended is not: ${message(error)}`);
      });
    }
    this.#events.changed();
  }
  leave(member) {
    this.#members.get(member)?.();
    this.#members.delete(member);
    this.complete(member);
    this.#events.changed();
  }
  /** The application has done what it had to after a migration. */
  complete(member) {
    if (this.#postponed.delete(member) && this.#postponed.size === 0) this.#wake?.();
  }
  /** Never throws. What comes of it is told as an answer. */
  request(kind) {
    const { state } = this;
    const { log } = this.#events;
    const ignored = () => log("info", `request to ${kind} ignored: the process is ${state}`);
    log("info", `requested to ${kind}, ${state}`);
    switch (state) {
      case "inactive":
        if (kind === "resume") ignored();
        else void this.#suspend();
        return;
      case "requested":
      case "preparing":
        if (kind === "resume") void this.#resume();
        else if (kind === "suspend" && this.#operation === void 0) void this.#suspend();
        else ignored();
        return;
      case "allowed":
        if (kind === "suspend") this.#events.answer({ outcome: "ALLOWED" });
        else void this.#resume();
        return;
      case "finished":
      case "resuming":
        if (kind === "suspend") this.#suspendAgain();
        else if (kind === "resume" && this.#operation === void 0) void this.#resume();
        else if (kind === "resume" && this.#again) this.#again = false;
        else ignored();
    }
  }
  #suspendAgain() {
    if (this.#operation === void 0) {
      void this.#suspend();
      return;
    }
    this.#again = true;
    for (const member of [...this.#postponed]) this.complete(member);
  }
  async #suspend() {
    this.#operation = "suspend";
    this.#suspended = true;
    this.#events.changed();
    const failure3 = await this.#each((runtime) => runtime.suspend());
    if (this.#operation === "suspend") this.#operation = void 0;
    if (failure3 === void 0) {
      this.#events.answer({ outcome: "ALLOWED" });
      this.#events.changed();
      return;
    }
    this.#events.log("warning", `the suspension failed: ${failure3}`);
    this.#events.answer({ outcome: "FAILED", reason: failure3 });
    if (this.#operation === void 0) await this.#back();
  }
  /** After a suspension that failed: those that are suspended come back, and nobody asked for that. */
  async #back() {
    this.#operation = "resume";
    this.#suspended = false;
    const failure3 = await this.#each((runtime) => runtime.resume());
    if (failure3 !== void 0) this.#events.log("error", `not back after it: ${failure3}`);
    this.#ended();
  }
  async #resume() {
    this.#operation = "resume";
    this.#suspended = false;
    for (const member of this.#members.keys()) if (member.postpone) this.#postponed.add(member);
    this.#events.changed();
    const failure3 = await this.#each((runtime) => runtime.resume());
    if (failure3 === void 0) await this.#completed();
    else this.#postponed.clear();
    this.#events.answer(failure3 === void 0 ? { outcome: "COMPLETED" } : { outcome: "FAILED", reason: failure3 });
    this.#ended();
  }
  #ended() {
    this.#operation = void 0;
    this.#events.changed();
    if (!this.#again) return;
    this.#again = false;
    void this.#suspend();
  }
  #wake;
  /** Until every application that wanted to be waited for has called, or is gone. */
  async #completed() {
    if (this.#postponed.size === 0) return;
    this.#events.log("info", "COMPLETED is held back until the application calls completeMigration()");
    await new Promise((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = void 0;
  }
  /**
   * Do that to all, also to those that join meanwhile; what becomes of those that leave does not matter.
   * @returns at the first failure why; undefined when all are there
   */
  async #each(act) {
    const done = /* @__PURE__ */ new Set();
    for (; ; ) {
      const rest = [...this.#members.keys()].filter((member) => !done.has(member));
      if (rest.length === 0) break;
      try {
        await Promise.all(
          rest.map(async (member) => {
            try {
              await act(member.runtime);
            } catch (error) {
              if (this.#members.has(member)) throw error;
            }
            done.add(member);
          })
        );
      } catch (error) {
        return message(error) || "unknown";
      }
    }
    return this.#members.size === 0 ? "the runtime was closed" : void 0;
  }
};

// host/control/threads.ts
import { BroadcastChannel, threadId } from "node:worker_threads";
var BEAT = 1e3;
var GONE = 6e3;
var ANSWER = 250;
var RemoteRuntime = class {
  described;
  #act;
  #listeners = /* @__PURE__ */ new Set();
  constructor(described, act) {
    this.described = described;
    this.#act = act;
  }
  get migration() {
    return this.described.migration;
  }
  suspend() {
    return this.#act("suspend");
  }
  resume() {
    return this.#act("resume");
  }
  onMigration(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  /** @returns whether its connections are others now */
  update(described) {
    const { migration, connections } = this.described;
    this.described = described;
    if (migration !== described.migration) for (const listener of this.#listeners) listener(described.migration);
    return JSON.stringify(connections) !== JSON.stringify(described.connections);
  }
};
var Threads = class {
  #events;
  #channel;
  #beat;
  #election;
  #leading = false;
  /** Another thread that leads, and when it last said so. */
  #leader;
  #others = /* @__PURE__ */ new Map();
  #calls = /* @__PURE__ */ new Map();
  #next = 1;
  /** @param key what they have in common */
  constructor(key, events) {
    this.#events = events;
    this.#channel = new BroadcastChannel(`isthmus ${key}`);
    this.#channel.onmessage = (event) => this.#heard(event.data);
    this.#channel.unref();
    this.#beat = setInterval(() => this.#tick(), BEAT).unref();
  }
  /** Find out who leads. */
  start() {
    if (threadId === 0) this.#lead();
    else this.#elect();
  }
  /** The runtimes of this thread, or what they do, have changed. */
  tell() {
    if (!this.#leading) this.#say({ kind: "runtimes", runtimes: this.#events.describe() });
  }
  /** For a runtime of this thread, while another one leads. */
  complete(number) {
    if (!this.#leading) this.#say({ kind: "complete", number });
  }
  close() {
    clearInterval(this.#beat);
    clearTimeout(this.#election);
    this.#say({ kind: "runtimes", runtimes: [] });
    this.#channel.close();
    for (const thread of [...this.#others.keys()]) this.#forget(thread);
  }
  #say(message2) {
    this.#channel.postMessage({ from: threadId, ...message2 });
  }
  #elect() {
    if (this.#election) return;
    this.#leader = void 0;
    this.#say({ kind: "who" });
    this.#election = setTimeout(() => {
      this.#election = void 0;
      if (!this.#leader) this.#lead();
    }, ANSWER).unref();
  }
  #lead() {
    this.#leader = void 0;
    this.#leading = true;
    this.#say({ kind: "lead" });
    this.#events.lead(true);
  }
  #follow(thread) {
    clearTimeout(this.#election);
    this.#election = void 0;
    const known2 = this.#leader?.thread === thread;
    this.#leader = { thread, heard: performance.now() };
    if (this.#leading) {
      this.#leading = false;
      for (const each of [...this.#others.keys()]) this.#forget(each);
      this.#events.lead(false);
    }
    if (!known2) this.tell();
  }
  #tick() {
    const now = performance.now();
    if (this.#leading) {
      this.#say({ kind: "lead" });
      for (const [thread, { heard }] of this.#others) if (now - heard > GONE) this.#forget(thread);
    } else if (this.#leader && now - this.#leader.heard > GONE) {
      this.#elect();
    } else {
      this.tell();
    }
  }
  #heard(message2) {
    const { from } = message2;
    switch (message2.kind) {
      case "who":
        if (this.#leading) this.#say({ kind: "lead" });
        break;
      case "lead":
        if (this.#leading && from > threadId) this.#say({ kind: "lead" });
        else this.#follow(from);
        break;
      case "runtimes":
        if (this.#leading) this.#described(from, message2.runtimes);
        else if (from === this.#leader?.thread && message2.runtimes.length === 0) this.#elect();
        break;
      case "complete": {
        const runtime = this.#others.get(from)?.runtimes.get(message2.number);
        if (this.#leading && runtime) this.#events.completed(runtime);
        break;
      }
      case "act":
        if (message2.to === threadId) void this.#act(from, message2.number, message2.act, message2.call);
        break;
      case "acted":
        if (message2.to === threadId) this.#calls.get(message2.call)?.done(message2.error);
    }
  }
  async #act(to, number, act, call) {
    let error;
    try {
      await this.#events.act(number, act);
    } catch (cause) {
      error = cause instanceof Error ? cause.message : String(cause);
    }
    this.tell();
    this.#say({ kind: "acted", to, call, error });
  }
  #described(thread, runtimes) {
    const other = this.#others.get(thread) ?? { runtimes: /* @__PURE__ */ new Map(), heard: 0 };
    this.#others.set(thread, other);
    other.heard = performance.now();
    const there = new Set(runtimes.map(({ number }) => number));
    for (const number of [...other.runtimes.keys()]) if (!there.has(number)) this.#left(other, number);
    for (const described of runtimes) {
      const known2 = other.runtimes.get(described.number);
      if (known2) {
        if (known2.update(described)) this.#events.changed();
        continue;
      }
      const runtime = new RemoteRuntime(described, (act) => this.#ask(thread, described.number, act));
      other.runtimes.set(described.number, runtime);
      this.#events.joined(runtime);
    }
    if (other.runtimes.size === 0) this.#forget(thread);
  }
  #left(other, number) {
    const runtime = other.runtimes.get(number);
    other.runtimes.delete(number);
    if (runtime) this.#events.left(runtime);
  }
  /** Its calls fail after it has left, so that they do not count. */
  #forget(thread) {
    const other = this.#others.get(thread);
    this.#others.delete(thread);
    if (other) for (const number of [...other.runtimes.keys()]) this.#left(other, number);
    for (const call of [...this.#calls.values()]) if (call.thread === thread) call.done("the thread has ended");
  }
  /** Ends with an answer, or with the thread. */
  #ask(thread, number, act) {
    const call = this.#next++;
    return new Promise((resolve, reject) => {
      this.#calls.set(call, {
        thread,
        done: (error) => {
          this.#calls.delete(call);
          if (error === void 0) resolve();
          else reject(new IsthmusError("ERR_ISTHMUS_SUSPEND", error));
        }
      });
      this.#say({ kind: "act", to: thread, number, act, call });
    });
  }
};

// host/control/mqtt.ts
var SETTLE = 500;
var MAX_UNSENT = 16;
var MAX_SEEN = 64;
var LAST_WORDS = 1e3;
var CHANNELS = ["open", "close", "suspend", "resume"].map((event) => `isthmus:connection:${event}`);
var controls = /* @__PURE__ */ new Map();
function joinMqtt(runtime, options) {
  const { broker, mqtt = {}, keepalive, host = hostname() } = options;
  brokerAddress(broker);
  const id = options.controlId || String(process.pid);
  const key = JSON.stringify([broker, mqtt, keepalive, host, id]);
  let control = controls.get(key);
  if (!control) {
    control = new MqttControl(key, broker, { ...mqtt, keepalive }, host, id, () => controls.delete(key));
    controls.set(key, control);
  }
  return control.join(runtime, options);
}
var MqttControl = class {
  #broker;
  #mqtt;
  #host;
  #id;
  #ended;
  #steering;
  #threads;
  /** Undefined: another thread leads. */
  #link;
  /** Those of this thread. */
  #locals = /* @__PURE__ */ new Map();
  #remotes = /* @__PURE__ */ new Map();
  /** Those that this thread speaks for. */
  #members = /* @__PURE__ */ new Set();
  #next = 1;
  #state = "inactive";
  #since = /* @__PURE__ */ new Date();
  /** Answers that no broker has yet, the oldest first. */
  #unsent = [];
  #sending = false;
  #settling;
  /** Deliveries that were acted on. */
  #seen = [];
  constructor(key, broker, mqtt, host, id, ended) {
    this.#broker = broker;
    this.#mqtt = mqtt;
    this.#host = host;
    this.#id = id;
    this.#ended = ended;
    this.#steering = new Steering({
      answer: (said) => this.#answer(feedback(id, said)),
      changed: () => this.#changed(),
      log: (level, line) => this.#log(level, line)
    });
    this.#threads = new Threads(createHash("sha256").update(key).digest("hex"), {
      describe: () => [...this.#locals].map(([number, local]) => describe2(number, local)),
      act: async (number, act) => this.#locals.get(number)?.runtime[act](),
      lead: (leading) => this.#lead(leading),
      joined: (runtime) => this.#joined(runtime),
      changed: () => this.#settle(),
      left: (runtime) => {
        const participant = this.#remotes.get(runtime);
        this.#remotes.delete(runtime);
        if (participant) this.#dismiss(participant);
      },
      completed: (runtime) => {
        const participant = this.#remotes.get(runtime);
        if (participant) this.#steering.complete(participant);
      }
    });
    for (const channel2 of CHANNELS) subscribe(channel2, this.#connections);
    this.#threads.start();
  }
  join(runtime, options) {
    const number = this.#next++;
    const local = {
      runtime,
      postpone: options.postpone ?? false,
      options,
      about: () => ({ id: options.id, name: options.name, connections: options.connections() }),
      forget: runtime.onMigration(() => this.#threads.tell())
    };
    this.#locals.set(number, local);
    if (this.#link) this.#admit(local);
    else this.#threads.tell();
    let left3;
    return {
      complete: () => {
        if (this.#link) this.#steering.complete(local);
        else this.#threads.complete(number);
      },
      leave: () => {
        left3 ??= this.#leave(number, local);
        return left3;
      }
    };
  }
  async #leave(number, local) {
    local.forget();
    this.#locals.delete(number);
    if (this.#locals.size > 0) {
      this.#dismiss(local);
      this.#threads.tell();
      return;
    }
    this.#ended();
    for (const channel2 of CHANNELS) unsubscribe(channel2, this.#connections);
    clearTimeout(this.#settling);
    const link = this.#link;
    const offline = { ...this.#status(), state: "offline", since: (/* @__PURE__ */ new Date()).toISOString(), plugins: {} };
    const others = this.#remotes.size > 0;
    this.#dismiss(local);
    await Promise.resolve();
    this.#threads.close();
    const start = performance.now();
    if (link && !others)
      await bounded(link.publish(this.#topic, JSON.stringify(offline), { retain: true }), LAST_WORDS);
    await link?.close(Math.max(0, LAST_WORDS - (performance.now() - start)));
  }
  // ─── threads ───────────────────────────────────────────────────────────────────────────────────────────────────────
  #lead(leading) {
    if (!leading) {
      const link = this.#link;
      this.#link = void 0;
      for (const member of [...this.#members]) this.#dismiss(member);
      this.#unsent.length = 0;
      void link?.close();
      return;
    }
    const gone = { state: "offline", since: null, name: "", pid: process.pid, plugins: {} };
    this.#link = new BrokerLink({
      address: brokerAddress(this.#broker),
      options: this.#mqtt,
      keepalive: this.#mqtt.keepalive,
      // Not the pid alone: a broker has room for one client of a name.
      clientId: `isthmus_${this.#host}_${this.#id}_${randomBytes2(4).toString("hex")}`,
      will: { topic: this.#topic, payload: JSON.stringify(gone) },
      subscribe: { [topics.requests(this.#host)]: 1 },
      log: (level, line) => this.#log(level, line),
      up: () => {
        this.#tell();
        void this.#send();
      },
      message: (topic, payload, packet) => this.#heard(topic, payload, packet)
    });
    for (const local of this.#locals.values()) this.#admit(local);
  }
  #joined(runtime) {
    const participant = {
      runtime,
      postpone: runtime.described.postpone,
      about: () => runtime.described
    };
    this.#remotes.set(runtime, participant);
    this.#admit(participant);
  }
  #admit(participant) {
    this.#members.add(participant);
    this.#steering.join(participant);
    this.#settle();
  }
  #dismiss(participant) {
    if (!this.#members.delete(participant)) return;
    this.#steering.leave(participant);
    if (this.#members.size > 0) this.#settle();
  }
  get #topic() {
    return topics.status(this.#host, this.#id);
  }
  #log(level, line) {
    const [first] = this.#locals.values();
    first?.options.log(level, line);
  }
  // ─── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────
  #heard(topic, payload, delivery) {
    const to = idOfTopic(topic);
    if (to !== ANY_PROC && to !== this.#id) return;
    if (delivery.retain) {
      this.#log("warning", `a retained request at ${topic} is ignored: nobody knows how old it is`);
      return;
    }
    const request = parseRequest(payload, this.#id);
    if (request.kind === "others") {
      this.#log("debug", `a request at ${topic} is meant for others`);
    } else if (request.kind === "unknown") {
      this.#log("warning", `a request at ${topic} is ignored, not understood: ${request.why}`);
    } else if (this.#again(topic, delivery)) {
      this.#log("info", `a request at ${topic} is ignored: it was delivered before`);
    } else {
      this.#steering.request(request.kind);
    }
  }
  /** Whether it has been acted on; remembered from here on. */
  #again(topic, { qos, messageId, dup, payload }) {
    if (qos === 0) return false;
    const key = `${messageId} ${topic} ${payload.toString("latin1")}`;
    if (dup && this.#seen.includes(key)) return true;
    this.#seen.push(key);
    if (this.#seen.length > MAX_SEEN) this.#seen.shift();
    return false;
  }
  // ─── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────
  #answer(text2) {
    if (!this.#link) return;
    this.#log("info", `answers '${text2}'`);
    this.#unsent.push(text2);
    if (this.#unsent.length > MAX_UNSENT) this.#unsent.shift();
    void this.#send();
  }
  /** In order; what the broker has not confirmed stays, until it is back. */
  async #send() {
    if (this.#sending) return;
    this.#sending = true;
    for (let text2 = this.#unsent[0]; text2 !== void 0; text2 = this.#unsent[0]) {
      if (!await this.#link?.publish(topics.response(this.#host, this.#id), text2)) break;
      if (this.#unsent[0] === text2) this.#unsent.shift();
    }
    this.#sending = false;
  }
  // ─── the status ────────────────────────────────────────────────────────────────────────────────────────────────────
  #connections = (event) => {
    const { runtime } = event;
    for (const local of this.#locals.values()) if (local.runtime === runtime) this.#settle();
  };
  #changed() {
    const { state } = this.#steering;
    if (state === this.#state) return;
    this.#state = state;
    this.#since = /* @__PURE__ */ new Date();
    this.#tell();
  }
  /** Connections come and go by the hundred: they are published together. */
  #settle() {
    this.#settling ??= setTimeout(() => this.#tell(), SETTLE).unref();
  }
  #tell() {
    clearTimeout(this.#settling);
    this.#settling = void 0;
    void this.#link?.publish(this.#topic, JSON.stringify(this.#status()), { retain: true });
  }
  #status() {
    const names = /* @__PURE__ */ new Set();
    const plugins = {};
    let count2 = 0;
    for (const member of this.#members) {
      const { id, name, connections } = member.about();
      names.add(name);
      for (const { number, plugin } of connections) {
        if (count2++ < MAX_PLUGINS) plugins[`${id}#${number}`] = plugin;
      }
    }
    return {
      state: this.#state,
      since: this.#since.toISOString(),
      name: [...names].join(" "),
      pid: process.pid,
      plugins,
      ...count2 > MAX_PLUGINS ? { more: count2 - MAX_PLUGINS } : {}
    };
  }
};
function describe2(number, { runtime, postpone, about }) {
  const { id, name, connections } = about();
  return {
    number,
    id,
    name,
    postpone,
    migration: runtime.migration,
    connections: connections.slice(0, MAX_PLUGINS).map(({ number: n, plugin }) => ({ number: n, plugin }))
  };
}

// host/control/requests.ts
function summaryOf({ plugins, regions, refused, connections, ...summary }) {
  return summary;
}
var MAX_TIMEOUT = 36e5;
function timeoutOf(value) {
  if (value === void 0) return void 0;
  if (Number.isSafeInteger(value) && value >= 1 && value <= MAX_TIMEOUT) return value;
  throw new IsthmusError(
    "ERR_ISTHMUS_INVALID_ARGUMENT",
    `"timeout" is a number of milliseconds from 1 to ${MAX_TIMEOUT}`
  );
}
function requestsOf(runtime) {
  return /* @__PURE__ */ new Map([
    ["summary", () => summaryOf(runtime.inspect())],
    ["inspect", () => runtime.inspect()],
    [
      "debug",
      ({ level }) => {
        runtime.debug = level;
        return { level: runtime.debug };
      }
    ],
    // Answered when it is done: the asker decides how long to wait, and leaves when it does not want to any more.
    [
      "suspend",
      async ({ timeout }) => {
        await runtime.suspend({ timeout: timeoutOf(timeout) });
        return { migration: runtime.migration };
      }
    ],
    [
      "resume",
      async () => {
        await runtime.resume();
        return { migration: runtime.migration };
      }
    ]
  ]);
}

// host/control/socket.ts
import { chmodSync, existsSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { threadId as threadId2 } from "node:worker_threads";

// host/control/folder.ts
import { lstatSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { isAbsolute, join } from "node:path";
var MAX_PATH = process.platform === "linux" ? 107 : 103;
var SUFFIX = ".sock";
function controlFolder(environment = process.env) {
  const uid = process.geteuid?.();
  if (uid === void 0) throw new IsthmusError("ERR_ISTHMUS_SYSCALL", "there are no control sockets on this platform");
  const base = environment["XDG_RUNTIME_DIR"];
  return base && isAbsolute(base) ? join(base, "isthmus") : join(tmpdir(), `isthmus-${uid}`);
}
function pathOf(folder, id) {
  return join(folder, id + SUFFIX);
}
function checkFolder(folder) {
  const found = lstatSync(folder, { throwIfNoEntry: false });
  if (!found) return false;
  const wrong = (what) => {
    throw new IsthmusError("ERR_ISTHMUS_SYSCALL", `${folder} is not used for control sockets: ${what}`, {
      path: folder
    });
  };
  if (!found.isDirectory()) wrong("it is not a folder");
  if (found.uid !== process.geteuid?.()) wrong(`it belongs to user ${found.uid}`);
  if ((found.mode & 63) !== 0) wrong(`others may use it (mode 0${(found.mode & 511).toString(8)}, not 0700)`);
  return true;
}
function makeFolder(folder) {
  try {
    mkdirSync(folder, { mode: 448 });
  } catch (error) {
    if (error.code !== "EEXIST") throw error;
  }
  checkFolder(folder);
}

// host/control/socket.ts
var MAX_REQUEST2 = 65536;
var MAX_CLIENTS = 16;
var CLIENT_TIME = 5e3;
var TRIES = 1e3;
var count = 0;
function newId() {
  return `${process.pid}${threadId2 === 0 ? "" : `.${threadId2}`}-${count++}`;
}
var left = /* @__PURE__ */ new Set();
var watching = false;
function removeAtExit(path) {
  left.add(path);
  if (watching) return;
  watching = true;
  process.on("exit", () => {
    for (const each of left) rmSync(each, { force: true });
  });
}
var ControlSocket = class _ControlSocket {
  id;
  #path;
  #handlers;
  #server;
  #clients = /* @__PURE__ */ new Set();
  constructor(id, path, handlers, log) {
    this.id = id;
    this.#path = path;
    this.#handlers = handlers;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#serve(socket));
    this.#server.maxConnections = MAX_CLIENTS;
    this.#server.on("error", (error) => log("info", `control socket: ${error.message}`));
    this.#server.listen({ path, exclusive: true });
    this.#server.unref();
    if (!this.#server.listening) return;
    removeAtExit(path);
    chmodSync(path, 384);
  }
  /** Serve, without waiting for anything. @returns undefined if that cannot be; why is logged at `info` */
  static open(handlers, log) {
    try {
      const folder = controlFolder();
      let id = newId();
      const bytes = Buffer.byteLength(pathOf(folder, id));
      if (bytes > MAX_PATH) {
        log("info", `no control socket: the path ${pathOf(folder, id)} has ${bytes} bytes, at most ${MAX_PATH} fit`);
        return void 0;
      }
      makeFolder(folder);
      for (let i = 0; i < TRIES && existsSync(pathOf(folder, id)); i++) id = newId();
      return new _ControlSocket(id, pathOf(folder, id), handlers, log);
    } catch (error) {
      log("info", `no control socket: ${error.message}`);
      return void 0;
    }
  }
  /** Idempotent. */
  close() {
    this.#server.close();
    left.delete(this.#path);
    for (const client of this.#clients) client.destroy();
  }
  #serve(socket) {
    this.#clients.add(socket);
    socket.unref();
    socket.on("error", () => {
    });
    let timer;
    const limit = () => {
      timer = setTimeout(() => socket.destroy(), CLIENT_TIME).unref();
    };
    const answer = (text2) => {
      limit();
      socket.end(`${text2}
`);
      socket.resume();
    };
    const asked = async (line) => {
      clearTimeout(timer);
      answer(await this.#answer(line));
    };
    const chunks = [];
    let length = 0;
    const collect = (chunk) => {
      const end2 = chunk.indexOf(10);
      chunks.push(end2 < 0 ? chunk : chunk.subarray(0, end2));
      length += chunks.at(-1).length;
      if (length <= MAX_REQUEST2 && end2 < 0) return;
      socket.off("data", collect).off("end", ended).pause();
      if (length <= MAX_REQUEST2) {
        void asked(Buffer.concat(chunks).toString());
        return;
      }
      clearTimeout(timer);
      answer(failure(new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `a request of more than ${MAX_REQUEST2} bytes`)));
    };
    const ended = () => socket.end();
    limit();
    socket.on("close", () => {
      clearTimeout(timer);
      this.#clients.delete(socket);
    }).on("end", ended).on("data", collect);
  }
  /** Never throws. */
  async #answer(line) {
    try {
      const fields = parse(line);
      const name = fields["request"];
      const handler = typeof name === "string" ? this.#handlers.get(name) : void 0;
      if (!handler) {
        const known2 = [...this.#handlers.keys()].join(", ");
        throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `"request" is none of: ${known2}`);
      }
      return JSON.stringify({ result: await handler(fields) ?? null });
    } catch (error) {
      return failure(error);
    }
  }
};
function parse(line) {
  let value;
  try {
    value = JSON.parse(line);
  } catch {
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "a request is a line with one JSON object");
}
function failure(error) {
  const code = error instanceof IsthmusError ? error.code : null;
  return JSON.stringify({ error: { code, message: error instanceof Error ? error.message : String(error) } });
}

// host/core/private.ts
var SIZES = [256, 64, 16].map((mib) => mib * 1048576);
function createPrivateCore() {
  let refusal2;
  for (const size2 of SIZES) {
    let core;
    try {
      core = new Core(size2);
    } catch (error) {
      refusal2 = error;
      continue;
    }
    const { call } = core;
    call.geometry(size2);
    call.format(0);
    call.finishFormat();
    call.claimSlot(0, 0);
    call.publishSlot();
    return core;
  }
  throw refusal2;
}
function openPair(core, ringSize2) {
  const near = openEntry(core, ringSize2);
  let far;
  try {
    far = openEntry(core, ringSize2);
  } catch (error) {
    core.call.free(near);
    throw error;
  }
  core.call.join(near, far);
  core.call.start(near);
  core.call.start(far);
  return [near, far];
}
function openEntry(core, ringSize2) {
  const { call, layout: layout2 } = core;
  const index = call.open() - 1;
  if (index < 0) {
    throw new IsthmusError(
      "ERR_ISTHMUS_NO_CONNECTIONS",
      `all ${layout2.CONNECTIONS} connections of this core are in use`
    );
  }
  for (let size2 = ringSize2; size2 >= Math.min(ringSize2, layout2.RING_MIN * 4); size2 /= 2) {
    if (call.createRing(index, size2, 0)) return index;
  }
  call.free(index);
  const free = core.freeFrames() * layout2.FRAME;
  throw new IsthmusError(
    "ERR_ISTHMUS_NO_FRAMES",
    `no run of free frames for a ring of ${ringSize2} bytes, nor for a smaller one (${free} bytes are free)`,
    { needed: ringSize2, available: free }
  );
}

// host/device/backing.ts
import { closeSync, constants, fstatSync, lstatSync as lstatSync2, openSync, readFileSync, statfsSync, statSync } from "node:fs";
import { join as join3 } from "node:path";

// host/core/mapper.ts
import { createRequire } from "node:module";
import { dirname, join as join2 } from "node:path";
import { fileURLToPath } from "node:url";
var require2 = createRequire(import.meta.url);
var loaded;
var failure2;
function load() {
  if (process.platform !== "linux") {
    throw new Error(`regions need Linux, this is ${process.platform}`);
  }
  const root = join2(dirname(fileURLToPath(import.meta.url)), "..");
  const build = require2("node-gyp-build");
  return build(root);
}
function mapper() {
  if (loaded) return loaded;
  if (failure2) throw failure2;
  try {
    loaded = load();
    return loaded;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
    failure2 = new IsthmusError("ERR_ISTHMUS_NATIVE_MISSING", `the native part is not there: ${reason}`, { cause });
    throw failure2;
  }
}
function mapperMissing() {
  try {
    mapper();
    return void 0;
  } catch (error) {
    return error;
  }
}

// host/device/backing.ts
var WAYS = { uio: "uio driver", pci: "PCI resource2, slow: uncached" };
var MIB = 1048576;
function checkSize(size2, path) {
  if (size2 < MIB) {
    throw new IsthmusError("ERR_ISTHMUS_REGION_TOO_SMALL", `${path}: ${size2} bytes; a region has at least 1 MiB`, {
      path,
      needed: MIB,
      available: size2
    });
  }
  if (!Number.isInteger(Math.log2(size2))) {
    throw new IsthmusError("ERR_ISTHMUS_REGION_SIZE", `${path}: ${size2} bytes is not a power of two`, { path });
  }
}
function usableSize(bytes) {
  return Math.min(bytes, Math.floor(coreLayout().REGION_MAX / MIB) * MIB);
}
function systemError(error, what, path, code = "ERR_ISTHMUS_SYSCALL") {
  const cause = error;
  return new IsthmusError(code, `${what} ${path}: ${cause.code ?? cause.message}`, {
    cause,
    errno: cause.code,
    syscall: cause.syscall,
    path
  });
}
function attribute(...path) {
  return readFileSync(join3(...path), "latin1").trim();
}
function openDevice(path, access = constants.O_RDWR) {
  try {
    return openSync(path, access | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error;
    if (code === "EACCES" || code === "EPERM") {
      throw systemError(error, "may not open", path, "ERR_ISTHMUS_REGION_PERMISSIONS");
    }
    throw systemError(error, "cannot open", path, "ERR_ISTHMUS_REGION_NOT_FOUND");
  }
}
function reserve(fd, size2, path, part = size2) {
  try {
    mapper().reserve(fd, part);
  } catch (error) {
    if (error.code !== "ENOSPC") throw wrap(error, "cannot reserve", path);
    const { bavail, bsize } = statfsSync(path);
    const missing = size2 - fstatSync(fd).blocks * 512;
    throw new IsthmusError(
      "ERR_ISTHMUS_REGION_NO_SPACE",
      `${path}: ${missing} of ${size2} bytes have no block yet, and its file system has ${bavail * bsize} bytes free`,
      { cause: error, errno: "ENOSPC", syscall: "posix_fallocate", path, needed: missing, available: bavail * bsize }
    );
  }
}
function wrap(error, what, path) {
  return error instanceof IsthmusError ? error : systemError(error, what, path);
}
function closeQuietly(fd) {
  try {
    closeSync(fd);
  } catch {
  }
}
var boot;
function bootId() {
  if (!boot) {
    let text2 = "";
    try {
      text2 = readFileSync("/proc/sys/kernel/random/boot_id", "utf8");
    } catch {
    }
    boot = new Uint8Array(16);
    boot.set(Buffer.from(text2.replaceAll("-", "").trim(), "hex").subarray(0, 16));
  }
  return boot;
}
function identityHash({ boot: boot2, dev, ino }) {
  const bytes = Buffer.alloc(32);
  bytes.set(boot2);
  bytes.writeBigUInt64LE(dev, 16);
  bytes.writeBigUInt64LE(ino, 24);
  let hash = 2166136261;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 16777619) >>> 0;
  return (hash >>> 24 ^ hash) & 16777215 || 1;
}
function identityOf(fd) {
  const stat = fstatSync(fd, { bigint: true });
  const file = { boot: bootId(), dev: BigInt.asUintN(64, stat.dev), ino: BigInt.asUintN(64, stat.ino) };
  return { ...file, hash: identityHash(file) };
}
function isAt(path, { dev, ino }) {
  try {
    const found = lstatSync2(path, { bigint: true });
    return BigInt.asUintN(64, found.dev) === dev && BigInt.asUintN(64, found.ino) === ino;
  } catch {
    return false;
  }
}
function pidNamespace() {
  try {
    return statSync("/proc/self/ns/pid", { bigint: true }).ino;
  } catch {
    return 0n;
  }
}

// host/diagnostics.ts
import { channel } from "node:diagnostics_channel";
var CHANNELS2 = {
  "isthmus:listen": channel("isthmus:listen"),
  "isthmus:connection:open": channel("isthmus:connection:open"),
  "isthmus:connection:suspend": channel("isthmus:connection:suspend"),
  "isthmus:connection:resume": channel("isthmus:connection:resume"),
  "isthmus:connection:stalled": channel("isthmus:connection:stalled"),
  "isthmus:connection:recovered": channel("isthmus:connection:recovered"),
  "isthmus:connection:close": channel("isthmus:connection:close"),
  "isthmus:migration": channel("isthmus:migration"),
  "isthmus:handshake:failed": channel("isthmus:handshake:failed"),
  "isthmus:region:attach": channel("isthmus:region:attach"),
  "isthmus:region:detach": channel("isthmus:region:detach")
};
function publish(runtime, name, event) {
  const target = CHANNELS2[name];
  if (target.hasSubscribers) target.publish({ runtime, ...event() });
}

// host/core/region.ts
import { randomBytes as randomBytes4 } from "node:crypto";
import { hostname as hostname3 } from "node:os";

// host/core/doorbell.ts
import { closeSync as closeSync2 } from "node:fs";
var nameOf = ({ dev, ino }, { slot, generation }) => `isthmus/${dev}:${ino}/${slot}/${generation}`;
var keyOf = ({ slot, generation }) => `${slot}/${generation}`;
var CALLERS = 64;
var KNOWN = 4096;
var Doorbell = class _Doorbell {
  #bell;
  #listening;
  #watches = [];
  /** Those who have called and not said who they are. */
  #callers = /* @__PURE__ */ new Map();
  #held = /* @__PURE__ */ new Set();
  constructor(bell, listening, rung) {
    this.#bell = bell;
    this.#listening = listening;
    const native = mapper();
    this.#watches.push(
      native.watch(bell, () => {
        native.quiet(bell);
        rung();
      }),
      native.watch(listening, () => this.#accept())
    );
  }
  /** @returns undefined if there cannot be one here: then nobody rings, and we look by a timer */
  static open(region, us, rung) {
    const native = mapper();
    let bell = -1;
    let listening = -1;
    try {
      bell = native.createDoorbell();
      listening = native.listenAbstract(nameOf(region, us));
      return new _Doorbell(bell, listening, rung);
    } catch {
      for (const fd of [bell, listening]) if (fd >= 0) closeSync2(fd);
      return void 0;
    }
  }
  /** Whether that peer can ring. */
  heldBy(peer) {
    return this.#held.has(keyOf(peer));
  }
  #accept() {
    const native = mapper();
    try {
      for (let fd = native.acceptFrom(this.#listening); fd >= 0; fd = native.acceptFrom(this.#listening)) {
        const caller = fd;
        if (this.#answer(caller)) continue;
        const [oldest] = this.#callers.keys();
        if (this.#callers.size >= CALLERS && oldest !== void 0) this.#dismiss(oldest);
        this.#callers.set(
          caller,
          native.watch(caller, () => this.#answer(caller))
        );
      }
    } catch {
    }
  }
  /** @returns whether he is done with, for good or for bad */
  #answer(caller) {
    try {
      const who = mapper().answer(caller, this.#bell);
      if (who === void 0) return false;
      if (this.#held.size < KNOWN) this.#held.add(keyOf(who));
    } catch {
    }
    this.#dismiss(caller);
    return true;
  }
  #dismiss(caller) {
    this.#callers.get(caller)?.close();
    this.#callers.delete(caller);
    closeSync2(caller);
  }
  close() {
    for (const watch of this.#watches.splice(0)) watch.close();
    for (const [caller, watch] of this.#callers) {
      watch.close();
      closeSync2(caller);
    }
    this.#callers.clear();
    closeSync2(this.#listening);
    closeSync2(this.#bell);
  }
};
var PeerBell = class {
  #fd = -1;
  #calling;
  /** It was to be rung before it was here. */
  #missed = false;
  constructor(region, us, peer) {
    const native = mapper();
    let fd = -1;
    try {
      fd = native.connectAbstract(nameOf(region, peer), us.slot, us.generation);
      this.#calling = { fd, watch: native.watch(fd, () => this.#receive()) };
    } catch {
      if (fd >= 0) closeSync2(fd);
    }
  }
  #receive() {
    try {
      const bell = mapper().receiveDoorbell(this.#calling.fd);
      if (bell < 0) return;
      this.#fd = bell;
      if (this.#missed) this.ring();
    } catch {
    }
    this.#hangUp();
  }
  #hangUp() {
    this.#calling?.watch.close();
    if (this.#calling) closeSync2(this.#calling.fd);
    this.#calling = void 0;
  }
  /** Wake him, if we can. */
  ring() {
    if (this.#fd >= 0) mapper().ring(this.#fd);
    else this.#missed = true;
  }
  close() {
    this.#hangUp();
    if (this.#fd >= 0) closeSync2(this.#fd);
    this.#fd = -1;
  }
};
var Doorbells = class {
  #region;
  #us;
  #own;
  #peers = /* @__PURE__ */ new Map();
  /** Somebody rang. */
  rung = () => {
  };
  constructor(region, us) {
    this.#region = region;
    this.#us = us;
    this.#own = Doorbell.open(region, us, () => this.rung());
  }
  /** Whether all peers can wake us. */
  get heard() {
    const own2 = this.#own;
    if (!own2) return false;
    for (const { peer } of this.#peers.values()) if (!own2.heldBy(peer)) return false;
    return true;
  }
  /** A link to that peer. @returns how to ring there, and what to call when the link is gone */
  link(peer) {
    const key = keyOf(peer);
    const known2 = this.#peers.get(key);
    const entry = known2 ?? { peer, bell: new PeerBell(this.#region, this.#us, peer), links: 0 };
    if (!known2) this.#peers.set(key, entry);
    entry.links++;
    let released = false;
    const release = () => {
      if (released) return;
      released = true;
      if (--entry.links > 0) return;
      entry.bell.close();
      this.#peers.delete(key);
    };
    return { bell: entry.bell, release };
  }
  close() {
    this.rung = () => {
    };
    this.#own?.close();
    for (const { bell } of this.#peers.values()) bell.close();
    this.#peers.clear();
  }
};

// host/core/mapped.ts
import { randomBytes as randomBytes3 } from "node:crypto";
import { closeSync as closeSync4 } from "node:fs";
import { hostname as hostname2 } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

// host/device/posix.ts
import {
  closeSync as closeSync3,
  constants as constants2,
  fchmodSync,
  fchownSync,
  fstatSync as fstatSync2,
  ftruncateSync,
  openSync as openSync2,
  readdirSync,
  readSync,
  unlinkSync
} from "node:fs";
import { basename, join as join4 } from "node:path";
var SHM = "/dev/shm";
var MAGIC = "ISTHMUS\0";
var C_PLUGIN_MARK = 203;
var SHM_PREFIX = "isthmus-shm-";
function regionPath(name) {
  if (name === "" || name === "." || name === ".." || name.includes("\0")) {
    throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `'${name}' is not the name of a region`);
  }
  return name.includes("/") ? name : join4(SHM, name);
}
var trusted = (stat) => {
  const uid = process.geteuid?.() ?? 0;
  const groups = [process.getegid?.() ?? 0, ...process.getgroups?.() ?? []];
  if (stat.uid !== 0 && stat.uid !== uid && !groups.includes(stat.gid)) {
    return `belongs to uid ${stat.uid} and gid ${stat.gid}: neither root nor you nor one of your groups`;
  }
  if (stat.mode & 2) return `others may write to it (mode ${(stat.mode & 511).toString(8)}); chmod o-w`;
  return void 0;
};
function openChecked(path, judge = trusted) {
  let fd;
  try {
    fd = openSync2(path, constants2.O_RDWR | constants2.O_NOFOLLOW | constants2.O_NONBLOCK);
  } catch (error) {
    const { code } = error;
    if (code === "ENOENT") throw systemError(error, "there is no region", path, "ERR_ISTHMUS_REGION_NOT_FOUND");
    if (code === "ELOOP" || code === "EACCES" || code === "EISDIR") {
      throw systemError(error, "may not open the region", path, "ERR_ISTHMUS_REGION_PERMISSIONS");
    }
    throw systemError(error, "cannot open", path);
  }
  try {
    const stat = fstatSync2(fd);
    const refuse = (why2) => {
      throw new IsthmusError("ERR_ISTHMUS_REGION_PERMISSIONS", `${path}: ${why2}`, { path });
    };
    if (!stat.isFile()) refuse("is not a regular file");
    const why = judge(stat);
    if (why !== void 0) refuse(why);
    return fd;
  } catch (error) {
    closeSync3(fd);
    throw error;
  }
}
function checkHead(fd, size2, path) {
  const head = Buffer.alloc(24);
  readSync(fd, head, 0, head.length, 0);
  if (head[0] === C_PLUGIN_MARK) throw foreign(path, head);
  if (head.toString("latin1", 0, 8) !== MAGIC) return;
  const claimed = Number(head.readBigUInt64LE(16));
  if (claimed > size2) {
    throw new IsthmusError(
      "ERR_ISTHMUS_REGION_TOO_SMALL",
      `${path}: truncated: it has ${size2} bytes, its header says ${claimed}`,
      { path, needed: claimed, available: size2 }
    );
  }
}
function foreign(path, head) {
  const found = head[0] === C_PLUGIN_MARK ? "in use by the C pscom plugin (first byte 0xcb)" : `it begins with ${Buffer.from(head.subarray(0, 8)).toString("hex")}, which is neither zeros nor a region`;
  return new IsthmusError("ERR_ISTHMUS_REGION_FOREIGN", `${path}: ${found}`, { path });
}
function posixBacking(name, mayFormat = true, judge = trusted) {
  const path = regionPath(name);
  const fd = openChecked(path, judge);
  let size2;
  try {
    size2 = fstatSync2(fd).size;
    checkSize(size2, path);
    checkHead(fd, size2, path);
  } finally {
    closeSync3(fd);
  }
  const used = usableSize(size2);
  return {
    kind: "posix",
    name: basename(path),
    path,
    size: used,
    offset: 0,
    mayFormat,
    open() {
      const opened2 = openChecked(path, judge);
      try {
        if (fstatSync2(opened2).size < size2) {
          throw new IsthmusError("ERR_ISTHMUS_REGION_TOO_SMALL", `${path}: was truncated`, { path, needed: size2 });
        }
        reserve(opened2, used, path);
        return opened2;
      } catch (error) {
        closeQuietly(opened2);
        throw error;
      }
    }
  };
}
function matches(pattern, name) {
  const expression = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
  return new RegExp(`^${expression}$`).test(name);
}
function claimsToBeRegion(path) {
  let fd;
  try {
    fd = openSync2(path, constants2.O_RDONLY | constants2.O_NOFOLLOW | constants2.O_NONBLOCK);
    if (!fstatSync2(fd).isFile()) return false;
    const head = Buffer.alloc(8);
    return readSync(fd, head, 0, 8, 0) === 8 && head.toString("latin1") === MAGIC;
  } catch {
    return false;
  } finally {
    if (fd !== void 0) closeQuietly(fd);
  }
}
function discoverPosix(patterns) {
  const found = /* @__PURE__ */ new Map();
  const add = (path, mayFormat) => {
    if (found.has(path)) return;
    try {
      found.set(path, { path, backing: posixBacking(path, mayFormat) });
    } catch (error) {
      found.set(path, { path, refused: error });
    }
  };
  for (const pattern of patterns.split(/[\s,]+/).filter(Boolean)) {
    if (!/[*?]/.test(pattern)) {
      add(regionPath(pattern), true);
      continue;
    }
    const local = pattern.startsWith(`${SHM}/`) ? pattern.slice(SHM.length + 1) : pattern;
    let names = [];
    try {
      names = readdirSync(SHM).sort();
    } catch {
    }
    for (const name of names) {
      const path = join4(SHM, name);
      if (!name.startsWith(SHM_PREFIX) && matches(local, name) && claimsToBeRegion(path)) add(path, false);
    }
  }
  return [...found.values()];
}

// host/core/inspection.ts
function isLocal({ call, layout: layout2, view, bytes }, slot, identity) {
  if (call.slotKernel(slot) !== identity.hash) return false;
  if (call.slotState(slot) === layout2.SLOT_CLAIMED) return true;
  const at = call.slotAddress(slot);
  const boot2 = bytes.slice(at + layout2.SLOT_BOOT, at + layout2.SLOT_BOOT + 16);
  return view.getBigUint64(at + layout2.SLOT_DEV, true) === identity.dev && view.getBigUint64(at + layout2.SLOT_INO, true) === identity.ino && Buffer.compare(boot2, identity.boot) === 0;
}
function refusal(core, path, size2, state) {
  const { layout: layout2, view } = core;
  switch (state) {
    case layout2.INSPECT_VERSION:
      return new IsthmusError(
        "ERR_ISTHMUS_REGION_VERSION",
        `${path}: has layout version ${view.getUint32(layout2.HEADER_VERSION, true)}, this is ${layout2.LAYOUT_VERSION}`,
        { path }
      );
    case layout2.INSPECT_FOREIGN:
      return foreign(path, core.bytes.slice(layout2.WINDOW, layout2.WINDOW + 8));
    case layout2.INSPECT_SIZE: {
      const claimed = Number(view.getBigUint64(layout2.HEADER_SIZE, true));
      const truncated = claimed > size2;
      return new IsthmusError(
        truncated ? "ERR_ISTHMUS_REGION_TOO_SMALL" : "ERR_ISTHMUS_REGION_CORRUPT",
        `${path}: ${truncated ? "truncated: " : ""}${size2} bytes, its header says ${claimed}`,
        { path, needed: claimed, available: size2 }
      );
    }
    default:
      return new IsthmusError("ERR_ISTHMUS_REGION_CORRUPT", `${path}: its header contradicts itself`, { path });
  }
}

// host/core/mapped.ts
var FORMAT_LIMIT = 2e3;
function lockHeld(fd, except = -1) {
  const { locked } = mapper();
  const end2 = coreLayout().LOCK_LIFECYCLE;
  for (let byte = 0; byte < end2; byte++) if (byte !== except && locked(fd, byte)) return byte;
  return void 0;
}
var MappedRegion = class _MappedRegion {
  backing;
  core;
  mapping;
  /** Which file or device this is. */
  identity;
  constructor(backing, core, mapping, identity) {
    this.backing = backing;
    this.core = core;
    this.mapping = mapping;
    this.identity = identity;
  }
  /**
   * Map the backing, and format it if it is blank and that is allowed.
   * @throws ERR_ISTHMUS_REGION_… , ERR_ISTHMUS_NATIVE_MISSING, ERR_ISTHMUS_SYSCALL; nothing stays behind
   */
  static async open(backing, signal) {
    const region = _MappedRegion.#map(backing);
    try {
      await region.#settle(signal);
      return region;
    } catch (error) {
      region.detach();
      throw error;
    }
  }
  static #map(backing) {
    const fd = backing.open();
    try {
      const core = new Core(backing.size);
      const mapping = mapper().map(core.memory.buffer, core.layout.WINDOW, backing.size, fd, backing.offset);
      if (!core.call.geometry(backing.size)) {
        mapping.detach();
        throw new IsthmusError("ERR_ISTHMUS_REGION_SIZE", `${backing.path}: ${backing.size} bytes`, {
          path: backing.path
        });
      }
      return new _MappedRegion(backing, core, mapping, identityOf(fd));
    } catch (error) {
      if (error instanceof IsthmusError) throw error;
      const cause = error;
      throw new IsthmusError("ERR_ISTHMUS_SYSCALL", `cannot map ${backing.path}: ${cause.message}`, {
        cause,
        errno: cause.code,
        syscall: cause.syscall,
        path: backing.path
      });
    } finally {
      closeSync4(fd);
    }
  }
  /** Wait, bounded, until the region is formatted; format it if that falls to us. */
  async #settle(signal) {
    const { call, layout: layout2 } = this.core;
    const { path } = this.backing;
    const until = performance.now() + FORMAT_LIMIT;
    for (; ; ) {
      signal?.throwIfAborted();
      const state = call.inspect();
      switch (state) {
        case layout2.INSPECT_READY:
          return;
        case layout2.INSPECT_BLANK:
          if (!this.backing.mayFormat) {
            throw new IsthmusError("ERR_ISTHMUS_REGION_CORRUPT", `${path}: is not formatted`, { path });
          }
          if (this.mapping.lock(layout2.LOCK_FORMAT)) {
            try {
              if (call.beginFormat(this.identity.hash)) this.#format();
            } finally {
              this.mapping.unlock(layout2.LOCK_FORMAT);
            }
            continue;
          }
          break;
        case layout2.INSPECT_FORMATTING:
          if (call.formatter() === this.identity.hash && this.mapping.lock(layout2.LOCK_FORMAT)) {
            try {
              if (call.formatter() === this.identity.hash) this.#format();
            } finally {
              this.mapping.unlock(layout2.LOCK_FORMAT);
            }
            continue;
          }
          break;
        case layout2.INSPECT_FOREIGN:
          if (call.inspect() !== layout2.INSPECT_FOREIGN) continue;
          throw refusal(this.core, path, this.backing.size, state);
        default:
          throw refusal(this.core, path, this.backing.size, state);
      }
      if (performance.now() > until) {
        throw new IsthmusError(
          "ERR_ISTHMUS_REGION_FORMATTING",
          `${path}: somebody began to format it and has not finished for ${FORMAT_LIMIT} ms`,
          { path }
        );
      }
      await sleep(2);
    }
  }
  #format() {
    const { call, layout: layout2, bytes } = this.core;
    call.format(this.identity.hash);
    const uuid = randomBytes3(16);
    uuid[6] = uuid[6] & 15 | 64;
    uuid[8] = uuid[8] & 63 | 128;
    bytes.set(uuid, layout2.HEADER_UUID);
    this.core.setText(layout2.HEADER_HOST, layout2.HEADER_HOST_LENGTH, hostname2());
    call.finishFormat();
  }
  get slots() {
    return this.core.call.regionSlots.value;
  }
  /** Everybody in the peer table, the dead included of whom something is left. */
  attachments() {
    const { call, layout: layout2 } = this.core;
    const found = [];
    for (let slot = 0; slot < this.slots; slot++) {
      if (call.slotState(slot) !== layout2.SLOT_FREE) found.push({ slot, generation: call.slotGeneration(slot) >>> 0 });
    }
    return found;
  }
  /**
   * Find those whom their locks prove dead and take back what they held, and what those have left who are gone.
   * @returns whom this call has declared dead
   */
  reap() {
    const { call, layout: layout2 } = this.core;
    const found = [];
    for (let slot = 0; slot < this.slots; slot++) {
      const generation = call.slotGeneration(slot);
      const state = call.slotState(slot);
      if (state === layout2.SLOT_FREE) continue;
      if (call.myGeneration() !== 0 && slot === call.mySlot()) continue;
      if (state !== layout2.SLOT_DEAD) {
        if (!isLocal(this.core, slot, this.identity) || this.mapping.locked(slot)) continue;
        if (!call.declareDead(slot, generation)) continue;
        found.push({ slot, generation: generation >>> 0 });
      }
      call.reclaim(slot, generation);
    }
    call.sweep();
    return found;
  }
  /**
   * Declare somebody dead who cannot be proven to be, and take back what he held: whoever says so knows that he will
   * never write again.
   * @returns false: that attachment is over, there is nothing to declare
   */
  bury({ slot, generation }) {
    const { call } = this.core;
    if (!call.declareDead(slot, generation | 0)) return false;
    call.reclaim(slot, generation | 0);
    return true;
  }
  detach() {
    this.mapping.detach();
  }
  [Symbol.dispose]() {
    this.detach();
  }
};

// host/core/region.ts
var UPKEEP = 500;
var REAP_DELAYS = [0, 5, 20, 100, 300];
var GONE_ROUNDS = 4;
var Region = class _Region {
  backing;
  core;
  #mapped;
  #upkeep;
  #reaps = /* @__PURE__ */ new Set();
  #watched = /* @__PURE__ */ new Set();
  #detached = false;
  #doorbells;
  /** Called once when our slot was taken away by somebody who declared us dead. */
  onFenced;
  constructor(mapped) {
    this.#mapped = mapped;
    this.backing = mapped.backing;
    this.core = mapped.core;
  }
  /**
   * Map the backing, format it if it is blank and that is allowed, and take a slot.
   * @param name of the runtime, for people
   * @throws ERR_ISTHMUS_REGION_… , ERR_ISTHMUS_NATIVE_MISSING, ERR_ISTHMUS_SYSCALL; nothing stays behind
   */
  static async attach(backing, name, signal) {
    const mapped = await MappedRegion.open(backing, signal);
    const region = new _Region(mapped);
    try {
      region.#takeSlot(name);
    } catch (error) {
      mapped.detach();
      throw error;
    }
    mapped.reap();
    const us = { slot: region.slot, generation: region.generation };
    region.#doorbells = new Doorbells(region.identity, us);
    region.core.sleeper = region.#doorbells;
    region.#upkeep = setInterval(() => region.#maintain(), UPKEEP).unref();
    return region;
  }
  #takeSlot(name) {
    if (this.#claimSlot(name)) return;
    this.#mapped.reap();
    if (this.#claimSlot(name)) return;
    const { path } = this.backing;
    throw new IsthmusError("ERR_ISTHMUS_REGION_FULL", `${path}: all ${this.slots} slots are taken`, { path });
  }
  #claimSlot(name) {
    const { call, layout: layout2, view, bytes } = this.core;
    for (let slot = 0; slot < this.slots; slot++) {
      if (call.slotState(slot) !== layout2.SLOT_FREE || !this.#mapped.mapping.lock(slot)) continue;
      if (!call.claimSlot(slot, this.#mapped.identity.hash)) {
        this.#mapped.mapping.unlock(slot);
        continue;
      }
      const at = call.slotAddress(slot);
      bytes.set(randomBytes4(8), at + layout2.SLOT_INSTANCE);
      view.setBigUint64(at + layout2.SLOT_DEV, this.#mapped.identity.dev, true);
      view.setBigUint64(at + layout2.SLOT_INO, this.#mapped.identity.ino, true);
      bytes.set(this.#mapped.identity.boot, at + layout2.SLOT_BOOT);
      view.setBigUint64(at + layout2.SLOT_PIDNS, pidNamespace(), true);
      view.setUint32(at + layout2.SLOT_PID, process.pid, true);
      this.core.setText(at + layout2.SLOT_HOST, layout2.SLOT_TEXT_LENGTH, hostname3());
      this.core.setText(at + layout2.SLOT_NAME, layout2.SLOT_TEXT_LENGTH, name);
      call.publishSlot();
      return true;
    }
    return false;
  }
  get slots() {
    return this.#mapped.slots;
  }
  /** 16 bytes. */
  get uuid() {
    const at = this.core.layout.HEADER_UUID;
    return Buffer.from(this.core.bytes.slice(at, at + 16));
  }
  get slot() {
    return this.core.call.mySlot();
  }
  get generation() {
    return this.core.call.myGeneration() >>> 0;
  }
  /** Which file or device this is. */
  get identity() {
    return this.#mapped.identity;
  }
  /** Who wakes us, and whom we wake. */
  get doorbells() {
    return this.#doorbells;
  }
  /** Whether connections may be made through it: attached, and our slot is still ours. */
  get usable() {
    return !this.#detached && this.core.call.holdsSlot() !== 0;
  }
  /** A peer's socket broke: look for its death now and a few times soon. */
  reapSoon() {
    for (const delay of REAP_DELAYS) {
      const timer = setTimeout(() => {
        this.#reaps.delete(timer);
        if (!this.#detached) this.#mapped.reap();
      }, delay).unref();
      this.#reaps.add(timer);
    }
  }
  #maintain() {
    const { call } = this.core;
    if (!call.holdsSlot()) {
      const error = new IsthmusError(
        "ERR_ISTHMUS_REGION_FENCED",
        `${this.backing.path}: this process was declared dead and its slot ${this.slot} taken away`,
        { path: this.backing.path }
      );
      clearInterval(this.#upkeep);
      this.onFenced?.(error);
      return;
    }
    call.beat();
    this.#mapped.reap();
    call.collect();
    for (const watched of this.#watched) this.#look(watched);
  }
  #look(watched) {
    const { call } = this.core;
    const { slot, generation, watcher } = watched;
    const heartbeat = call.heartbeat(slot);
    if (!call.alive(slot, generation | 0)) {
      if (++watched.lost < GONE_ROUNDS) return;
      this.#watched.delete(watched);
      watcher.gone();
      return;
    }
    watched.lost = 0;
    if (heartbeat === watched.heartbeat) {
      watcher.silent(++watched.still * UPKEEP);
      return;
    }
    watched.heartbeat = heartbeat;
    if (watched.still === 0) return;
    watched.still = 0;
    watcher.silent(0);
  }
  /**
   * Be told how that attachment fares.
   * @returns to be called when that is of no interest any more; idempotent
   */
  watch({ slot, generation }, watcher) {
    const heartbeat = this.core.call.heartbeat(slot);
    const watched = { slot, generation, watcher, lost: 0, heartbeat, still: 0 };
    this.#watched.add(watched);
    return () => this.#watched.delete(watched);
  }
  /**
   * Leave the region: slot, frames, mapping, descriptor. Idempotent. No link of it is open any more.
   * @param keep places in the memory whose bytes an application still looks at: they stay as they are
   */
  detach(keep2 = []) {
    if (this.#detached) return;
    this.#detached = true;
    clearInterval(this.#upkeep);
    for (const timer of this.#reaps) clearTimeout(timer);
    this.#watched.clear();
    this.#doorbells?.close();
    const { bytes } = this.core;
    const copies = keep2.map(({ offset, length }) => ({ offset, copy: bytes.slice(offset, offset + length) }));
    this.core.call.leave();
    this.#mapped.detach();
    for (const { offset, copy } of copies) bytes.set(copy, offset);
  }
};

// host/device/pci.ts
import {
  closeSync as closeSync5,
  constants as constants3,
  fstatSync as fstatSync3,
  openSync as openSync3,
  readdirSync as readdirSync2,
  readFileSync as readFileSync2,
  readlinkSync,
  readSync as readSync2,
  writeFileSync
} from "node:fs";
import { basename as basename2, join as join5 } from "node:path";
var VENDOR = "0x1af4";
var DEVICE = "0x1110";
var ADDRESS = /^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;
var IORESOURCE_MEM = 0x200n;
var IORESOURCE_UNSET = 0x20000000n;
var COMMAND = 4;
var COMMAND_MEMORY = 2;
var folderOf = (sysfs) => join5(sysfs, "bus/pci/devices");
function discoverPci({ sysfs = "/sys" } = {}) {
  let addresses;
  try {
    addresses = readdirSync2(folderOf(sysfs)).filter((name) => ADDRESS.test(name));
  } catch {
    return [];
  }
  return addresses.sort().filter((address) => isIvshmem(join5(folderOf(sysfs), address))).flatMap((address) => {
    const folder = join5(folderOf(sysfs), address);
    if (uioName(folder) !== void 0) return [];
    const path = join5(folder, "resource2");
    try {
      return { path, backing: pciBacking(address, folder, path, sysfs) };
    } catch (error) {
      return { path, refused: error instanceof IsthmusError ? error : systemError(error, "cannot read", folder) };
    }
  });
}
function isIvshmem(folder) {
  try {
    return attribute(folder, "vendor") === VENDOR && attribute(folder, "device") === DEVICE;
  } catch {
    return false;
  }
}
function uioName(folder) {
  try {
    return readdirSync2(join5(folder, "uio")).find((name) => /^uio\d+$/.test(name));
  } catch {
    return void 0;
  }
}
function driverOf(folder) {
  try {
    return basename2(readlinkSync(join5(folder, "driver")));
  } catch {
    return void 0;
  }
}
function isLockedDown(sysfs) {
  try {
    return /\[(?:integrity|confidentiality)\]/.test(attribute(sysfs, "kernel/security/lockdown"));
  } catch {
    return false;
  }
}
function pciBacking(address, folder, path, sysfs) {
  const refuse = (code, why) => {
    throw new IsthmusError(code, `${path}: ${why}`, { path });
  };
  const driver = driverOf(folder);
  if (driver !== void 0) {
    const unbind = join5(sysfs, "bus/pci/drivers", driver, "unbind");
    refuse("ERR_ISTHMUS_REGION_FOREIGN", `belongs to driver '${driver}' (to take it: echo ${address} > ${unbind})`);
  }
  if (isLockedDown(sysfs)) {
    const why = "the kernel is locked down (Secure Boot): PCI memory is to be had by a signed driver only";
    refuse("ERR_ISTHMUS_REGION_PERMISSIONS", why);
  }
  const bytes = barSize(folder, path);
  checkSize(bytes, path);
  const size2 = usableSize(bytes);
  const open2 = (access, prepare) => {
    const fd = openDevice(path, access);
    try {
      const { size: found } = fstatSync3(fd);
      if (found < bytes) {
        const message2 = `${path}: ${found} bytes, its BAR 2 has ${bytes}`;
        throw new IsthmusError("ERR_ISTHMUS_REGION_TOO_SMALL", message2, { path, needed: bytes, available: found });
      }
      prepare(folder, path);
      return fd;
    } catch (error) {
      closeQuietly(fd);
      throw error instanceof IsthmusError ? error : systemError(error, "cannot read", folder);
    }
  };
  return {
    kind: "pci",
    name: address,
    path,
    size: size2,
    offset: 0,
    mayFormat: true,
    open: () => open2(constants3.O_RDWR, enable),
    look: () => open2(constants3.O_RDONLY, checkEnabled)
  };
}
function barSize(folder, path) {
  const line = readFileSync2(join5(folder, "resource"), "latin1").split("\n")[2] ?? "";
  const [start, end2, flags] = /^0x[0-9a-f]+ 0x[0-9a-f]+ 0x[0-9a-f]+$/.test(line) ? line.split(" ").map(BigInt) : [];
  if (start === void 0 || end2 === void 0 || flags === void 0 || (flags & IORESOURCE_MEM) === 0n) {
    throw new IsthmusError("ERR_ISTHMUS_REGION_FOREIGN", `${path}: the device has no memory in BAR 2 ('${line}')`, {
      path
    });
  }
  if (start === 0n || (flags & IORESOURCE_UNSET) !== 0n) {
    const message2 = `${path}: the kernel found no addresses for its memory ('${line}')`;
    throw new IsthmusError("ERR_ISTHMUS_REGION_DISABLED", message2, { path });
  }
  return Number(end2 - start + 1n);
}
function isEnabled(folder) {
  const fd = openSync3(join5(folder, "config"), constants3.O_RDONLY);
  try {
    const command = Buffer.alloc(2);
    readSync2(fd, command, 0, command.length, COMMAND);
    return (command.readUInt16LE() & COMMAND_MEMORY) !== 0;
  } finally {
    closeSync5(fd);
  }
}
var disabled = (folder, path, why, cause) => {
  const remedy = `as root: echo 1 > ${join5(folder, "enable")}`;
  return new IsthmusError("ERR_ISTHMUS_REGION_DISABLED", `${path}: its memory is switched off${why}; ${remedy}`, {
    cause,
    path
  });
};
function checkEnabled(folder, path) {
  if (!isEnabled(folder)) throw disabled(folder, path, ", a runtime that may would switch it on");
}
function enable(folder, path) {
  if (isEnabled(folder)) return;
  try {
    writeFileSync(join5(folder, "enable"), "1", { flag: "r+" });
  } catch (error) {
    throw disabled(folder, path, ` and may not be switched on (${error.code})`, error);
  }
  if (!isEnabled(folder)) throw disabled(folder, path, ", and it stays so");
}

// host/device/uio.ts
import { fstatSync as fstatSync4, readdirSync as readdirSync3 } from "node:fs";
import { join as join6 } from "node:path";
var DRIVER_NAME = "ivshmem";
var DRIVER_VERSION = "0.0.1";
function discoverUio({ sysfs = "/sys", dev = "/dev" } = {}) {
  const folder = join6(sysfs, "class/uio");
  let names;
  try {
    names = readdirSync3(folder).filter((name) => /^uio\d+$/.test(name));
  } catch {
    return [];
  }
  names.sort((a, b) => Number(a.slice(3)) - Number(b.slice(3)));
  return names.map((name) => {
    const path = join6(dev, name);
    try {
      return { path, backing: uioBacking(name, join6(folder, name), path) };
    } catch (error) {
      const refused = error instanceof IsthmusError ? error : systemError(error, "cannot read", join6(folder, name));
      return { path, refused };
    }
  });
}
function uioBacking(name, folder, path) {
  const refuse = (why) => {
    throw new IsthmusError("ERR_ISTHMUS_REGION_FOREIGN", `${path}: ${why}`, { path });
  };
  const driver = attribute(folder, "name");
  if (driver !== DRIVER_NAME) refuse(`is a uio device of another kind ('${driver}')`);
  const version2 = attribute(folder, "version");
  if (version2 !== DRIVER_VERSION) refuse(`has driver version '${version2}', not '${DRIVER_VERSION}'`);
  const text2 = attribute(folder, "maps/map1/size");
  const bytes = Number(text2);
  if (!/^0x[0-9a-f]+$/i.test(text2) || !Number.isSafeInteger(bytes)) refuse(`maps/map1/size is '${text2}'`);
  checkSize(bytes, path);
  const size2 = usableSize(bytes);
  const open2 = () => {
    const fd = openDevice(path);
    try {
      const stat = fstatSync4(fd);
      if (stat.isFile()) {
        if (stat.size < mapper().pageSize + size2) {
          throw new IsthmusError("ERR_ISTHMUS_REGION_TOO_SMALL", `${path}: ${stat.size} bytes`, { path });
        }
        reserve(fd, mapper().pageSize + size2, path);
      }
      return fd;
    } catch (error) {
      closeQuietly(fd);
      throw error;
    }
  };
  return {
    kind: "uio",
    name,
    path,
    size: size2,
    offset: mapper().pageSize,
    mayFormat: true,
    open: open2,
    look: open2
  };
}

// host/discovery.ts
function named(patterns) {
  return patterns.split(/[\s,]+/).filter((pattern) => pattern !== "" && !/[*?]/.test(pattern));
}
function findRegions({ patterns, pci, roots }) {
  if (mapperMissing()) return [];
  return [...discoverUio(roots), ...pci ? discoverPci(roots) : [], ...discoverPosix(patterns)];
}
async function attachRegions(places, name, strict = true) {
  const { patterns } = places;
  const explicit = strict && named(patterns).length > 0;
  const missing = mapperMissing();
  if (missing) {
    if (explicit) throw missing;
    return { regions: [], refused: [], missing: missing.message };
  }
  const regions = [];
  const refused = [];
  try {
    for (const { path, backing, refused: error } of findRegions(places)) {
      let reason = error;
      if (backing) {
        try {
          regions.push(await Region.attach(backing, name));
          continue;
        } catch (thrown) {
          if (!(thrown instanceof IsthmusError)) throw thrown;
          reason = thrown;
        }
      }
      if (!reason) continue;
      if (strict && isNamed(path, patterns)) throw reason;
      refused.push({ path, error: reason });
    }
  } catch (thrown) {
    for (const region of regions) region.detach();
    throw thrown;
  }
  const reasons = refused.map(({ error }) => error.message).join("; ");
  return { regions, refused, missing: reasons ? `no region (${reasons})` : void 0 };
}
function isNamed(path, patterns) {
  return named(patterns).some((name) => name === path || `/dev/shm/${name}` === path);
}

// host/endpoint.ts
import { randomBytes as randomBytes5 } from "node:crypto";

// host/address.ts
import { lookup } from "node:dns/promises";
import { isIP as isIP2 } from "node:net";
var ANY = /* @__PURE__ */ new Set(["0.0.0.0", "::"]);
function parseAddress(address) {
  const { host, port, name } = (typeof address === "string" ? parts(address) : address) ?? {};
  const nameFits = name === void 0 || typeof name === "string" && name !== "" && !name.includes("\0");
  if (typeof host === "string" && host !== "" && isPort(port) && nameFits) return { host, port, name };
  throw new IsthmusError(
    "ERR_ISTHMUS_INVALID_ARGUMENT",
    `'${typeof address === "string" ? address : JSON.stringify(address)}' is not an address: host:port is wanted, as 127.0.0.1:7100, or host:port@name`
  );
}
function parts(text2) {
  const match = /^(?:\[([0-9a-f:.%]+)\]|([^:[\]@]+)):(\d{1,5})(?:@(.+))?$/i.exec(text2);
  const host = match?.[1] ?? match?.[2];
  return host === void 0 ? void 0 : { host, port: Number(match?.[3]), name: match?.[4] };
}
function isPort(port) {
  return Number.isInteger(port) && port >= 1 && port <= 65535;
}
function announcedAddress(host, networks) {
  return host !== void 0 && isIP2(host) === 4 && !ANY.has(host) ? host : ownAddress(networks);
}
async function addressesOf(host) {
  if (isIP2(host)) return [host];
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch {
    return [];
  }
}
function hears(listening, ips) {
  return ips.some((ip) => ip === listening || ANY.has(listening) && isOwn(ip));
}
function wireName(name) {
  const bytes = new Uint8Array(8);
  const { written } = new TextEncoder().encodeInto(name, bytes);
  return new TextDecoder().decode(bytes.subarray(0, written));
}

// host/group.ts
var GROUP_HEADER = 16;
var AHEAD = 1024;
function decodeGroup(xheader, data) {
  if (xheader.length < GROUP_HEADER) {
    throw new IsthmusError("ERR_ISTHMUS_PEER_PROTOCOL", `a message of a group with ${xheader.length} bytes of xheader`);
  }
  const header = Buffer.from(xheader.buffer, xheader.byteOffset, xheader.byteLength);
  return {
    group: header.readUInt32LE(0),
    second: header.readUInt32LE(4),
    number: header.readUInt32LE(8),
    rank: header.readUInt32LE(12),
    xheader: xheader.subarray(GROUP_HEADER),
    data
  };
}
var Group = class {
  id;
  rank;
  size;
  #host;
  #members;
  /** Number of the next operation. */
  #next = 0;
  /** Operations that our application is in. */
  #active = /* @__PURE__ */ new Set();
  /** What has come and is not wanted yet, by {@link keyOf}. */
  #arrived = /* @__PURE__ */ new Map();
  #waiting = /* @__PURE__ */ new Map();
  #error;
  #closed = false;
  /** @internal */
  constructor({ id, rank }, members, host) {
    this.id = id;
    this.rank = rank;
    this.size = members.length;
    this.#members = members;
    this.#host = host;
    for (const [place, connection] of members.entries()) {
      if (!connection) continue;
      connection.groups++;
      void connection.closed.then((closed) => this.#lost(place, closed));
    }
  }
  /** Whether something of this connection is waited for. @internal */
  expects(connection) {
    for (const { from } of this.#waiting.values()) if (this.#members[from] === connection) return true;
    return false;
  }
  /** Bytes of this connection that wait for the application. @internal */
  heldOf(connection) {
    let held = 0;
    for (const { rank, data, xheader } of this.#arrived.values()) {
      if (this.#members[rank] === connection) held += data.length + xheader.length + 64;
    }
    return held;
  }
  /**
   * Send data from one member to all others.
   * @param root the rank that has the data
   * @param data wanted at the root, ignored elsewhere
   * @returns the message, at the root what was given
   * @throws ERR_ISTHMUS_GROUP: a member is gone, the message names it; ERR_ISTHMUS_CLOSED, `signal.reason`: the group
   * cannot be used any more, because its members have lost count
   */
  async broadcast(root, data, { xheader, signal } = {}) {
    if (!Number.isInteger(root) || root < 0 || root >= this.size) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `${root} is no rank of a group of ${this.size}`);
    }
    if (root === this.rank && !(data instanceof Uint8Array)) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "the root of a broadcast has to give its data");
    }
    return this.#operation(signal, async (number) => {
      if (root === this.rank) {
        const message2 = new Message(data, xheader ?? NO_BYTES);
        await this.#pass(root, number, message2.xheader, message2.data);
        return message2;
      }
      const { BCAST } = this.#host.types;
      const arrived = await this.#receive(keyOf2(BCAST, number, root, this.#parent(root)), this.#parent(root));
      const shared = this.#children(root).length > 0;
      return new Message(shared ? new Uint8Array(arrived.data) : arrived.data, arrived.xheader);
    });
  }
  /** Resolves when every member has called it. @throws as {@link broadcast} */
  async barrier({ signal } = {}) {
    return this.#operation(signal, async (number) => {
      const { BARRIER } = this.#host.types;
      for (let round = 0, distance = 1; distance < this.size; round++, distance *= 2) {
        const to = (this.rank + distance) % this.size;
        const from = (this.rank - distance + this.size) % this.size;
        await Promise.all([
          this.#send(to, BARRIER, round, number, NO_BYTES, NO_BYTES),
          this.#receive(keyOf2(BARRIER, number, round, from), from)
        ]);
      }
    });
  }
  async #operation(signal, body) {
    signal?.throwIfAborted();
    this.#check();
    const number = this.#next;
    this.#next = number + 1 >>> 0;
    this.#active.add(number);
    const abort = () => this.#fail(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await body(number);
    } finally {
      this.#active.delete(number);
      signal?.removeEventListener("abort", abort);
    }
  }
  #check() {
    if (this.#error) throw this.#error;
    if (this.#closed) throw new IsthmusError("ERR_ISTHMUS_CLOSED", "the group is closed");
  }
  // ─── the tree ──────────────────────────────────────────────────────────────────────────────────────────────────────
  /** Who passes a broadcast of this root on to us: our place, counted from the root, without its lowest bit. */
  #parent(root) {
    const place = (this.rank - root + this.size) % this.size;
    return ((place & place - 1) + root) % this.size;
  }
  /** Whom we pass it on to: the furthest first, because it has most to pass on itself. */
  #children(root) {
    const place = (this.rank - root + this.size) % this.size;
    const children = [];
    for (let bit = 1; bit < this.size && (place & bit) === 0; bit *= 2) {
      if (place + bit < this.size) children.unshift((place + bit + root) % this.size);
    }
    return children;
  }
  async #pass(root, number, xheader, data) {
    const { BCAST } = this.#host.types;
    await Promise.all(this.#children(root).map((child) => this.#send(child, BCAST, root, number, xheader, data)));
  }
  async #send(to, type, second, number, xheader, data) {
    const header = Buffer.alloc(GROUP_HEADER + xheader.length);
    header.writeUInt32LE(this.id, 0);
    header.writeUInt32LE(second, 4);
    header.writeUInt32LE(number, 8);
    header.writeUInt32LE(this.rank, 12);
    header.set(xheader, GROUP_HEADER);
    try {
      await this.#host.send(this.#members[to], type, header, data);
    } catch (error) {
      this.#fail(this.#gone(to, error));
      throw this.#error;
    }
  }
  // ─── what comes ────────────────────────────────────────────────────────────────────────────────────────────────────
  /** @internal A message of this group. @throws ERR_ISTHMUS_PEER_PROTOCOL */
  received(connection, type, message2) {
    if (this.#error) return;
    const { number, rank, second } = message2;
    const bad = (what) => {
      throw new IsthmusError("ERR_ISTHMUS_PEER_PROTOCOL", `group ${this.id}: ${what}`);
    };
    if (this.#members[rank] !== connection) bad(`a message of rank ${rank} over the connection of another`);
    const ahead = number - this.#next | 0;
    const key = keyOf2(type, number, second, rank);
    const waiting = this.#waiting.get(key);
    if (!this.#active.has(number) && (ahead < 0 || ahead > AHEAD))
      bad(`operation ${number}, while ${this.#next} is next`);
    if (this.#arrived.has(key)) bad(`the same message twice`);
    if (type === this.#host.types.BCAST) {
      if (second >= this.size || second === this.rank || this.#parent(second) !== rank) {
        bad(`a broadcast of rank ${second} from rank ${rank}`);
      }
      this.#pass(second, number, message2.xheader, message2.data).catch(() => {
      });
    }
    if (waiting) {
      this.#waiting.delete(key);
      waiting.resolve(message2);
    } else {
      this.#arrived.set(key, message2);
    }
  }
  #receive(key, from) {
    const connection = this.#members[from];
    const arrived = this.#arrived.get(key);
    if (arrived) {
      this.#arrived.delete(key);
      this.#host.wake(connection);
      return Promise.resolve(arrived);
    }
    if (this.#error) return Promise.reject(this.#error);
    return new Promise((resolve, reject) => {
      this.#waiting.set(key, { from, resolve, reject });
      this.#host.wake(connection);
    });
  }
  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────
  #gone(rank, cause) {
    const { name, pid } = this.#members[rank].peer;
    const why = cause instanceof Error ? `: ${cause.message}` : "";
    return new IsthmusError(
      "ERR_ISTHMUS_GROUP",
      `group ${this.id}: member ${rank} (${name}, pid ${pid}) is gone${why}`,
      {
        cause
      }
    );
  }
  #lost(rank, { error }) {
    if (!this.#closed) this.#fail(this.#gone(rank, error));
  }
  #fail(reason) {
    this.#error ??= reason instanceof IsthmusError ? reason : new IsthmusError("ERR_ISTHMUS_GROUP", `group ${this.id}: an operation was aborted`, { cause: reason });
    for (const waiting of this.#waiting.values()) waiting.reject(reason);
    this.#waiting.clear();
    this.#arrived.clear();
  }
  /**
   * Leave: no message, the others need not be there. What a member still waits for fails. The connections stay.
   * Whoever wants all to be done before calls `barrier()`.
   */
  async close() {
    if (this.#closed) return;
    this.#fail(new IsthmusError("ERR_ISTHMUS_CLOSED", "the group was closed"));
    this.#closed = true;
    for (const connection of this.#members) if (connection) connection.groups--;
    this.#host.closed(this);
  }
  [Symbol.asyncDispose]() {
    return this.close();
  }
};
function keyOf2(type, number, second, from) {
  return `${type}:${number}:${second}:${from}`;
}

// host/groups.ts
var Groups = class {
  #open = /* @__PURE__ */ new Map();
  /** Ids of those that were closed: what others still send for them is dropped. */
  #closed = /* @__PURE__ */ new Set();
  /** In the order in which they came. Reading from a connection stops when too much of it is here. */
  #early = [];
  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
  open(options, own2) {
    const { id, rank, members } = options;
    const fail = (what) => {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `group: ${what}`);
    };
    if (!Number.isInteger(id) || id < 0 || id > 4294967295) fail(`${id} is no id: a u32 is wanted`);
    if (!Array.isArray(members) || !Number.isInteger(rank) || rank < 0 || rank >= members.length) {
      fail(`${rank} is no rank among ${members?.length} members`);
    }
    if (this.#open.has(id)) fail(`${id} is open already`);
    const connections = members.map((member, place) => place === rank ? void 0 : own2(member));
    if (new Set(connections).size !== connections.length) fail("a connection appears twice");
    const { MESSAGE_BCAST, MESSAGE_BARRIER } = coreLayout();
    const host = {
      types: { BCAST: MESSAGE_BCAST, BARRIER: MESSAGE_BARRIER },
      send: (connection, type, xheader, data) => connection.sendFor(type, xheader, data),
      wake: (connection) => connection.look(),
      closed: (group2) => {
        this.#open.delete(group2.id);
        this.#closed.add(group2.id);
      }
    };
    const group = new Group(options, connections, host);
    this.#open.set(id, group);
    this.#closed.delete(id);
    const mine = this.#early.filter(({ message: message2 }) => message2.group === id);
    this.#early = this.#early.filter(({ message: message2 }) => message2.group !== id);
    for (const { connection, type, message: message2 } of mine) {
      connection.early = this.#early.some((one) => one.connection === connection);
      try {
        group.received(connection, type, message2);
      } catch (error) {
        connection.fail(error);
      }
      connection.look();
    }
    return group;
  }
  received(connection, type, xheader, data) {
    const message2 = decodeGroup(xheader, data);
    const group = this.#open.get(message2.group);
    if (group) {
      group.received(connection, type, message2);
      return;
    }
    if (this.#closed.has(message2.group)) return;
    connection.early = true;
    this.#early.push({ connection, type, message: message2 });
  }
  held(connection) {
    let held = 0;
    for (const { connection: from, message: message2 } of this.#early) {
      if (from === connection) held += message2.data.length + message2.xheader.length + 64;
    }
    for (const group of this.#open.values()) held += group.heldOf(connection);
    return held;
  }
  expects(connection) {
    for (const group of this.#open.values()) if (group.expects(connection)) return true;
    return false;
  }
  /** A connection is gone, and what it sent for groups that were never opened with it. */
  forget(connection) {
    this.#early = this.#early.filter((one) => one.connection !== connection);
  }
  async close() {
    await Promise.all([...this.#open.values()].map((group) => group.close()));
    this.#early = [];
  }
};

// host/ondemand.ts
import { setTimeout as sleep3 } from "node:timers/promises";

// host/precon/back.ts
import { connect as connect2 } from "node:net";

// host/precon/frames.ts
import { isIPv4 as isIPv42 } from "node:net";
var STEP = { STEP1: 1048595, STEP2: 1048596, STEP3: 1048597, STEP4: 1048598 };
var FRAME = {
  /** Never seen with TCP; ignored. */
  EOF: 1048576,
  CON_INFO: 1048578,
  VERSION: 1048579,
  /** CON_INFO of the connecting side of an on-demand connection. */
  CON_INFO_DEMAND: 1048580,
  /** "Connect to me", the only frame of its TCP connection. */
  BACK_CONNECT: 1048581,
  BACK_ACK: 1048582,
  ARCH_REQ: 1048592,
  ARCH_OK: 1048593,
  ARCH_NEXT: 1048594,
  ...STEP,
  /** Ours, behind CON_INFO of a connection that has been up: {@link Counts}. C ignores what it does not know. */
  COUNTS: 1048704,
  /** Ours, con_info, the only frame: "read on, there is something for you", where the connection itself cannot say it. */
  HURRY: 1048705,
  /** Ours, from the connecting side: port u32 where HURRY would be heard. */
  LISTENS: 1048706
};
var PROTOCOL_VERSION = 512;
var FRAME_HEADER_SIZE = 8;
var CON_INFO_SIZE = 24;
var NAME_SIZE = 8;
var FRAME_LIMITS = { maxPayload: 4096, maxTotal: 64 * 1024 };
function encodeCounts({ sent, received }) {
  const payload = Buffer.alloc(16);
  payload.writeBigUInt64LE(BigInt(sent), 0);
  payload.writeBigUInt64LE(BigInt(received), 8);
  return encodeFrame(FRAME.COUNTS, payload);
}
function decodeCounts(payload) {
  if (payload.length < 16) {
    throw new IsthmusError("ERR_ISTHMUS_HANDSHAKE", `COUNTS of ${payload.length} bytes`);
  }
  return { sent: Number(payload.readBigUInt64LE(0)), received: Number(payload.readBigUInt64LE(8)) };
}
function encodeListens(port) {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(port);
  return encodeFrame(FRAME.LISTENS, payload);
}
function decodeListens(payload) {
  const port = payload.length >= 4 ? payload.readUInt32LE() : 0;
  return port > 0 && port < 65536 ? port : void 0;
}
function frameName(type) {
  const found = Object.entries(FRAME).find(([, value]) => value === type);
  return found ? found[0] : `0x${type.toString(16)}`;
}
function encodeFrame(type, payload = new Uint8Array(0)) {
  const frame = Buffer.alloc(FRAME_HEADER_SIZE + payload.length);
  frame.writeUInt32BE(type, 0);
  frame.writeUInt32BE(payload.length, 4);
  frame.set(payload, FRAME_HEADER_SIZE);
  return frame;
}
function encodeVersion(from = PROTOCOL_VERSION, to = PROTOCOL_VERSION) {
  const payload = Buffer.alloc(8);
  payload.writeUInt32LE(from, 0);
  payload.writeUInt32LE(to, 4);
  return encodeFrame(FRAME.VERSION, payload);
}
function encodeArchReq(archId) {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(archId, 0);
  return encodeFrame(FRAME.ARCH_REQ, payload);
}
function encodeConInfo(info, type = FRAME.CON_INFO) {
  if (!isIPv42(info.node)) {
    throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `node: not an IPv4 address: ${JSON.stringify(info.node)}`);
  }
  const name = Buffer.from(info.name, "utf8");
  if (name.length > NAME_SIZE || name.includes(0)) {
    throw new IsthmusError(
      "ERR_ISTHMUS_INVALID_ARGUMENT",
      `name: up to ${NAME_SIZE} bytes without NUL, not ${JSON.stringify(info.name)}`
    );
  }
  const payload = Buffer.alloc(CON_INFO_SIZE);
  payload.set(info.node.split(".").map(Number).reverse(), 0);
  payload.writeUInt32LE(info.pid >>> 0, 4);
  payload.writeBigUInt64LE(BigInt.asUintN(64, info.id), 8);
  payload.set(name, 16);
  return encodeFrame(type, payload);
}
function decodeConInfo(payload) {
  if (payload.length !== CON_INFO_SIZE) {
    throw new IsthmusError(
      "ERR_ISTHMUS_HANDSHAKE_VERSION",
      `the other side is of another pscom generation: its con_info has ${payload.length} bytes, that of protocol version 0x0200 has ${CON_INFO_SIZE}`
    );
  }
  const name = payload.subarray(16, 16 + NAME_SIZE);
  const end2 = name.indexOf(0);
  return {
    node: Array.from(payload.subarray(0, 4)).reverse().join("."),
    pid: payload.readUInt32LE(4),
    id: payload.readBigUInt64LE(8),
    name: name.toString("utf8", 0, end2 < 0 ? NAME_SIZE : end2)
  };
}
function checkVersion(payload) {
  if (payload.length < 8) {
    throw new IsthmusError("ERR_ISTHMUS_HANDSHAKE_VERSION", `a VERSION frame of ${payload.length} bytes, 8 expected`);
  }
  const from = payload.readUInt32LE(0);
  const to = payload.readUInt32LE(4);
  if (from <= PROTOCOL_VERSION && PROTOCOL_VERSION <= to) return;
  throw new IsthmusError(
    "ERR_ISTHMUS_HANDSHAKE_VERSION",
    `the other side speaks protocol versions 0x${from.toString(16)} to 0x${to.toString(16)}, this one 0x${PROTOCOL_VERSION.toString(16)}`
  );
}
function decodeArchReq(payload) {
  if (payload.length !== 4) {
    throw new IsthmusError("ERR_ISTHMUS_HANDSHAKE", `an ARCH_REQ frame of ${payload.length} bytes, 4 expected`);
  }
  return payload.readUInt32LE(0);
}
function isStep(type) {
  return type >= FRAME.STEP1 && type <= FRAME.STEP4;
}
var FrameDecoder = class {
  #limits;
  /** Received and not consumed: the bytes `#start` to `#end` of it. */
  #store = Buffer.alloc(0);
  #start = 0;
  #end = 0;
  /** Bytes of the frames that were taken out. */
  #consumed = 0;
  constructor(limits = {}) {
    this.#limits = { ...FRAME_LIMITS, ...limits };
  }
  /** Take in a chunk; it is copied. */
  push(chunk) {
    const pending = this.#end - this.#start;
    if (this.#end + chunk.length > this.#store.length) {
      const size2 = pending + chunk.length;
      const target = size2 * 2 > this.#store.length ? Buffer.allocUnsafe(size2 * 2) : this.#store;
      this.#store.copy(target, 0, this.#start, this.#end);
      this.#store = target;
      this.#start = 0;
      this.#end = pending;
    }
    this.#store.set(chunk, this.#end);
    this.#end += chunk.length;
  }
  /**
   * The next frame, or undefined until there is a whole one.
   *
   * Throws ERR_ISTHMUS_HANDSHAKE if a frame claims more than `maxPayload`, or if the frames exceed `maxTotal`.
   */
  next() {
    const pending = this.#end - this.#start;
    if (pending < FRAME_HEADER_SIZE) return void 0;
    const type = this.#store.readUInt32BE(this.#start);
    const size2 = this.#store.readUInt32BE(this.#start + 4);
    if (size2 > this.#limits.maxPayload) {
      throw new IsthmusError(
        "ERR_ISTHMUS_HANDSHAKE",
        `a ${frameName(type)} frame that claims ${size2} bytes; the limit is ${this.#limits.maxPayload}`
      );
    }
    const length = FRAME_HEADER_SIZE + size2;
    this.#checkTotal(length);
    if (pending < length) return void 0;
    const payload = Buffer.from(this.#store.subarray(this.#start + FRAME_HEADER_SIZE, this.#start + length));
    this.#start += length;
    this.#consumed += length;
    return { type, payload };
  }
  /** Throws ERR_ISTHMUS_HANDSHAKE if too much waits to be taken out. For a reader that has stopped to take frames. */
  checkPending() {
    this.#checkTotal(this.#end - this.#start);
  }
  /** Bytes behind the last frame that was taken out: a copy. The decoder is empty then. */
  rest() {
    const rest = Buffer.from(this.#store.subarray(this.#start, this.#end));
    this.#store = Buffer.alloc(0);
    this.#start = 0;
    this.#end = 0;
    return rest;
  }
  #checkTotal(more) {
    if (this.#consumed + more <= this.#limits.maxTotal) return;
    throw new IsthmusError("ERR_ISTHMUS_HANDSHAKE", `a handshake of more than ${this.#limits.maxTotal} bytes`);
  }
};

// host/plugins/plugin.ts
var ARCH = { loop: 102, tcp: 103, shm: 204, ivshmem: 220 };
function disabled2({ priority: priority2, masked }) {
  return masked ?? (priority2 <= 0 ? "disabled" : void 0);
}
var PluginRegistry = class _PluginRegistry {
  #ranked;
  constructor(plugins) {
    this.#ranked = [...plugins].sort((a, b) => b.priority - a.priority || b.plugin.priority - a.plugin.priority);
  }
  /** All, disabled ones included, best first. */
  get all() {
    return this.#ranked;
  }
  /** The plugin behind an ARCH_REQ, or why there is none. */
  byArch(archId) {
    const found = this.#ranked.find(({ plugin }) => plugin.archId === archId);
    if (!found) return `no plugin with architecture id ${archId}`;
    const reason = disabled2(found) ?? found.plugin.unavailable();
    return reason === void 0 ? found.plugin : `${found.plugin.name}: ${reason}`;
  }
  /**
   * The same plugins in the same order, of which those that the mask leaves out count as disabled. A priority of 0 stays
   * what it is. The plugins belong to the registry that this was called on: it is the one to destroy.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT for a name that no plugin has
   */
  masked({ only: only2, add, delete: without }) {
    const names = this.#ranked.map(({ plugin }) => plugin.name);
    for (const name of [...only2 ?? [], ...add ?? [], ...without ?? []]) {
      if (names.includes(name)) continue;
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `there is no plugin '${name}', only ${names.join(", ")}`);
    }
    const allowed = /* @__PURE__ */ new Set([...only2 ?? names, ...add ?? []]);
    for (const name of without ?? []) allowed.delete(name);
    return new _PluginRegistry(
      this.#ranked.map(
        (ranked) => allowed.has(ranked.plugin.name) ? ranked : { ...ranked, masked: "masked for this endpoint" }
      )
    );
  }
  /** Let every plugin go of what it holds. @returns what went wrong, for people: it keeps nobody from ending */
  async destroy() {
    const ended = this.#ranked.map(async ({ plugin }) => {
      try {
        await plugin.destroy();
        return [];
      } catch (error) {
        return [`plugin ${plugin.name} failed to let go: ${error instanceof Error ? error.message : String(error)}`];
      }
    });
    return (await Promise.all(ended)).flat();
  }
};

// host/precon/preferences.ts
function messageOf(thrown) {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
function preferences(registry, limit) {
  const found = [];
  for (const ranked of registry.all) {
    const { plugin } = ranked;
    try {
      const reason = disabled2(ranked) ?? plugin.unavailable();
      if (reason !== void 0) found.push({ reason: `${plugin.name}: ${reason}` });
      else found.push(...plugin.proposals().map((proposal) => ({ proposal })));
    } catch (error) {
      found.push({ reason: `${plugin.name}: ${messageOf(error)}` });
    }
  }
  const total = found.filter((preference) => "proposal" in preference).length;
  let index = 0;
  return found.map((preference) => {
    if (!("proposal" in preference)) return preference;
    index++;
    if (index < limit || index === total) return preference;
    return { reason: `${preference.proposal.label}: not tried, ${limit} proposals are the limit` };
  });
}

// host/precon/channel.ts
var Channel = class {
  role;
  plugin;
  label;
  address;
  okSent = false;
  okReceived = false;
  #owner;
  #attempt;
  /** Frames from within `begin`: none of them is sent if the attempt cannot even begin. */
  #early = [];
  #refusal;
  #closed = false;
  constructor(role2, plugin, label, address, owner) {
    this.role = role2;
    this.plugin = plugin;
    this.label = label;
    this.address = address;
    this.#owner = owner;
  }
  /** Create the attempt. The frames that it sent at once, or why it could not begin; nothing is left of it then. */
  begin(create2) {
    try {
      this.#attempt = create2(this);
    } catch (error) {
      this.#refusal ??= messageOf(error);
    }
    const early = this.#early ?? [];
    this.#early = void 0;
    if (this.#refusal === void 0) return early;
    this.undo();
    return this.#refusal;
  }
  /** Hand a STEP frame to the plugin. May throw what the plugin throws. */
  received(type, payload) {
    this.#attempt?.step(type, payload);
  }
  /** Hand ARCH_OK to the plugin. May throw what the plugin throws. */
  agreed() {
    this.okReceived = true;
    this.#attempt?.agreed();
  }
  /** The attempt has not come to anything. Idempotent; from here on the plugin's calls have no effect. */
  undo() {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.#attempt?.undo();
    } catch {
    }
  }
  /** The attempt has succeeded: it belongs to the caller. */
  take() {
    this.#closed = true;
    if (!this.#attempt) throw new IsthmusError("ERR_ISTHMUS_HANDSHAKE", `${this.label}: agreed before it began`);
    return this.#attempt;
  }
  get closed() {
    return this.#closed;
  }
  /** Throws ERR_ISTHMUS_INVALID_ARGUMENT for another type than STEP1 to STEP4, or over 4 KiB of payload. */
  step(type, payload) {
    if (!isStep(type) || payload.length > FRAME_LIMITS.maxPayload) {
      throw new IsthmusError(
        "ERR_ISTHMUS_INVALID_ARGUMENT",
        `step: STEP1 to STEP4 with up to ${FRAME_LIMITS.maxPayload} bytes, not 0x${type.toString(16)} with ${payload.length}`
      );
    }
    if (this.okSent) {
      this.next("a STEP frame after ARCH_OK");
      return;
    }
    this.#send(encodeFrame(type, payload));
  }
  ok() {
    if (this.#closed || this.okSent) return;
    this.okSent = true;
    this.#send(encodeFrame(FRAME.ARCH_OK));
    this.#owner.ready(this);
  }
  next(reason) {
    if (this.#closed) return;
    if (this.#early) this.#refusal ??= reason;
    else this.#owner.giveUp(this, reason);
  }
  #send(frame) {
    if (this.#closed) return;
    if (this.#early) this.#early.push(frame);
    else this.#owner.send(frame);
  }
};

// host/precon/precon.ts
var MAX_REQUESTS = 32;
var Precon = class {
  #options;
  #maxRequests;
  #decoder;
  /** Connecting side: what is left to propose. */
  #preferences = [];
  /** Why each attempt so far has come to nothing, and what could not be attempted. */
  #reasons = [];
  #local;
  #counts;
  #listens;
  #versionSeen = false;
  #peer;
  /** ARCH_REQs that the accepting side received. */
  #requests = 0;
  /** Connecting side: ARCH_NEXTs to come, for attempts that it gave up itself. What comes before them is stale. */
  #owed = 0;
  #channel;
  /** Somebody outside was asked about the peer and has not answered yet; frames wait. */
  #asking;
  #depth = 0;
  #output = [];
  #outcome;
  #told = false;
  constructor(options) {
    this.#options = options;
    this.#local = options.local;
    this.#maxRequests = options.limits?.maxRequests ?? MAX_REQUESTS;
    this.#decoder = new FrameDecoder(options.limits);
  }
  /** Begin: the connecting side introduces itself and proposes its best plugin. */
  start() {
    if (this.#options.role === "accept") return;
    this.#run(() => {
      this.#send(encodeVersion());
      this.#send(encodeConInfo(this.#local, this.#options.demand ? FRAME.CON_INFO_DEMAND : FRAME.CON_INFO));
      if (this.#options.counts) this.#send(encodeCounts(this.#options.counts));
      if (this.#options.listens) this.#send(encodeListens(this.#options.listens));
      this.#listens = this.#options.address?.port;
      this.#preferences = preferences(this.#options.registry, this.#maxRequests);
      this.#proposeNext();
    });
  }
  /** Bytes of the other side, cut anywhere. */
  receive(chunk) {
    this.#run(() => this.#decoder.push(chunk));
  }
  /** The other side will send nothing more. */
  socketEnded() {
    this.abort(
      new IsthmusError(
        "ERR_ISTHMUS_HANDSHAKE_REFUSED",
        `the other side closed the connection while we waited for ${this.waitingFor}`
      )
    );
  }
  socketFailed(error) {
    this.abort(
      new IsthmusError(
        "ERR_ISTHMUS_HANDSHAKE_REFUSED",
        `the connection broke while we waited for ${this.waitingFor}: ${error.message}`,
        { cause: error, errno: error.code }
      )
    );
  }
  /** End it: what is under way is undone, and `done` gets the error. No effect after the end. */
  abort(error) {
    this.#run(() => this.#fail(error));
  }
  /** For people: what has to happen next. */
  get waitingFor() {
    if (this.#asking) return `the answer of '${this.#asking}'`;
    if (!this.#peer) return "CON_INFO";
    if (!this.#channel) return "ARCH_REQ";
    const { label, okReceived } = this.#channel;
    return okReceived ? `our own part of ${label}` : `ARCH_OK for ${label}`;
  }
  /**
   * Every way in leads through here. The output of one entry is written in one piece, and `done` is called when
   * nothing of ours is on the stack any more: plugins call back from within the calls that we make to them.
   */
  #run(body) {
    if (this.#outcome) return;
    this.#depth++;
    try {
      body();
      if (this.#depth === 1) this.#drain();
    } catch (error) {
      this.#fail(
        error instanceof IsthmusError ? error : new IsthmusError("ERR_ISTHMUS_HANDSHAKE", `the handshake failed: ${messageOf(error)}`, { cause: error })
      );
    } finally {
      this.#depth--;
    }
    if (this.#depth > 0) return;
    if (this.#output.length > 0) {
      const bytes = Buffer.concat(this.#output);
      this.#output = [];
      this.#options.write(bytes);
    }
    if (!this.#outcome || this.#told) return;
    this.#told = true;
    this.#options.done(this.#outcome);
  }
  #drain() {
    while (!this.#outcome) {
      if (this.#asking || this.#channel?.okReceived) {
        this.#decoder.checkPending();
        return;
      }
      const frame = this.#decoder.next();
      if (!frame) return;
      this.#handle(frame);
    }
  }
  #handle(frame) {
    switch (frame.type) {
      case FRAME.VERSION:
        if (this.#versionSeen) throw this.#outOfOrder(frame);
        checkVersion(frame.payload);
        this.#versionSeen = true;
        return;
      case FRAME.CON_INFO:
        if (!this.#versionSeen || this.#peer) throw this.#outOfOrder(frame);
        this.#peer = this.#peerOf(frame);
        if (this.#options.role === "accept") this.#askAccept(this.#peer, () => this.#welcome());
        return;
      case FRAME.CON_INFO_DEMAND:
        if (!this.#versionSeen || this.#peer || this.#options.role === "connect") throw this.#outOfOrder(frame);
        this.#peer = this.#peerOf(frame);
        this.#askOnDemand({ kind: "connect", peer: this.#peer }, (_peer, { counts }) => {
          this.#welcome();
          if (counts) this.#send(encodeCounts(counts));
        });
        return;
      case FRAME.BACK_CONNECT:
      case FRAME.HURRY:
        if (this.#peer || this.#options.role === "connect") throw this.#outOfOrder(frame);
        this.#peer = this.#peerOf(frame);
        this.#askOnDemand({ kind: frame.type === FRAME.HURRY ? "hurry" : "back-connect", peer: this.#peer }, (peer) => {
          this.#send(encodeFrame(FRAME.BACK_ACK));
          this.#outcome = { kind: "acknowledged", peer };
        });
        return;
      case FRAME.BACK_ACK:
        throw this.#outOfOrder(frame);
      case FRAME.ARCH_REQ:
        this.#archReq(frame);
        return;
      case FRAME.ARCH_OK:
        this.#archOk(frame);
        return;
      case FRAME.ARCH_NEXT:
        this.#archNext(frame);
        return;
      case FRAME.COUNTS:
        this.#counts = decodeCounts(frame.payload);
        return;
      case FRAME.LISTENS:
        if (this.#options.role === "accept") this.#listens = decodeListens(frame.payload);
        return;
      default:
        if (isStep(frame.type)) this.#step(frame);
    }
  }
  #peerOf(frame) {
    return { ...decodeConInfo(frame.payload), address: this.#options.address };
  }
  #outOfOrder(frame) {
    const state = this.#peer ? `while we wait for ${this.waitingFor}` : "before it has introduced itself";
    const side = this.#options.role === "accept" ? "connecting" : "accepting";
    return new IsthmusError(
      "ERR_ISTHMUS_HANDSHAKE",
      `the ${side} side sent ${frameName(frame.type)} out of order, ${state}`
    );
  }
  // ---------------------------------------------------------------- who it is
  #welcome() {
    this.#send(encodeVersion());
    this.#send(encodeConInfo(this.#local));
  }
  #askAccept(peer, admitted) {
    const { admit } = this.#options;
    const question = () => admit ? admit(peer) : true;
    this.#ask("accept", question, (answer) => {
      if (answer !== true) throw this.#refused("refused by 'accept'");
      admitted();
    });
  }
  #askOnDemand(request, granted) {
    const { onDemand } = this.#options;
    const refused = `no on-demand connection for ${JSON.stringify(request.peer.name)} (${request.kind})`;
    if (!onDemand) throw this.#refused(refused);
    const question = () => onDemand(request);
    this.#askAccept(request.peer, () => {
      this.#ask("onDemand", question, (answer) => {
        if (!answer) throw this.#refused(refused);
        if (answer.local) this.#local = answer.local;
        granted(request.peer, answer);
      });
    });
  }
  /** Ask somebody outside, who may answer at once or later. An error of theirs refuses the peer. */
  #ask(who, question, then) {
    let answer;
    try {
      answer = question();
    } catch (error) {
      throw this.#refused(`'${who}' failed: ${messageOf(error)}`, error);
    }
    if (!isThenable(answer)) {
      then(answer);
      return;
    }
    this.#asking = who;
    const resume = (body) => {
      this.#run(() => {
        this.#asking = void 0;
        body();
      });
    };
    answer.then(
      (value) => resume(() => then(value)),
      (error) => this.abort(this.#refused(`'${who}' failed: ${messageOf(error)}`, error))
    );
  }
  #refused(message2, cause) {
    return new IsthmusError("ERR_ISTHMUS_HANDSHAKE_REFUSED", message2, { cause });
  }
  // ---------------------------------------------------------------- which plugin
  /** Connecting side: begin with the best that is left. */
  #proposeNext() {
    for (let next = this.#preferences.shift(); next; next = this.#preferences.shift()) {
      if ("reason" in next) this.#reasons.push(next.reason);
      else if (this.#propose(next.proposal)) return;
    }
    const reasons = this.#reasons.join("; ") || "there is none";
    this.#fail(new IsthmusError("ERR_ISTHMUS_NO_PLUGIN", `no plugin works between the two sides: ${reasons}`));
  }
  #propose(proposal) {
    return this.#begin(
      proposal.plugin,
      proposal.label,
      encodeArchReq(proposal.plugin.archId),
      (channel2) => proposal.attempt(channel2)
    );
  }
  /** Begin an attempt. If that does not work, nothing is sent. */
  #begin(plugin, label, before, create2) {
    const channel2 = new Channel(this.#options.role, plugin, label, this.#options.address, {
      send: (frame) => this.#run(() => this.#send(frame)),
      ready: (ready) => this.#run(() => this.#finishIfAgreed(ready)),
      giveUp: (given, reason) => this.#run(() => this.#giveUp(given, reason))
    });
    const early = channel2.begin(create2);
    if (typeof early === "string") {
      this.#reasons.push(`${label}: ${early}`);
      return false;
    }
    this.#channel = channel2;
    if (before) this.#send(before);
    for (const frame of early) this.#send(frame);
    return true;
  }
  #archReq(frame) {
    if (this.#options.role === "connect" || !this.#peer || this.#channel) throw this.#outOfOrder(frame);
    if (++this.#requests > this.#maxRequests) {
      throw new IsthmusError("ERR_ISTHMUS_HANDSHAKE", `the other side proposed more than ${this.#maxRequests} plugins`);
    }
    if (!this.#acceptPlugin(decodeArchReq(frame.payload))) this.#send(encodeFrame(FRAME.ARCH_NEXT));
  }
  #acceptPlugin(archId) {
    let plugin;
    try {
      plugin = this.#options.registry.byArch(archId);
    } catch (error) {
      plugin = messageOf(error);
    }
    if (typeof plugin === "string") {
      this.#reasons.push(plugin);
      return false;
    }
    const found = plugin;
    return this.#begin(found, found.name, void 0, (channel2) => found.accept(channel2));
  }
  #step(frame) {
    if (this.#options.role === "connect" && !this.#peer) throw this.#outOfOrder(frame);
    const channel2 = this.#channel;
    if (!channel2 || this.#owed > 0) return;
    try {
      channel2.received(frame.type, frame.payload);
    } catch (error) {
      this.#giveUp(channel2, messageOf(error));
    }
  }
  #archOk(frame) {
    if (this.#options.role === "connect" ? !this.#peer : this.#requests === 0) throw this.#outOfOrder(frame);
    const channel2 = this.#channel;
    if (!channel2 || this.#owed > 0) return;
    try {
      channel2.agreed();
    } catch (error) {
      this.#giveUp(channel2, messageOf(error));
      return;
    }
    this.#finishIfAgreed(channel2);
  }
  #archNext(frame) {
    const channel2 = this.#channel;
    if (this.#options.role === "connect") {
      if (!this.#peer) throw this.#outOfOrder(frame);
      if (this.#owed > 0) {
        this.#owed--;
        return;
      }
    } else if (this.#requests === 0) {
      throw this.#outOfOrder(frame);
    }
    if (!channel2) return;
    channel2.undo();
    this.#reasons.push(`${channel2.label}: refused by the peer`);
    this.#channel = void 0;
    if (this.#options.role === "connect") this.#proposeNext();
    else this.#send(encodeFrame(FRAME.ARCH_NEXT));
  }
  /** A plugin of ours gives up on an attempt that the other side knows of. */
  #giveUp(channel2, reason) {
    if (channel2.closed || channel2 !== this.#channel) return;
    channel2.undo();
    this.#reasons.push(`${channel2.label}: ${reason}`);
    if (channel2.okSent) {
      throw new IsthmusError("ERR_ISTHMUS_HANDSHAKE", `${channel2.label} failed after it had said ARCH_OK: ${reason}`);
    }
    this.#send(encodeFrame(FRAME.ARCH_NEXT));
    this.#channel = void 0;
    if (this.#options.role === "connect") {
      this.#owed++;
      this.#proposeNext();
    }
  }
  #finishIfAgreed(channel2) {
    if (this.#outcome || channel2 !== this.#channel || channel2.closed) return;
    if (!channel2.okSent || !channel2.okReceived || !this.#peer) return;
    const why = this.#reasons.join("; ");
    this.#outcome = {
      kind: "agreed",
      attempt: channel2.take(),
      plugin: channel2.plugin,
      label: channel2.label,
      peer: this.#peer,
      local: this.#local,
      counts: this.#counts,
      listens: this.#listens,
      rest: this.#decoder.rest(),
      why: why === "" ? void 0 : why
    };
  }
  #send(frame) {
    if (!this.#outcome) this.#output.push(frame);
  }
  #fail(error) {
    if (this.#outcome) return;
    this.#channel?.undo();
    this.#outcome = { kind: "failed", error };
  }
};
function isThenable(value) {
  return typeof value === "object" && value !== null && "then" in value && typeof value.then === "function";
}

// host/precon/attach.ts
var HANDSHAKE_TIMEOUT_MS = 1e4;
function ignoreError() {
}
function attach(socket, options, done) {
  const precon = new Precon({
    ...options,
    write: (bytes) => {
      socket.write(bytes);
    },
    done: (outcome) => {
      release();
      if (outcome.kind === "agreed") {
        socket.pause();
        done({ ...outcome, socket });
        return;
      }
      if (outcome.kind === "acknowledged") endInOrder(socket, options.timeoutMs);
      else socket.destroy();
      done(outcome);
    }
  });
  const receive = (chunk) => precon.receive(chunk);
  const ended = () => precon.socketEnded();
  const failed = (error) => precon.socketFailed(error);
  const cancelTimeout = afterTimeout(options.timeoutMs, () => {
    precon.abort(
      new IsthmusError(
        "ERR_ISTHMUS_HANDSHAKE_TIMEOUT",
        `the handshake took more than ${options.timeoutMs} ms; we waited for ${precon.waitingFor}`
      )
    );
  });
  const release = () => {
    cancelTimeout();
    socket.off("data", receive).off("end", ended).off("close", ended).off("error", failed);
  };
  if (!socket.listeners("error").includes(ignoreError)) socket.on("error", ignoreError);
  socket.on("error", failed).on("end", ended).on("close", ended).on("data", receive);
  precon.start();
  return { abort: (error) => precon.abort(error) };
}
function afterTimeout(ms, expired) {
  let immediate;
  const timer = setTimeout(() => {
    immediate = setImmediate(expired);
  }, ms);
  return () => {
    clearTimeout(timer);
    clearImmediate(immediate);
  };
}
function endInOrder(socket, limitMs) {
  const timer = setTimeout(() => socket.destroy(), limitMs);
  socket.on("close", () => clearTimeout(timer));
  socket.end();
  socket.resume();
}

// host/precon/dial.ts
import { connect } from "node:net";
import { setTimeout as sleep2 } from "node:timers/promises";
var MAX_PAUSE_MS = 1e3;
var REFUSED = /* @__PURE__ */ new Set(["ECONNREFUSED", "ECONNRESET"]);
function dial(options) {
  return retrying(options, () => tryOnce(options));
}
async function retrying(options, attempt) {
  const { host, port, retry = 10, retryPauseMs = 100, signal, log } = options;
  for (let tries = 1; ; tries++) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof IsthmusError) || error.code !== "ERR_ISTHMUS_CONNECT") throw error;
      if (tries > retry || !REFUSED.has(error.errno ?? "")) {
        throw new IsthmusError(
          "ERR_ISTHMUS_CONNECT",
          `connect to ${host}:${port}: ${error.message}${tries > 1 ? `, tried ${tries} times` : ""}`,
          { cause: error.cause, errno: error.errno, syscall: "connect" }
        );
      }
      const pause2 = Math.min(retryPauseMs * 2 ** (tries - 1), MAX_PAUSE_MS) * (0.5 + Math.random());
      log?.(`connect to ${host}:${port}: ${error.message}; try ${tries} of ${retry + 1}`);
      await sleep2(pause2, void 0, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
    }
  }
}
function tryOnce(options) {
  const { host, port, local, registry, demand = false, counts, listens, limits = {}, signal } = options;
  const timeoutMs = options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
  const connectMs = options.connectTimeoutMs ?? timeoutMs;
  return new Promise((resolve, reject) => {
    let socket;
    try {
      socket = connect({ host, port, noDelay: true, allowHalfOpen: true });
    } catch (error) {
      reject(new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", messageOf(error), { cause: error }));
      return;
    }
    let attachment;
    const release = () => {
      cancelTimeout();
      socket.off("connect", connected2).off("error", failed);
      signal?.removeEventListener("abort", aborted2);
    };
    const giveUp = (reason) => {
      release();
      socket.destroy();
      reject(reason);
    };
    const failed = (error) => {
      giveUp(new IsthmusError("ERR_ISTHMUS_CONNECT", error.code ?? error.message, { cause: error, errno: error.code }));
    };
    const aborted2 = () => {
      giveUp(signal?.reason);
      attachment?.abort(new IsthmusError("ERR_ISTHMUS_CLOSED", "the connect was aborted"));
    };
    const connected2 = () => {
      cancelTimeout();
      socket.off("error", failed);
      if (isItself(socket)) {
        giveUp(new IsthmusError("ERR_ISTHMUS_CONNECT", "ECONNREFUSED", { errno: "ECONNREFUSED" }));
        return;
      }
      attachment = attach(
        socket,
        {
          role: "connect",
          local,
          registry,
          demand,
          counts,
          listens,
          limits,
          timeoutMs,
          address: remoteAddress(socket)
        },
        (outcome) => {
          release();
          if (outcome.kind === "agreed") resolve(outcome);
          else if (outcome.kind === "failed") reject(outcome.error);
        }
      );
    };
    const cancelTimeout = afterTimeout(
      connectMs,
      () => giveUp(new IsthmusError("ERR_ISTHMUS_CONNECT", `no answer in ${connectMs} ms`, { errno: "ETIMEDOUT" }))
    );
    socket.on("error", ignoreError).on("error", failed).on("connect", connected2);
    signal?.addEventListener("abort", aborted2);
  });
}
function isItself(socket) {
  return socket.localPort === socket.remotePort && socket.localAddress === socket.remoteAddress;
}
function remoteAddress(socket) {
  const { remoteAddress: host, remotePort: port } = socket;
  return host === void 0 || port === void 0 ? void 0 : { host, port };
}

// host/precon/back.ts
function askBack(options) {
  return retrying(options, () => tryOnce2(options));
}
function tryOnce2({
  host,
  port,
  local,
  frame = FRAME.BACK_CONNECT,
  handshakeTimeoutMs,
  signal
}) {
  const timeoutMs = handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
  return new Promise((resolve, reject) => {
    const socket = connect2({ host, port, noDelay: true });
    const decoder = new FrameDecoder();
    let connected2 = false;
    const over = (settle2) => {
      cancelTimeout();
      signal?.removeEventListener("abort", aborted2);
      socket.removeAllListeners("data").removeAllListeners("close");
      socket.destroy();
      settle2();
    };
    const fail = (code, text2, cause) => over(
      () => reject(new IsthmusError(code, text2, { cause, errno: cause?.code }))
    );
    const aborted2 = () => over(() => reject(signal?.reason));
    const cancelTimeout = afterTimeout(timeoutMs, () => {
      if (connected2) fail("ERR_ISTHMUS_HANDSHAKE_TIMEOUT", `no BACK_ACK in ${timeoutMs} ms`);
      else fail("ERR_ISTHMUS_CONNECT", `no answer in ${timeoutMs} ms`);
    });
    signal?.addEventListener("abort", aborted2, { once: true });
    socket.on("error", ignoreError).once("connect", () => {
      connected2 = true;
      socket.write(encodeConInfo(local, frame));
    }).on("data", (chunk) => {
      try {
        decoder.push(chunk);
        for (let answer = decoder.next(); answer; answer = decoder.next()) {
          if (answer.type === FRAME.BACK_ACK) {
            over(resolve);
            return;
          }
        }
      } catch (error) {
        fail("ERR_ISTHMUS_HANDSHAKE", messageOf(error), error);
      }
    }).once("error", (error) => {
      if (connected2) fail("ERR_ISTHMUS_HANDSHAKE_REFUSED", `the connection broke: ${error.message}`, error);
      else fail("ERR_ISTHMUS_CONNECT", error.code ?? error.message, error);
    }).once(
      "close",
      () => fail("ERR_ISTHMUS_HANDSHAKE_REFUSED", "the other side closed it instead of sending BACK_ACK")
    );
  });
}

// host/ondemand.ts
var LET_GO = 1e4;
var MAX_PAUSE = 1e3;
var FIRST_PAUSE = 5;
var CONNECT_TIME2 = 3e3;
var OnDemand = class {
  #host;
  #entries = /* @__PURE__ */ new Map();
  /** Nothing is brought up: the process is suspended, or about to be. */
  #held = false;
  constructor(host) {
    this.#host = host;
  }
  add(connection, address, local) {
    this.#add(connection, address, local, void 0);
  }
  #add(connection, address, local, peerId) {
    const entry = {
      connection,
      address,
      local,
      peerId,
      effort: void 0,
      limit: void 0,
      waiting: /* @__PURE__ */ new Set()
    };
    this.#entries.set(connection, entry);
    return entry;
  }
  /** A connection is suspended: from here on it comes up again by itself. */
  suspended(connection, address, local) {
    const { peer } = connection;
    const entry = this.#entries.get(connection) ?? this.#add(connection, address, local, peer.id);
    entry.peerId = peer.id;
    entry.address = address;
    if (!connection.suspension.asked) this.#limit(entry);
  }
  #limit(entry) {
    const { resumeTimeoutMs } = this.#host;
    clearTimeout(entry.limit);
    entry.limit = setTimeout(() => {
      entry.connection.fail(
        new IsthmusError(
          "ERR_ISTHMUS_RESUME_TIMEOUT",
          `the peer was suspended and has not come back in ${resumeTimeoutMs} ms`
        )
      );
    }, resumeTimeoutMs).unref();
  }
  remove(connection) {
    const entry = this.#entries.get(connection);
    if (!entry) return;
    this.#entries.delete(connection);
    clearTimeout(entry.limit);
    entry.effort?.abort(new IsthmusError("ERR_ISTHMUS_CLOSED", "the connection was closed"));
  }
  /** Give up what is under way, and begin nothing, until {@link release}. */
  hold() {
    this.#held = true;
    for (const { connection, effort } of this.#entries.values()) {
      effort?.abort(new IsthmusError("ERR_ISTHMUS_SUSPEND", "the process is being suspended"));
      if (effort && connection.state === "suspended") connection.suspension.pause();
    }
  }
  /** Bring up what this side has suspended, and what has something to send. */
  release() {
    this.#held = false;
    const all = [...this.#entries.keys()];
    all.sort((a, b) => Number(b.wantsToSend) - Number(a.wantsToSend));
    for (const connection of all) {
      if (connection.linked) continue;
      if (connection.state === "connecting" ? connection.wantsToSend : connection.suspension.asked) {
        this.bringUp(connection);
      }
    }
  }
  /** Those that this side brings up at the moment. */
  coming() {
    return [...this.#entries.values()].flatMap(
      (entry) => entry.effort && !entry.connection.linked ? [new Promise((resolve) => entry.waiting.add(resolve))] : []
    );
  }
  /** The connection has something to send, or is to come back. */
  bringUp(connection) {
    const entry = this.#entries.get(connection);
    if (!entry || entry.effort || this.#held) return;
    const effort = new AbortController();
    entry.effort = effort;
    const again = entry.peerId !== void 0;
    if (again) connection.suspension.resume();
    (again ? this.#comeBack(entry, effort.signal) : this.#bringUp(entry, effort.signal, this.#host.timeoutMs)).then(
      () => this.#settled(entry, effort),
      (error) => {
        this.#settled(entry, effort);
        if (effort.signal.aborted) return;
        if (this.#entries.has(connection) && !connection.linked) connection.fail(asError2(error));
      }
    );
  }
  #settled(entry, effort) {
    if (entry.effort === effort) entry.effort = void 0;
    if (effort.signal.aborted && !this.#held && this.#entries.get(entry.connection) === entry) this.release();
  }
  /**
   * Reach a peer that may be on its way to another host: neither tries nor a silent handshake are counted, only time.
   * (A suspended peer accepts, and answers when it is resumed.)
   */
  async #comeBack(entry, signal) {
    const { resumeTimeoutMs, log } = this.#host;
    const until = performance.now() + resumeTimeoutMs;
    this.#limit(entry);
    for (let pause2 = FIRST_PAUSE; ; pause2 = Math.min(pause2 * 2, MAX_PAUSE)) {
      try {
        await this.#bringUp(entry, signal, Math.max(1, until - performance.now()));
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (entry.connection.linked) return;
        const code = error instanceof IsthmusError ? error.code : void 0;
        const again = code === "ERR_ISTHMUS_CONNECT" || code === "ERR_ISTHMUS_HANDSHAKE_TIMEOUT";
        if (!again || performance.now() > until) throw error;
        log("info", `cannot reach ${entry.address.host}:${entry.address.port} yet: ${error.message}`);
        await sleep3(pause2, void 0, { signal }).catch(() => {
        });
      }
    }
  }
  async #bringUp(entry, signal, timeoutMs) {
    const { address, local, connection, peerId } = entry;
    const { host, port } = address;
    const again = peerId !== void 0;
    const options = {
      ...this.#host.dialOptions(),
      local,
      handshakeTimeoutMs: timeoutMs,
      counts: connection.counts,
      ...again ? { retry: 0, connectTimeoutMs: CONNECT_TIME2 } : {}
    };
    const { signal: ending } = options;
    const both = ending ? AbortSignal.any([ending, signal]) : signal;
    const order = compareNames(local.name, address.name);
    if (port === 0) {
    } else if (order <= 0) {
      try {
        const connected2 = await this.#host.dial(address, { ...options, demand: true, signal: both });
        if (this.#entries.get(connection) !== entry || connection.linked) {
          connected2.attempt.undo();
          connected2.socket.destroy();
        } else {
          this.#up(entry, connected2, "say");
        }
        return;
      } catch (error) {
        const refused = error instanceof IsthmusError && error.code === "ERR_ISTHMUS_HANDSHAKE_REFUSED";
        if (order < 0 && !again || !refused || !this.#host.listens) throw error;
        await this.#comesUp(entry, both, this.#host.timeoutMs).catch((late) => {
          throw again ? error : late;
        });
        return;
      }
    } else {
      if (!this.#host.listens) {
        throw new IsthmusError(
          "ERR_ISTHMUS_CONNECT",
          `'${local.name}' is greater than '${address.name}', so ${host}:${port} has to connect to us; call listen() first`
        );
      }
      await askBack({ ...options, host, port, signal: both });
    }
    await this.#comesUp(entry, both, timeoutMs);
  }
  /** Wait, bounded, until the other side has connected. */
  #comesUp(entry, signal, timeoutMs) {
    const { connection, address, waiting } = entry;
    if (connection.linked) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const over = (settle2) => {
        clearTimeout(timer);
        waiting.delete(up);
        signal.removeEventListener("abort", aborted2);
        settle2();
      };
      const up = () => over(resolve);
      const aborted2 = () => over(() => reject(signal.reason));
      const timer = setTimeout(() => {
        over(
          () => reject(
            new IsthmusError(
              "ERR_ISTHMUS_CONNECT",
              `${address.host}:${address.port} said that it would connect to us, and did not in ${Math.round(timeoutMs)} ms`
            )
          )
        );
      }, timeoutMs);
      waiting.add(up);
      signal.addEventListener("abort", aborted2, { once: true });
      if (signal.aborted) aborted2();
    });
  }
  /** Somebody asks for one of ours. @returns undefined: there is none */
  asked(request) {
    if (request.kind === "hurry") return this.#host.hurried(request.peer.id) ? {} : void 0;
    const leaving = this.#host.suspending(request.peer.id);
    return leaving ? letsGo(leaving).then(() => this.#answer(request)) : this.#answer(request);
  }
  #answer({ kind, peer }) {
    const entry = this.#find(peer);
    if (!entry) return void 0;
    const { connection, local } = entry;
    if (kind === "back-connect") {
      if (!connection.linked || connection.tentative) this.bringUp(connection);
      return { local };
    }
    connection.revert();
    if (connection.linked) return void 0;
    const calling = entry.effort !== void 0 && compareNames(local.name, entry.address.name) === 0;
    return calling && local.id < peer.id ? void 0 : { local, counts: connection.counts };
  }
  #find(peer) {
    let named2;
    for (const entry of this.#entries.values()) {
      if (entry.peerId !== void 0) {
        if (entry.peerId === peer.id) return entry;
      } else if (compareNames(entry.address.name, peer.name) === 0) {
        if (!named2 || entry.effort && !named2.effort) named2 = entry;
      }
    }
    return named2;
  }
  /** A handshake on our listener ended well. @returns whether it was for one of ours */
  agreed(connected2) {
    for (const entry of this.#entries.values()) {
      if (entry.local.id !== connected2.local.id) continue;
      entry.connection.revert();
      if (entry.connection.linked || entry.connection.state === "closed") {
        connected2.attempt.undo();
        connected2.socket.destroy();
      } else {
        this.#up(entry, connected2, "await");
      }
      return true;
    }
    return false;
  }
  #up(entry, connected2, role2) {
    const { connection } = entry;
    const { counts, peer } = connected2;
    clearTimeout(entry.limit);
    const again = entry.peerId !== void 0;
    entry.peerId = peer.id;
    const mine = connection.counts;
    if (again && counts && (counts.received !== mine.sent || counts.sent !== mine.received)) {
      connected2.attempt.undo();
      connected2.socket.destroy();
      connection.fail(
        new IsthmusError(
          "ERR_ISTHMUS_PEER_PROTOCOL",
          `messages were lost in a suspension: ${mine.sent} sent of which the peer has ${counts.received}, ${mine.received} received of ${counts.sent}`
        )
      );
      return;
    }
    const up = () => {
      for (const waiting of [...entry.waiting]) waiting();
      entry.waiting.clear();
    };
    this.#host.open(connection, connected2, up, counts ? role2 : void 0);
  }
};
async function letsGo(connection) {
  const until = performance.now() + LET_GO;
  while (connection.linked && connection.state !== "closed" && performance.now() < until) {
    connection.progress();
    if (connection.linked) await sleep3(1);
  }
}
function compareNames(a, b) {
  return Buffer.compare(nameBytes(a), nameBytes(b));
}
function nameBytes(name) {
  const bytes = Buffer.alloc(8);
  bytes.write(name, "utf8");
  return bytes;
}
function asError2(error) {
  return error instanceof IsthmusError ? error : new IsthmusError("ERR_ISTHMUS_CONNECT", error instanceof Error ? error.message : String(error), { cause: error });
}

// host/precon/listener.ts
import { createServer as createServer2, isIPv6 } from "node:net";
var MAX_HANDSHAKES = 64;
var MAX_WAITING = 4096;
var Listener = class _Listener {
  #options;
  #server;
  #handshakes = /* @__PURE__ */ new Set();
  /** Came while the listener is held, or go on from there: nothing has been read from them. */
  #waiting = [];
  #held = false;
  #idle = [];
  #address;
  #open = true;
  #closed;
  constructor(options, server) {
    this.#options = options;
    this.#server = server;
    const address = server.address();
    if (typeof address !== "object" || !address) throw new IsthmusError("ERR_ISTHMUS_LISTEN", "no address");
    this.#address = { host: address.address, port: address.port };
    server.on("connection", (socket) => this.#accepted(socket));
    server.on("error", (error) => this.#log(`accept failed: ${error.message}`));
  }
  /**
   * Listen. Rejects with ERR_ISTHMUS_LISTEN (with `errno`, as EADDRINUSE), or with ERR_ISTHMUS_INVALID_ARGUMENT for a
   * port or a backlog that cannot be.
   */
  static open(options) {
    const { host = "127.0.0.1", port = 0, backlog = 511 } = options;
    return new Promise((resolve, reject) => {
      const server = createServer2({ noDelay: true, allowHalfOpen: true });
      const failed = (error) => {
        reject(
          new IsthmusError("ERR_ISTHMUS_LISTEN", `listen on ${host}:${port}: ${error.code ?? error.message}`, {
            cause: error,
            errno: error.code,
            syscall: error.syscall
          })
        );
      };
      server.once("error", failed);
      try {
        server.listen({ host, port, backlog, exclusive: true }, () => {
          server.off("error", failed);
          resolve(new _Listener(options, server));
        });
      } catch (error) {
        reject(new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", messageOf(error), { cause: error }));
      }
    });
  }
  /** Where it listens, with the real port. */
  get address() {
    return this.#address;
  }
  /**
   * From here on whoever comes has to wait, unread, until {@link release}: the process is suspended, or about to be.
   * Resolves when the handshakes that are under way have ended.
   */
  hold() {
    this.#held = true;
    if (this.#handshakes.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle.push(resolve);
    });
  }
  release() {
    this.#held = false;
    this.#admit();
  }
  /** Those who waited, as many at a time as may shake hands. */
  #admit() {
    const { maxHandshakes = MAX_HANDSHAKES } = this.#options;
    while (!this.#held && this.#handshakes.size < maxHandshakes) {
      const socket = this.#waiting.shift();
      if (!socket) return;
      if (!socket.destroyed) this.#connection(socket);
    }
  }
  /** A handshake is over. */
  #over(attachment) {
    if (attachment) this.#handshakes.delete(attachment);
    this.#admit();
    if (this.#handshakes.size > 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }
  /** Handshakes under way. */
  get handshakes() {
    return this.#handshakes.size;
  }
  /** Keep the process alive (the default). */
  ref() {
    this.#server.ref();
    return this;
  }
  /** Do not keep the process alive; a handshake under way still does, as long as it may take. */
  unref() {
    this.#server.unref();
    return this;
  }
  /**
   * Stop listening and end the handshakes under way, without a word to `onHandshakeError`. Agreed connections are not
   * touched. Idempotent.
   */
  close() {
    this.#open = false;
    this.#closed ??= new Promise((resolve) => {
      this.#server.close();
      for (const handshake of this.#handshakes) {
        handshake.abort(new IsthmusError("ERR_ISTHMUS_CLOSED", "the listener was closed"));
      }
      this.#handshakes.clear();
      for (const socket of this.#waiting.splice(0)) socket.destroy();
      setImmediate(resolve);
    });
    return this.#closed;
  }
  #accepted(socket) {
    socket.on("error", ignoreError);
    if (!this.#held && this.#waiting.length === 0) this.#connection(socket);
    else if (this.#waiting.length < MAX_WAITING) this.#waiting.push(socket);
    else {
      socket.destroy();
      this.#log(`a connection closed: ${MAX_WAITING} wait already`);
    }
  }
  #connection(socket) {
    const { local, registry, accept, onDemand, limits = {} } = this.#options;
    const address = remoteAddress(socket);
    const refusal2 = this.#refusal(address);
    if (refusal2 !== void 0) {
      socket.destroy();
      const who = address ? `${address.host}:${address.port}` : "a connection";
      this.#log(`${who} closed: ${refusal2}`);
      return;
    }
    let over = false;
    let attachment;
    const timeoutMs = this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
    try {
      attachment = attach(
        socket,
        { role: "accept", local: local(), registry, address, admit: accept, onDemand, limits, timeoutMs },
        (outcome) => {
          over = true;
          if (outcome.kind === "agreed") this.#agreed(outcome);
          else if (outcome.kind === "failed") this.#failed(outcome.error, address);
          this.#over(attachment);
        }
      );
    } catch (error) {
      socket.destroy();
      this.#failed(asHandshakeError(error), address);
      return;
    }
    if (!over) this.#handshakes.add(attachment);
  }
  /** Why nobody is to listen to this one, undefined if somebody is. */
  #refusal(address) {
    const { blockList, maxHandshakes = MAX_HANDSHAKES } = this.#options;
    if (!this.#open) return "the listener was closed";
    if (!address) return "it is already gone";
    if (blockList?.check(address.host, isIPv6(address.host) ? "ipv6" : "ipv4")) return "its address is blocked";
    if (this.#handshakes.size >= maxHandshakes) return `${maxHandshakes} handshakes are under way already`;
    return void 0;
  }
  #agreed(connected2) {
    try {
      this.#options.onAgreed(connected2);
    } catch (error) {
      connected2.socket.destroy();
      this.#failed(asHandshakeError(error), connected2.peer.address);
    }
  }
  #failed(error, address) {
    if (!this.#open) return;
    const who = address ? `${address.host}:${address.port}` : "a connection";
    this.#log(`handshake with ${who} failed: ${error.message} (${error.code})`);
    try {
      this.#options.onHandshakeError?.(error, address);
    } catch (thrown) {
      this.#log(`onHandshakeError failed: ${messageOf(thrown)}`);
    }
  }
  /** Nothing that a stranger causes may end the service, not by a callback that throws either. */
  #log(line) {
    try {
      this.#options.log?.(line);
    } catch {
    }
  }
};
function asHandshakeError(error) {
  if (error instanceof IsthmusError) return error;
  return new IsthmusError("ERR_ISTHMUS_HANDSHAKE", messageOf(error), { cause: error });
}

// host/request.ts
function cancelled(what) {
  return new IsthmusError("ERR_ISTHMUS_CANCELLED", `the ${what} was cancelled`);
}
var PostedReceive = class extends Receiver {
  done;
  maxLength;
  #state = "posted";
  #withdraw;
  #resolve;
  #reject;
  constructor({ match, data, maxLength }) {
    super(match, data);
    if (maxLength !== void 0 && !(Number.isInteger(maxLength) && maxLength >= 0)) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `maxLength: ${maxLength} is not a number of bytes`);
    }
    this.maxLength = Math.min(maxLength ?? Number.POSITIVE_INFINITY, data?.length ?? Number.POSITIVE_INFINITY);
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.done.catch(() => {
    });
  }
  get state() {
    return this.#state;
  }
  /** @internal It waits; `withdraw` takes it back. */
  posted(withdraw) {
    this.#withdraw = withdraw;
  }
  begin() {
    this.#state = "started";
  }
  complete(connection, { data, xheader }, length) {
    this.#state = "done";
    this.#resolve({ connection, xheader, data, length, truncated: data.length < length });
  }
  reject(error) {
    this.#state = "failed";
    this.#reject(error);
  }
  cancel() {
    if (this.#state !== "posted" || !this.#withdraw?.()) return false;
    this.#state = "cancelled";
    this.#reject(cancelled("receive"));
    return true;
  }
};
var PostedSend = class {
  done;
  #connection;
  #entry;
  #state = "posted";
  #reject;
  /** @throws as `connection.send` does, for what cannot be sent at all */
  constructor(connection, { data, xheader }) {
    this.#connection = connection;
    let resolve;
    this.done = new Promise((ok, failed) => {
      resolve = ok;
      this.#reject = failed;
    });
    this.done.catch(() => {
    });
    this.#entry = connection.post(
      data,
      xheader ?? NO_BYTES,
      () => {
        this.#state = "done";
        resolve();
      },
      (error) => {
        this.#state = "failed";
        this.#reject(error);
      }
    );
  }
  get state() {
    return this.#state === "posted" && this.#entry !== void 0 && this.#entry.sent >= 0 ? "started" : this.#state;
  }
  cancel() {
    if (this.#state !== "posted" || !this.#entry || !this.#connection.cancel(this.#entry)) return false;
    this.#state = "cancelled";
    this.#reject(cancelled("send"));
    return true;
  }
};
function waitForMessage(matching, { connection, match }, signal) {
  return new Promise((resolve, reject) => {
    const settle2 = () => signal?.removeEventListener("abort", abort);
    const prober = {
      connection,
      match,
      found: (envelope) => {
        settle2();
        resolve(envelope);
      },
      reject: (error) => {
        settle2();
        reject(error);
      }
    };
    const abort = () => {
      if (matching.removeProber(prober)) reject(signal?.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
    matching.addProber(prober);
  });
}

// host/endpoint.ts
var DIAL_GRACE = 500;
var HURRY_AFTER = 50;
var Endpoint = class {
  /** The first 8 bytes go over the wire, and name it in `host:port@name`. */
  name;
  #host;
  #matching = new Matching();
  #listeners = /* @__PURE__ */ new Set();
  #connections = /* @__PURE__ */ new Set();
  #onDemand;
  #groups = new Groups();
  /** The runtime's plugins, as far as they may be used here. */
  #registry;
  #closed;
  #dialing = /* @__PURE__ */ new Set();
  /** The process is suspended: settles when it goes on. */
  #held;
  /** By address: listeners that were opened so that peers can come back. */
  #temporary = /* @__PURE__ */ new Map();
  /** @internal */
  constructor(name, host) {
    if (typeof name !== "string" || name === "" || name.includes("\0")) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "a name is a string that is not empty");
    }
    this.name = name;
    this.#host = host;
    this.#registry = host.registry;
    const listeners = this.#listeners;
    this.#onDemand = new OnDemand({
      dialOptions: () => this.#dialOptions(void 0),
      get listens() {
        return listeners.size > 0;
      },
      timeoutMs: host.config.handshakeTimeout,
      dial: (address, options) => this.#dial(address, options),
      resumeTimeoutMs: host.config.resumeTimeout,
      open: (connection, connected2, up, confirm) => this.#up(connection, connected2, up, confirm),
      suspending: (id) => [...this.#connections].find((one) => one.peer.id === id && one.linked && one.suspension.underWay),
      hurried: (id) => {
        const found = [...this.#connections].find((one) => one.peer.id === id && one.linked);
        found?.hurried();
        return found !== void 0;
      },
      log: host.log
    });
  }
  /**
   * Which plugins may be used, by name: `only` these, else all; and `add`, but not `delete`. For what is listened to and
   * connected from here on.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT: there is no plugin of that name
   */
  mask(mask) {
    this.#registry = this.#host.registry.masked(mask);
  }
  /** The connections that are open, and those that are to be. */
  connections() {
    return [...this.#connections];
  }
  /** Where it listens. */
  listening() {
    return [...this.#listeners].map(({ host, port }) => ({ host, port }));
  }
  /** @internal */
  get open() {
    return this.#connections;
  }
  // ─── listening and connecting ──────────────────────────────────────────────────────────────────────────────────────
  /**
   * Listen for connections.
   * @param handler left out: on-demand connections only, and those of whom this side knows otherwise
   * @throws ERR_ISTHMUS_LISTEN, ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  async listen(options, handler) {
    this.#check();
    const { port = 0, host = "127.0.0.1", accept, blockList, maxHandshakes } = options;
    const { config, log } = this.#host;
    if (!Number.isInteger(port) || port < 0 || port > 65535) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `${port} is not a port: 0 to 65535`);
    }
    if (handler !== void 0 && typeof handler !== "function") {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "the handler of listen is not a function");
    }
    const accepted = (link, route) => {
      const connection = this.#create(route);
      this.#attach(connection, link, route);
      if (handler) this.#handle(connection, handler);
    };
    const listener = await Listener.open({
      host,
      port,
      backlog: config.backlog,
      local: () => this.#conInfo(host),
      registry: this.#registry,
      accept,
      blockList,
      ...maxHandshakes === void 0 ? {} : { maxHandshakes },
      handshakeTimeoutMs: config.handshakeTimeout,
      onDemand: (request) => this.#onDemand.asked(request),
      onAgreed: (connected2) => {
        if (this.#onDemand.agreed(connected2)) return;
        accepted(this.#link(connected2), routeOf(connected2));
      },
      onHandshakeError: (error, address) => this.#host.events.failed("accept", address, error),
      log: (line) => log("warning", line)
    });
    if (this.#closed) {
      await listener.close();
      this.#check();
    }
    const open2 = { listener, ...listener.address, accept, accepted };
    this.#listeners.add(open2);
    this.#host.events.listening(listener.address);
    const close = () => {
      this.#listeners.delete(open2);
      return listener.close();
    };
    const listening = {
      host: open2.host,
      port: open2.port,
      close,
      ref: () => {
        listener.ref();
        return listening;
      },
      unref: () => {
        listener.unref();
        return listening;
      },
      [Symbol.asyncDispose]: close
    };
    return listening;
  }
  /**
   * Connect to a listener, trying again while it refuses (`retry`). `host:port@name` comes back at once, in state
   * `connecting`: the first message of either side brings it up.
   * @throws ERR_ISTHMUS_CONNECT, ERR_ISTHMUS_HANDSHAKE…, ERR_ISTHMUS_NO_PLUGIN, ERR_ISTHMUS_INVALID_ARGUMENT,
   * ERR_ISTHMUS_CLOSED, `signal.reason`
   */
  async connect(address, { signal } = {}) {
    this.#check();
    const parsed = parseAddress(address);
    const { host, port, name } = parsed;
    signal?.throwIfAborted();
    const found = await this.#ownListener(host, port);
    this.#check();
    if (name !== void 0) {
      if (found && found.endpoint === this && wireName(name) === wireName(this.name)) return this.#connectSelf();
      return this.#connectOnDemand(parsed);
    }
    if (found) return this.#connectLoop(found.listener);
    const connected2 = await this.#dialNow(parsed, signal);
    const route = routeOf(connected2);
    const link = this.#link(connected2);
    const connection = this.#create(route);
    this.#attach(connection, link, route);
    return connection;
  }
  async #dial({ host, port }, options) {
    try {
      return await dial({ ...options, host, port });
    } catch (error) {
      if (error instanceof IsthmusError && error.code !== "ERR_ISTHMUS_CLOSED") {
        this.#host.events.failed("connect", { host, port }, error);
      }
      throw error;
    }
  }
  /** Dial; while the process is suspended, wait. */
  async #dialNow(address, signal) {
    for (; ; ) {
      await this.#goesOn(signal);
      this.#check();
      const cancel = new AbortController();
      const both = signal ? AbortSignal.any([signal, cancel.signal]) : cancel.signal;
      const dial2 = this.#dial(address, { ...this.#dialOptions(both), local: this.#conInfo(void 0) });
      const dialing = { cancel, over: dial2.catch(() => {
      }) };
      this.#dialing.add(dialing);
      try {
        return await dial2;
      } catch (error) {
        if (!cancel.signal.aborted || signal?.aborted) throw error;
      } finally {
        this.#dialing.delete(dialing);
      }
    }
  }
  async #goesOn(signal) {
    while (this.#held) {
      signal?.throwIfAborted();
      const { ending } = this.#host;
      const both = signal ? AbortSignal.any([signal, ending]) : ending;
      await Promise.race([this.#held.over, aborted(both)]);
    }
  }
  // ─── suspending ────────────────────────────────────────────────────────────────────────────────────────────────────
  /** @internal Begin nothing new. Resolves when what is under way has become a connection, or is going to begin anew. */
  async hold() {
    let end2;
    const over = new Promise((resolve) => {
      end2 = resolve;
    });
    this.#held ??= { over, end: end2 };
    this.#onDemand.hold();
    const through = Promise.all([
      ...[...this.#listeners].map(({ listener }) => listener.hold()),
      ...[...this.#dialing].map((dialing) => dialing.over)
    ]);
    let timer;
    const grace = new Promise((resolve) => {
      timer = setTimeout(resolve, DIAL_GRACE);
    });
    await Promise.race([through, grace]);
    clearTimeout(timer);
    for (const { cancel } of this.#dialing) cancel.abort();
    await through;
  }
  /** @internal Go on. */
  release() {
    const held = this.#held;
    this.#held = void 0;
    held?.end();
    for (const { listener } of this.#listeners) listener.release();
    this.#onDemand.release();
  }
  /** @internal Connections that this side brings up at the moment: settle when they are up, or closed. */
  coming() {
    return this.#onDemand.coming();
  }
  #suspended(connection) {
    const { peer, suspension, route } = connection;
    this.#host.log("info", `the connection to ${peer.name} is suspended`);
    this.#host.events.suspended(connection);
    if (!route.ends || !peer.address) return;
    const address = { host: peer.address.host, port: suspension.peerPort, name: peer.name };
    this.#onDemand.suspended(connection, address, route.ends.local);
    if (suspension.asked) this.#onDemand.bringUp(connection);
  }
  #silence(connection, event, silence) {
    const { peer, plugin } = connection;
    const what = event === "stalled" ? `stalled: no sign of life of it for ${silence} ms` : `back after ${silence} ms`;
    this.#host.log("warning", `${peer.name}[${peer.pid}] over ${plugin} is ${what}`);
    this.#host.events.silence(connection, event, silence);
  }
  /** Over a stream the peer may have stopped reading in front of our wish: it hears of it at its listener. */
  #hurry(connection) {
    const { ends, peer } = connection.route;
    if (!ends?.listens || !peer.address) return;
    const { host } = peer.address;
    const { local, listens: port } = ends;
    const { log } = this.#host;
    setTimeout(() => {
      if (!connection.linked || !connection.suspension.underWay) return;
      const options = { ...this.#dialOptions(void 0), host, port, local, frame: FRAME.HURRY, retry: 0 };
      askBack(options).catch((error) => log("info", `${peer.name} was not to be hurried: ${error.message}`));
    }, HURRY_AFTER).unref();
  }
  /** Where the peer can come back to: a listener of ours, or one for this. */
  async #listenPort({ route }) {
    const { ends } = route;
    if (!ends || this.#closed) return 0;
    const found = [...this.#listeners].find(({ host }) => hears(host, [ends.host]));
    if (found) return found.port;
    const knows = (peer) => [...this.#connections].some((connection) => connection.peer.id === peer.id);
    let opening = this.#temporary.get(ends.host);
    if (!opening) {
      opening = this.listen({ host: ends.host, port: 0, accept: knows });
      this.#temporary.set(ends.host, opening);
      opening.then(
        () => {
          if (this.#held) for (const { listener } of this.#listeners) void listener.hold();
        },
        () => this.#temporary.delete(ends.host)
      );
    }
    return (await opening).port;
  }
  /** Nobody has to come back any more: the listeners that were opened for that go. */
  #closeTemporary() {
    if (this.#temporary.size === 0) return;
    for (const connection of this.#connections) if (!connection.linked || connection.suspension.underWay) return;
    for (const opening of this.#temporary.values()) opening.then((listening) => listening.close()).catch(() => {
    });
    this.#temporary.clear();
  }
  #connectOnDemand(address) {
    const local = this.#conInfo([...this.#listeners][0]?.host);
    const peer = { node: "0.0.0.0", pid: 0, id: 0n, name: wireName(address.name), address: void 0 };
    const connection = this.#create({ plugin: "ondemand", why: void 0, peer });
    this.#onDemand.add(connection, address, local);
    return connection;
  }
  async #ownListener(host, port) {
    const loop = this.#registry.all.find(({ plugin }) => plugin === this.#host.loop);
    if (!loop || disabled2(loop) !== void 0) return void 0;
    const candidates = [...this.#host.endpoints].flatMap(
      (endpoint) => [...endpoint.#listeners].filter((one) => one.port === port).map((listener) => ({ listener, endpoint }))
    );
    if (candidates.length === 0) return void 0;
    const ips = await addressesOf(host);
    return candidates.find(({ listener }) => hears(listener.host, ips));
  }
  /** What one's own listener is told of the other end, which is here too. */
  #self() {
    return { ...this.#conInfo(void 0), address: void 0 };
  }
  async #connectLoop({ accept, accepted }) {
    const { loop, config } = this.#host;
    if (await accept?.(this.#self()) === false) {
      throw new IsthmusError("ERR_ISTHMUS_HANDSHAKE_REFUSED", "our own listener refused the connection");
    }
    this.#check();
    const [near, far] = loop.pair(this.#host.privateCore(), config.tcpRingSize || 65536);
    const route = () => ({ plugin: "loop", why: void 0, peer: this.#self() });
    const connection = this.#create(route());
    this.#attach(connection, near, connection);
    accepted(far, route());
    return connection;
  }
  /** A connection to oneself: what one sends one receives. */
  #connectSelf() {
    const { loop, config } = this.#host;
    const link = loop.self(this.#host.privateCore(), config.tcpRingSize || 65536);
    const connection = this.#create({ plugin: "loop", why: void 0, peer: this.#self() });
    this.#attach(connection, link, connection);
    return connection;
  }
  #dialOptions(signal) {
    const { config, ending, log } = this.#host;
    return {
      registry: this.#registry,
      retry: config.retry,
      handshakeTimeoutMs: config.handshakeTimeout,
      signal: signal ? AbortSignal.any([signal, ending]) : ending,
      log: (line) => log("info", line),
      listens: [...this.#listeners][0]?.port
    };
  }
  #conInfo(host) {
    const id = randomBytes5(8).readBigUInt64LE();
    return { node: announcedAddress(host, this.#host.config.network), pid: process.pid, id, name: wireName(this.name) };
  }
  /** What the plugin made of a handshake. @throws what it says; nothing is left of the handshake then */
  #link({ attempt, socket, rest }) {
    try {
      return attempt.open(socket, rest);
    } catch (error) {
      attempt.undo();
      socket.destroy();
      throw error;
    }
  }
  #up(connection, connected2, up, confirm) {
    this.#attach(connection, this.#link(connected2), routeOf(connected2), up, confirm);
  }
  #create(route) {
    const { progress, config } = this.#host;
    const connection = new RuntimeConnection(route, {
      progress,
      matching: this.#matching,
      maxMessageSize: config.maxMessageSize,
      unread: config.unexpectedReceives ? Number.POSITIVE_INFINITY : config.unread,
      groups: this.#groups,
      rendezvous: (plugin) => rendezvousOf(config, plugin),
      bringUp: (one) => this.#onDemand.bringUp(one),
      suspended: (one) => this.#suspended(one),
      hurry: (one) => this.#hurry(one),
      listenPort: (one) => this.#listenPort(one),
      closeTimeout: config.closeTimeout,
      stallTimeout: config.stallTimeout,
      peerTimeout: config.peerTimeout,
      silence: (one, event, silence) => this.#silence(one, event, silence),
      log: this.#host.log,
      gone: (one) => {
        this.#connections.delete(one);
        this.#onDemand.remove(one);
        this.#groups.forget(one);
        this.#host.events.gone(one);
      }
    });
    this.#connections.add(connection);
    this.#host.events.created(connection);
    return connection;
  }
  #attach(connection, link, { plugin, why, peer, ends }, up, confirm) {
    const again = connection.everLinked;
    const begun = () => {
      this.#closeTemporary();
      if (again) this.#host.events.resumed(connection);
      else this.#host.events.opened(connection);
      const where = peer.address ? ` (${peer.address.host}:${peer.address.port})` : "";
      const over = `over ${plugin}${why === void 0 ? "" : `; ${why}`}`;
      this.#host.log("info", `connected to ${peer.name}${where} ${over}`);
      up?.();
    };
    connection.attach(link, { plugin, why, peer, ends }, begun, confirm);
  }
  #handle(connection, handler) {
    const run = async () => handler(connection);
    run().catch((error) => {
      const level = connection.state === "open" ? "error" : "info";
      const text2 = error instanceof Error ? error.message : String(error);
      this.#host.log(level, `the handler of a connection failed: ${text2}`);
      connection.destroy(error instanceof Error ? error : new Error(String(error)));
    });
  }
  // ─── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────
  /**
   * Post a receive. Of those that take a message, the one that was posted first gets it; `connection.receive()` counts
   * as one too. It takes the first message that it matches, also one that came long before.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED, what the match function throws
   */
  postReceive(options) {
    this.#check();
    const request = new PostedReceive(options);
    if (options.connection !== void 0) {
      const connection = this.#mine(options.connection);
      const { inbound } = connection;
      connection.progress();
      if (inbound.offer(request)) return request;
      connection.throwIfEnded();
      request.posted(() => inbound.withdraw(request));
      inbound.post(request);
      connection.look();
      return request;
    }
    for (const connection of this.#connections) {
      connection.progress();
      if (connection.inbound.offer(request)) return request;
    }
    request.posted(() => this.#matching.remove(request));
    this.#matching.add(request);
    for (const connection of [...this.#connections]) if (request.state === "posted") connection.look();
    return request;
  }
  /**
   * Send as a request: `done` resolves when the message is taken, as `connection.send()` does.
   * @throws what `connection.send()` rejects with, for what cannot be sent at all
   */
  postSend(options) {
    return new PostedSend(this.#mine(options.connection), options);
  }
  /** Whether a message is there that a receive with these options would take. It stays. */
  iprobe({ connection, match } = {}) {
    this.#check();
    const candidates = connection === void 0 ? this.#connections : [this.#mine(connection)];
    for (const one of candidates) {
      one.progress();
      const found = one.inbound.find(match);
      if (found) return one.inbound.envelope(found);
    }
    return void 0;
  }
  /**
   * Wait for a message that a receive with these options would take. It stays.
   * @throws ERR_ISTHMUS_CLOSED: the connection, or the endpoint, has ended; `signal.reason`
   */
  async probe(options = {}) {
    options.signal?.throwIfAborted();
    const found = this.iprobe(options);
    if (found) return found;
    if (options.connection !== void 0) this.#mine(options.connection).throwIfEnded();
    const waiting = waitForMessage(this.#matching, options, options.signal);
    for (const connection of [...this.#connections]) connection.look();
    return waiting;
  }
  /**
   * Open a group over connections of this endpoint. The others open it too, now or later.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  group(options) {
    this.#check();
    return this.#groups.open(options, (connection) => {
      const mine = this.#mine(connection);
      mine.throwIfEnded();
      return mine;
    });
  }
  #mine(connection) {
    if (connection instanceof RuntimeConnection && connection.matching === this.#matching) return connection;
    throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "the connection belongs to another endpoint");
  }
  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────
  #check() {
    if (this.#closed) throw new IsthmusError("ERR_ISTHMUS_CLOSED", "the endpoint is closed");
  }
  /**
   * Close listeners and connections. Idempotent.
   * @param timeout for the orderly close of each connection, in milliseconds, default `closeTimeout`
   */
  close({ timeout } = {}) {
    this.#closed ??= this.#close(timeout);
    return this.#closed;
  }
  async #close(timeout) {
    await Promise.all([...this.#listeners].map(({ listener }) => listener.close()));
    this.#listeners.clear();
    await this.#groups.close();
    this.#matching.rejectAll(new IsthmusError("ERR_ISTHMUS_CLOSED", "the endpoint was closed"));
    await Promise.allSettled([...this.#connections].map((connection) => connection.close({ timeout })));
  }
  [Symbol.asyncDispose]() {
    return this.close();
  }
};
function rendezvousOf(config, plugin) {
  if (plugin === "shm") return config.rendezvousShm;
  if (plugin === "ivshmem") return config.rendezvousIvshmem;
  return plugin === "loop" ? Number.POSITIVE_INFINITY : config.rendezvous;
}
function routeOf({ plugin, why, peer, local, listens, socket }) {
  return { plugin: plugin.name, why, peer, ends: { local, host: socket.localAddress ?? "127.0.0.1", listens } };
}
function aborted(signal) {
  return new Promise((_, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
  });
}

// host/inspect.ts
import { threadId as threadId3 } from "node:worker_threads";

// host/version.ts
import { readFileSync as readFileSync3 } from "node:fs";
import { dirname as dirname2, join as join7 } from "node:path";
import { fileURLToPath as fileURLToPath2 } from "node:url";
var known;
function version() {
  known ??= read() ?? "unknown";
  return known;
}
function read() {
  try {
    const file = join7(dirname2(fileURLToPath2(import.meta.url)), "..", "package.json");
    const { name, version: version2 } = JSON.parse(readFileSync3(file, "utf8"));
    return name === "isthmus" && typeof version2 === "string" ? version2 : void 0;
  } catch {
    return void 0;
  }
}

// host/inspect.ts
var COUNTERS = ["messagesSent", "messagesReceived", "bytesSent", "bytesReceived", "stalls"];
var NOW = ["ringUsed", "ringSize", "pendingSends", "unreadMessages", "unreadBytes"];
var Ledger = class {
  #started = /* @__PURE__ */ new Date();
  #entries = /* @__PURE__ */ new WeakMap();
  #gone = {
    messagesSent: 0,
    messagesReceived: 0,
    bytesSent: 0,
    bytesReceived: 0,
    stalls: 0
  };
  #left = /* @__PURE__ */ new WeakSet();
  #ever = 0;
  enter(connection) {
    this.#entries.set(connection, { number: ++this.#ever, opened: (/* @__PURE__ */ new Date()).toISOString() });
  }
  /** It counts no further. Idempotent. */
  leave(connection) {
    if (this.#left.has(connection)) return;
    this.#left.add(connection);
    const stats = connection.stats();
    for (const counter of COUNTERS) this.#gone[counter] += stats[counter];
  }
  stats(open2) {
    const sums = { ...this.#gone, ringUsed: 0, ringSize: 0, pendingSends: 0, unreadMessages: 0, unreadBytes: 0 };
    let connections = 0;
    let oldestUnreadMs = 0;
    for (const connection of open2) {
      connections++;
      const stats = connection.stats();
      for (const counter of [...COUNTERS, ...NOW]) sums[counter] += stats[counter];
      oldestUnreadMs = Math.max(oldestUnreadMs, stats.oldestUnreadMs);
    }
    return { connections, connectionsEver: this.#ever, ...sums, oldestUnreadMs };
  }
  connection(connection) {
    const { plugin, why = null, state, stalled, peer } = connection;
    const { number = 0, opened: opened2 = this.#started.toISOString() } = this.#entries.get(connection) ?? {};
    const { name, pid, node, id, address = null } = peer;
    return {
      number,
      plugin,
      why,
      state,
      stalled,
      opened: opened2,
      peer: { name, pid, node, id: String(id), address: address && { host: address.host, port: address.port } },
      ...connection.stats()
    };
  }
  /** What is about the process and not about what it does. */
  process() {
    return {
      pid: process.pid,
      thread: threadId3,
      version: version(),
      node: process.version,
      started: this.#started.toISOString()
    };
  }
};
function regionSnapshot(region) {
  return {
    name: region.backing.name,
    path: region.backing.path,
    kind: region.backing.kind,
    size: region.backing.size,
    uuid: region.uuid.toString("hex"),
    slot: region.slot,
    slots: region.slots,
    slotsUsed: slotsUsed(region),
    frames: region.core.call.regionFrames.value,
    freeFrames: region.core.freeFrames()
  };
}
function slotsUsed({ core: { call, layout: layout2 }, slots }) {
  let used = 0;
  for (let slot = 0; slot < slots; slot++) if (call.slotState(slot) !== layout2.SLOT_FREE) used++;
  return used;
}
function refusedSnapshot({ path, error: { code, message: message2 } }) {
  return { path, code, message: message2 };
}

// host/log.ts
import { appendFileSync } from "node:fs";
var LEVELS = { error: 1, warning: 2, info: 3, debug: 4 };
function expandPath(path, environment = process.env) {
  return path.replace(/\$(?:\$|(\w+)|\{(\w+)\})/g, (_, plain, braced) => {
    const name = plain ?? braced;
    return name === void 0 ? String(process.pid) : environment[name] ?? "";
  });
}
function fileSink(path) {
  const file = expandPath(path);
  const append = (text2) => appendFileSync(file, text2, { mode: 384 });
  try {
    append("");
  } catch (cause) {
    const { code, message: message2 } = cause;
    throw new IsthmusError("ERR_ISTHMUS_CONFIG", `PSP_DEBUG_OUT: '${path}' cannot be written to: ${code ?? message2}`, {
      cause,
      path: file
    });
  }
  return (line) => append(`${(/* @__PURE__ */ new Date()).toISOString()} ${line}`);
}
function makeLog(limit, name, { sink, path = "" } = {}) {
  const write = sink || path === "" || path === "-" ? (line) => process.stderr.write(line) : fileSink(path);
  const logger = Object.assign(
    (level, line) => {
      if (LEVELS[level] > logger.limit) return;
      try {
        if (sink) sink(level, line);
        else write(`isthmus ${name}[${process.pid}] ${level}: ${line}
`);
      } catch {
      }
    },
    { limit }
  );
  return logger;
}

// host/migration.ts
var COMING = 1e3;
var NAMES2 = ["inactive", "requested", "preparing", "allowed", "finished", "resuming"];
var Migration = class {
  #host;
  #listeners = /* @__PURE__ */ new Set();
  #state;
  #since = Date.now();
  #suspending;
  #resuming;
  /** Ends the suspension that is under way. */
  #giveUp;
  #away = false;
  /** Events that meant nothing in their state. */
  ignored = 0;
  constructor(host) {
    this.#host = host;
    this.#state = coreLayout().MIGRATION_INACTIVE;
  }
  get migration() {
    return NAMES2[this.#state];
  }
  /** When the state began, in milliseconds of the epoch. */
  get since() {
    return this.#since;
  }
  onMigration(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  suspend({ timeout = this.#host.timeout } = {}) {
    if (!Number.isFinite(timeout) || timeout < 0) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `a timeout of ${timeout} ms`);
    }
    const back = this.#resuming;
    if (back) return back.then(() => this.suspend({ timeout }));
    this.#suspending ??= this.#suspend(timeout);
    return this.#suspending;
  }
  resume() {
    if (this.#resuming) return this.#resuming;
    const suspending = this.#suspending;
    if (!suspending) {
      this.#handle("RESUME");
      return Promise.resolve();
    }
    if (this.#giveUp) {
      this.#giveUp(new IsthmusError("ERR_ISTHMUS_SUSPEND", "resumed before the suspension was complete"));
      return suspending.catch(() => {
      });
    }
    this.#suspending = void 0;
    this.#handle("RESUME");
    return this.#comeBack();
  }
  /** The runtime is closed: what is under way ends. */
  end() {
    this.#giveUp?.(new IsthmusError("ERR_ISTHMUS_CLOSED", "the runtime was closed"));
  }
  async #suspend(timeout) {
    this.#handle("REQUEST");
    const cut = new AbortController();
    this.#giveUp = (error) => cut.abort(error);
    const timer = setTimeout(() => cut.abort(this.#late(timeout)), timeout);
    const aborted2 = new Promise((_, reject) => {
      cut.signal.addEventListener("abort", () => reject(cut.signal.reason), { once: true });
    });
    const prepared = this.#prepare(cut.signal);
    try {
      await Promise.race([prepared, aborted2]);
      this.#giveUp = void 0;
      this.#handle("ALLOW");
    } catch (error) {
      this.#giveUp = void 0;
      this.#suspending = void 0;
      cut.abort(error);
      if (this.#away) await prepared.catch(() => {
      });
      this.#handle("FAIL");
      await this.#comeBack();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }
  #late(timeout) {
    const open2 = this.#host.connections().filter((connection) => connection.linked);
    const who = open2.map(({ peer, plugin }) => `${peer.name} over ${plugin}`).slice(0, 3);
    const what = open2.length > 0 ? `${open2.length} connections did not let go (${who.join(", ")})` : "handshakes";
    return new IsthmusError("ERR_ISTHMUS_SUSPEND", `not suspended within ${timeout} ms: ${what}`);
  }
  async #prepare(cut) {
    await Promise.all([...this.#host.endpoints].map((endpoint) => endpoint.hold()));
    cut.throwIfAborted();
    this.#handle("PREPARE");
    for (let open2 = this.#linked(); open2.length > 0; open2 = this.#linked()) {
      await Promise.all(open2.map((connection) => connection.suspend()));
      cut.throwIfAborted();
    }
    this.#away = true;
    await this.#host.leaveDevices();
  }
  #linked() {
    return this.#host.connections().filter((connection) => connection.linked);
  }
  #comeBack() {
    const back = this.#back().finally(() => {
      this.#resuming = void 0;
    });
    this.#resuming = back;
    return back;
  }
  async #back() {
    if (this.#away) await this.#host.takeDevices();
    this.#away = false;
    this.#handle("ATTACHED");
    const endpoints = [...this.#host.endpoints];
    for (const endpoint of endpoints) endpoint.release();
    const coming = Promise.all(endpoints.flatMap((endpoint) => endpoint.coming()));
    let timer;
    const enough = new Promise((resolve) => {
      timer = setTimeout(resolve, COMING);
    });
    await Promise.race([coming, enough]);
    clearTimeout(timer);
    this.#handle("BACK");
  }
  #handle(event) {
    const next = machines().migration(this.#state, coreLayout()[`MIGRATION_EVENT_${event}`]);
    if (next === this.#state) {
      this.ignored++;
      this.#host.log("info", `migration: ${event} means nothing in state ${this.migration}; ignored`);
      return;
    }
    this.#state = next;
    this.#since = Date.now();
    const state = this.migration;
    this.#host.log("info", `migration: ${state}`);
    this.#host.changed(state);
    for (const listener of [...this.#listeners]) {
      try {
        listener(state);
      } catch (error) {
        this.#host.log("error", `a listener for migrations failed: ${error instanceof Error ? error.message : error}`);
      }
    }
  }
};

// host/plugins/loop.ts
var LoopLink = class _LoopLink {
  core;
  index;
  polled = false;
  #other;
  #owner;
  #readable = false;
  #writable = false;
  #end;
  #pending;
  #finished = false;
  constructor(core, index) {
    this.core = core;
    this.index = index;
  }
  static pair(core, ringSize2) {
    const [a, b] = openPair(core, ringSize2);
    const near = new _LoopLink(core, a);
    const far = new _LoopLink(core, b);
    near.#other = far;
    far.#other = near;
    return [near, far];
  }
  /** Its own other end: what it sends it receives. */
  static self(core, ringSize2) {
    const index = openEntry(core, ringSize2);
    core.call.join(index, index);
    core.call.start(index);
    const link = new _LoopLink(core, index);
    link.#other = link;
    return link;
  }
  start(owner) {
    this.#owner = owner;
    this.#readable = true;
    this.#schedule();
  }
  committed() {
    const other = this.#other;
    if (!other) return;
    other.#readable = true;
    other.#schedule();
  }
  released() {
    const other = this.#other;
    if (!other) return;
    other.#writable = true;
    other.#schedule();
  }
  finish() {
    this.#finished = true;
    const other = this.#other;
    if (other) other.#tell({ kind: "peer-closed" });
  }
  destroy() {
    clearImmediate(this.#pending);
    this.#owner = void 0;
    const other = this.#other;
    if (other) {
      this.#other = void 0;
      other.#other = void 0;
      if (!this.#finished) {
        other.#tell({
          kind: "lost",
          error: new IsthmusError("ERR_ISTHMUS_PEER_DIED", "the other end was destroyed without being closed")
        });
      }
      this.core.call.lose(other.index);
      this.core.call.dropTransmit(other.index);
    }
  }
  free() {
    this.core.call.free(this.index);
  }
  ref() {
  }
  unref() {
  }
  #tell(end2) {
    this.#end = end2;
    this.#schedule();
  }
  /** By way of the event loop, once for many: two ends that answer each other must not shut everybody else out. */
  #schedule() {
    if (this.#pending || !this.#owner) return;
    this.#pending = setImmediate(() => {
      this.#pending = void 0;
      const owner = this.#owner;
      if (!owner) return;
      const readable = this.#readable;
      const writable = this.#writable;
      const end2 = this.#end;
      this.#readable = false;
      this.#writable = false;
      this.#end = void 0;
      if (writable) {
        const other = this.#other;
        if (other) other.core.call.peek(other.index);
        owner.writable();
      }
      if (readable || end2) owner.readable();
      if (end2) owner.ended(end2);
    });
  }
};
var LoopPlugin = class {
  name = "loop";
  archId = ARCH.loop;
  priority = 100;
  /** Both ends are in this process, and hold nothing of a device. */
  migratable = true;
  unavailable() {
    return void 0;
  }
  /** Never on the wire: the runtime knows its own listeners before it dials. */
  proposals() {
    return [];
  }
  accept() {
    throw new Error("loop is for connections within one process");
  }
  /** Both ends of a new connection. */
  pair(core, ringSize2) {
    return LoopLink.pair(core, ringSize2);
  }
  /** A connection that receives what it sends. */
  self(core, ringSize2) {
    return LoopLink.self(core, ringSize2);
  }
  destroy() {
  }
};

// host/plugins/region.ts
import { randomBytes as randomBytes6 } from "node:crypto";

// host/plugins/guard.ts
var BYE = 37;
var HURRY = 83;
var LAST_WORD = 76;
var LAST_WORD_LENGTH = 6;
var Guard = class {
  #socket;
  #byeHeard = false;
  #over;
  #owner;
  #begun = Buffer.alloc(0);
  /**
   * @param socket and `rest`, as a handshake hands them over
   * @param over called once, by an event of the socket, when it has ended: whether the peer had announced that
   */
  constructor(socket, rest, over, owner) {
    this.#socket = socket;
    this.#over = over;
    this.#owner = owner;
    this.#heard(rest);
    socket.on("data", (chunk) => this.#heard(chunk));
    socket.on("error", () => {
    });
    socket.on("end", () => this.#ended());
    socket.on("close", () => this.#ended());
    socket.resume();
  }
  hurry() {
    if (this.#socket.writable) this.#socket.write(Buffer.of(HURRY));
  }
  lastWord(type, value) {
    const bytes = Buffer.alloc(LAST_WORD_LENGTH);
    bytes.writeUInt8(LAST_WORD, 0);
    bytes.writeUInt8(type, 1);
    bytes.writeInt32LE(value, 2);
    if (this.#socket.writable) this.#socket.write(bytes);
  }
  /** Announce the orderly close. */
  bye() {
    if (this.#socket.writable) this.#socket.end(Buffer.of(BYE));
  }
  /** Let go of the socket. Idempotent. */
  destroy() {
    if (this.#socket.writableEnded) this.#socket.destroySoon();
    else this.#socket.destroy();
  }
  ref() {
    this.#socket.ref();
  }
  unref() {
    this.#socket.unref();
  }
  #heard(bytes) {
    let rest = this.#begun.length > 0 ? Buffer.concat([this.#begun, bytes]) : bytes;
    this.#begun = Buffer.alloc(0);
    while (rest.length > 0) {
      const what = rest[0];
      if (what === LAST_WORD) {
        if (rest.length < LAST_WORD_LENGTH) {
          this.#begun = Buffer.from(rest);
          return;
        }
        this.#owner?.lastWord(rest.readUInt8(1), rest.readInt32LE(2));
        rest = rest.subarray(LAST_WORD_LENGTH);
        continue;
      }
      if (what === BYE) this.#byeHeard = true;
      else if (what === HURRY) this.#owner?.hurried();
      rest = rest.subarray(1);
    }
  }
  #ended() {
    const over = this.#over;
    this.#over = void 0;
    over?.(this.#byeHeard);
  }
};

// host/plugins/region.ts
var STEP_LENGTH = 48;
var RING_SIZE = 262144;
function encodeStep(step) {
  const payload = Buffer.alloc(STEP_LENGTH);
  step.uuid.copy(payload, 0);
  payload.writeUInt32LE(step.slot, 16);
  payload.writeUInt32LE(step.generation, 20);
  step.nonce.copy(payload, 24);
  payload.writeBigUInt64LE(step.offset, 32);
  payload.writeBigUInt64LE(step.capacity, 40);
  return payload;
}
function decodeStep(bytes) {
  if (bytes.length !== STEP_LENGTH) throw new Error(`a STEP1 of ${bytes.length} bytes`);
  const payload = Buffer.from(bytes);
  return {
    uuid: payload.subarray(0, 16),
    slot: payload.readUInt32LE(16),
    generation: payload.readUInt32LE(20),
    nonce: payload.subarray(24, 32),
    offset: payload.readBigUInt64LE(32),
    capacity: payload.readBigUInt64LE(40)
  };
}
function ringSizeFor(region, wanted) {
  return wanted ?? Math.min(RING_SIZE, region.backing.size / 64);
}
var RegionLink = class {
  core;
  index;
  polled = true;
  region;
  #guard;
  #guarded;
  #freed;
  #unwatch;
  #bell;
  #owner;
  #early;
  /** What came before there was an owner. */
  #heard = [];
  #destroyed = false;
  /** The peer is dead, or seems to be. */
  #died = false;
  constructor(region, index, peer, socket, rest, guarded, freed) {
    this.core = region.core;
    this.index = index;
    this.region = region;
    this.#guarded = guarded;
    this.#freed = freed;
    this.core.call.start(index);
    this.#bell = region.doorbells.link(peer);
    this.#unwatch = region.watch(peer, {
      gone: () => this.#lost("the peer has lost its place in the region: it was declared dead"),
      silent: (ms) => this.#owner?.silent(ms)
    });
    this.#guard = new Guard(socket, rest, (bye) => this.#over(bye), {
      hurried: () => this.#tell((owner) => owner.hurried()),
      lastWord: (type, value) => this.#tell((owner) => owner.lastWordHeard(type, value))
    });
  }
  start(owner) {
    this.#owner = owner;
    for (const what of this.#heard.splice(0)) if (this.#owner) what(owner);
    if (this.#early && this.#owner) owner.ended(this.#early);
  }
  #tell(what) {
    if (this.#owner) what(this.#owner);
    else if (!this.#destroyed) this.#heard.push(what);
  }
  hurry() {
    this.#guard.hurry();
  }
  lastWord(type, value) {
    this.#guard.lastWord(type, value);
  }
  // Whoever polls sees for himself.
  committed() {
  }
  released() {
  }
  ring() {
    this.#bell.bell.ring();
  }
  finish() {
    this.#guard.bye();
  }
  destroy() {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#owner = void 0;
    this.#unwatch();
    this.#bell.release();
    this.core.call.dropTransmit(this.index);
    this.#guard.destroy();
  }
  free() {
    this.core.call.free(this.index);
    if (this.#died) this.region.reapSoon();
    this.#freed?.();
  }
  ref() {
    this.#guard.ref();
  }
  unref() {
    this.#guard.unref();
  }
  #over(bye) {
    if (bye) return this.#ended({ kind: "peer-closed" });
    this.#died = true;
    this.region.reapSoon();
    if (this.#guarded) this.#lost("the peer ended without closing the connection");
  }
  #lost(why) {
    this.#ended({ kind: "lost", error: new IsthmusError("ERR_ISTHMUS_PEER_DIED", why) });
  }
  #ended(end2) {
    this.#unwatch();
    if (this.#owner) this.#owner.ended(end2);
    else this.#early ??= end2;
  }
};
var RegionAttempt = class {
  #channel;
  #plugin;
  #freed;
  #region;
  /** Our entry in the region's core. */
  #index;
  /** Who it is, once that is verified. */
  #peer;
  /** @param freed called when the link that came of it needs the region no more */
  constructor(plugin, channel2, freed) {
    this.#plugin = plugin;
    this.#channel = channel2;
    this.#freed = freed;
  }
  /** Allocate our receive ring and tell the other side where it is. */
  offer(region) {
    this.#allocate(region);
    this.#announce();
  }
  step(type, payload) {
    if (type !== FRAME.STEP1 || this.#peer) throw new Error("an unexpected STEP frame");
    const step = decodeStep(payload);
    if (this.#channel.role === "connect") {
      this.#verify(step);
      this.#channel.ok();
      return;
    }
    let refusal2 = new Error("no region in common");
    for (const region of this.#plugin.byUuid(step.uuid)) {
      try {
        this.#allocate(region);
        this.#verify(step);
        this.#announce();
        return;
      } catch (error) {
        this.undo();
        refusal2 = error;
      }
    }
    throw refusal2;
  }
  agreed() {
    if (!this.#peer) throw new Error("ARCH_OK before STEP1");
    if (this.#channel.role === "accept") this.#channel.ok();
  }
  undo() {
    if (this.#index === void 0) return;
    this.#region?.core.call.free(this.#index);
    this.#index = void 0;
  }
  open(socket, rest) {
    if (!this.#region || !this.#peer || this.#index === void 0) throw new Error("nothing was agreed");
    const link = new RegionLink(this.#region, this.#index, this.#peer, socket, rest, this.#plugin.guard, this.#freed);
    this.#index = void 0;
    return link;
  }
  #allocate(region) {
    this.#region = region;
    this.#index = openEntry(region.core, ringSizeFor(region, this.#plugin.ringSize));
  }
  #announce() {
    const region = this.#region;
    const index = this.#index;
    const { call, layout: layout2 } = region.core;
    const nonce = randomBytes6(8);
    call.setNonce(index, nonce.readUInt32LE(0), nonce.readUInt32LE(4));
    const step = encodeStep({
      uuid: region.uuid,
      slot: region.slot,
      generation: region.generation,
      nonce,
      offset: BigInt(call.ringAddress(index) - layout2.WINDOW),
      capacity: BigInt(call.ringCapacity(index))
    });
    this.#channel.step(FRAME.STEP1, step);
  }
  /** That the peer's ring is where it says, in our own mapping: the proof that the memory is the same. */
  #verify(step) {
    const region = this.#region;
    const { call, layout: layout2, size: size2 } = region.core;
    if (!step.uuid.equals(region.uuid)) throw new Error("another region");
    if (step.slot === region.slot) throw new Error("the peer claims our own slot");
    if (call.slotState(step.slot) !== layout2.SLOT_ATTACHED || call.slotGeneration(step.slot) >>> 0 !== step.generation) {
      throw new Error("not the same memory (the peer is not in the peer table here)");
    }
    if (step.offset % BigInt(layout2.FRAME) !== 0n || step.offset >= BigInt(size2) || step.capacity > BigInt(layout2.RING_MAX)) {
      throw new Error("a ring that cannot be");
    }
    const result = call.attachRing(
      this.#index,
      Number(step.offset / BigInt(layout2.FRAME)),
      Number(step.capacity),
      step.slot,
      step.generation | 0,
      step.nonce.readUInt32LE(0),
      step.nonce.readUInt32LE(4)
    );
    if (result === layout2.ATTACH_OFFER) throw new Error("not the same memory (the ring is not offered here)");
    if (result === layout2.ATTACH_NONCE)
      throw new Error("not the same memory (the nonce is not here: a copy of the region?)");
    if (result !== layout2.ATTACH_OK) throw new Error("a ring that cannot be");
    this.#peer = { slot: step.slot, generation: step.generation };
  }
};
var RegionPlugin = class {
  name;
  archId;
  priority;
  migratable = false;
  ringSize;
  guard;
  #regions = [];
  #missing;
  constructor(options) {
    this.name = options.name;
    this.archId = options.archId;
    this.priority = options.priority;
    this.ringSize = options.ringSize;
    this.guard = options.guard;
  }
  /** @param missing why there are none */
  use(regions, missing) {
    this.#regions = regions;
    this.#missing = missing;
  }
  #attached() {
    return this.#regions.filter((region) => region.usable);
  }
  byUuid(uuid) {
    return this.#attached().filter((region) => region.uuid.equals(uuid));
  }
  unavailable() {
    return this.#attached().length > 0 ? void 0 : this.#missing ?? "no region";
  }
  proposals() {
    return this.#attached().map((region) => ({
      plugin: this,
      label: `${this.name} (${region.backing.name})`,
      attempt: (channel2) => {
        const attempt = new RegionAttempt(this, channel2);
        attempt.offer(region);
        return attempt;
      }
    }));
  }
  accept(channel2) {
    return new RegionAttempt(this, channel2);
  }
  destroy() {
  }
};

// host/core/lifecycle.ts
import {
  closeSync as closeSync6,
  constants as constants4,
  fchmodSync as fchmodSync2,
  fstatSync as fstatSync5,
  ftruncateSync as ftruncateSync2,
  lstatSync as lstatSync3,
  openSync as openSync4,
  readSync as readSync3,
  unlinkSync as unlinkSync2,
  writeSync
} from "node:fs";
import { basename as basename3, join as join8 } from "node:path";
import { setTimeout as sleep4, setImmediate as turn } from "node:timers/promises";
var LEAVE_LIMIT = 1e3;
var PAUSE = 5;
var PART = 4194304;
var ownUid = () => process.geteuid?.() ?? 0;
function shmPath(name) {
  return join8(SHM, `${SHM_PREFIX}${name === "" ? ownUid() : name}`);
}
var own = ({ uid, nlink }) => {
  if (uid !== ownUid()) return `belongs to uid ${uid}, not to ${ownUid()}: somebody else has taken the name`;
  if (nlink > 1) return `has ${nlink} names`;
  return void 0;
};
function openOwn(path) {
  try {
    return openChecked(path, own);
  } catch (error) {
    const why = error instanceof IsthmusError && error.errno === "EACCES" ? whyClosed(path) : void 0;
    if (why === void 0) throw error;
    throw new IsthmusError("ERR_ISTHMUS_REGION_PERMISSIONS", `${path}: ${why}`, { cause: error, path });
  }
}
function whyClosed(path) {
  try {
    return own(lstatSync3(path));
  } catch {
    return void 0;
  }
}
function create(path) {
  try {
    const fd = openSync4(path, constants4.O_RDWR | constants4.O_CREAT | constants4.O_EXCL | constants4.O_NOFOLLOW, 384);
    fchmodSync2(fd, 384);
    return fd;
  } catch (error) {
    const { code } = error;
    if (code === "EEXIST") return void 0;
    const full = code === "ENOSPC" ? "ERR_ISTHMUS_REGION_NO_SPACE" : void 0;
    throw systemError(error, "cannot create", path, full);
  }
}
function openOrCreate(path) {
  try {
    return openOwn(path);
  } catch (error) {
    if (!(error instanceof IsthmusError) || error.code !== "ERR_ISTHMUS_REGION_NOT_FOUND") throw error;
    return create(path);
  }
}
function isHeld(fd, except = -1) {
  return lockHeld(fd, except) !== void 0;
}
function headOf(fd) {
  const head = Buffer.alloc(coreLayout().FRAME);
  return head.subarray(0, readSync3(fd, head, 0, head.length, 0));
}
function isForeign(head) {
  const { WINDOW, HEADER_STATE, REGION_FORMATTING } = coreLayout();
  const state = HEADER_STATE - WINDOW;
  if (head.toString("latin1", 0, 8) === "ISTHMUS\0") return false;
  if (head.subarray(0, 8).some((byte) => byte !== 0)) return true;
  return head[state] !== REGION_FORMATTING && head.some((byte) => byte !== 0);
}
function checkHeld(path, size2, wanted, head) {
  const { WINDOW, HEADER_VERSION, LAYOUT_VERSION } = coreLayout();
  const version2 = head.length < 12 ? 0 : head.readUInt32LE(HEADER_VERSION - WINDOW);
  if (version2 !== LAYOUT_VERSION) {
    throw new IsthmusError(
      "ERR_ISTHMUS_REGION_VERSION",
      `${path}: others use it with layout version ${version2}, this is ${LAYOUT_VERSION}`,
      { path }
    );
  }
  if (size2 !== wanted) {
    throw new IsthmusError(
      "ERR_ISTHMUS_REGION_SIZE",
      `${path}: others use it with ${size2} bytes, PSP_SHM_SIZE is ${wanted} here`,
      { path, needed: wanted, available: size2 }
    );
  }
}
async function renew(fd, path, size2, signal) {
  try {
    if (fstatSync5(fd).size !== size2) {
      ftruncateSync2(fd, 0);
      ftruncateSync2(fd, size2);
    }
    for (let part = 0; part < size2; ) {
      part = Math.min(part + PART, size2);
      reserve(fd, size2, path, part);
      await turn();
      signal.throwIfAborted();
    }
    const zeros = Buffer.alloc(coreLayout().FRAME);
    writeSync(fd, zeros, 0, zeros.length, 0);
  } catch (error) {
    if (error instanceof IsthmusError || signal.aborted) throw error;
    throw systemError(error, "cannot prepare", path);
  }
}
function backingOf(fd, path, size2, mayFormat) {
  const identity = identityOf(fd);
  return {
    kind: "posix",
    name: basename3(path),
    path,
    size: size2,
    offset: 0,
    mayFormat,
    open() {
      const opened2 = openOwn(path);
      const { dev, ino } = identityOf(opened2);
      if (dev === identity.dev && ino === identity.ino) return opened2;
      closeSync6(opened2);
      throw new IsthmusError("ERR_ISTHMUS_REGION_NOT_FOUND", `${path}: was removed while it was opened`, { path });
    }
  };
}
function remove(path) {
  try {
    unlinkSync2(path);
  } catch {
  }
}
async function joinLocked(fd, { path, size: size2, name, signal }) {
  const head = headOf(fd);
  if (isForeign(head)) throw foreign(path, head);
  const stat = fstatSync5(fd);
  const mode = stat.mode & 511;
  const held = isHeld(fd);
  if (mode !== 384) {
    if (!held) {
      remove(path);
      return void 0;
    }
    const message2 = `${path}: has mode ${mode.toString(8)}, not 600, and is in use`;
    throw new IsthmusError("ERR_ISTHMUS_REGION_PERMISSIONS", message2, { path });
  }
  if (held) checkHeld(path, stat.size, size2, head);
  try {
    if (!held) await renew(fd, path, size2, signal);
    return await Region.attach(backingOf(fd, path, size2, !held), name, signal);
  } catch (error) {
    if (!isHeld(fd)) remove(path);
    throw error;
  }
}
async function joinShm(options) {
  const { path, limit, signal } = options;
  const until = performance.now() + limit;
  for (; ; ) {
    signal.throwIfAborted();
    const fd = openOrCreate(path);
    if (fd !== void 0) {
      try {
        if (mapper().lock(fd, coreLayout().LOCK_LIFECYCLE) && isAt(path, identityOf(fd))) {
          const region = await joinLocked(fd, options);
          if (region) return region;
        }
      } finally {
        closeSync6(fd);
      }
    }
    if (performance.now() > until) {
      throw new IsthmusError(
        "ERR_ISTHMUS_REGION_FORMATTING",
        `${path}: others were creating, joining or leaving it for more than ${limit} ms`,
        { path }
      );
    }
    await sleep4(1 + Math.random() * PAUSE);
  }
}
function tryLeave(region, keep2) {
  const { path } = region.backing;
  let fd;
  try {
    fd = openOwn(path);
  } catch {
    region.detach(keep2);
    return true;
  }
  try {
    const { dev, ino } = identityOf(fd);
    if (dev === region.identity.dev && ino === region.identity.ino) {
      if (!mapper().lock(fd, coreLayout().LOCK_LIFECYCLE)) return false;
      if (isAt(path, region.identity) && !isHeld(fd, region.slot)) remove(path);
    }
    region.detach(keep2);
    return true;
  } finally {
    closeSync6(fd);
  }
}
async function leaveShm(region, keep2) {
  const until = performance.now() + LEAVE_LIMIT;
  while (!tryLeave(region, keep2)) {
    if (performance.now() > until) {
      region.detach(keep2);
      return;
    }
    await sleep4(1 + Math.random() * PAUSE);
  }
}
function leaveShmNow(region) {
  const until = performance.now() + LEAVE_LIMIT / 4;
  const never = new Int32Array(new SharedArrayBuffer(4));
  while (!tryLeave(region, void 0)) {
    if (performance.now() > until) return;
    Atomics.wait(never, 0, 0, 1 + Math.random() * PAUSE);
  }
}
function isCurrent(region) {
  return region.usable && isAt(region.backing.path, region.identity);
}

// host/plugins/shm.ts
var LINGER3 = 1e3;
var REFRAIN = 1e3;
var open = /* @__PURE__ */ new Set();
function leaveAll() {
  for (const region of open) leaveShmNow(region);
  open.clear();
}
function opened(region) {
  if (open.size === 0) process.on("exit", leaveAll);
  open.add(region);
}
function left2(region) {
  open.delete(region);
  if (open.size === 0) process.off("exit", leaveAll);
}
function reasonOf(error) {
  if (error instanceof IsthmusError) return `${error.message} (${error.code})`;
  return error instanceof Error ? error.message : String(error);
}
var ShmAttempt = class {
  #channel;
  #lease;
  #inner;
  /** Came before we were attached. */
  #early;
  #undone = false;
  constructor(channel2, lease, source) {
    this.#channel = channel2;
    this.#lease = lease;
    lease.ready.then((region) => this.#begin(region, source(region))).catch((error) => channel2.next(reasonOf(error)));
  }
  #begin(region, source) {
    if (this.#undone) return;
    this.#inner = new RegionAttempt(source, this.#channel, () => this.#lease.release());
    if (this.#channel.role === "connect") this.#inner.offer(region);
    else if (this.#early) this.#inner.step(this.#early.type, this.#early.payload);
  }
  step(type, payload) {
    if (this.#inner) this.#inner.step(type, payload);
    else if (this.#early || this.#channel.role === "connect") throw new Error("an unexpected STEP frame");
    else this.#early = { type, payload: payload.slice() };
  }
  agreed() {
    if (!this.#inner) throw new Error("ARCH_OK before STEP1");
    this.#inner.agreed();
  }
  undo() {
    this.#undone = true;
    this.#inner?.undo();
    this.#lease.release();
  }
  open(socket, rest) {
    if (!this.#inner) throw new Error("nothing was agreed");
    return this.#inner.open(socket, rest);
  }
};
var ShmPlugin = class {
  name = "shm";
  archId = ARCH.shm;
  priority = 90;
  migratable = false;
  #options;
  #path;
  /** Where the next handshake gets its region. */
  #current;
  /** That one, and those whose file was removed while connections went on. */
  #shares = /* @__PURE__ */ new Set();
  /** Attachments that are being made or left. */
  #busy = /* @__PURE__ */ new Set();
  #failure;
  /** Nothing is to be attached: for good, or until {@link restore}. */
  #closed = false;
  constructor(options) {
    this.#options = options;
  }
  /** Path of the region file, whether it is there or not. */
  get path() {
    this.#path ??= shmPath(this.#options.file);
    return this.#path;
  }
  /** What is attached now. */
  regions() {
    return [...this.#shares].flatMap(({ region }) => region ? [region] : []);
  }
  unavailable() {
    const missing = mapperMissing();
    if (missing) return missing.message;
    if (this.#failure && performance.now() < this.#failure.until) return this.#failure.reason;
    return void 0;
  }
  proposals() {
    return [{ plugin: this, label: this.name, attempt: (channel2) => this.accept(channel2) }];
  }
  accept(channel2) {
    const { address } = channel2;
    if (!address || !isOwn(address.host)) {
      throw new Error(`the peer is not on this host (${address?.host ?? "it is gone"})`);
    }
    const { ringSize: ringSize2, guard } = this.#options;
    return new ShmAttempt(channel2, this.#lease(), (region) => ({
      ringSize: ringSize2,
      guard,
      byUuid: (uuid) => region.usable && region.uuid.equals(uuid) ? [region] : []
    }));
  }
  #lease() {
    if (this.#closed) throw new IsthmusError("ERR_ISTHMUS_CLOSED", "the runtime is closed, or suspended");
    const share = this.#share();
    share.users++;
    clearTimeout(share.linger);
    let released = false;
    return {
      ready: share.ready,
      release: () => {
        if (released) return;
        released = true;
        if (--share.users === 0) this.#unused(share);
      }
    };
  }
  #share() {
    const current = this.#current;
    if (current && (!current.region || isCurrent(current.region))) return current;
    if (current?.users === 0) this.#end(current);
    const { name, size: size2, limit, attached } = this.#options;
    const abort = new AbortController();
    const ready = joinShm({ path: this.path, size: size2, name, limit, signal: abort.signal }).then((region) => {
      share.region = region;
      opened(region);
      attached(region);
      if (this.#closed) this.#end(share);
      else if (share.users === 0) this.#unused(share);
      return region;
    });
    const share = { ready, abort, region: void 0, users: 0, linger: void 0 };
    this.#shares.add(share);
    this.#current = share;
    this.#keep(
      ready.catch((error) => {
        this.#drop(share);
        if (!abort.signal.aborted) {
          this.#failure = { reason: reasonOf(error), until: performance.now() + REFRAIN };
        }
      })
    );
    return share;
  }
  /** The last one who used it is gone. */
  #unused(share) {
    if (!this.#shares.has(share)) return;
    if (!share.region) {
      share.abort.abort(new IsthmusError("ERR_ISTHMUS_CLOSED", "nobody wants the region any more"));
      if (this.#current === share) this.#current = void 0;
    } else if (this.#current !== share) this.#end(share);
    else share.linger = setTimeout(() => this.#end(share), LINGER3).unref();
  }
  #drop(share) {
    clearTimeout(share.linger);
    this.#shares.delete(share);
    if (this.#current === share) this.#current = void 0;
  }
  /** Leave. */
  #end(share) {
    const { region } = share;
    if (!this.#shares.has(share)) return;
    this.#drop(share);
    if (region) this.#keep(leaveShm(region, this.#options.leaving(region)).finally(() => left2(region)));
  }
  #keep(work) {
    const kept = work.catch(() => {
    }).finally(() => this.#busy.delete(kept));
    this.#busy.add(kept);
  }
  /** Let go of everything, and remove the file if we are the last. Takes a second at most. */
  async close() {
    this.#closed = true;
    for (const share of [...this.#shares]) {
      if (share.region) this.#end(share);
      else this.#unused(share);
    }
    while (this.#busy.size > 0) await Promise.all(this.#busy);
  }
  /** Behind {@link close}: to be used again. */
  restore() {
    this.#closed = false;
    this.#failure = void 0;
  }
  destroy() {
  }
};

// host/plugins/stream.ts
var BATCH = 65536;
var LINGER4 = 5e3;
var SILENCE = 2e3;
var NO_REST = Buffer.alloc(0);
var StreamLink = class {
  core;
  index;
  polled = false;
  #far;
  #stream;
  #guard;
  #owner;
  /** Came, and did not fit into the ring yet. */
  #rest;
  /** A message without a body has come, and its record did not fit yet. */
  #due = false;
  #flushing = false;
  #feeding = false;
  #blocked = false;
  #finishing = false;
  #inputEnded = false;
  #lost;
  #ended = false;
  #destroyed = false;
  /** The guard is gone, and the stream has its time to end as well. */
  #silence;
  /** Something came since that was looked at. */
  #heard = false;
  /**
   * @param stream half-open: its end does not end what we write. Takes it over.
   * @param rest what was read from it already
   * @param guard makes the guard, if the stream is not the socket of the handshake
   * @throws ERR_ISTHMUS_NO_CONNECTIONS, ERR_ISTHMUS_NO_FRAMES: the stream is still the caller's then
   */
  constructor(core, ringSize2, stream, rest, guard) {
    [this.index, this.#far] = openPair(core, ringSize2);
    this.core = core;
    this.#stream = stream;
    this.#rest = rest;
    this.#guard = guard?.(() => this.#unguarded());
    stream.on("data", (chunk) => {
      this.#heard = true;
      this.#rest = this.#rest.length ? Buffer.concat([this.#rest, chunk]) : chunk;
      this.#feed();
    });
    stream.on("drain", () => {
      this.#blocked = false;
      this.#flush();
    });
    stream.on("end", () => {
      this.#inputEnded = true;
      this.#feed();
    });
    stream.on("error", (error) => this.#lose(error));
    stream.on("close", () => this.#lose(void 0));
  }
  start(owner) {
    this.#owner = owner;
    if (this.#stream.readableEnded) this.#inputEnded = true;
    this.#feed();
    if (this.#stream.destroyed) this.#lose(this.#stream.errored ?? void 0);
  }
  committed() {
    if (this.#flushing || this.#blocked) return;
    this.#flushing = true;
    process.nextTick(() => {
      this.#flushing = false;
      this.#flush();
    });
  }
  released() {
    if (this.#feeding || this.#rest.length === 0 && !this.#due) return;
    this.#feeding = true;
    process.nextTick(() => {
      this.#feeding = false;
      this.#feed();
    });
  }
  finish() {
    this.#finishing = true;
    this.#flush();
  }
  destroy() {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#owner = void 0;
    this.#rest = NO_REST;
    this.core.call.lose(this.index);
    this.core.call.dropTransmit(this.index);
    this.core.call.free(this.#far);
    clearTimeout(this.#silence);
    this.#guard?.destroy();
    const stream = this.#stream;
    if (!this.#finishing || stream.destroyed || stream.writableFinished) {
      stream.destroy();
      return;
    }
    if (!stream.writableEnded) stream.end();
    stream.once("finish", () => stream.destroy());
    const timer = setTimeout(() => stream.destroy(), LINGER4).unref();
    stream.once("close", () => clearTimeout(timer));
  }
  free() {
    this.core.call.free(this.index);
  }
  ref() {
    this.#stream.ref?.();
    this.#guard?.ref();
  }
  unref() {
    this.#stream.unref?.();
    this.#guard?.unref();
  }
  /** Ring → stream. */
  #flush() {
    if (this.#destroyed) return;
    const { call, bytes, words, layout: layout2 } = this.core;
    const most = Math.max(BATCH, call.ringCapacity(this.#far) / 4);
    let wrote = false;
    while (!this.#blocked) {
      const pending = call.unread(this.index);
      if (pending <= 0) break;
      const batch = Buffer.allocUnsafe(Math.min(pending, most));
      let length = 0;
      for (; ; ) {
        const offset = call.drain(this.#far);
        if (offset <= 0) break;
        const size2 = words[layout2.RESULT_LENGTH >> 2];
        if (length + size2 > batch.length) break;
        batch.set(bytes.subarray(offset, offset + size2), length);
        length += size2;
        call.drained(this.#far);
      }
      if (length === 0) break;
      wrote = true;
      if (this.#stream.writable) this.#blocked = !this.#write(batch.subarray(0, length));
    }
    if (wrote) this.#owner?.writable();
    if (this.#finishing && !this.#blocked && call.unread(this.index) === 0) {
      this.#stream.end();
      this.#guard?.bye();
    }
  }
  /** @returns as the stream's own: whether it takes more */
  #write(bytes) {
    try {
      return this.#stream.write(bytes);
    } catch (error) {
      this.#stream.destroy(error instanceof Error ? error : new Error(String(error)));
      return false;
    }
  }
  /** Stream → ring. */
  #feed() {
    if (this.#destroyed || !this.#owner) return;
    const { call, bytes, words, layout: layout2 } = this.core;
    let rest = this.#rest;
    let published = false;
    let full = false;
    while (rest.length > 0 || this.#due) {
      const offset = call.decode(this.#far, rest.length);
      if (offset === NOTHING) {
        full = true;
        break;
      }
      if (offset === BROKEN) {
        this.#rest = NO_REST;
        this.#end({
          kind: "lost",
          error: new IsthmusError("ERR_ISTHMUS_PEER_PROTOCOL", "bytes behind the end of the stream")
        });
        this.#stream.destroy();
        return;
      }
      const length = words[layout2.RESULT_LENGTH >> 2];
      bytes.set(rest.subarray(0, length), offset);
      rest = rest.subarray(length);
      const flags = call.decoded(this.#far, length);
      this.#due = (flags & layout2.DECODED_EMPTY) !== 0;
      if (flags & layout2.DECODED_RECORD) published = true;
    }
    this.#rest = rest.length ? rest : NO_REST;
    if (full) this.#stream.pause();
    else if (this.#stream.isPaused()) this.#stream.resume();
    if (published) this.#owner.readable();
    if (this.#rest.length > 0 || this.#due) return;
    if (this.#inputEnded) this.#endOfInput();
    else if (this.#lost) this.#lose(void 0);
  }
  #endOfInput() {
    const { call, layout: layout2 } = this.core;
    const state = call.state(this.#far);
    if (state === layout2.STATE_CLOSING || state === layout2.STATE_CLOSED) {
      this.#end({ kind: "peer-closed" });
    } else {
      this.#lose(void 0);
    }
  }
  /**
   * The guard has ended, in order or not. What the peer had sent may still be under way, and the stream's own end tells
   * more; but not every stream finds out that there is nobody any more.
   */
  #unguarded() {
    if (this.#ended || this.#destroyed) return;
    this.#heard = false;
    this.#silence = setTimeout(() => {
      setImmediate(() => {
        if (this.#heard || this.#stream.isPaused()) this.#unguarded();
        else this.#lose(void 0);
      });
    }, SILENCE).unref();
  }
  #lose(cause) {
    if (this.#ended || !this.#owner) return;
    this.#lost ??= { cause };
    if (this.#rest.length || this.#due) return;
    const { call, layout: layout2 } = this.core;
    const state = this.#destroyed ? layout2.STATE_BROKEN : call.state(this.#far);
    if (state === layout2.STATE_CLOSING || state === layout2.STATE_CLOSED) {
      this.#end({ kind: "peer-closed" });
      return;
    }
    cause ??= this.#lost.cause;
    const why = cause ? `: ${cause.code ?? cause.message}` : " without an end-of-stream message";
    this.#end({
      kind: "lost",
      error: new IsthmusError("ERR_ISTHMUS_PEER_DIED", `the stream of the peer ended${why}`, { cause })
    });
  }
  #end(end2) {
    if (this.#ended) return;
    this.#ended = true;
    this.#owner?.ended(end2);
  }
};

// host/plugins/tcp.ts
function descriptorOf(socket) {
  const fd = socket._handle?.fd;
  return typeof fd === "number" && fd >= 0 ? fd : void 0;
}
var TcpPlugin = class {
  name = "tcp";
  archId = ARCH.tcp;
  priority = 2;
  migratable = false;
  #core;
  #options;
  /** It did not work, which was told, and it will not. */
  #unsized = false;
  /** @param core gives the private core, made with the first use */
  constructor(core, options) {
    this.#core = core;
    this.#options = options;
  }
  unavailable() {
    return void 0;
  }
  proposals() {
    return [{ plugin: this, label: "tcp", attempt: (channel2) => this.accept(channel2) }];
  }
  /** Both sides are ready at once. */
  accept(channel2) {
    const { noDelay, ringSize: ringSize2 } = this.#options;
    channel2.ok();
    return {
      step() {
      },
      agreed() {
      },
      undo() {
      },
      open: (socket, rest) => {
        socket.setNoDelay(noDelay);
        this.#size(socket);
        return new StreamLink(this.#core(), ringSize2, socket, rest);
      }
    };
  }
  destroy() {
  }
  /** The buffers are a matter of speed: without them the connection works as well. */
  #size(socket) {
    const { sendBuffer, receiveBuffer, log } = this.#options;
    if (sendBuffer === 0 && receiveBuffer === 0 || this.#unsized) return;
    try {
      const fd = descriptorOf(socket);
      if (fd !== void 0) mapper().setSocketBuffers(fd, sendBuffer, receiveBuffer);
      else if (!socket.destroyed) throw new Error("this version of Node does not show the descriptors of its sockets");
    } catch (error) {
      this.#unsized = true;
      log(`sendBuffer and receiveBuffer are not set: ${messageOf(error)}`);
    }
  }
};

// host/plugins/third-party.ts
var DESTROY_LIMIT = 5e3;
var NAMES3 = Object.keys(ARCH);
var ARCH_IDS = Object.values(ARCH);
function invalid(message2) {
  return new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", message2);
}
function check(definition) {
  if (typeof definition !== "object" || definition === null) throw invalid("a plugin is defined by an object");
  const { name, archId, priority: priority2, migratable = false } = definition;
  if (typeof name !== "string" || !/^[a-z][a-z0-9_]{0,31}$/.test(name)) {
    throw invalid(`the name of a plugin is 1 to 32 of a-z, 0-9 and _, a letter first, not '${String(name)}'`);
  }
  const whole = (value, max) => Number.isInteger(value) && Number(value) >= 0 && Number(value) <= max;
  if (!whole(archId, 4294967295)) throw invalid(`plugin ${name}: archId is a u32, not '${String(archId)}'`);
  if (!whole(priority2, 1e3)) throw invalid(`plugin ${name}: priority is 0 to 1000, not '${String(priority2)}'`);
  if (typeof migratable !== "boolean") throw invalid(`plugin ${name}: migratable is true or false`);
  if (typeof definition.attempt !== "function") throw invalid(`plugin ${name}: attempt is a function`);
  for (const optional of ["unavailable", "propose", "destroy"]) {
    if (!["function", "undefined"].includes(typeof definition[optional])) {
      throw invalid(`plugin ${name}: ${optional} is a function, or left out`);
    }
  }
}
function bindPlugins(plugins, context) {
  if (!Array.isArray(plugins)) throw invalid("plugins is an array");
  const names = new Set(NAMES3);
  const archIds = new Set(ARCH_IDS);
  const definitions = plugins.map((plugin) => {
    if (plugin?.kind !== "stream") throw invalid("plugins holds what is not a plugin: make one with streamPlugin()");
    const { definition } = plugin;
    check(definition);
    const { name, archId } = definition;
    if (names.has(name)) throw invalid(`there is another plugin '${name}'`);
    if (archIds.has(archId)) throw invalid(`plugin ${name}: another plugin has the architecture id ${archId}`);
    names.add(name);
    archIds.add(archId);
    return definition;
  });
  return definitions.map((definition) => new BoundPlugin(definition, context));
}
var BoundPlugin = class {
  name;
  archId;
  priority;
  migratable;
  #definition;
  #context;
  constructor(definition, context) {
    this.name = definition.name;
    this.archId = definition.archId;
    this.priority = definition.priority;
    this.migratable = definition.migratable ?? false;
    this.#definition = definition;
    this.#context = context;
  }
  unavailable() {
    try {
      const reason = this.#definition.unavailable?.();
      return reason === void 0 ? void 0 : String(reason);
    } catch (error) {
      return messageOf(error);
    }
  }
  proposals() {
    const labels = this.#definition.propose?.();
    return (labels ?? [void 0]).map((label) => ({
      plugin: this,
      label: label === void 0 ? this.name : `${this.name} (${label})`,
      attempt: (channel2) => this.#attempt(channel2, label ?? this.name)
    }));
  }
  accept(channel2) {
    return this.#attempt(channel2, void 0);
  }
  #attempt(channel2, label) {
    return new BoundAttempt(channel2, this.#context, (own2) => this.#definition.attempt(own2, label));
  }
  async destroy() {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not done after ${DESTROY_LIMIT} ms`)), DESTROY_LIMIT);
    });
    try {
      await Promise.race([this.#definition.destroy?.(), late]);
    } finally {
      clearTimeout(timer);
    }
  }
};
var BoundAttempt = class {
  #channel;
  #context;
  #attempt;
  #stream;
  #over = false;
  constructor(channel2, context, begin) {
    this.#channel = channel2;
    this.#context = context;
    try {
      this.#attempt = begin({
        role: channel2.role,
        step: (type, payload) => this.#guarded(() => channel2.step(type, payload)),
        ok: (stream) => this.#ready(stream),
        next: (reason) => channel2.next(String(reason))
      });
    } catch (error) {
      this.undo();
      throw error;
    }
  }
  step(type, payload) {
    this.#guarded(() => this.#attempt?.step?.(type, payload));
  }
  agreed() {
  }
  undo() {
    if (this.#over) return;
    this.#over = true;
    this.#stream?.destroy();
    try {
      this.#attempt?.undo?.();
    } catch {
    }
  }
  open(socket, rest) {
    const stream = this.#stream;
    if (!stream) throw new Error("there is no stream");
    const { core, ringSize: ringSize2, guard } = this.#context;
    const link = new StreamLink(core(), ringSize2, stream, Buffer.alloc(0), (over) => {
      return new Guard(socket, rest, (bye) => {
        if (bye || guard) over(bye);
      });
    });
    this.#over = true;
    return link;
  }
  #ready(stream) {
    if (this.#over || this.#stream) {
      if (stream !== this.#stream) discard(stream);
      return;
    }
    const wrong = wrongWith(stream);
    if (wrong !== void 0) {
      discard(stream);
      this.#channel.next(wrong);
      return;
    }
    this.#stream = stream;
    if (!stream.listeners("error").includes(ignoreError)) stream.on("error", ignoreError);
    stream.allowHalfOpen = true;
    stream.pause();
    this.#channel.ok();
  }
  /** Whatever a plugin throws, now or later, gives the attempt up. */
  #guarded(body) {
    const failed = (error) => this.#channel.next(messageOf(error));
    try {
      Promise.resolve(body()).catch(failed);
    } catch (error) {
      failed(error);
    }
  }
};
function wrongWith(stream) {
  if (typeof stream?.pipe !== "function" || typeof stream.write !== "function") return "it gave no Duplex stream";
  if (stream.readableObjectMode || stream.writableObjectMode) return "its stream carries objects, not bytes";
  if (stream.readableEncoding) return "its stream gives strings: it has an encoding";
  if (stream.destroyed || !stream.writable) return "its stream is closed";
  return void 0;
}
function discard(stream) {
  if (typeof stream?.on !== "function" || typeof stream.destroy !== "function") return;
  stream.on("error", ignoreError).destroy();
}

// host/waiting.ts
import { closeSync as closeSync7 } from "node:fs";
var SPIN_ROUNDS = 2e3;
var HOT = 2;
var PAUSES = [
  { pause: 0.05, until: 5 },
  { pause: 0.2, until: 20 },
  { pause: 1, until: 100 },
  { pause: 4, until: 500 },
  { pause: 10, until: Number.POSITIVE_INFINITY }
];
var NET = 100;
var CoarseAlarm = class {
  #called;
  #timer;
  constructor(called) {
    this.#called = called;
  }
  set(milliseconds) {
    this.#timer = setTimeout(this.#called, Math.max(1, milliseconds)).unref();
  }
  clear() {
    clearTimeout(this.#timer);
  }
  close() {
    this.clear();
  }
};
var FineAlarm = class {
  #fd;
  #watch;
  constructor(called) {
    const native = mapper();
    this.#fd = native.createTimer();
    this.#watch = native.watch(this.#fd, () => {
      if (native.quiet(this.#fd)) called();
    });
  }
  set(milliseconds) {
    mapper().setTimer(this.#fd, Math.round(milliseconds * 1e3));
  }
  clear() {
    mapper().setTimer(this.#fd, 0);
  }
  close() {
    this.#watch.close();
    closeSync7(this.#fd);
  }
};
function newAlarm(called) {
  if (mapperMissing() === void 0) {
    try {
      return new FineAlarm(called);
    } catch {
    }
  }
  return new CoarseAlarm(called);
}
var LoopWaiter = class {
  #look;
  #rest;
  #hot;
  #last = 0;
  #immediate;
  #alarm;
  #waiting = false;
  #stopped = false;
  #turn = () => {
    this.#immediate = void 0;
    this.#waiting = false;
    if (this.#stopped) return;
    const hot = performance.now() - this.#last < this.#hot;
    if (this.#look(hot ? SPIN_ROUNDS : 0)) this.#last = performance.now();
    this.#schedule();
  };
  constructor(wait, look, rest) {
    this.#look = look;
    this.#rest = rest;
    this.#hot = wait === "spin" ? Number.POSITIVE_INFINITY : wait === "block" ? 0 : HOT;
  }
  wake() {
    this.#last = performance.now();
    if (this.#immediate || this.#stopped) return;
    if (this.#waiting) this.#alarm?.clear();
    this.#waiting = false;
    this.#immediate = setImmediate(this.#turn);
  }
  stop() {
    this.#stopped = true;
    clearImmediate(this.#immediate);
    this.#alarm?.close();
    this.#alarm = void 0;
  }
  #schedule() {
    if (this.#stopped || this.#immediate || this.#waiting) return;
    const quiet = performance.now() - this.#last;
    const rest = quiet < this.#hot ? "busy" : this.#rest();
    if (rest === "busy") {
      this.#immediate = setImmediate(this.#turn);
      return;
    }
    const { pause: pause2 } = PAUSES.find(({ until }) => quiet < until) ?? PAUSES[PAUSES.length - 1];
    this.#alarm ??= newAlarm(this.#turn);
    this.#alarm.set(rest === "asleep" ? NET : pause2);
    this.#waiting = true;
  }
};

// host/progress.ts
var BATCH2 = 64;
var RECLAIM = 200;
var Progress = class {
  #byCore = /* @__PURE__ */ new Map();
  #waiter;
  /** Connections that their application polls itself: nobody else looks at them meanwhile. */
  #direct = /* @__PURE__ */ new Map();
  /** Their backlog is full, so that what is in their ring stays there; but they wait for room: look at each pause. */
  #blocked = /* @__PURE__ */ new Set();
  #reclaim;
  /** @param make in place of the waiter for `wait` */
  constructor(wait, make = (look, rest) => new LoopWaiter(wait, look, rest)) {
    this.#waiter = make(
      (rounds) => this.look(rounds),
      () => this.#rest()
    );
  }
  join(pollable) {
    let table = this.#byCore.get(pollable.core);
    if (!table) {
      table = [];
      this.#byCore.set(pollable.core, table);
      if (pollable.core.sleeper) pollable.core.sleeper.rung = () => this.#waiter.wake();
    }
    table[pollable.index] = pollable;
    pollable.core.call.heat(pollable.index);
    this.#waiter.wake();
  }
  leave(pollable) {
    this.#direct.delete(pollable);
    this.#blocked.delete(pollable);
    const table = this.#byCore.get(pollable.core);
    if (table?.[pollable.index] !== pollable) return;
    table[pollable.index] = void 0;
    pollable.core.call.cool(pollable.index);
    if (table.every((entry) => entry === void 0)) this.#byCore.delete(pollable.core);
  }
  /** Somebody waits for something at this connection, so it is not left to whoever polls it, until he polls again. */
  wake(pollable) {
    if (this.#byCore.get(pollable.core)?.[pollable.index] !== pollable) return;
    this.#direct.delete(pollable);
    pollable.core.call.heat(pollable.index);
    this.#waiter.wake();
  }
  /**
   * The application polls this connection itself from here on. When it has not called `touch` for a while, it is ours
   * again.
   * @returns what to set at each poll
   */
  direct(pollable) {
    if (pollable.waitsForRoom) return { calls: true };
    let mark = this.#direct.get(pollable);
    if (!mark) {
      mark = { calls: true };
      this.#direct.set(pollable, mark);
      pollable.core.call.cool(pollable.index);
      this.#reclaim ??= setInterval(() => this.#reclaimDirect(), RECLAIM).unref();
    }
    mark.calls = true;
    return mark;
  }
  #reclaimDirect() {
    for (const [pollable, mark] of this.#direct) {
      if (mark.calls) {
        mark.calls = false;
        continue;
      }
      this.#direct.delete(pollable);
      this.wake(pollable);
    }
    if (this.#direct.size === 0) {
      clearInterval(this.#reclaim);
      this.#reclaim = void 0;
    }
  }
  isDirect(pollable) {
    return this.#direct.has(pollable);
  }
  /** One bounded pass over everything that has something. True: there was something. */
  look(rounds) {
    let active = false;
    for (const pollable of this.#blocked) pollable.core.call.heat(pollable.index);
    this.#blocked.clear();
    for (const [core, table] of this.#byCore) {
      for (let i = 0; i < BATCH2; i++) {
        const found = core.call.poll(i === 0 ? rounds : 0) - 1;
        if (found < 0) break;
        const pollable = table[found];
        if (!pollable || this.#direct.has(pollable)) core.call.cool(found);
        else if (pollable.progress()) active = true;
        else {
          core.call.cool(found);
          if (pollable.waitsForRoom) this.#blocked.add(pollable);
        }
      }
    }
    return active;
  }
  /** Before a pause: arm all rings, so that from here on one word per region tells of all of them, and sleep. */
  #rest() {
    let found = this.#blocked.size > 0 ? "quiet" : "asleep";
    for (const core of this.#byCore.keys()) {
      const rest = core.call.rest(core.sleeper?.heard ? 1 : 0);
      if (rest === core.layout.REST_BUSY) found = "busy";
      else if (rest !== core.layout.REST_ASLEEP && found === "asleep") found = "quiet";
    }
    return found;
  }
  stop() {
    this.#waiter.stop();
    clearInterval(this.#reclaim);
    this.#byCore.clear();
    this.#direct.clear();
    this.#blocked.clear();
  }
};

// host/runtime.ts
var MOST = 2 ** 31;
var Runtime = class _Runtime {
  name;
  /** What `isthmus ps` calls it: unique among the runtimes of this user. */
  id;
  #log;
  #regions = [];
  #refused = [];
  #registry;
  #loop;
  #shm;
  #ivshmem;
  #migration;
  #progress;
  #endpoints = /* @__PURE__ */ new Set();
  #memories = /* @__PURE__ */ new Set();
  #host;
  #ledger = new Ledger();
  #control;
  #mqtt;
  /** Aborts what is under way when the runtime is closed. */
  #ending = new AbortController();
  #privateCore;
  #closed;
  constructor(name, config, log, found, thirdParty, discover, mqtt) {
    this.name = name;
    setMaxListeners(0, this.#ending.signal);
    this.#log = log;
    this.#progress = new Progress(config.wait);
    this.#loop = new LoopPlugin();
    this.#ivshmem = new RegionPlugin({
      name: "ivshmem",
      archId: ARCH.ivshmem,
      priority: 80,
      ringSize: config.ringSize || void 0,
      guard: config.guard
    });
    this.#shm = new ShmPlugin({
      name,
      file: config.shmName,
      size: config.shmSize,
      limit: config.handshakeTimeout * 0.4,
      ringSize: config.ringSize || void 0,
      guard: config.guard,
      attached: (region) => this.#attached(region),
      leaving: (region) => this.#leaving(region)
    });
    const tcp = new TcpPlugin(() => this.#private(), {
      noDelay: config.noDelay,
      sendBuffer: config.sendBuffer,
      receiveBuffer: config.receiveBuffer,
      log: (line) => log("warning", line),
      ringSize: config.tcpRingSize || 65536
    });
    this.#registry = new PluginRegistry([
      { plugin: this.#loop, priority: config.loop },
      { plugin: this.#shm, priority: config.shm },
      { plugin: this.#ivshmem, priority: config.ivshmem },
      { plugin: tcp, priority: config.tcp },
      ...thirdParty
    ]);
    this.#host = {
      config,
      log,
      registry: this.#registry,
      loop: this.#loop,
      progress: this.#progress,
      ending: this.#ending.signal,
      privateCore: () => this.#private(),
      endpoints: this.#endpoints,
      events: this.#events()
    };
    this.#migration = new Migration({
      endpoints: this.#endpoints,
      connections: () => this.#open().filter(({ plugin }) => !this.#migratable(plugin)),
      leaveDevices: async () => {
        for (const region of this.#regions.splice(0)) region.detach(this.#leaving(region));
        this.#ivshmem.use([], "suspended");
        await this.#shm.close();
      },
      takeDevices: async () => {
        this.#shm.restore();
        this.#use(await discover());
      },
      changed: (state) => publish(this, "isthmus:migration", () => ({ state })),
      timeout: config.suspendTimeout,
      log
    });
    this.#control = config.control ? ControlSocket.open(requestsOf(this), log) : void 0;
    this.id = this.#control?.id ?? newId();
    const { broker, mqttKeepalive: keepalive, controlId, postponeFeedback: postpone } = config;
    const connections = () => this.inspect().connections;
    const joining = { broker, mqtt, keepalive, controlId, postpone, id: this.id, name, connections, log };
    this.#mqtt = config.suspendResume ? joinMqtt(this, joining) : void 0;
    this.#use(found);
  }
  #use({ regions, refused, missing }) {
    this.#regions.splice(0, this.#regions.length, ...regions);
    this.#refused = refused;
    this.#ivshmem.use(regions, missing);
    for (const region of regions) this.#attached(region);
    for (const { error } of refused) this.#log("warning", `not used: ${error.message} (${error.code})`);
  }
  /**
   * Find regions and plugins.
   * @throws ERR_ISTHMUS_CONFIG; ERR_ISTHMUS_INVALID_ARGUMENT; ERR_ISTHMUS_REGION_… and ERR_ISTHMUS_NATIVE_MISSING for a
   * region that was named
   */
  static async create(options = {}) {
    const { name = "isthmus", regions, uio, plugins = [], mqtt, log: sink, ...settings } = options;
    if (typeof name !== "string" || name === "" || name.includes("\0")) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", "the name of a runtime is a string that is not empty");
    }
    const patterns = typeof regions === "object" ? regions.join(" ") : regions;
    const config = configure({ ...settings, regions: patterns });
    const log = makeLog(config.debug, name, { sink, path: config.debugOut });
    const networks = parseNetworks(config.network) ?? [];
    if (networks.length > 0 && addressIn(networks) === void 0) {
      log("warning", `PSP_NETWORK: no address of this machine lies in '${config.network}'; ${ownAddress("")} is used`);
    }
    const thirdParty = bindPlugins(plugins, {
      core: () => runtime.#private(),
      ringSize: config.tcpRingSize || 65536,
      guard: config.guard
    }).map((plugin) => ({ plugin, priority: pluginPriority(plugin.name, plugin.priority) }));
    const discover = (strict) => config.ivshmem > 0 ? attachRegions({ patterns: config.regions, pci: config.pci, roots: uio }, name, strict) : Promise.resolve({ regions: [], refused: [], missing: void 0 });
    const found = await discover(true);
    const runtime = new _Runtime(name, config, log, found, thirdParty, () => discover(false), mqtt);
    return runtime;
  }
  /**
   * Plugins with their priorities, best first; why one cannot be used; the region file of `shm`, which is attached with
   * the first connection that wants it.
   */
  plugins() {
    return this.#registry.all.map((ranked) => ({
      name: ranked.plugin.name,
      archId: ranked.plugin.archId,
      priority: ranked.priority,
      unavailable: disabled2(ranked) ?? ranked.plugin.unavailable(),
      path: ranked.plugin === this.#shm ? this.#shm.path : void 0
    }));
  }
  /** The regions that are attached, that of `shm` last. */
  regions() {
    return this.#usable().map(regionInfo);
  }
  /** How much is logged, as `PSP_DEBUG`. Setting it has an effect at once. */
  get debug() {
    return this.#log.limit;
  }
  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
  set debug(level) {
    if (!SETTINGS.debug.check(level)) {
      throw new IsthmusError(
        "ERR_ISTHMUS_INVALID_ARGUMENT",
        `the level '${String(level)}' is not ${SETTINGS.debug.takes}`
      );
    }
    this.#log.limit = level;
  }
  /** Sums over all connections that there are and have been. */
  stats() {
    return this.#ledger.stats(this.#open());
  }
  /** Everything that can be seen of the runtime and its connections, as plain data that survives JSON. */
  inspect() {
    return {
      id: this.id,
      name: this.name,
      ...this.#ledger.process(),
      debug: this.debug,
      listeners: [...this.#endpoints].flatMap((endpoint) => endpoint.listening()),
      stats: this.stats(),
      migration: { state: this.migration, since: new Date(this.#migration.since).toISOString() },
      plugins: this.plugins().map(({ unavailable = null, path: _path, ...plugin }) => ({ ...plugin, unavailable })),
      regions: this.#usable().map(regionSnapshot),
      refused: this.#refused.map(refusedSnapshot),
      connections: this.#open().map((connection) => this.#ledger.connection(connection))
    };
  }
  /** Candidates that were found and not used. */
  refusedRegions() {
    return this.#refused.map(({ path, error }) => ({ path, error }));
  }
  /** The connections of all endpoints. */
  connections() {
    return this.#open();
  }
  /**
   * The endpoint of that name, made when it is asked for the first time; without a name, the one that `listen` and
   * `connect` of the runtime use.
   * @param options.plugins which plugins its connections may use, from here on; default: all
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  endpoint({ name = this.name, plugins } = {}) {
    this.#check();
    let endpoint = [...this.#endpoints].find((one) => one.name === name);
    if (!endpoint) {
      endpoint = new Endpoint(name, this.#host);
      this.#endpoints.add(endpoint);
    }
    if (plugins) endpoint.mask(plugins);
    return endpoint;
  }
  /** {@link Endpoint.listen} of the default endpoint. */
  async listen(options, handler) {
    return this.endpoint().listen(options, handler);
  }
  /** {@link Endpoint.connect} of the default endpoint. */
  async connect(address, options) {
    return this.endpoint().connect(address, options);
  }
  /**
   * Memory to expose to peers. In the region of a connection the peer reads and writes it without this process; where
   * there is none, or no room in it, it is ordinary memory, and the peer has to ask: `inRegion` tells.
   * @param size in bytes
   * @param options.connection whose region to take; default: the first one
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  allocate(size2, { connection } = {}) {
    this.#check();
    if (!Number.isSafeInteger(size2) || size2 < 0 || size2 > MOST) {
      throw new IsthmusError("ERR_ISTHMUS_INVALID_ARGUMENT", `${size2} is not a number of bytes up to ${MOST}`);
    }
    const own2 = connection instanceof RuntimeConnection ? connection.region : void 0;
    const regions = connection ? own2 ? [own2] : [] : this.#usable();
    for (const region of regions) {
      const run = takeRun(region, size2);
      if (!run) continue;
      const memory = new SharedMemory(size2, { region, ...run });
      memory.write(0, new Uint8Array(size2));
      this.#memories.add(memory);
      memory.onRelease = () => this.#memories.delete(memory);
      return memory;
    }
    return new SharedMemory(size2, { bytes: new Uint8Array(size2) });
  }
  /** After a migration, with `postponeFeedback`: the application is ready, whoever asked may be told COMPLETED. */
  completeMigration() {
    this.#mqtt?.complete();
  }
  /** Where it stands in a migration. */
  get migration() {
    return this.#migration.migration;
  }
  /** Be told of each change of {@link migration}. @returns how not to be */
  onMigration(listener) {
    return this.#migration.onMigration(listener);
  }
  /**
   * Let go of everything that a migration would break: each connection finishes the message under way and is closed
   * underneath, each region is left, so that its device can be unplugged. Messages that are sent meanwhile wait; what was
   * received stays. It never waits for the application. While it goes on another call gets the same promise; when it is
   * done already, that promise has been resolved.
   * @param options.timeout in milliseconds; default: `suspendTimeout`
   * @throws ERR_ISTHMUS_SUSPEND: in the end it was not possible, and everything goes on as before; ERR_ISTHMUS_CLOSED
   */
  async suspend(options) {
    this.#check();
    return this.#migration.suspend(options);
  }
  /**
   * Attach what is there now, and bring the connections back, each over the best plugin that there is now. Resolves when
   * they are open again, or after a second: a peer may be suspended itself, and comes when it is back. What comes too late
   * for `resumeTimeout` fails with ERR_ISTHMUS_RESUME_TIMEOUT. Without a suspension nothing happens.
   */
  async resume() {
    this.#check();
    return this.#migration.resume();
  }
  /** One bounded pass over all connections, for those who poll. True: there was something. */
  progress() {
    return this.#progress.look(0);
  }
  /** Let the event loop run once: sockets, timers, the guards of connections. */
  turn() {
    return new Promise((resolve) => setImmediate(resolve));
  }
  /**
   * Close all listeners and connections, and let go of all regions. Idempotent.
   * @param timeout for the orderly close of each connection, in milliseconds, default `closeTimeout`
   */
  close({ timeout } = {}) {
    this.#closed ??= this.#close(timeout);
    return this.#closed;
  }
  [Symbol.asyncDispose]() {
    return this.close();
  }
  async #close(timeout) {
    this.#ending.abort(new IsthmusError("ERR_ISTHMUS_CLOSED", "the runtime was closed"));
    this.#migration.end();
    if (this.migration !== "inactive") {
      for (const connection of this.#open()) if (connection.state === "suspended") connection.destroy();
    }
    await Promise.all([...this.#endpoints].map((endpoint) => endpoint.close({ timeout })));
    this.#progress.stop();
    for (const region of this.#regions) region.detach(this.#leaving(region));
    await this.#shm.close();
    for (const connection of this.#open()) this.#ledger.leave(connection);
    for (const line of await this.#registry.destroy()) this.#log("error", line);
    this.#control?.close();
    await this.#mqtt?.leave();
  }
  #events() {
    return {
      created: (connection) => this.#ledger.enter(connection),
      opened: (connection) => {
        publish(this, "isthmus:connection:open", () => ({ connection }));
        connection.closed.then((closed) => publish(this, "isthmus:connection:close", () => ({ connection, closed })));
      },
      suspended: (connection) => publish(this, "isthmus:connection:suspend", () => ({ connection })),
      resumed: (connection) => publish(this, "isthmus:connection:resume", () => ({ connection })),
      silence: (connection, event, silence) => publish(this, `isthmus:connection:${event}`, () => ({ connection, silence })),
      gone: (connection) => this.#ledger.leave(connection),
      listening: (address) => publish(this, "isthmus:listen", () => ({ ...address })),
      failed: (role2, address, error) => publish(this, "isthmus:handshake:failed", () => ({ role: role2, address, error }))
    };
  }
  #open() {
    return [...this.#endpoints].flatMap((endpoint) => [...endpoint.open]);
  }
  #check() {
    if (this.#closed) throw new IsthmusError("ERR_ISTHMUS_CLOSED", "the runtime is closed");
  }
  #private() {
    this.#privateCore ??= createPrivateCore();
    return this.#privateCore;
  }
  /** Whether the connections of a plugin survive a migration. */
  #migratable(name) {
    return this.#registry.all.find(({ plugin }) => plugin.name === name)?.plugin.migratable === true;
  }
  #usable() {
    return [...this.#regions, ...this.#shm.regions()].filter((region) => region.usable);
  }
  #attached(region) {
    const { kind, path, size: size2 } = region.backing;
    this.#log("info", `attached to ${path}, ${size2} bytes`);
    if (kind === "pci") {
      this.#log("warning", `${path}: ${WAYS.pci}; install the driver (vendor/ivshmem/driver) to have it at full speed`);
    }
    region.onFenced = (error) => this.#fenced(region, error);
    publish(this, "isthmus:region:attach", () => ({ region: identityOf2(region) }));
  }
  /** A region is about to be let go of. @returns what must keep its bytes there: messages that are borrowed */
  #leaving(region) {
    const kept = this.#open().flatMap((connection) => connection.abandon(region.core));
    for (const memory of this.#memories) memory.evacuate(region);
    if (region.usable) {
      publish(this, "isthmus:region:detach", () => ({ region: identityOf2(region), error: void 0 }));
    }
    return kept;
  }
  #fenced(region, error) {
    this.#log("error", error.message);
    publish(this, "isthmus:region:detach", () => ({ region: identityOf2(region), error }));
    for (const connection of this.#open()) if (connection.uses(region.core)) connection.destroy(error);
  }
};
function identityOf2({ backing, uuid }) {
  const { name, path, kind, size: size2 } = backing;
  return { name, path, kind, size: size2, uuid: uuid.toString("hex") };
}
function regionInfo(region) {
  const { slots, slotsUsed: slotsUsed2, frames, ...info } = regionSnapshot(region);
  return info;
}

// test/support/calls.ts
import { connect as connect3, createServer as createServer3 } from "node:net";
import { createInterface } from "node:readline";
var slowness = Number(process.env["ISTHMUS_TEST_SLOWNESS"] ?? 1);
var role = /^role:(.*)/.exec(process.argv[2] ?? "")?.[1];
function roleOptions() {
  return JSON.parse(process.argv[3] ?? "{}");
}
var parent;
function distant() {
  const address = process.env["ISTHMUS_PARENT"];
  if (parent || address === void 0) return parent;
  const at = address.lastIndexOf(":");
  parent = connect3(Number(address.slice(at + 1)), address.slice(0, at));
  parent.setNoDelay().setKeepAlive(true);
  parent.on("error", () => {
  }).on("close", () => process.exit(0));
  parent.unref();
  return parent;
}
function say(message2) {
  const socket = distant();
  if (socket) socket.write(`${JSON.stringify(message2)}
`);
  else process.send?.(message2);
}
function tell(event, value = null) {
  say({ event, value });
}
function serve(handlers) {
  const answer = async ({ id, name, args }) => {
    try {
      const handler = handlers[name];
      if (!handler) throw new Error(`the child has no '${name}'`);
      say({ id, value: await handler(...args) });
    } catch (error) {
      const { message: message2 } = error;
      const code = error instanceof IsthmusError ? { code: error.code } : {};
      say({ id, error: { message: message2, ...code } });
    }
  };
  const socket = distant();
  if (socket) {
    socket.ref();
    createInterface({ input: socket }).on("line", (line) => void answer(JSON.parse(line)));
  } else {
    process.on("disconnect", () => process.exit(0));
    process.on("message", answer);
  }
}

// test/support/seeded.ts
function seeded(seed) {
  let state = seed >>> 0;
  return (n) => {
    state = state + 1831565813 >>> 0;
    let t = Math.imul(state ^ state >>> 15, state | 1);
    t ^= t + Math.imul(t ^ t >>> 7, t | 61);
    return Math.floor(((t ^ t >>> 14) >>> 0) / 2 ** 32 * n);
  };
}

// test/support/regions.ts
import { chmodSync as chmodSync2, closeSync as closeSync8, copyFileSync, ftruncateSync as ftruncateSync3, openSync as openSync5, rmSync as rmSync2, writeSync as writeSync2 } from "node:fs";
var MIB2 = 1048576;
var slowness2 = Number(process.env["ISTHMUS_TEST_SLOWNESS"] ?? 1);
var prefix = `isthmus-test-${process.pid}-${process.hrtime.bigint().toString(36)}`;
var made = /* @__PURE__ */ new Set();
process.on("exit", removeRegions);
function removeRegions() {
  for (const path of made) rmSync2(path, { force: true, recursive: true });
  made.clear();
}

// test/crash/operations.ts
var LOAD = 3;
var REGION = 8 * MIB2;
function numbered(number, length) {
  const bytes = Buffer.alloc(Math.max(8, length), number * 31 + 7 & 255);
  bytes.writeUInt32LE(number, 0);
  bytes.writeUInt32LE(bytes.length, 4);
  return bytes;
}
function checkNumbered(number, data) {
  const length = data.length < 8 ? 8 : Buffer.from(data).readUInt32LE(4);
  if (Buffer.compare(data, numbered(number, length)) !== 0) throw new Error(`message ${number} is not what was sent`);
}
var SMALL2 = [8, 100, 0, 3e3, 8];
var FRAGMENTS = [5e4, 20];
var REFERENCES = [2e5, 8, 9e4];
var pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
var Victim = class {
  options;
  /** Of the survivor. */
  port;
  /** A message has been sent. */
  #committed;
  runtime;
  connection;
  /** The next connection that somebody makes to us. */
  accepted;
  ownPort = 0;
  #sent = 0;
  constructor(options, port, committed2) {
    this.options = options;
    this.port = port;
    this.#committed = committed2;
  }
  async attach() {
    this.runtime = await Runtime.create(this.options);
  }
  async listen() {
    let come;
    this.accepted = new Promise((resolve) => {
      come = resolve;
    });
    const { port } = await this.runtime.listen({}, async (connection) => {
      come(connection);
      await connection.closed;
    });
    this.ownPort = port;
  }
  async connect() {
    this.connection = await this.runtime.connect({ host: "127.0.0.1", port: this.port });
    if (this.connection.plugin !== "ivshmem") throw new Error(`connected by ${this.connection.plugin}`);
  }
  async send(lengths) {
    for (const length of lengths) {
      await this.connection.send(numbered(this.#sent, length));
      this.#sent++;
      this.#committed();
    }
  }
  async take(count2) {
    for (let number = 0; number < count2; number++) {
      const message2 = await this.connection.receive();
      if (!message2) throw new Error("an orderly end");
      checkNumbered(number, message2.data);
    }
  }
};
var nothing = async () => {
};
var connected = async (victim2) => {
  await victim2.listen();
  await victim2.connect();
};
var give2 = (lengths) => async (connection) => {
  for (const [number, length] of lengths.entries()) await connection.send(numbered(number, length));
};
var ORDERLY = ["orderly"];
var GO = [8];
var SUSPENDED = ["ERR_ISTHMUS_RESUME_TIMEOUT"];
var token;
var OPERATIONS = [
  { name: "attach", run: (victim2) => victim2.attach() },
  {
    name: "leave",
    before: nothing,
    run: ({ runtime }) => runtime.close()
  },
  {
    name: "connect",
    before: nothing,
    run: async (victim2) => {
      await victim2.connect();
      await victim2.send([8]);
    }
  },
  {
    name: "accept",
    before: (victim2) => victim2.listen(),
    dial: true,
    run: async (victim2) => {
      victim2.connection = await victim2.accepted;
      await victim2.send([8]);
    }
  },
  { name: "send", before: connected, run: (victim2) => victim2.send(SMALL2) },
  {
    name: "receive",
    before: connected,
    answer: give2(SMALL2),
    run: async (victim2) => {
      await victim2.send(GO);
      await victim2.take(SMALL2.length);
    }
  },
  { name: "fragment", before: connected, run: (victim2) => victim2.send(FRAGMENTS) },
  {
    name: "receive fragments",
    before: connected,
    answer: give2(FRAGMENTS),
    run: async (victim2) => {
      await victim2.send(GO);
      await victim2.take(FRAGMENTS.length);
    }
  },
  {
    name: "rendezvous",
    before: connected,
    run: async (victim2) => {
      await victim2.send(REFERENCES);
      await victim2.connection.flush();
    }
  },
  {
    name: "receive by rendezvous",
    before: connected,
    answer: give2(REFERENCES),
    run: async (victim2) => {
      await victim2.send(GO);
      await victim2.take(REFERENCES.length);
    }
  },
  {
    name: "borrow",
    before: connected,
    answer: give2(SMALL2),
    run: async (victim2) => {
      await victim2.send(GO);
      const held = [];
      for (const _ of SMALL2) held.push(await victim2.connection.borrow());
      for (const message2 of held) message2?.[Symbol.dispose]();
    }
  },
  {
    name: "expose memory",
    before: connected,
    run: async ({ runtime, connection }) => {
      const memory = runtime.allocate(5e4, { connection });
      memory.write(0, Buffer.alloc(5e4, 1));
      const exposures = [connection.expose(memory), connection.expose(memory, { write: true })];
      for (const exposure of exposures) exposure[Symbol.dispose]();
      const second = runtime.allocate(1e4, { connection });
      second.release();
      memory.release();
    }
  },
  {
    name: "remote memory",
    before: async (victim2) => {
      await connected(victim2);
      await victim2.send(GO);
      const message2 = await victim2.connection.receive();
      token = victim2.connection.token(message2?.data ?? new Uint8Array());
    },
    answer: async (connection) => {
      const { token: bytes } = connection.expose(new Uint8Array(3e4), { write: true });
      await connection.send(bytes);
    },
    run: async () => {
      const bytes = new Uint8Array(2e4);
      await token?.write(bytes);
      await token?.read(bytes);
    }
  },
  {
    name: "suspend",
    before: connected,
    ends: SUSPENDED,
    run: async (victim2) => {
      await victim2.send([8]);
      await victim2.runtime.suspend();
    }
  },
  {
    name: "resume",
    before: async (victim2) => {
      await connected(victim2);
      await victim2.runtime.suspend();
    },
    ends: SUSPENDED,
    run: async (victim2) => {
      await victim2.runtime.resume();
      await victim2.send([8]);
    }
  },
  {
    name: "close",
    before: connected,
    ends: ORDERLY,
    run: async (victim2) => {
      await victim2.send([8]);
      await victim2.connection.close();
    }
  },
  {
    name: "be closed",
    before: connected,
    answer: (connection) => connection.close(),
    ends: [...ORDERLY, "ERR_ISTHMUS_CLOSED"],
    run: async (victim2) => {
      await victim2.send(GO);
      if (await victim2.connection.receive()) throw new Error("nothing was sent");
      await victim2.connection.close();
    }
  },
  {
    name: "destroy",
    before: connected,
    ends: ORDERLY,
    run: async ({ connection }) => {
      connection.destroy();
    }
  },
  {
    name: "close the runtime",
    before: connected,
    ends: ORDERLY,
    run: ({ runtime }) => runtime.close()
  },
  {
    name: "sleep",
    before: connected,
    // The survivor finds it asleep, and wakes it.
    answer: async (connection) => {
      for (let i = 0; i < 3; i++) {
        await pause(60);
        await connection.send(numbered(i, 8));
      }
    },
    run: async (victim2) => {
      await victim2.send(GO);
      await victim2.take(3);
    }
  }
];
async function meet(options) {
  const [a, b] = [await Runtime.create(options), await Runtime.create(options)];
  const { port } = await b.listen({}, async (connection2) => {
    for await (const { data } of connection2) await connection2.send(data);
  });
  const connection = await a.connect({ host: "127.0.0.1", port });
  await connection.send(numbered(0, 100));
  const answer = await connection.receive();
  checkNumbered(0, answer?.data ?? new Uint8Array());
  await Promise.all([a.close(), b.close()]);
  return connection.plugin;
}
var UNHEARD = {
  name: "rendezvous unheard",
  before: connected,
  busy: 1500,
  run: async (victim2) => {
    await victim2.send(REFERENCES);
    process.kill(process.pid, "SIGKILL");
  }
};
var MEET = {
  name: "meet",
  run: async ({ options }) => {
    await meet(options);
  }
};

// test/crash/steps.ts
function countSteps(instrumented, end2) {
  const wasm2 = globalThis.WebAssembly;
  const { Module, Instance } = wasm2;
  let count2 = 0;
  let last2 = 0;
  let only2;
  let cores = 0;
  wasm2.Module = class extends Module {
    constructor() {
      super(instrumented);
    }
  };
  wasm2.Instance = class extends Instance {
    constructor(module, imports) {
      const core = ++cores;
      const step = () => {
        if ((only2 === void 0 || only2 === core) && ++count2 === last2) end2();
      };
      super(module, { ...imports, crash: { step } });
    }
  };
  return {
    arm(at, core) {
      count2 = 0;
      last2 = at;
      only2 = core;
    },
    get cores() {
      return cores;
    },
    get count() {
      return count2;
    }
  };
}
function dieNow() {
  process.kill(process.pid, "SIGKILL");
}

// test/crash/victim.child.ts
var committed = () => writeSync3(1, ".");
async function third() {
  const runtime = await Runtime.create(roleOptions());
  const { port } = await runtime.listen({}, async (connection) => {
    for await (const { data } of connection) await connection.send(data);
  });
  serve({});
  tell("ready", port);
}
async function victim() {
  const { options, attached, port, core } = roleOptions();
  const steps = countSteps(readFileSync4(core), dieNow);
  const dying = new Victim(options, port, committed);
  if (attached) await dying.attach();
  const named2 = (name) => [...OPERATIONS, UNHEARD, MEET].find((each) => each.name === name);
  serve({
    /** @returns its port */
    prepare: async (name) => {
      await named2(name)?.before?.(dying);
      return dying.ownPort;
    },
    /** @returns the steps that it took */
    run: async (name, at) => {
      steps.arm(at);
      await named2(name)?.run(dying);
      return steps.count;
    },
    load: async (at, seed, destroys) => {
      steps.arm(at);
      await load2(dying, seed, destroys);
    }
  });
  tell("ready");
}
async function load2({ runtime, port }, seed, destroys) {
  const random = seeded(seed);
  const one = async () => {
    for (; ; ) {
      const connection = await runtime.connect({ host: "127.0.0.1", port });
      const receive = async () => {
        for (let number = 0; ; number++) {
          const message2 = await connection.receive();
          if (!message2) return;
          checkNumbered(number, message2.data);
        }
      };
      const send = async (count2) => {
        for (let number = 0; number < count2; number++) {
          await connection.send(numbered(number, random(random(8) === 0 ? 15e4 : 3e4)));
          committed();
          if (random(50) === 0) runtime.allocate(1 + random(6e4), { connection }).release();
        }
      };
      const sending = send(random(4) === 0 ? random(50) : 1e9);
      if (destroys) {
        await Promise.race([receive(), sending]);
        connection.destroy();
      } else {
        void receive().catch(() => {
        });
        await sending;
        await connection.close();
      }
    }
  };
  await Promise.all(Array.from({ length: LOAD }, one));
}
if (role === "third") await third();
else await victim();
//# sourceMappingURL=crash-victim.child.mjs.map
