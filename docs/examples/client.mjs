// A sensor's client in JavaScript, written from docs/protocol.md alone.
//
//   npm install zeromq          (6.x; Node 20 or later)
//   node client.mjs ipc:///run/edgetuner/ingest demo-js 20
//
// Sends windows of the model's shape to one stream until each is acknowledged, across restarts of the service,
// and prints their predictions.
import { Dealer } from "zeromq";

const [address, client_id, count] = [process.argv[2], process.argv[3], Number(process.argv[4] ?? 10)];
const stream = "js", MAGIC = "EDT1", RESEND_MS = 2000, HELLO_MS = 5000;
const socket = new Dealer({ linger: 0, immediate: true });
socket.connect(address);

let open = false, known = false, bootId = "", credit = 0, nextSeq = null, mark = 0, helloAt = 0, notBefore = 0;
let queue = [];      // {seq, frames}, unanswered, in order; queue[0..mark) were sent
let underWay = [];   // {seq, at}

const crcTable = Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});
const crc32 = (bytes) =>
  (bytes.reduce((c, b) => crcTable[(c ^ b) & 255] ^ (c >>> 8), 0xffffffff) ^ 0xffffffff) >>> 0;

function windowFrames(seq, { channels, length, hz }) {
  const payload = Buffer.alloc(channels.length * length * 4);
  for (let n = 0; n < payload.length / 4; n++) payload.writeFloatLE(Math.sin(seq + n / 5), 4 * n);
  // 2^53 is too small for nanoseconds: the number is put into the text as an integer.
  const header = JSON.stringify({
    v: 1, type: "window", client_id, stream, seq, t_ns: "T", hz, dtype: "float32",
    shape: [channels.length, length], crc32: crc32(payload),
  }).replace('"T"', String(BigInt(Date.now()) * 1_000_000n));
  return [MAGIC, header, payload];
}

function answered(seq, drop) {
  const way = underWay.findIndex((u) => u.seq === seq);
  if (way >= 0) underWay.splice(way, 1);
  const place = queue.findIndex((q) => q.seq === seq);
  if (drop && place >= 0) { queue.splice(place, 1); if (place < mark) mark--; }
}

function onWelcome(m) {
  credit = m.credit;
  if (open && m.boot_id === bootId) return;
  const last = m.streams[stream];
  [bootId, open, known, mark, underWay] = [m.boot_id, true, last !== undefined, 0, []];
  queue = queue.filter((q) => last === undefined || q.seq > last);
  if (nextSeq === null) {
    nextSeq = last === undefined ? 0 : last + 1;
    for (let n = 0; n < count; n++, nextSeq++) queue.push({ seq: nextSeq, frames: windowFrames(nextSeq, m) });
  }
}

function onRefusal(m) {
  credit = m.credit;
  if (m.seq === undefined) throw new Error(m.error.message);
  answered(m.seq, m.final);
  if (m.final) return console.error("refused", m.seq, m.error.message);
  const place = queue.findIndex((q) => q.seq === m.seq);
  if (place < 0 || place >= mark || underWay.some((u) => u.seq === m.seq)) return;
  mark = Math.min(mark, queue.findIndex((q) => q.seq >= (m.expected ?? m.seq)));
  if (m.expected === undefined) notBefore = Date.now() + 500;
}

async function receive() {
  for await (const [, header] of socket) {
    const m = JSON.parse(header);
    if (m.type === "welcome") onWelcome(m);
    if (m.type === "ack") { credit = m.credit; known = true; answered(m.seq, true); }
    if (m.type === "refusal") onRefusal(m);
    if (m.type === "prediction") console.log(m.seq, m.predicted, m.confidence, m.model);
  }
}

async function send(frames) {
  try { await socket.send(frames); return true; } catch { open = false; return false; }
}

receive();
socket.sendTimeout = 0;
const giveUpAt = Date.now() + 60_000;
while (nextSeq === null || queue.length > 0) {
  const now = Date.now();
  if (now > giveUpAt) throw new Error(`${queue.length} unanswered`);
  if (open && underWay.length && now > underWay[0].at + RESEND_MS) { open = false; helloAt = now; }
  if (now >= helloAt) {
    await send([MAGIC, JSON.stringify({ v: 1, type: "hello", client_id, predictions: true })]);
    helloAt = now + (open ? HELLO_MS : RESEND_MS / 10);
  }
  while (open && mark < queue.length && now >= notBefore && underWay.length < (known ? credit : 1)) {
    const { seq, frames } = queue[mark];
    if (!(await send(frames))) break;
    underWay.push({ seq, at: now });
    mark++;
  }
  await new Promise((resolve) => setTimeout(resolve, 5));
}
await new Promise((resolve) => setTimeout(resolve, 1000)); // the last predictions
console.log(`${count} windows acknowledged, the last one ${nextSeq - 1}`);
socket.close();
